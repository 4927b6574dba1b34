//! Looks at a machine before anything is attached, and says what stands in the way.

use std::io;

use nix::errno::Errno;

use super::machine::{Lockdown, Machine, Module};
use super::obstacle::{LockedDown, NoKprobes, Obstacle, Privilege};
use super::offsets::{Backends, OffsetsError, Resolved};
use super::probes::{self, Place, Probe, Purpose};
use super::question::{Answer, Question};
use super::returns;
use super::symbols::Symbol;
use super::{KernelBtf, load_btf};
use crate::traversal::Family;

/// Which families are to be traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4, by `ip_tables`.
    pub ipv4: bool,
    /// IPv6, by `ip6_tables`.
    pub ipv6: bool,
}

impl Families {
    /// Both.
    pub const ALL: Self = Self {
        ipv4: true,
        ipv6: true,
    };
}

impl Families {
    /// Whether a family is one of them.
    #[must_use]
    pub fn contains(self, family: Family) -> bool {
        match family {
            Family::Ipv4 => self.ipv4,
            Family::Ipv6 => self.ipv6,
        }
    }
}

/// How a check came out.
#[derive(Debug)]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// Tracing works, but not all of it, or there may be a surprise.
    Warn {
        /// What it means.
        meaning: String,
        /// What to type.
        hint: String,
    },
    /// Tracing is impossible.
    Fail(Obstacle),
}

/// One thing that was looked at.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// What was seen.
    pub seen: String,
    /// How it came out.
    pub outcome: Outcome,
}

/// Everything that was found out.
#[derive(Debug)]
pub struct Report {
    /// What was looked at, in an order in which each presumes those before.
    pub findings: Vec<Finding>,
    /// The probes that tracing takes.
    pub probes: Vec<Probe>,
    /// Whether the kernel preempts programs on trampolines, see [`probes::preempted_on_trampolines`].
    pub preempted: bool,
    /// Where the kernel keeps things, if nothing stands in the way.
    pub resolved: Option<Resolved>,
    /// The kernel's types, if it shows any.
    pub btf: Option<KernelBtf>,
}

impl Report {
    /// What stands in the way of tracing, the most fundamental thing first; `None` if nothing does.
    #[must_use]
    pub fn first_obstacle(&self) -> Option<&Obstacle> {
        self.findings.iter().find_map(|finding| match &finding.outcome {
            Outcome::Fail(obstacle) => Some(obstacle),
            Outcome::Ok | Outcome::Warn { .. } => None,
        })
    }
}

impl Report {
    /// Those of `families` whose legacy tables this kernel has.
    #[must_use]
    pub fn traceable(&self, families: Families) -> Families {
        let found = |function| {
            self.probes
                .iter()
                .any(|probe| probe.function == function && probe.place.is_found())
        };
        Families {
            ipv4: families.ipv4 && found(probes::IPT_DO_TABLE),
            ipv6: families.ipv6 && found(probes::IP6T_DO_TABLE),
        }
    }

    /// Whether nf_tables is there and can be traced.
    #[must_use]
    pub fn traces_nftables(&self) -> bool {
        let resolved = self.resolved.as_ref().and_then(|found| found.nftables.as_ref());
        matches!(resolved, Some(Ok(())))
    }

    /// Functions that this kernel does not have, and need not have.
    #[must_use]
    pub fn absent(&self) -> Vec<&'static str> {
        let absent = |probe: &&Probe| probe.optional && !probe.place.is_found();
        self.probes
            .iter()
            .filter(absent)
            .map(|probe| probe.function)
            .collect()
    }

    /// Where the kernel keeps things.
    ///
    /// # Errors
    ///
    /// What stands in the way of tracing, the most fundamental thing first.
    pub fn into_resolved(self) -> Result<(Resolved, KernelBtf), Obstacle> {
        let obstacle = self
            .findings
            .into_iter()
            .find_map(|finding| match finding.outcome {
                Outcome::Fail(obstacle) => Some(obstacle),
                Outcome::Ok | Outcome::Warn { .. } => None,
            });
        match (obstacle, self.resolved.zip(self.btf)) {
            (None, Some(resolved)) => Ok(resolved),
            (Some(obstacle), _) => Err(obstacle),
            // Without an obstacle the structures were resolved; see `check`.
            (None, None) => Err(Obstacle::Offsets(OffsetsError::NoModuleBtf)),
        }
    }
}

