//! Loads the eBPF programs, attaches them, hands on their records and counters, and takes everything away
//! again.
//!
//! Nothing is pinned: programs, maps and probes belong to file descriptors of this process, so they are gone
//! with it, however it ends.

use std::{
    collections::{BTreeSet, HashMap as StdHashMap},
    num::NonZeroU64,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        KProbe, ProgramError, ProgramFd, RawTracePoint,
        kprobe::KProbeLink,
        links::{FdLink, LinkError},
        raw_trace_point::RawTracePointLink,
    },
};
use nix::errno::Errno;
use tracer_common::{
    Counter, FRAMES_MAX, Filter, Generation, Guard, Offsets, Replacement, Sites, THREAD_NAME_LEN, TableRead,
};

use crate::{netns::reader_name, nftables::key::TraceKey, ruleset::Extension};

use super::{
    KernelBtf,
    commits::{Commits, Committed},
    extensions, link,
    missed::Kprobes,
    object::Object,
    preflight::Families,
    probes::{Kind, PROGRAMS, Program, Purpose},
    returns::{self, NotFound, Returns},
    trampoline::{self, Refusal, Trampoline, Trampolines, When},
    verify::Places,
};

/// What is to be traced.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The running kernel's layout.
    pub offsets: Offsets,
    /// The running kernel's types, which trampolines take.
    pub btf: KernelBtf,
    /// Whether the kernel preempts programs on trampolines, see [`super::probes::preempted_on_trampolines`].
    pub preempted: bool,
    /// Which packets to follow and which of their traversals to record.
    pub filter: Filter,
    /// Which tables to trace, iptables' or ip6tables'.
    pub families: Families,
    /// Whether to trace nf_tables.
    pub nftables: bool,
    /// Functions that this kernel does not have, and need not have.
    pub absent: Vec<&'static str>,
    /// Whether this kernel counts the runs of a probe that it skipped: its `bpf_link_info` has
    /// `perf_event.kprobe.missed` (6.7 and later).
    pub skips_counted: bool,
    /// Where steps are witnessed (`--verify`).
    pub witness: Option<Places>,
    /// Whether the number of followed packets may be limited; see [`Attached::limit`].
    pub guarded: bool,
    /// Bytes in the ring buffer that make it readable; rounded up to a power of two. Whoever waits for more than one has to look by himself.
    pub wake_at_bytes: u32,
    /// Size of the ring buffer; rounded up to what the kernel takes (a power of two of pages).
    pub ring_bytes: u32,
}

impl Plan {
    /// The programs of the `wanted` purposes that the plan takes, in the order in which they are attached.
    fn programs(&self, wanted: impl Fn(Purpose) -> bool) -> impl Iterator<Item = Program> {
        let legacy = self.families.ipv4 || self.families.ipv6;
        PROGRAMS.into_iter().filter(move |program| {
            wanted(program.purpose)
                && match program.purpose {
                    Purpose::Life | Purpose::Steps => true,
                    Purpose::Rules | Purpose::Extensions => legacy,
                    Purpose::Tables(family) => self.families.contains(family),
                    Purpose::Nftables | Purpose::NftablesRules => self.nftables,
                }
                && !self.absent.contains(&program.function)
        })
    }
}

/// Why nothing is traced.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The binary was built by `cargo build`.
    #[error("this tracer was built without its eBPF programs")]
    NoObject,
    /// The object could not be loaded.
    #[error("failed to load the eBPF object")]
    Object(#[from] aya::EbpfError),
    /// A map of the object could not be used.
    #[error("failed to use the map {name}")]
    Map {
        /// Name of the map.
        name: &'static str,
        /// What was wrong.
        source: MapError,
    },
    /// The kernel refused a program.
    #[error("failed to load the program {program}")]
    Load {
        /// Name of the program.
        program: &'static str,
        /// What was wrong.
        source: ProgramError,
    },
    /// The kernel does not tell about a link that it has just made.
    #[error("failed to ask the kernel about a probe")]
    Link(#[from] LinkError),
    /// The kernel's trace calls could not be turned on.
    #[error("failed to turn on the trace calls of nf_tables in a network namespace of its own")]
    TraceKey(#[source] std::io::Error),
    /// Traversals cannot be seen by trampolines. They are tried with kprobes then.
    #[error("failed to attach to a function of the tables")]
    Trampoline(#[from] Refusal),
    /// A program could not be attached.
    #[error("failed to attach {program} to {function}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Function or tracepoint.
        function: String,
        /// What was wrong.
        source: ProgramError,
    },
}

impl AttachError {
    fn at(program: &'static str, function: &str, source: ProgramError) -> Self {
        Self::Attach {
            program,
            function: function.to_owned(),
            source,
        }
    }

    /// What the kernel answered, where it forbade something rather than being unable to.
    #[must_use]
    pub fn refusal(&self) -> Option<Errno> {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                return error
                    .raw_os_error()
                    .map(Errno::from_raw)
                    .filter(|errno| *errno == Errno::EPERM);
            }
            source = error.source();
        }
        None
    }
}

