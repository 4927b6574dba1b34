//! Tries the second source before it is relied on: sends a packet over the loopback device of a network namespace that
//! only this thread is in, through a table that only that namespace has, and looks at what was witnessed. Such a table
//! has no rules, so each traversal is one step, the policy of its chain; which offset that has is known from the table.
//!
//! The namespace and its table are gone with the thread, however it ends, and nothing else on the node has seen them.
//! Only a table whose module is loaded already is used, so none is loaded by this.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::{AsRawFd as _, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sched::{CloneFlags, unshare},
};
use thiserror::Error;
use tracer_common::{Filter, criteria};

use super::super::{
    attach::{AttachError, Attached, Plan},
    machine::Machine,
    probes::Purpose,
};
use crate::{
    event::Event,
    netns::Netns,
    ruleset::{
        Offset, Table,
        source::{self, SourceError},
    },
    traversal::{Family, Hook, Traversal},
    witness::Witnesses,
};

/// Room for many more records than a trial has.
pub(super) const RING_LEN: u32 = 64 << 10;
/// How long the records of the packet may take. A loopback packet needs microseconds, a machine under load more.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// Tables that every packet passes on its way out and in again, whatever else is in use.
const TABLES: [&str; 4] = ["raw", "mangle", "filter", "security"];

/// Why a trial did not succeed.
#[derive(Debug, Error)]
pub enum TrialError {
    /// There is no module to make a table with.
    #[error("it cannot be tried: no module of the tables raw, mangle, filter or security of {0} is loaded")]
    NoTable(&'static str),
    /// The namespace could not be made, or does not work.
    #[error("it cannot be tried: {what}: {cause}")]
    Namespace {
        /// What failed.
        what: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// The table could not be made or read.
    #[error("it cannot be tried")]
    Table(#[from] SourceError),
    /// The table that was made is not there.
    #[error("it cannot be tried: the table {0} is not there")]
    Vanished(String),
    /// The programs could not be attached.
    #[error("it cannot be tried")]
    Attach(#[source] Box<AttachError>),
    /// What came is no record.
    #[error("it cannot be tried")]
    Record(#[from] crate::traversal::DecodeError),
    /// A traversal was recorded, but no witness of it.
    #[error("tried with a packet, it saw nothing of {table}:{hook}")]
    Unseen {
        /// The table.
        table: String,
        /// Its built-in chain.
        hook: Hook,
    },
    /// A witness has seen other steps than the packet took.
    #[error("tried with a packet, it saw {seen:?} of {table}:{hook}, which is the one step {expected}")]
    Wrong {
        /// The table.
        table: String,
        /// Its built-in chain.
        hook: Hook,
        /// What it saw.
        seen: Vec<Offset>,
        /// What there was to see.
        expected: Offset,
    },
    /// No record came, or not all.
    #[error("tried with a packet, only {0} of its traversals were recorded")]
    Missing(usize),
}

impl From<AttachError> for TrialError {
    fn from(error: AttachError) -> Self {
        Self::Attach(Box::new(error))
    }
}

/// Tries the place that the plan is about.
pub(super) fn run(machine: &Machine, plan: &Plan, family: Family) -> Result<(), TrialError> {
    let prefix = match family {
        Family::Ipv4 => "iptable",
        Family::Ipv6 => "ip6table",
    };
    let is_loaded = |table: &&str| machine.has(&format!("sys/module/{prefix}_{table}"));
    let table = TABLES
        .into_iter()
        .find(is_loaded)
        .ok_or(TrialError::NoTable(source::command(family)))?;
    let trial = || {
        let failed = |what| {
            move |cause: Errno| TrialError::Namespace {
                what,
                cause: cause.into(),
            }
        };
        unshare(CloneFlags::CLONE_NEWNET).map_err(failed("failed to make a network namespace"))?;
        in_own_namespace(plan, family, table)
    };
    thread::scope(|scope| {
        let thread = scope.spawn(trial);
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn in_own_namespace(plan: &Plan, family: Family, name: &str) -> Result<(), TrialError> {
    source::create(family, name)?;
    let netns = Netns::current().map_err(SourceError::from)?;
    let table = netns
        .table(family, name)?
        .ok_or_else(|| TrialError::Vanished(name.to_owned()))?;
    let failed = |what| move |cause| TrialError::Namespace { what, cause };
    raise_loopback().map_err(failed("failed to raise its loopback device"))?;

    let plan = Plan {
        filter: Filter {
            criteria: criteria::NETNS,
            netns: netns.inode(),
            ..Filter::EVERYTHING
        },
        ..plan.clone()
    };
    let mut attached = Attached::attach_some(&plan, |purpose| matches!(purpose, Purpose::Tables(_)))?;
    send(family).map_err(failed("failed to send a packet over its loopback device"))?;
    look(&mut attached, &table).map_err(|error| match error {
        Seen::Failed(error) => error,
        Seen::Io(cause) => failed("failed to wait for records")(cause),
    })
}

/// Why looking ended early.
enum Seen {
    Failed(TrialError),
    Io(io::Error),
}

/// Waits until each of the table's hooks that a loopback packet passes was recorded, and checks what was witnessed.
fn look(attached: &mut Attached, table: &Table) -> Result<(), Seen> {
    let passed = |hook: &Hook| *hook != Hook::Forward;
    let mut awaited: Vec<Hook> = table
        .hooks
        .iter()
        .map(|chain| chain.hook)
        .filter(passed)
        .collect();
    let deadline = Instant::now() + WAIT_MAX;
    let mut witnesses = Witnesses::default();
    let mut recorded = 0;
    while !awaited.is_empty() {
        match attached.with_next_record(Event::decode) {
            Some(Ok(Event::Witness(witness))) => witnesses.keep(witness),
            Some(Ok(Event::Traversal(mut traversal))) => {
                recorded += 1;
                witnesses.complete(&mut traversal);
                check(&traversal, table).map_err(Seen::Failed)?;
                awaited.retain(|hook| *hook != traversal.hook);
            }
            Some(Ok(Event::End(_) | Event::Changed(_))) => {}
            Some(Err(error)) => return Err(Seen::Failed(error.into())),
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(Seen::Failed(TrialError::Missing(recorded)));
                }
                // SAFETY: the descriptor is the ring buffer's, which `attached` keeps open.
                let buffer = unsafe { BorrowedFd::borrow_raw(attached.as_raw_fd()) };
                let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
                match poll(&mut [PollFd::new(buffer, PollFlags::POLLIN)], timeout) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(Seen::Io(errno.into())),
                }
            }
        }
    }
    Ok(())
}

/// Whether the witness of a traversal has seen the one step that it is: the policy of the chain.
fn check(traversal: &Traversal, table: &Table) -> Result<(), TrialError> {
    let chain = table.hooks.iter().find(|chain| chain.hook == traversal.hook);
    let (Some(witness), Some(chain)) = (&traversal.witness, chain) else {
        return Err(TrialError::Unseen {
            table: traversal.table.clone(),
            hook: traversal.hook,
        });
    };
    if witness.steps != [chain.underflow] {
        return Err(TrialError::Wrong {
            table: traversal.table.clone(),
            hook: traversal.hook,
            seen: witness.steps.clone(),
            expected: chain.underflow,
        });
    }
    Ok(())
}

/// `ip link set lo up`
fn raise_loopback() -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    // SAFETY: all zeros is a value of the structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = from.cast_signed();
    }
    #[expect(clippy::cast_possible_truncation, reason = "the flag fits")]
    let up = libc::IFF_UP as libc::c_short;
    request.ifr_ifru.ifru_flags = up;
    // SAFETY: the kernel reads the structure, which lives until the call returns.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Sends a datagram to oneself, and takes it.
fn send(family: Family) -> io::Result<()> {
    let loopback = match family {
        Family::Ipv4 => IpAddr::from(Ipv4Addr::LOCALHOST),
        Family::Ipv6 => IpAddr::from(Ipv6Addr::LOCALHOST),
    };
    let socket = UdpSocket::bind((loopback, 0))?;
    socket.set_read_timeout(Some(WAIT_MAX))?;
    socket.send_to(b"?", socket.local_addr()?)?;
    socket.recv(&mut [0; 1])?;
    Ok(())
}