/// Looks at everything that tracing `families` on `machine` needs.
///
/// Reads files and asks the kernel harmless [`Question`]s. No table is asked for, so none is created.
#[must_use]
pub fn check(machine: &Machine, families: Families) -> Report {
    let mut findings = Vec::new();
    let mut add = |name, (seen, outcome)| findings.push(Finding { name, seen, outcome });

    let capabilities = machine.capabilities();
    let may_unshare = capabilities
        .as_ref()
        .is_ok_and(|held| held & (1 << CAP_SYS_ADMIN) != 0);
    let privileges = privileges(capabilities);
    let permitted = matches!(privileges.1, Outcome::Ok);
    add("privileges", privileges);

    let mode = machine.lockdown();
    if permitted {
        // A kernel without BPF altogether is no kernel in lockdown, so the ring buffer is asked for first.
        let ring = machine.ask(Question::RingBuffer);
        let program = machine.ask(Question::KprobeProgram);
        let read = machine.ask(Question::ReadKernelMemory);
        let lockdown = lockdown(mode, ring, program, read);
        let ring = ring_buffer(ring);
        let decided = is_fail(&lockdown) || is_fail(&ring);
        add("lockdown", lockdown);
        add("ring buffer", ring);
        // Otherwise the same refusal would be told twice.
        if !decided {
            add("BPF programs", programs(program.and(read)));
        }
    } else {
        add("lockdown", lockdown(mode, Ok(()), Ok(()), Ok(())));
    }
    add("kprobes", kprobes(machine));

    let btf = load_btf(machine.root());
    let symbols = machine.symbols(probes::FUNCTIONS);
    let probes = probes::list(
        symbols.as_deref().unwrap_or_default(),
        btf.as_ref().ok(),
        returns::one_processor(),
    );
    let modules = machine.modules();
    let nf_tables = has_module(machine, &modules, "nf_tables");
    let has = |function: &str| {
        let mut found = probes.iter().filter(|probe| probe.function == function);
        found.any(|probe| probe.place.is_found())
    };
    let nft_functions = probes::NFTABLES.into_iter().all(has);

    let mut tables = legacy_tables(families, symbols.as_deref(), nf_tables);
    let backends = Backends {
        legacy: !is_fail(&tables),
        nftables: nft_functions && may_unshare,
    };
    let none_loaded = matches!(tables.1, Outcome::Fail(Obstacle::NoLegacyTables { .. }));
    if none_loaded && backends.nftables {
        tables = ("not loaded".into(), Outcome::Ok);
    }
    let any_table = !is_fail(&tables);
    let mut resolved = None;
    let mut types = None;
    match btf {
        Err(error) => add("BTF", ("none".into(), Outcome::Fail(Obstacle::NoBtf(error)))),
        Ok(btf) => {
            add(
                "BTF",
                (format!("vmlinux, {} types", btf.vmlinux().len()), Outcome::Ok),
            );
            if any_table {
                let (finding, found) = structures(&btf, backends);
                add("kernel structures", finding);
                resolved = found;
            }
            types = Some(btf);
        }
    }
    add("legacy iptables", tables);
    if backends.legacy {
        for (wanted, function, name, list) in [
            (
                families.ipv4,
                probes::IPT_DO_TABLE,
                "IPv4 tables",
                "ip_tables_names",
            ),
            (
                families.ipv6,
                probes::IP6T_DO_TABLE,
                "IPv6 tables",
                "ip6_tables_names",
            ),
        ] {
            let present = |probe: &Probe| probe.function == function && probe.place.is_found();
            if wanted && probes.iter().any(present) {
                add(name, table_names(machine.table_names(list)));
            }
        }
    }
    let layout = resolved.as_ref().and_then(|found| found.nftables.as_ref());
    let untraced = match layout {
        Some(Ok(())) => None,
        Some(Err(error)) => Some(error.to_string()),
        None if !nft_functions => Some(format!(
            "the kernel does not list {}",
            probes::NFTABLES.join(", ")
        )),
        None if !may_unshare => Some("this process lacks CAP_SYS_ADMIN".to_owned()),
        None => Some("see above".to_owned()),
    };
    add(
        "nf_tables",
        nf_tables_use(nf_tables || nft_functions, &modules, untraced),
    );
    add("end of packets", packet_end(&probes));
    Report {
        findings,
        probes,
        preempted: symbols.is_ok_and(|symbols| probes::preempted_on_trampolines(&symbols)),
        resolved,
        btf: types,
    }
}

type Judged = (String, Outcome);

fn is_fail(judged: &Judged) -> bool {
    matches!(judged.1, Outcome::Fail(_))
}