/// Probe runs that the kernel skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Of [`Purpose::Tables`]: traversals that were not seen.
    pub tables: u64,
    /// Of [`Purpose::Life`]: ends of packets that may not have been seen.
    pub life: u64,
    /// Of [`Purpose::Rules`]: replacements that may not have been seen.
    pub rules: u64,
    /// Of [`Purpose::Extensions`]: answers that were not seen.
    pub extensions: u64,
    /// Of [`Purpose::Steps`]: steps that were not witnessed.
    pub steps: u64,
}

/// How many of each [`Counter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    values: [u64; Counter::COUNT as usize],
    /// Probe runs that the kernel skipped, because another probe ran on that CPU or too many calls were under
    /// way, by what they were for; `None` where the kernel does not say (kprobes before 6.7).
    pub skipped: Option<Skipped>,
    /// Whether there are probes of which it does not say, besides those of which it does.
    pub skips_uncounted: bool,
}

impl Counts {
    /// The value of one counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }

    /// Sets the value of one counter.
    pub fn set(&mut self, counter: Counter, value: u64) {
        self.values[counter as usize] = value;
    }
}

/// The attached programs. Dropping them detaches and unloads everything.
pub struct Attached {
    /// Declared first, so dropped first.
    links: Vec<Link>,
    trampolines: Option<Trampolines>,
    returns: Returns,
    /// Where the kernel counts the runs that it skips, where it does not tell them.
    kprobes: Option<Kprobes>,
    /// Functions that return probes have to do for, and why.
    return_probes: Vec<ReturnProbe>,
    /// How traversals are seen.
    shape: Shape,
    /// [`Plan::preempted`]
    preempted: bool,
    /// Where the rules are in an `xt_table_info`.
    entries: u32,
    owners: Array<MapData, OwnersBytes>,
    guard: Array<MapData, GuardBytes>,
    headers_switch: Array<MapData, u32>,
    tells_headers: bool,
    refusal: Option<String>,
    took: Duration,
    records: RingBuf<MapData>,
    replacements: Option<Replacements>,
    counters: PerCpuArray<MapData, u64>,
    /// Dropped after the links, and so off when no traversal is under way.
    trace_key: Option<TraceKey>,
    frames: HashMap<MapData, u64, FrameBytes>,
    commits: Arc<Commits>,
    committed: Option<Committed>,
    table_read: Array<MapData, TableReadBytes>,
    ebpf: Ebpf,
    /// What the links and frames told when they were taken away.
    ended: Option<Ended>,
    skips_counted: bool,
}

/// What only the end of the trace tells.
struct Ended {
    exits_missed: u64,
    forms: Forms,
    skipped: (Option<Skipped>, bool),
}

/// A [`TableRead`] as the map holds it.
type TableReadBytes = [u8; size_of::<TableRead>()];

/// What an observed function belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExtensionKind {
    /// A match.
    Match,
    /// A target.
    Target {
        /// Whether it changes the packet's headers: then they are sent as it leaves them.
        headers: bool,
    },
}

/// A frame as the map holds it; only its presence matters here.
type FrameBytes = [u8; size_of::<tracer_common::Traversal>()];

/// A [`Guard`] as the map holds it.
type GuardBytes = [u8; size_of::<Guard>()];

/// How both ends of a function are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// By two programs on its trampoline.
    Trampolines,
    /// By a kprobe and a kretprobe.
    Kprobes,
}

