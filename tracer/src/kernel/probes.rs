//! The probes that tracing takes, and whether the running kernel has a place for each.

use std::fmt;

use super::KernelBtf;
use super::btf::Btf;
use super::returns;
use super::symbols::Symbol;
use crate::traversal::Family;

/// What kind of probe it is.
///
/// A program on a function has two forms in the eBPF object: the kprobe (or kretprobe), under its own name, and the
/// trampoline (fentry or fexit), under that name with `_t` at the end. Which one the kernel takes is found out by
/// trying, see [`super::attach`]. A program that has no trampoline form is declared with `.by_kprobe()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs when a function is entered.
    Entry,
    /// Runs when a function returns.
    Return,
    /// Runs at a tracepoint.
    RawTracepoint,
}

/// Whether the kernel has the place of a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In vmlinux.
    Vmlinux,
    /// In a module.
    Module(String),
    /// More than once, so that the name does not say where.
    Ambiguous(usize),
    /// Nowhere.
    Missing,
}

impl Place {
    /// Whether a probe can be put there.
    #[must_use]
    pub fn is_found(&self) -> bool {
        matches!(self, Self::Vmlinux | Self::Module(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmlinux => f.write_str("vmlinux"),
            Self::Module(name) => write!(f, "module {name}"),
            Self::Ambiguous(count) => write!(f, "{count} functions of that name"),
            Self::Missing => f.write_str("not found"),
        }
    }
}

/// One probe.
#[derive(Clone, Debug)]
pub struct Probe {
    /// What kind it is.
    pub kind: Kind,
    /// The function or tracepoint.
    pub function: &'static str,
    /// Name of its program.
    pub program: &'static str,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether a kernel may lack the function.
    pub optional: bool,
    /// Where the kernel has it.
    pub place: Place,
    /// The form that this kernel is expected to take.
    pub form: Form,
}

/// How the kernel comes to run the program of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// At a tracepoint.
    RawTracepoint,
    /// On a trampoline at the entry of the function, which the kernel's types describe.
    Fentry,
    /// On one at its return.
    Fexit,
    /// By a breakpoint, or what takes its place, at the entry.
    Kprobe,
    /// By one at each instruction that returns.
    AtReturns,
    /// In place of the return address.
    Kretprobe,
}

impl Form {
    /// What it is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RawTracepoint => "raw tracepoint",
            Self::Fentry => "fentry",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::AtReturns => "kprobe, return",
            Self::Kretprobe => "kretprobe",
        }
    }
}

/// Runs the rules of an IPv4 table: `net/ipv4/netfilter/ip_tables.c`.
pub const IPT_DO_TABLE: &str = "ipt_do_table";
/// Runs the rules of an IPv6 table: `net/ipv6/netfilter/ip6_tables.c`.
pub const IP6T_DO_TABLE: &str = "ip6t_do_table";
/// Frees the memory of a packet, also where no tracepoint is: `net/core/skbuff.c`.
pub const KFREE_SKBMEM: &str = "kfree_skbmem";

/// Frees a packet whose data another one has taken over, as TCP does: `net/core/skbuff.c`.
pub const KFREE_SKB_PARTIAL: &str = "kfree_skb_partial";
/// Hands a packet that was read by its socket to the CPU that it came from, to be freed there, since 5.19 of TCP and
/// later of UDP; what frees it then has neither tracepoint nor [`KFREE_SKBMEM`]: `net/core/skbuff.c`.
pub const SKB_ATTEMPT_DEFER_FREE: &str = "skb_attempt_defer_free";
/// Makes room for the rules of a table: `net/netfilter/x_tables.c`.
const XT_ALLOC_TABLE_INFO: &str = "xt_alloc_table_info";
/// Puts them into force: `net/netfilter/x_tables.c`. Its entry is never skipped, while a return is where too many calls
/// are under way; so that a replacement is seen even if [`XT_ALLOC_TABLE_INFO`] was not.
const XT_REPLACE_TABLE: &str = "xt_replace_table";
/// Gives it back: `net/netfilter/x_tables.c`.
const XT_FREE_TABLE_INFO: &str = "xt_free_table_info";
/// Finds a table for whoever reads or replaces its rules: `net/netfilter/x_tables.c`.
const XT_FIND_TABLE_LOCK: &str = "xt_find_table_lock";