// include/uapi/linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Programs and probes take `CAP_BPF` and `CAP_PERFMON`, for which `CAP_SYS_ADMIN` stands in (`bpf_capable`,
/// `perfmon_capable` in `include/linux/capability.h`); reading the rules takes `CAP_NET_ADMIN`
/// (`do_ipt_get_ctl` in `net/ipv4/netfilter/ip_tables.c`).
fn privileges(capabilities: io::Result<u64>) -> Judged {
    let capabilities = match capabilities {
        Ok(capabilities) => capabilities,
        Err(error) => {
            return (
                "unknown".into(),
                Outcome::Warn {
                    meaning: format!("failed to read the capabilities of this process: {error}"),
                    hint: "`cat /proc/self/status`; is /proc mounted?".into(),
                },
            );
        }
    };
    let has = |bit: u32| capabilities & (1 << bit) != 0;
    let needed = [
        ("CAP_BPF", has(CAP_BPF) || has(CAP_SYS_ADMIN)),
        ("CAP_PERFMON", has(CAP_PERFMON) || has(CAP_SYS_ADMIN)),
        ("CAP_NET_ADMIN", has(CAP_NET_ADMIN)),
    ];
    let missing: Vec<_> = needed
        .iter()
        .filter(|(_, has)| !has)
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        ("CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN".into(), Outcome::Ok)
    } else {
        (
            format!("without {}", missing.join(", ")),
            Outcome::Fail(Obstacle::Privilege(Privilege::Missing(missing))),
        )
    }
}

fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::EPERM | Errno::EACCES)
}

/// Where the kernel shows its mode, that decides. Where it does not, a kernel that makes maps, but takes no
/// program that reads its memory, is taken to be locked down: `bpf_tracing_func_proto` then denies
/// the helper (`EINVAL`), and other checks answer `EPERM`.
fn lockdown(mode: Option<Lockdown>, ring: Answer, program: Answer, read: Answer) -> Judged {
    match mode {
        Some(Lockdown::None) => ("off".into(), Outcome::Ok),
        Some(Lockdown::Integrity) => ("integrity, which allows reading".into(), Outcome::Ok),
        Some(Lockdown::Confidentiality) => (
            "confidentiality".into(),
            Outcome::Fail(Obstacle::Lockdown(LockedDown::Stated)),
        ),
        None => match (ring, program, read) {
            (Ok(()), Ok(()), Err(errno)) => inferred(errno),
            (Ok(()), Err(errno), _) if is_refusal(errno) => inferred(errno),
            _ => ("not shown".into(), Outcome::Ok),
        },
    }
}

fn inferred(errno: Errno) -> Judged {
    (
        "mode not shown, but reading is refused".into(),
        Outcome::Fail(Obstacle::Lockdown(LockedDown::Inferred(errno))),
    )
}

fn ring_buffer(ring: Answer) -> Judged {
    match ring {
        Ok(()) => ("can be created".into(), Outcome::Ok),
        Err(errno) if is_refusal(errno) => (
            "refused".into(),
            Outcome::Fail(Obstacle::Privilege(Privilege::Refused(errno))),
        ),
        Err(errno) => ("none".into(), Outcome::Fail(Obstacle::NoRingBuffer(errno))),
    }
}

/// What remains to be said about programs once lockdown and the ring buffer have been judged.
fn programs(answer: Answer) -> Judged {
    match answer {
        Ok(()) => ("are taken, and may read kernel memory".into(), Outcome::Ok),
        Err(errno) if is_refusal(errno) => (
            "refused".into(),
            Outcome::Fail(Obstacle::Privilege(Privilege::Refused(errno))),
        ),
        Err(errno) => (
            "refused".into(),
            Outcome::Fail(Obstacle::NoKprobes(NoKprobes::NoPrograms(errno))),
        ),
    }
}

fn kprobes(machine: &Machine) -> Judged {
    // The file is only there where debugfs is mounted; without it kprobes are taken to be on, as they are
    // unless somebody switches them off.
    let enabled = machine.read("sys/kernel/debug/kprobes/enabled");
    if !machine.has("sys/bus/event_source/devices/kprobe/type") {
        (
            "none".into(),
            Outcome::Fail(Obstacle::NoKprobes(NoKprobes::Missing)),
        )
    } else if enabled.is_ok_and(|text| text.trim() == "0") {
        (
            "switched off".into(),
            Outcome::Fail(Obstacle::NoKprobes(NoKprobes::Disabled)),
        )
    } else {
        ("can be created".into(), Outcome::Ok)
    }
}

/// Whether a module is loaded, or built in and listed.
fn has_module(machine: &Machine, modules: &[Module], name: &str) -> bool {
    modules.iter().any(|module| module.name == name) || machine.has(&format!("sys/module/{name}"))
}

