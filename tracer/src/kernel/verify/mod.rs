//! The second source of steps (`--verify`): finds it in the running kernel's own code, and tries it before it is
//! relied on.
//!
//! | file | what it does |
//! |---|---|
//! | `finder.rs` | finds the place in the code; pure |
//! | `trial.rs` | sends a packet through a table of a network namespace of its own, and looks at what was witnessed |

mod finder;
mod trial;

use std::io;

use thiserror::Error;
use tracer_common::{Registers, Sites};

pub use self::finder::NotFound;
use self::{finder::Place, trial::TrialError};
use super::{
    attach::{AttachError, Attached, Plan},
    code,
    machine::Machine,
    preflight::Families,
    probes::{IP6T_DO_TABLE, IPT_DO_TABLE},
    symbols::Symbol,
};
use crate::traversal::Family;

/// The longest code that is looked at; distributions' have 2 KiB.
const CODE_LEN_MAX: u64 = 16 << 10;

/// Why the steps of a family cannot be had from a second source.
#[derive(Debug, Error)]
pub enum Unavailable {
    /// The place is an instruction of x86-64.
    #[error("only the code of x86-64 kernels is understood")]
    Architecture,
    /// `struct sk_buff` has no `nf_trace`.
    #[error("this kernel is built without TRACE: struct sk_buff has no nf_trace")]
    NoTrace,
    /// The symbol table cannot be read.
    #[error("failed to read /proc/kallsyms: {0}")]
    Symbols(#[from] io::Error),
    /// The function is not there, or several times, or its address is hidden.
    #[error("the kernel does not tell where {0} is (`sysctl kernel.kptr_restrict` of 2 hides it)")]
    NoAddress(&'static str),
    /// The function's code cannot be read.
    #[error("failed to read the code of {function}")]
    Code {
        /// The function.
        function: &'static str,
        /// Why not.
        source: Box<AttachError>,
    },
    /// The function's code is of another shape.
    #[error("{function}: {cause}")]
    Shape {
        /// The function.
        function: &'static str,
        /// What is missing.
        cause: NotFound,
    },
    /// It was found, but does not do what it should.
    #[error(transparent)]
    Trial(#[from] TrialError),
}

/// What came out of looking for the second source.
#[derive(Debug, Default)]
pub struct Prepared {
    /// Where steps are witnessed, found and tried.
    pub places: Places,
    /// The families that were asked for and have no second source on this kernel.
    pub unavailable: Vec<(Family, Unavailable)>,
}

/// Where steps are witnessed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Places {
    ipv4: Option<Place>,
    ipv6: Option<Place>,
}

/// Where a program has to be attached.
pub(super) struct Attachment {
    pub(super) program: &'static str,
    pub(super) function: &'static str,
    pub(super) offset: u64,
}

impl Places {
    /// Whether the steps of no family can be witnessed.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.ipv4.is_none() && self.ipv6.is_none()
    }

    /// What the programs are told.
    pub(super) fn sites(self) -> Sites {
        let registers = |place: Option<Place>| {
            place.map_or(Registers { skb: 0, entry: 0 }, |place| Registers {
                skb: place.skb,
                entry: place.entry,
            })
        };
        Sites {
            witnessing: 1,
            ipv4: registers(self.ipv4),
            ipv6: registers(self.ipv6),
        }
    }

    /// Where the programs have to be attached.
    pub(super) fn attachments(self) -> impl Iterator<Item = Attachment> {
        let attachment = |program, function| {
            move |place: Place| Attachment {
                program,
                function,
                offset: place.offset,
            }
        };
        let ipv4 = self.ipv4.map(attachment("ipt_step", IPT_DO_TABLE));
        let ipv6 = self.ipv6.map(attachment("ip6t_step", IP6T_DO_TABLE));
        ipv4.into_iter().chain(ipv6)
    }

    fn set(&mut self, family: Family, place: Place) {
        match family {
            Family::Ipv4 => self.ipv4 = Some(place),
            Family::Ipv6 => self.ipv6 = Some(place),
        }
    }
}

/// Finds where the steps of each family of the plan can be witnessed, and tries it.
#[must_use]
pub fn prepare(machine: &Machine, plan: &Plan, trace_bit: Option<u32>) -> Prepared {
    let mut prepared = Prepared::default();
    let symbols = machine.symbols_with_len(&[IPT_DO_TABLE, IP6T_DO_TABLE]);
    for family in [Family::Ipv4, Family::Ipv6] {
        if !plan.families.contains(family) {
            continue;
        }
        let found = match &symbols {
            Ok(symbols) => find(symbols, plan, trace_bit, family),
            Err(error) => Err(Unavailable::Symbols(io::Error::new(
                error.kind(),
                error.to_string(),
            ))),
        };
        let tried = found.and_then(|place| {
            trial::run(machine, &plan_of_trial(plan, family, place), family)?;
            Ok(place)
        });
        match tried {
            Ok(place) => prepared.places.set(family, place),
            Err(why) => prepared.unavailable.push((family, why)),
        }
    }
    prepared
}

fn find(
    symbols: &[(Symbol, Option<u64>)],
    plan: &Plan,
    trace_bit: Option<u32>,
    family: Family,
) -> Result<Place, Unavailable> {
    if !cfg!(target_arch = "x86_64") {
        return Err(Unavailable::Architecture);
    }
    let trace_bit = trace_bit.ok_or(Unavailable::NoTrace)?;
    let function = match family {
        Family::Ipv4 => IPT_DO_TABLE,
        Family::Ipv6 => IP6T_DO_TABLE,
    };
    let mut named = symbols.iter().filter(|(symbol, _)| symbol.name == function);
    let (Some((symbol, len)), None) = (named.next(), named.next()) else {
        return Err(Unavailable::NoAddress(function));
    };
    let address = symbol.address.ok_or(Unavailable::NoAddress(function))?;
    let len = len.unwrap_or(CODE_LEN_MAX).min(CODE_LEN_MAX);
    let code = Attached::load(plan).and_then(|mut attached| {
        code::load(attached.ebpf())?;
        code::read(attached.ebpf(), address, len)
    });
    let code = code.map_err(|error| Unavailable::Code {
        function,
        source: Box::new(error),
    })?;
    finder::find(&code, trace_bit, family).map_err(|cause| Unavailable::Shape { function, cause })
}

/// The plan for trying one place.
fn plan_of_trial(plan: &Plan, family: Family, place: Place) -> Plan {
    let mut places = Places::default();
    places.set(family, place);
    Plan {
        families: Families {
            ipv4: family == Family::Ipv4,
            ipv6: family == Family::Ipv6,
        },
        nftables: false,
        witness: Some(places),
        btf: plan.btf.clone(),
        preempted: plan.preempted,
        absent: plan.absent.clone(),
        offsets: plan.offsets,
        filter: plan.filter,
        skips_counted: false,
        guarded: false,
        wake_at_bytes: 1,
        ring_bytes: trial::RING_LEN,
    }
}
