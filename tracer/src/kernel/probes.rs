//! Loads the eBPF programs, attaches them, hands on their records and counters, and takes everything away
//! again.
//!
//! Nothing is pinned: programs, maps and probes belong to file descriptors of this process, so they are gone
//! with it, however it ends.

use std::{
    os::fd::{AsRawFd, RawFd},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{HashMap, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        KProbe, ProgramError, RawTracePoint,
        kprobe::KProbeLink,
        links::{FdLink, LinkError},
        raw_trace_point::RawTracePointLink,
    },
};
use tracer_common::{Counter, Filter, Offsets};

use super::link;

/// The eBPF object that this binary was built with.
#[cfg(ebpf_object)]
const OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("TRACER_EBPF_OBJECT")));
/// Plain `cargo build` embeds none.
#[cfg(not(ebpf_object))]
const OBJECT: Option<&[u8]> = None;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// At the entry of a function.
    Kprobe(&'static str),
    /// At the return of a function.
    Kretprobe(&'static str),
    /// At a tracepoint.
    RawTracepoint(&'static str),
}

/// A program of the object and what it is attached to.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Name of the program.
    pub program: &'static str,
    /// What it is attached to.
    pub attachment: Attachment,
}

/// What every trace needs: the ends of packets' lives.
pub const LIFE: [Probe; 3] = [
    Probe {
        program: "skb_dropped",
        attachment: Attachment::RawTracepoint("kfree_skb"),
    },
    Probe {
        program: "skb_consumed",
        attachment: Attachment::RawTracepoint("consume_skb"),
    },
    Probe {
        program: "skb_freed",
        attachment: Attachment::Kprobe("kfree_skbmem"),
    },
];

/// Traversals of iptables' tables.
pub const IPV4: [Probe; 2] = [
    Probe {
        program: "ipt_leave",
        attachment: Attachment::Kretprobe("ipt_do_table"),
    },
    Probe {
        program: "ipt_enter",
        attachment: Attachment::Kprobe("ipt_do_table"),
    },
];

/// Traversals of ip6tables' tables.
pub const IPV6: [Probe; 2] = [
    Probe {
        program: "ip6t_leave",
        attachment: Attachment::Kretprobe("ip6t_do_table"),
    },
    Probe {
        program: "ip6t_enter",
        attachment: Attachment::Kprobe("ip6t_do_table"),
    },
];

/// What is to be traced.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The running kernel's layout.
    pub offsets: Offsets,
    /// Which packets to follow and which of their traversals to record.
    pub filter: Filter,
    /// Whether to trace iptables' tables.
    pub ipv4: bool,
    /// Whether to trace ip6tables' tables.
    pub ipv6: bool,
    /// Whether this kernel counts the runs of a probe that it skipped: its `bpf_link_info` has
    /// `perf_event.kprobe.missed` (6.7 and later).
    pub skips_counted: bool,
    /// Size of the ring buffer; rounded up to what the kernel takes (a power of two of pages).
    pub ring_bytes: u32,
}

/// Why nothing is traced.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
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
    /// A program could not be attached.
    #[error("failed to attach {program} to {target}")]
    Attach {
        /// Name of the program.
        program: &'static str,
        /// Function or tracepoint.
        target: &'static str,
        /// What was wrong.
        source: ProgramError,
    },
}

impl ProbesError {
    /// Whether the kernel forbade it (`EPERM`), rather than being unable to.
    #[must_use]
    pub fn is_denied(&self) -> bool {
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            if let Some(error) = error.downcast_ref::<std::io::Error>() {
                return error.kind() == std::io::ErrorKind::PermissionDenied;
            }
            source = error.source();
        }
        false
    }
}

/// How many of each [`Counter`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    values: [u64; Counter::COUNT as usize],
    /// Probe runs that the kernel skipped, because another probe ran on that CPU or too many calls were under
    /// way; `None` where the kernel does not say (before 6.7).
    pub skipped: Option<u64>,
}

impl Counts {
    /// The value of one counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize]
    }
}

/// Attached probes. Dropping them detaches and unloads everything.
pub struct Probes {
    /// Declared first, so dropped first.
    links: Vec<Link>,
    records: RingBuf<MapData>,
    counters: PerCpuArray<MapData, u64>,
    frames: HashMap<MapData, u64, FrameBytes>,
    ebpf: Ebpf,
    /// What the links and frames told when they were taken away.
    ended: Option<Ended>,
    skips_counted: bool,
}

/// What only the end of the trace tells.
struct Ended {
    exits_missed: u64,
    skipped: Option<u64>,
}

/// A frame as the map holds it; only its presence matters here.
type FrameBytes = [u8; size_of::<tracer_common::Traversal>()];

/// Keeps one program attached.
enum Link {
    Kprobe { at_entry: bool, link: KprobeLink },
    RawTracepoint { _link: RawTracePointLink },
}

/// A kprobe is a BPF link where the kernel has these (5.15 and later), else a perf event.
enum KprobeLink {
    Link { _link: FdLink, id: u32 },
    PerfEvent { _link: KProbeLink },
}