/// A family can be traced if the function that runs its rules is there, in a module or built in.
fn legacy_tables(families: Families, symbols: Result<&[Symbol], &io::Error>, nf_tables: bool) -> Judged {
    let symbols = match symbols {
        Ok(symbols) => symbols,
        Err(error) => {
            return (
                "unknown".into(),
                Outcome::Warn {
                    meaning: format!("failed to read the kernel's symbols: {error}"),
                    hint: "`ls -l /proc/kallsyms`; is /proc mounted?".into(),
                },
            );
        }
    };
    let wanted = [
        (families.ipv4, "IPv4", "ip_tables", probes::IPT_DO_TABLE),
        (families.ipv6, "IPv6", "ip6_tables", probes::IP6T_DO_TABLE),
    ];
    let mut present = Vec::new();
    let mut missing = Vec::new();
    for (_, family, module, function) in wanted.into_iter().filter(|(wanted, ..)| *wanted) {
        match probes::place(symbols, function) {
            Place::Missing => missing.push((family, module)),
            Place::Ambiguous(_) => {
                return (
                    format!("several functions {function}"),
                    Outcome::Fail(Obstacle::NoKprobes(NoKprobes::Function(function))),
                );
            }
            place => present.push(format!("{family} in {place}")),
        }
    }
    let seen = present.join(", ");
    match missing.as_slice() {
        [] => (seen, Outcome::Ok),
        [(family, module), ..] if !present.is_empty() => (
            seen,
            Outcome::Warn {
                meaning: format!(
                    "{family} is not traced: module {module} is not loaded, so nothing uses it now"
                ),
                hint: format!("start tracer again once {family} rules are loaded; `lsmod | grep {module}`"),
            },
        ),
        _ => (
            "none".into(),
            Outcome::Fail(Obstacle::NoLegacyTables {
                missing: missing.into_iter().map(|(_, module)| module).collect(),
                nf_tables,
            }),
        ),
    }
}

fn structures(btf: &KernelBtf, backends: Backends) -> (Judged, Option<Resolved>) {
    match btf.resolve(backends) {
        Ok(resolved) => {
            let origins: Vec<_> = resolved.origins().iter().map(ToString::to_string).collect();
            ((origins.join(", "), Outcome::Ok), Some(resolved))
        }
        Err(error) => (
            ("not resolved".into(), Outcome::Fail(Obstacle::Offsets(error))),
            None,
        ),
    }
}

fn table_names(names: io::Result<Vec<String>>) -> Judged {
    let (seen, meaning) = match names {
        Ok(names) if !names.is_empty() => return (names.join(", "), Outcome::Ok),
        Err(error) if error.kind() != io::ErrorKind::NotFound => (
            "unknown",
            format!("failed to read which tables exist in this network namespace: {error}"),
        ),
        _ => (
            "none here",
            "this network namespace has no legacy table; packets in other namespaces are traced all the same"
                .into(),
        ),
    };
    let hint = "`iptables -V` says whether the node uses (legacy) or (nf_tables)".into();
    (seen.into(), Outcome::Warn { meaning, hint })
}

/// `nft_compat` is used by each match and target of an `iptables` of the nf_tables kind.
fn nf_tables_use(loaded: bool, modules: &[Module], untraced: Option<String>) -> Judged {
    if !loaded {
        return ("not loaded".into(), Outcome::Ok);
    }
    let uses = |name: &str| {
        modules
            .iter()
            .find(|module| module.name == name)
            .and_then(|module| module.uses)
            .unwrap_or(0)
    };
    match (uses("nf_tables"), uses("nft_compat"), untraced) {
        (0, 0, None) => ("traced; no rules now".into(), Outcome::Ok),
        (0, 0, Some(_)) => ("loaded, not used".into(), Outcome::Ok),
        (all, compat, None) => (
            format!("traced; {all} uses, {compat} by iptables extensions"),
            Outcome::Ok,
        ),
        (all, compat, Some(why)) => (
            format!("loaded, {all} uses, {compat} by iptables extensions"),
            Outcome::Warn {
                meaning: format!(
                    "rules in nf_tables are not traced, and they may drop or change packets too: {why}"
                ),
                hint: "`nft list ruleset` shows them; `iptables -V` says whether iptables writes there"
                    .into(),
            },
        ),
    }
}

/// Without all of these, the end of a packet may be missed; what uses its memory next is then told apart
/// by other means.
fn packet_end(probes: &[Probe]) -> Judged {
    let missing: Vec<_> = probes
        .iter()
        .filter(|probe| probe.purpose == Purpose::Life && !probe.optional && !probe.place.is_found())
        .map(|probe| probe.function)
        .collect();
    if missing.is_empty() {
        return ("is seen".into(), Outcome::Ok);
    }
    (
        format!("without {}", missing.join(", ")),
        Outcome::Warn {
            meaning: "the end of some packets is not seen, so a later packet may continue their path".into(),
            hint: "`grep -w -e kfree_skb -e consume_skb -e kfree_skbmem /proc/kallsyms`".into(),
        },
    )
}

#[cfg(test)]
mod tests;