/// The `nf_hook_state` of the traversal that each slot belongs to, zero for none.
type OwnersBytes = [u8; 8 * FRAMES_MAX as usize];
/// The section that has them.
const OWNERS: &str = ".bss.owners";

/// Keeps one program attached.
struct Link {
    at_entry: bool,
    purpose: Purpose,
    held: Held,
}

/// What keeps it.
enum Held {
    Trampoline(Trampoline),
    Kprobe {
        link: KprobeLink,
        /// Which may have other links too.
        program: &'static str,
        /// Where it is, where that is known.
        address: Option<u64>,
    },
    RawTracepoint {
        _link: RawTracePointLink,
        program: ProgramFd,
    },
}

impl Held {
    /// A kprobe, of which the address is known.
    fn at(self, known: Option<u64>) -> Self {
        match self {
            Self::Kprobe { link, program, .. } => Self::Kprobe {
                link,
                program,
                address: known,
            },
            other => other,
        }
    }
}

/// Bytes from the beginning of a function to the kprobe at its entry, at most (`endbr64`).
const ENTRY_LEN_MAX: u64 = 4;

impl Link {
    /// How often the kernel did not run the program; `None` where it does not say, and does not have it in `counted`
    /// either.
    fn missed(&self, skips_counted: bool, counted: Option<&StdHashMap<u64, u64>>) -> Option<u64> {
        match &self.held {
            Held::Trampoline(held) => held.missed().ok(),
            Held::RawTracepoint { program, .. } => trampoline::missed(program.as_fd()).ok(),
            Held::Kprobe {
                link: KprobeLink::Link { id, .. },
                ..
            } if skips_counted => link::missed(*id).ok(),
            Held::Kprobe { address, .. } => {
                let (counted, address) = (counted?, (*address)?);
                let entry_len_max = if self.at_entry { ENTRY_LEN_MAX } else { 0 };
                let mut places = address..=address + entry_len_max;
                places.find_map(|place| counted.get(&place).copied())
            }
        }
    }
}

/// How probes are attached, for the user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forms {
    /// Programs on trampolines.
    pub trampolines: usize,
    /// Kprobes and kretprobes.
    pub kprobes: usize,
    /// Raw tracepoints.
    pub tracepoints: usize,
    /// Why traversals are not seen by trampolines.
    pub refusal: Option<String>,
    /// Functions that return probes have to do for: they may miss a call within another of the same function.
    pub return_probes: Vec<ReturnProbe>,
    /// How long it took to load and attach what every trace has.
    pub took: Duration,
}

/// A function whose returns are seen by a return probe, for the instructions that return are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReturnProbe {
    /// The function.
    pub function: String,
    /// Why they are not known.
    pub cause: NotFound,
}

/// A kprobe is a BPF link where the kernel has these (5.15 and later), else a perf event.
enum KprobeLink {
    Link { _link: FdLink, id: u32 },
    PerfEvent { _link: KProbeLink },
}

impl Attached {
    /// Loads the programs and attaches them, exits before entries, so that no traversal is half seen.
    ///
    /// # Errors
    /// Whatever the kernel refused; nothing stays attached then.
    pub fn attach(plan: &Plan) -> Result<Self, AttachError> {
        Self::attach_some(plan, |_| true)
    }

    /// The same with the programs of the `wanted` purposes only. Traversals are seen by trampolines where the kernel
    /// takes them, which is found out by trying, else by kprobes.
    pub(super) fn attach_some(plan: &Plan, wanted: impl Fn(Purpose) -> bool) -> Result<Self, AttachError> {
        let started = Instant::now();
        let attempt = |shape| {
            let mut attached = Self::load_as(plan, shape)?;
            attached.attach_programs(plan, &wanted)?;
            Ok(attached)
        };
        let mut attached = if plan.preempted {
            attempt(Shape::Kprobes)?
        } else {
            match attempt(Shape::Trampolines) {
                Err(AttachError::Trampoline(refusal)) => Self {
                    refusal: Some(refusal.to_string()),
                    ..attempt(Shape::Kprobes)?
                },
                other => other?,
            }
        };
        attached.took = started.elapsed();
        Ok(attached)
    }