/// Runs the rules of a base chain of nf_tables: `net/netfilter/nf_tables_core.c`.
pub const NFT_DO_CHAIN: &str = "nft_do_chain";
/// Called for each rule that a packet matches there, while tracing is on: the same file.
pub const NFT_TRACE_PACKET: &str = "__nft_trace_packet";
/// Replaces rules of nf_tables: `net/netfilter/nf_tables_api.c`.
pub const NF_TABLES_COMMIT: &str = "nf_tables_commit";

/// Came with lazy preemption, which preempts the kernel wherever it may be: `kernel/sched/core.c`.
const RESCHED_CURR_LAZY: &str = "resched_curr_lazy";

/// What tracing nf_tables takes.
pub const NFTABLES: [&str; 3] = [NFT_DO_CHAIN, NFT_TRACE_PACKET, NF_TABLES_COMMIT];

/// The functions to look up in the kernel's symbol table before calling [`list`].
pub const FUNCTIONS: &[&str] = &[
    IPT_DO_TABLE,
    IP6T_DO_TABLE,
    KFREE_SKBMEM,
    KFREE_SKB_PARTIAL,
    SKB_ATTEMPT_DEFER_FREE,
    XT_ALLOC_TABLE_INFO,
    XT_REPLACE_TABLE,
    XT_FREE_TABLE_INFO,
    XT_FIND_TABLE_LOCK,
    NFT_DO_CHAIN,
    NFT_TRACE_PACKET,
    NF_TABLES_COMMIT,
    RESCHED_CURR_LAZY,
];

/// A program of the eBPF object and the probe that it is for.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Its name.
    pub name: &'static str,
    /// What kind of probe it is for.
    pub kind: Kind,
    /// The function or tracepoint.
    pub function: &'static str,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether a kernel may lack the function.
    pub optional: bool,
    /// Whether the object has it in the form of a trampoline too.
    pub by_trampoline: bool,
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To see the end of packets' lives.
    Life,
    /// To know which rules a legacy table had.
    Rules,
    /// To see packets in the tables of a family.
    Tables(Family),
    /// To see what matches and targets answer.
    Extensions,
    /// To witness the steps (`--verify`).
    Steps,
    /// To see packets in the base chains of nf_tables.
    Nftables,
    /// To know which rules nf_tables had.
    NftablesRules,
}

/// Every program with a probe of its own, in the order in which they are attached: the ends of packets' lives and
/// of rules first, and returns before entries, so that no traversal is half seen.
pub const PROGRAMS: [Program; 19] = {
    use Kind::{Entry, RawTracepoint, Return};
    use Purpose::{Life, Nftables, NftablesRules, Rules, Tables};

    [
        Program::new("skb_dropped", RawTracepoint, "kfree_skb", Life),
        Program::new("skb_consumed", RawTracepoint, "consume_skb", Life),
        Program::new("skb_freed", Entry, KFREE_SKBMEM, Life),
        Program::new("skb_freed", Entry, KFREE_SKB_PARTIAL, Life).optional(),
        Program::new("skb_freed", Entry, SKB_ATTEMPT_DEFER_FREE, Life).optional(),
        Program::new("rules_freed", Entry, XT_FREE_TABLE_INFO, Rules),
        Program::new("rules_made", Return, XT_ALLOC_TABLE_INFO, Rules),
        Program::new("rules_used", Entry, XT_REPLACE_TABLE, Rules).optional(),
        Program::new("rules_looked_up", Return, XT_FIND_TABLE_LOCK, Rules),
        Program::new("rules_asked", Entry, XT_FIND_TABLE_LOCK, Rules),
        Program::new("ipt_leave", Return, IPT_DO_TABLE, Tables(Family::Ipv4)),
        Program::new("ipt_enter", Entry, IPT_DO_TABLE, Tables(Family::Ipv4)),
        Program::new("ip6t_leave", Return, IP6T_DO_TABLE, Tables(Family::Ipv6)),
        Program::new("ip6t_enter", Entry, IP6T_DO_TABLE, Tables(Family::Ipv6)),
        Program::new("nft_commit_leave", Return, NF_TABLES_COMMIT, NftablesRules).by_kprobe(),
        Program::new("nft_commit_enter", Entry, NF_TABLES_COMMIT, NftablesRules).by_kprobe(),
        Program::new("nft_trace", Entry, NFT_TRACE_PACKET, Nftables).by_kprobe(),
        Program::new("nft_leave", Return, NFT_DO_CHAIN, Nftables).by_kprobe(),
        Program::new("nft_enter", Entry, NFT_DO_CHAIN, Nftables).by_kprobe(),
    ]
};