impl Probes {
    /// Loads the programs and attaches them, exits before entries, so that no traversal is half seen.
    ///
    /// # Errors
    /// Whatever the kernel refused; nothing stays attached then.
    pub fn attach(plan: &Plan) -> Result<Self, ProbesError> {
        let object = OBJECT.ok_or(ProbesError::NoObject)?;
        // SAFETY: both are plain old data without hidden padding (asserted in tracer-common).
        let (offsets, filter) = unsafe { (bytes_of(&plan.offsets), bytes_of(&plan.filter)) };
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .override_global("OFFSETS", offsets, true)
            .override_global("FILTER", filter, true)
            .map_max_entries("RECORDS", plan.ring_bytes)
            .load(object)?;
        let mut probes = Self {
            links: Vec::new(),
            records: take_map(&mut ebpf, "RECORDS")?,
            counters: take_map(&mut ebpf, "COUNTERS")?,
            frames: take_map(&mut ebpf, "FRAMES")?,
            ebpf,
            ended: None,
            skips_counted: plan.skips_counted,
        };
        let families = [(plan.ipv4, IPV4), (plan.ipv6, IPV6)];
        let wanted = families
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .flat_map(|(_, probes)| probes);
        for probe in LIFE.into_iter().chain(wanted) {
            let link = probes.attach_one(probe)?;
            probes.links.push(link);
        }
        Ok(probes)
    }

    fn attach_one(
        &mut self,
        Probe {
            program: name,
            attachment,
        }: Probe,
    ) -> Result<Link, ProbesError> {
        let program = self.ebpf.program_mut(name).ok_or(ProbesError::NoObject)?;
        let load = |source| ProbesError::Load {
            program: name,
            source,
        };
        match attachment {
            Attachment::Kprobe(target) | Attachment::Kretprobe(target) => {
                let attach = |source| ProbesError::Attach {
                    program: name,
                    target,
                    source,
                };
                let program: &mut KProbe = program.try_into().map_err(load)?;
                program.load().map_err(load)?;
                let id = program.attach(target, 0).map_err(attach)?;
                let link = program.take_link(id).map_err(attach)?;
                let link = KprobeLink::new(link)?;
                Ok(Link::Kprobe {
                    at_entry: matches!(attachment, Attachment::Kprobe(_)),
                    link,
                })
            }
            Attachment::RawTracepoint(target) => {
                let attach = |source| ProbesError::Attach {
                    program: name,
                    target,
                    source,
                };
                let program: &mut RawTracePoint = program.try_into().map_err(load)?;
                program.load().map_err(load)?;
                let id = program.attach(target).map_err(attach)?;
                Ok(Link::RawTracepoint {
                    _link: program.take_link(id).map_err(attach)?,
                })
            }
        }
    }

    /// The next record, as the programs wrote it, if there is one.
    pub fn with_next_record<T>(&mut self, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.records.next().map(|record| read(&record))
    }

    /// What was counted so far.
    ///
    /// # Errors
    /// The kernel does not give the counters.
    pub fn counts(&self) -> Result<Counts, ProbesError> {
        let mut counts = Counts::default();
        for counter in Counter::ALL {
            counts.values[counter as usize] = self
                .counters
                .get(&(counter as u32), 0)
                .map_err(|source| ProbesError::Map {
                    name: "COUNTERS",
                    source,
                })?
                .iter()
                .sum();
        }
        match &self.ended {
            Some(ended) => {
                counts.values[Counter::ExitMissed as usize] += ended.exits_missed;
                counts.skipped = ended.skipped;
            }
            None => counts.skipped = self.skipped(),
        }
        Ok(counts)
    }

    /// Runs that the kernel skipped, over all kprobes.
    fn skipped(&self) -> Option<u64> {
        let kprobes = self.links.iter().filter_map(|link| match link {
            Link::Kprobe { link, .. } => Some(link),
            Link::RawTracepoint { .. } => None,
        });
        let skipped = kprobes.map(|link| match link {
            KprobeLink::Link { id, .. } if self.skips_counted => link::missed(*id).ok(),
            _ => None,
        });
        skipped.sum()
    }

    /// Ends the trace: takes the entry probes away, lets the traversals that are under way finish, takes the
    /// rest away. Records can be read afterwards.
    pub fn detach(&mut self) {
        /// A traversal takes microseconds; a frame that outlasts this has missed its exit.
        const UNDER_WAY_MAX: Duration = Duration::from_millis(100);

        if self.ended.is_some() {
            return;
        }
        let skipped = self.skipped();
        self.links
            .retain(|link| !matches!(link, Link::Kprobe { at_entry: true, .. }));
        let deadline = Instant::now() + UNDER_WAY_MAX;
        while self.frames.keys().next().is_some() && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let exits_missed = self.frames.keys().count() as u64;
        self.links.clear();
        self.ended = Some(Ended {
            exits_missed,
            skipped,
        });
    }
}

/// Becomes readable when there are records.
impl AsRawFd for Probes {
    fn as_raw_fd(&self) -> RawFd {
        self.records.as_raw_fd()
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

fn take_map<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, ProbesError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(ProbesError::NoObject)?;
    T::try_from(map).map_err(|source| ProbesError::Map { name, source })
}

/// # Safety
/// `T` must be plain old data without hidden padding.
unsafe fn bytes_of<T>(value: &T) -> &[u8] {
    // SAFETY: the slice covers exactly the value.
    unsafe { std::slice::from_raw_parts((&raw const *value).cast::<u8>(), size_of::<T>()) }
}