    /// Creates the maps; the programs are loaded when they are attached.
    pub(super) fn load(plan: &Plan) -> Result<Self, AttachError> {
        Self::load_as(plan, Shape::Kprobes)
    }

    fn load_as(plan: &Plan, shape: Shape) -> Result<Self, AttachError> {
        let object = Object::for_kernel(plan.btf.vmlinux()).ok_or(AttachError::NoObject)?;
        let object = object.bytes();
        let slotted = shape != Shape::Kprobes;
        let sites = plan.witness.map_or(Sites::NONE, Places::sites);
        // SAFETY: all are plain old data without hidden padding (asserted in tracer-common).
        let (offsets, filter, sites) =
            unsafe { (bytes_of(&plan.offsets), bytes_of(&plan.filter), bytes_of(&sites)) };
        let mut reader = [0; THREAD_NAME_LEN];
        let name = reader_name();
        let name = &name.as_bytes()[..name.len().min(THREAD_NAME_LEN - 1)];
        reader[..name.len()].copy_from_slice(name);
        let in_slots = u32::from(slotted).to_ne_bytes();
        let guarded = u32::from(plan.guarded).to_ne_bytes();
        let wake_at = plan.wake_at_bytes.next_power_of_two().to_ne_bytes();
        let mut loader = EbpfLoader::new();
        loader
            .btf(None)
            .override_global("OFFSETS", offsets, true)
            .override_global("FILTER", filter, true)
            .override_global("SITES", sites, true)
            .override_global("READER", &reader[..], true)
            .override_global("SLOTTED", &in_slots[..], true)
            .override_global("GUARDED", &guarded[..], true)
            .override_global("WAKE_AT", &wake_at[..], true)
            .map_max_entries("RECORDS", plan.ring_bytes);
        if plan.witness.is_none() {
            loader.map_max_entries("WITNESSES", 1);
        }
        // Legacy traversals have their frames in one of the two, those of nf_tables in `FRAMES`.
        if !slotted {
            loader.map_max_entries("SLOTS", 1);
            loader.map_max_entries("LIVES", 1);
        } else if !plan.nftables {
            loader.map_max_entries("FRAMES", 1);
        }
        let mut ebpf = loader.load(object)?;
        let commits = Arc::new(Commits::new(take_map(&mut ebpf, "COMMITS")?));
        Ok(Self {
            links: Vec::new(),
            trampolines: Trampolines::new(object, &ebpf, plan.btf.clone()),
            returns: Returns::default(),
            kprobes: None,
            return_probes: Vec::new(),
            shape,
            preempted: plan.preempted,
            entries: plan.offsets.table_info_entries,
            owners: take_map(&mut ebpf, OWNERS)?,
            guard: take_map(&mut ebpf, "GUARD")?,
            headers_switch: take_map(&mut ebpf, "TELLS_HEADERS")?,
            tells_headers: false,
            refusal: None,
            took: Duration::ZERO,
            records: take_map(&mut ebpf, "RECORDS")?,
            replacements: Some(Replacements(take_map(&mut ebpf, "REPLACEMENTS")?)),
            counters: take_map(&mut ebpf, "COUNTERS")?,
            trace_key: None,
            frames: take_map(&mut ebpf, "FRAMES")?,
            committed: Some(Committed::new(
                take_map(&mut ebpf, "COMMITTED")?,
                Arc::clone(&commits),
            )),
            commits,
            table_read: take_map(&mut ebpf, "TABLE_READ")?,
            ebpf,
            ended: None,
            skips_counted: plan.skips_counted,
        })
    }

    /// Attaches the programs of the `wanted` purposes, witnesses of steps first.
    fn attach_programs(&mut self, plan: &Plan, wanted: &impl Fn(Purpose) -> bool) -> Result<(), AttachError> {
        self.look_for_returns(plan, wanted);
        for site in plan.witness.into_iter().flat_map(Places::attachments) {
            let held = self.attach_kprobe(site.program, site.function, site.offset)?;
            self.keep(Purpose::Steps, false, [held]);
        }
        if plan.nftables {
            // Before the probes: a traversal that they see begin must be reported from its first rule on.
            self.trace_key = Some(TraceKey::turn().map_err(AttachError::TraceKey)?);
        }
        for program in plan.programs(wanted) {
            self.attach_one(program)?;
        }
        Ok(())
    }