impl Program {
    const fn new(name: &'static str, kind: Kind, function: &'static str, purpose: Purpose) -> Self {
        Self {
            name,
            kind,
            function,
            purpose,
            optional: false,
            by_trampoline: true,
        }
    }

    const fn by_kprobe(self) -> Self {
        Self {
            by_trampoline: false,
            ..self
        }
    }

    const fn optional(self) -> Self {
        Self {
            optional: true,
            ..self
        }
    }
}

/// Whether the kernel preempts programs on trampolines. It leaves out a program that another task was preempted in
/// (`__bpf_prog_enter_recur`, `kernel/bpf/trampoline.c`), so traversals would be missed; kprobes run unpreempted.
#[must_use]
pub fn preempted_on_trampolines(symbols: &[Symbol]) -> bool {
    place(symbols, RESCHED_CURR_LAZY) != Place::Missing
}

/// Every probe with its place, from the kernel's functions and its types.
#[must_use]
pub fn list(symbols: &[Symbol], btf: Option<&KernelBtf>, one_processor: bool) -> Vec<Probe> {
    let preempted = preempted_on_trampolines(symbols);
    let vmlinux = btf.map(|btf| &**btf.vmlinux());
    let describes = |place: &Place, function| match (place, btf) {
        (Place::Vmlinux, Some(btf)) => btf.vmlinux().function(function).is_some(),
        (Place::Module(name), Some(btf)) => {
            matches!(btf.module(name), Ok(Some(types)) if types.function(function).is_some())
        }
        _ => false,
    };
    let form = |program: &Program, place: &Place| {
        let on_trampoline = program.by_trampoline && !preempted && describes(place, program.function);
        match program.kind {
            Kind::RawTracepoint => Form::RawTracepoint,
            Kind::Entry if on_trampoline => Form::Fentry,
            Kind::Entry => Form::Kprobe,
            Kind::Return if on_trampoline => Form::Fexit,
            Kind::Return if one_processor && returns::at_instructions(program.name).is_some() => {
                Form::AtReturns
            }
            Kind::Return => Form::Kretprobe,
        }
    };
    PROGRAMS
        .iter()
        .map(|program| {
            let place = match program.kind {
                Kind::Entry | Kind::Return => place(symbols, program.function),
                Kind::RawTracepoint => tracepoint(vmlinux, program.function),
            };
            Probe {
                kind: program.kind,
                function: program.function,
                program: program.name,
                purpose: program.purpose,
                optional: program.optional,
                form: form(program, &place),
                place,
            }
        })
        .collect()
}

/// Where a function is.
#[must_use]
pub fn place(symbols: &[Symbol], function: &str) -> Place {
    let mut found = symbols.iter().filter(|symbol| symbol.name == function);
    match (found.next(), found.count()) {
        (None, _) => Place::Missing,
        (Some(symbol), 0) => match &symbol.module {
            None => Place::Vmlinux,
            Some(module) => Place::Module(module.clone()),
        },
        (Some(_), more) => Place::Ambiguous(more + 1),
    }
}

fn tracepoint(vmlinux: Option<&Btf>, name: &str) -> Place {
    if vmlinux.is_some_and(|btf| btf.has_typedef(&format!("btf_trace_{name}"))) {
        Place::Vmlinux
    } else {
        Place::Missing
    }
}