    /// Looks for the instructions that return, before probes change the code.
    fn look_for_returns(&mut self, plan: &Plan, wanted: &impl Fn(Purpose) -> bool) {
        let at_instructions = |program: &Program| {
            let by_kprobe = self.shape == Shape::Kprobes || !program.by_trampoline;
            by_kprobe && program.kind == Kind::Return && returns::program_for(program.name).is_some()
        };
        let programs = plan.programs(wanted).filter(at_instructions);
        let functions = programs.map(|program| program.function);
        self.returns.look(&mut self.ebpf, functions);
        if !plan.skips_counted && self.shape == Shape::Kprobes {
            self.kprobes = Kprobes::find(&plan.btf);
        }
    }

    /// The loaded object, for whoever has a use for its parts that tracing has not.
    pub(super) fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// How probes are attached.
    #[must_use]
    pub fn forms(&self) -> Forms {
        if let Some(ended) = &self.ended {
            return ended.forms.clone();
        }
        let count = |is: fn(&Held) -> bool| self.links.iter().filter(|link| is(&link.held)).count();
        Forms {
            trampolines: count(|held| matches!(held, Held::Trampoline(_))),
            kprobes: count(|held| matches!(held, Held::Kprobe { .. })),
            tracepoints: count(|held| matches!(held, Held::RawTracepoint { .. })),
            refusal: self.refusal.clone(),
            return_probes: self.return_probes.clone(),
            took: self.took,
        }
    }

    /// Those of `functions` that return probes have to do for, and why. Nothing is attached.
    ///
    /// # Errors
    /// The kernel does not take the maps.
    pub fn return_probes(
        offsets: Offsets,
        btf: KernelBtf,
        functions: &[&str],
    ) -> Result<Vec<ReturnProbe>, AttachError> {
        let mut attached = Self::load(&Plan {
            offsets,
            btf,
            preempted: true,
            filter: Filter::EVERYTHING,
            families: Families {
                ipv4: false,
                ipv6: false,
            },
            nftables: false,
            absent: Vec::new(),
            skips_counted: false,
            witness: None,
            guarded: false,
            wake_at_bytes: 1,
            ring_bytes: 4096,
        })?;
        let Self { returns, ebpf, .. } = &mut attached;
        returns.look(ebpf, functions.iter().copied());
        let unknown = functions.iter().filter_map(|function| {
            Some(ReturnProbe {
                function: (*function).to_owned(),
                cause: returns.of(function).err()?,
            })
        });
        Ok(unknown.collect())
    }

    fn keep(&mut self, purpose: Purpose, at_entry: bool, held: impl IntoIterator<Item = Held>) {
        let link = |held| Link {
            at_entry,
            purpose,
            held,
        };
        self.links.extend(held.into_iter().map(link));
    }

    fn attach_one(&mut self, program: Program) -> Result<(), AttachError> {
        let Program {
            name,
            kind,
            function,
            purpose,
            ..
        } = program;
        let when = match kind {
            Kind::Entry => When::Entry,
            Kind::Return => When::Return,
            Kind::RawTracepoint => {
                let held = self.attach_raw_tracepoint(name, function)?;
                self.keep(purpose, false, [held]);
                return Ok(());
            }
        };
        if program.by_trampoline && self.attach_cheaply(program, when)? {
            return Ok(());
        }
        let is_entry = when == When::Entry;
        let held = if is_entry {
            let held = self.attach_kprobe(name, function, 0)?;
            vec![held.at(self.returns.start_of(function))]
        } else {
            self.attach_return(name, function)?
        };
        self.keep(purpose, is_entry, held);
        Ok(())
    }

    /// Sees the returns of a function by kprobes at the instructions that return, where these are known and the kernel
    /// takes all of them, else by a return probe.
    fn attach_return(&mut self, name: &'static str, function: &str) -> Result<Vec<Held>, AttachError> {
        let Some(program) = returns::program_for(name) else {
            return Ok(vec![self.attach_kprobe(name, function, 0)?]);
        };
        let sites = self.returns.of(function);
        let cause = match sites {
            Ok(sites) => {
                let held: Result<Vec<_>, _> = sites
                    .iter()
                    .map(|site| {
                        let held = self.attach_kprobe(program, &site.symbol, site.offset)?;
                        Ok::<_, AttachError>(held.at(Some(site.address)))
                    })
                    .collect();
                if let Ok(held) = held {
                    return Ok(held);
                }
                NotFound::Refused
            }
            Err(cause) => cause,
        };
        let held = self.attach_kprobe(name, function, 0)?;
        self.return_probes.push(ReturnProbe {
            function: function.to_owned(),
            cause,
        });
        Ok(vec![held])
    }

    /// Attaches a program in a form that costs less than a kprobe, if the kernel takes it. Both ends of a traversal must
    /// have the same form: where that is refused, all start again.
    fn attach_cheaply(&mut self, program: Program, when: When) -> Result<bool, AttachError> {
        let Program {
            name,
            function,
            purpose,
            ..
        } = program;
        if self.preempted || self.shape == Shape::Kprobes && matches!(purpose, Purpose::Tables(_)) {
            return Ok(false);
        }
        match (self.attach_trampoline(name, when, function), purpose) {
            (Ok(held), _) => {
                self.keep(purpose, when == When::Entry, held);
                Ok(true)
            }
            (Err(refusal), Purpose::Tables(_)) => Err(refusal.into()),
            (Err(_), _) => Ok(false),
        }
    }

    /// Attaches the trampoline form of a program: the one that has `_t` at the end of its name.
    fn attach_trampoline(&mut self, name: &str, when: When, function: &str) -> Result<Vec<Held>, Refusal> {
        let no_program = || Refusal::NoProgram(name.to_owned());
        let trampolines = self.trampolines.as_mut().ok_or_else(no_program)?;
        let attached = trampolines.attach(&format!("{name}_t"), when, function)?;
        Ok(attached.into_iter().map(Held::Trampoline).collect())
    }

    fn attach_raw_tracepoint(&mut self, name: &'static str, tracepoint: &str) -> Result<Held, AttachError> {
        let load = |source| AttachError::Load {
            program: name,
            source,
        };
        let program = self.ebpf.program_mut(name).ok_or(AttachError::NoObject)?;
        let program: &mut RawTracePoint = program.try_into().map_err(load)?;
        program.load().map_err(load)?;
        let fd = program.fd().map_err(load)?.try_clone();
        let id = program.attach(tracepoint);
        let link = id.and_then(|id| program.take_link(id));
        Ok(Held::RawTracepoint {
            _link: link.map_err(|source| AttachError::at(name, tracepoint, source))?,
            program: fd.map_err(|error| load(error.into()))?,
        })
    }

    /// Attaches a program to the entry or return of a function, or `offset` bytes into it; one program may have many.
    fn attach_kprobe(
        &mut self,
        name: &'static str,
        function: &str,
        offset: u64,
    ) -> Result<Held, AttachError> {
        let load = |source| AttachError::Load {
            program: name,
            source,
        };
        let program = self.ebpf.program_mut(name).ok_or(AttachError::NoObject)?;
        let program: &mut KProbe = program.try_into().map_err(load)?;
        if program.fd().is_err() {
            program.load().map_err(load)?;
        }
        let id = program.attach(function, offset);
        let link = id.and_then(|id| program.take_link(id));
        let link = link.map_err(|source| AttachError::at(name, function, source))?;
        Ok(Held::Kprobe {
            link: KprobeLink::new(link)?,
            program: name,
            address: None,
        })
    }

    /// Finds out what [`Attached::observe`] has to know of these functions. It does so itself, but one look through all
    /// symbols of the kernel is enough for all of them.
    pub fn prepare_to_observe<'a>(&mut self, functions: impl Iterator<Item = &'a str>) {
        if self.shape == Shape::Kprobes {
            self.returns.look(&mut self.ebpf, functions);
        }
    }

    /// Observes a match or target function from now on: what it answers goes into the records of the traversals
    /// that call it. Once for each function.
    ///
    /// # Errors
    /// The kernel has no such function, or refuses.
    pub fn observe(&mut self, extension: ExtensionKind, function: &str) -> Result<(), AttachError> {
        let leave = match extension {
            ExtensionKind::Match => "match_leave",
            ExtensionKind::Target { headers: false } => "target_leave",
            ExtensionKind::Target { headers: true } => "target_leave_changed",
        };
        let held = if self.preempted {
            None
        } else {
            // At the return a trampoline has the arguments still, so it takes no entry.
            self.attach_trampoline(leave, When::Return, function).ok()
        };
        if let Some(held) = held {
            self.keep(Purpose::Extensions, false, held);
            return Ok(());
        }
        // The return first, so that no call is noted whose return is not seen.
        // It takes a look through all symbols of the kernel.
        if returns::program_for(leave).is_some() {
            self.returns.look(&mut self.ebpf, [function].into_iter());
        }
        let held = self.attach_return(leave, function)?;
        self.keep(Purpose::Extensions, false, held);
        let held = self.attach_kprobe("extension_enter", function, 0)?;
        let held = held.at(self.returns.start_of(function));
        self.keep(Purpose::Extensions, true, [held]);
        Ok(())
    }

    /// The function behind an extension in the rules of a generation, as the kernel has it in them; see
    /// [`extensions::function_name`].
    ///
    /// # Errors
    /// The kernel does not let its memory be read.
    pub(super) fn function_of(
        &mut self,
        generation: &Generation,
        extension: &Extension,
    ) -> Result<Option<String>, AttachError> {
        extensions::function_name(&mut self.ebpf, generation.table_info, self.entries, extension)
    }

    /// What the reader of rules ([`reader_name`]) got when it last asked the kernel for a table.
    ///
    /// # Errors
    /// The kernel does not give the map.
    pub fn table_read(&self) -> Result<TableRead, AttachError> {
        let read = self.table_read.get(&0, 0);
        let bytes = read.map_err(|source| AttachError::Map {
            name: "TABLE_READ",
            source,
        })?;
        // SAFETY: the same size (asserted by the type), and every bit pattern is a value.
        Ok(unsafe { std::mem::transmute::<TableReadBytes, TableRead>(bytes) })
    }

    /// From now on at most so many packets a second are followed; the others are counted and left out whole. Needs
    /// [`Plan::guarded`].
    ///
    /// # Errors
    /// The kernel does not take the value.
    pub fn limit(&mut self, packets_per_s: Option<NonZeroU64>) -> Result<(), AttachError> {
        const SECOND_NS: u64 = 1_000_000_000;

        let guard = Guard {
            interval_ns: packets_per_s.map_or(0, |rate| SECOND_NS / rate),
            next_ns: 0,
        };
        // SAFETY: the same size (asserted by the type), without padding.
        let bytes = unsafe { std::mem::transmute::<Guard, GuardBytes>(guard) };
        self.guard.set(0, bytes, 0).map_err(|source| AttachError::Map {
            name: "GUARD",
            source,
        })
    }

    /// From now on headers that rules of nf_tables change are sent. Where the kernel does not take it they are not, which
    /// each record says.
    pub fn tell_headers(&mut self) {
        if !self.tells_headers {
            self.tells_headers = self.headers_switch.set(0, 1, 0).is_ok();
        }
    }

    /// Whether nf_tables is traced.
    #[must_use]
    pub fn traces_nftables(&self) -> bool {
        self.trace_key.is_some()
    }

    /// The last commits of nf_tables.
    pub(super) fn commits(&self) -> &Commits {
        &self.commits
    }

    /// The commits of nf_tables as they happen. Once, and only where it is traced.
    pub fn take_committed(&mut self) -> Option<Committed> {
        self.committed.take_if(|_| self.trace_key.is_some())
    }

    /// The next record, as the programs wrote it, if there is one.
    pub fn with_next_record<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.records.next().map(|record| read(&record))
    }

    /// The replacements of rules, to be watched apart from the records. Once.
    pub fn take_replacements(&mut self) -> Option<Replacements> {
        self.replacements.take()
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// The kernel does not give the counters.
    pub fn counts(&self) -> Result<Counts, AttachError> {
        let mut counts = Counts::default();
        for counter in Counter::ALL {
            counts.values[counter as usize] = self
                .counters
                .get(&(counter as u32), 0)
                .map_err(|source| AttachError::Map {
                    name: "COUNTERS",
                    source,
                })?
                .iter()
                .sum();
        }
        match &self.ended {
            Some(ended) => {
                counts.values[Counter::ExitMissed as usize] += ended.exits_missed;
                (counts.skipped, counts.skips_uncounted) = ended.skipped;
            }
            None => (counts.skipped, counts.skips_uncounted) = self.skipped(),
        }
        Ok(counts)
    }

    /// Runs that the kernel skipped, over all probes that it counts them of, and whether there are others. Nothing,
    /// where it does not count those of traversals.
    fn skipped(&self) -> (Option<Skipped>, bool) {
        let mut skipped = Skipped::default();
        let mut programs = BTreeSet::new();
        let mut uncounted = false;
        let counted = self.kprobes.and_then(|kprobes| kprobes.missed(&self.ebpf));
        for link in &self.links {
            let mut missed = link.missed(self.skips_counted, counted.as_ref());
            if let Held::Kprobe { program, .. } = link.held
                && programs.insert(program)
            {
                let of_program = self.kprobe_program_missed(program);
                missed = missed.zip(of_program).map(|(runs, more)| runs + more);
            }
            let Some(missed) = missed else {
                if matches!(link.purpose, Purpose::Tables(_)) {
                    return (None, true);
                }
                uncounted = true;
                continue;
            };
            match link.purpose {
                Purpose::Tables(_) | Purpose::Nftables => skipped.tables += missed,
                Purpose::Life => skipped.life += missed,
                Purpose::Rules | Purpose::NftablesRules => skipped.rules += missed,
                Purpose::Extensions => skipped.extensions += missed,
                Purpose::Steps => skipped.steps += missed,
            }
        }
        (Some(skipped), uncounted)
    }

    /// How often the kernel came to the kprobes of a program and did not run it, because another program ran on that
    /// CPU: `trace_call_bpf`, `kernel/trace/bpf_trace.c`, since the kernel that tells of links too.
    fn kprobe_program_missed(&self, name: &str) -> Option<u64> {
        let program: &KProbe = self.ebpf.program(name)?.try_into().ok()?;
        trampoline::missed(program.fd().ok()?.as_fd()).ok()
    }

    /// Ends the trace: takes the entry probes away, lets the traversals that are under way finish, takes the
    /// rest away. Records can be read afterwards.
    pub fn detach(&mut self) {
        /// A traversal takes microseconds; a frame that outlasts this has missed its exit.
        const UNDER_WAY_MAX: Duration = Duration::from_millis(100);

        if self.ended.is_some() {
            return;
        }
        let (skipped, forms) = (self.skipped(), self.forms());
        self.links.retain(|link| !link.at_entry);
        let deadline = Instant::now() + UNDER_WAY_MAX;
        while self.under_way() > 0 && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let exits_missed = self.under_way();
        self.links.clear();
        self.trace_key = None;
        self.ended = Some(Ended {
            exits_missed,
            forms,
            skipped,
        });
    }
}

impl Attached {
    /// Traversals that have a frame.
    fn under_way(&self) -> u64 {
        let in_slots = self.owners.get(&0, 0).map_or(0, |owners| {
            owners.chunks_exact(8).filter(|owner| **owner != [0; 8]).count()
        });
        (in_slots + self.frames.keys().count()) as u64
    }
}

/// Becomes readable when there are [`Plan::wake_at_bytes`] of records.
impl AsRawFd for Attached {
    fn as_raw_fd(&self) -> RawFd {
        self.records.as_raw_fd()
    }
}

/// Replacements of tables, as they happen.
pub struct Replacements(RingBuf<MapData>);

impl Replacements {
    /// The next one, if there is one.
    pub fn next_one(&mut self) -> Option<Replacement> {
        Replacement::from_bytes(&self.0.next()?)
    }
}

/// Becomes readable when there are some.
impl AsRawFd for Replacements {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl KprobeLink {
    fn new(link: KProbeLink) -> Result<Self, LinkError> {
        if !aya::features().bpf_perf_link() {
            return Ok(Self::PerfEvent { _link: link });
        }
        let link = FdLink::try_from(link)?;
        let id = link.info()?.id();
        Ok(Self::Link { _link: link, id })
    }
}

fn take_map<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, AttachError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(AttachError::NoObject)?;
    T::try_from(map).map_err(|source| AttachError::Map { name, source })
}

/// # Safety
/// `T` must be plain old data without hidden padding.
unsafe fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: the slice covers exactly the value.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }
}
