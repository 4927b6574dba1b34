//! Finds where the running kernel keeps what the programs read: fills [`Offsets`] from BTF.

mod nft;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;
use tracer_common::{ABSENT, Offsets};

use super::LoadError;
use super::btf::{Btf, LookupError, Parameter};

/// Gives the BTF of a module on top of vmlinux; `None` if there is none, because the module is built in,
/// not loaded, or described nowhere (`CONFIG_DEBUG_INFO_BTF_MODULES` is missing, as before kernel 5.11).
pub type ModuleBtf<'a> = dyn Fn(&str) -> Result<Option<Btf>, LoadError> + 'a;

/// Why the offsets could not be resolved.
#[derive(Debug, Error)]
pub enum OffsetsError {
    /// The BTF of a module could not be read.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A question about types has no single answer.
    #[error("failed to resolve kernel structures: {0}")]
    Lookup(#[from] LookupError),
    /// A function takes arguments that no known kernel gives it.
    #[error("kernel function {function} takes unknown arguments: {parameters:?}")]
    UnknownSignature {
        /// Name of the function.
        function: &'static str,
        /// What it takes.
        parameters: Vec<Parameter>,
    },
    /// `ipt_do_table` and `ip6t_do_table` take their arguments in different order.
    #[error("kernel functions ipt_do_table and ip6t_do_table take different arguments")]
    SignaturesDiffer,
    /// Nothing describes the functions of the module, and nothing proves what they look like.
    #[error("the kernel does not describe its modules: nothing says which arguments ipt_do_table takes")]
    NoModuleBtf,
    /// The same of nf_tables.
    #[error("the kernel does not describe its modules: nothing says how nf_tables keeps its rules")]
    NoNftablesBtf,
}

/// Which of the kernel's two packet filters are to be traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// `ip_tables` and `ip6_tables`.
    pub legacy: bool,
    /// `nf_tables`.
    pub nftables: bool,
}

/// How `ipt_do_table` and `ip6t_do_table` take their arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// `(struct sk_buff *skb, const struct nf_hook_state *state, struct xt_table *table)`:
    /// `net/ipv4/netfilter/ip_tables.c`, `net/ipv6/netfilter/ip6_tables.c` up to 5.15.
    TableLast,
    /// `(void *priv, struct sk_buff *skb, const struct nf_hook_state *state)`: the same files since "allow
    /// use of ipt_do_table as hookfn" (5.16); `priv` is the `struct xt_table *`.
    TableFirst,
}

impl Signature {
    /// The signature that a prototype shows; `None` for one that no known kernel has.
    fn of(parameters: &[Parameter]) -> Option<Self> {
        let is = |parameter: &Parameter, name: &str| *parameter == Parameter::StructPointer(name.into());
        match parameters {
            [skb, state, table]
                if is(skb, "sk_buff") && is(state, "nf_hook_state") && is(table, "xt_table") =>
            {
                Some(Self::TableLast)
            }
            [Parameter::VoidPointer, skb, state] if is(skb, "sk_buff") && is(state, "nf_hook_state") => {
                Some(Self::TableFirst)
            }
            _ => None,
        }
    }
}

/// Where a fact about the kernel comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// BTF of vmlinux.
    Vmlinux,
    /// BTF of a module.
    Module(&'static str),
    /// A layout that all kernels had for which there is no other source.
    Layout,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vmlinux => f.write_str("BTF of vmlinux"),
            Self::Module(module) => write!(f, "BTF of {module}"),
            Self::Layout => f.write_str("documented layout"),
        }
    }
}

/// One resolved member: what it is called, where it is, and who said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Struct and path, such as `net.ns.inum`.
    pub member: String,
    /// Offset in bytes; `None` if the kernel does not have the member.
    pub offset: Option<u32>,
    /// Where the answer comes from.
    pub origin: Origin,
}

/// The offsets of the running kernel.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// What the programs are given.
    pub offsets: Offsets,
    /// How the functions of legacy tables take their arguments, and who said so; `None` where these are not traced.
    pub signature: Option<(Signature, Origin)>,
    /// Whether nf_tables can be traced: `None` where that was not asked.
    pub nftables: Option<Result<(), Arc<OffsetsError>>>,
    /// Where each member was found, in the order of [`Offsets`].
    pub sources: Vec<Source>,
    /// Whether this kernel tells how often it did not run a kprobe: `bpf_link_info.perf_event.kprobe.missed`,
    /// `include/uapi/linux/bpf.h` since 6.7.
    pub skips_counted: bool,
    /// Where `sk_buff.nf_trace` is, in bits; `None` for a kernel that does not have it
    /// (`CONFIG_NETFILTER_XT_TARGET_TRACE`, `CONFIG_NF_TABLES`).
    pub trace_bit: Option<u32>,
}

impl Resolved {
    /// All places that contributed.
    #[must_use]
    pub fn origins(&self) -> Vec<&Origin> {
        let members = self.sources.iter().map(|source| &source.origin);
        let signature = self.signature.iter().map(|(_, origin)| origin);
        let all: BTreeSet<_> = members.chain(signature).collect();
        all.into_iter().collect()
    }
}

type Field = fn(&mut Offsets) -> &mut u32;

/// Members that every kernel has, in types that belong to vmlinux.
const REQUIRED: &[(&str, &str, Field)] = &[
    ("sk_buff", "head", |o| &mut o.skb_head),
    ("sk_buff", "end", |o| &mut o.skb_end),
    ("skb_shared_info", "frag_list", |o| &mut o.shared_frag_list),
    ("sk_buff", "next", |o| &mut o.skb_next),
    ("sk_buff", "data", |o| &mut o.skb_data),
    ("sk_buff", "len", |o| &mut o.skb_len),
    ("sk_buff", "data_len", |o| &mut o.skb_data_len),
    ("sk_buff", "network_header", |o| &mut o.skb_network_header),
    ("sk_buff", "mac_header", |o| &mut o.skb_mac_header),
    ("sk_buff", "mark", |o| &mut o.skb_mark),
    ("sk_buff", "sk", |o| &mut o.skb_sk),
    ("sk_buff", "dev", |o| &mut o.skb_dev),
    ("nf_hook_state", "hook", |o| &mut o.state_hook),
    ("nf_hook_state", "pf", |o| &mut o.state_pf),
    ("nf_hook_state", "in", |o| &mut o.state_in),
    ("nf_hook_state", "out", |o| &mut o.state_out),
    ("nf_hook_state", "net", |o| &mut o.state_net),
    ("net", "ns.inum", |o| &mut o.net_inum),
    ("net_device", "name", |o| &mut o.device_name),
    ("net_device", "ifindex", |o| &mut o.device_ifindex),
    ("net_device", "type", |o| &mut o.device_type),
    ("net_device", "hard_header_len", |o| &mut o.device_hard_header_len),
    ("sock", "__sk_common.skc_state", |o| &mut o.sock_state),
    ("sock", "__sk_common.skc_net.net", |o| &mut o.sock_net),
    ("sock", "sk_socket", |o| &mut o.sock_socket),
    ("socket", "file", |o| &mut o.socket_file),
    ("file", "f_cred", |o| &mut o.file_cred),
    ("cred", "fsuid", |o| &mut o.cred_fsuid),
    ("cred", "fsgid", |o| &mut o.cred_fsgid),
];

/// Members that depend on the kernel's configuration, and the module whose BTF may describe the type.
const OPTIONAL: &[(&str, &str, &[&str], Field)] = &[
    // CONFIG_SKB_EXTENSIONS
    ("sk_buff", "active_extensions", &[], |o| {
        &mut o.skb_active_extensions
    }),
    ("sk_buff", "extensions", &[], |o| &mut o.skb_extensions),
    ("skb_ext", "offset", &[], |o| &mut o.extension_offset),
    // CONFIG_BRIDGE_NETFILTER
    ("nf_bridge_info", "physindev", &[], |o| &mut o.bridge_physindev),
    ("nf_bridge_info", "physinif", &[], |o| &mut o.bridge_physinif),
    ("nf_bridge_info", "physoutdev", &[], |o| &mut o.bridge_physoutdev),
    // CONFIG_NF_CONNTRACK
    ("sk_buff", "_nfct", &[], |o| &mut o.skb_nfct),
    ("nf_conn", "status", &["nf_conntrack"], |o| {
        &mut o.conntrack_status
    }),
    ("nf_conn", "tuplehash", &["nf_conntrack"], |o| {
        &mut o.conntrack_tuplehash
    }),
    ("nf_conntrack_tuple_hash", "tuple", &["nf_conntrack"], |o| {
        &mut o.tuplehash_tuple
    }),
    // CONFIG_NF_CONNTRACK_MARK
    ("nf_conn", "mark", &["nf_conntrack"], |o| &mut o.conntrack_mark),
];

/// Members of the types of `include/linux/netfilter/x_tables.h`, and where they are on 64-bit kernels that no BTF
/// describes them for: `Always` where they stayed from 5.4 to 7.3, `Anchored` where that is known only of
/// kernels whose tables are anchored in `struct net` ([`tables_are_anchored`]). `hotdrop` is such: it moved when
/// `fragoff` became a `u16` (5.14).
const TABLES: &[(&str, &str, Field, Documented)] = &[
    (
        "xt_table",
        "private",
        |o| &mut o.table_private,
        Documented::Always(24),
    ),
    ("xt_table", "name", |o| &mut o.table_name, Documented::Always(56)),
    (
        "xt_table_info",
        "entries",
        |o| &mut o.table_info_entries,
        Documented::Always(64),
    ),
    (
        "xt_action_param",
        "matchinfo",
        |o| &mut o.param_info,
        Documented::Always(8),
    ),
    (
        "xt_action_param",
        "state",
        |o| &mut o.param_state,
        Documented::Always(16),
    ),
    (
        "xt_action_param",
        "hotdrop",
        |o| &mut o.param_hotdrop,
        Documented::Anchored(32),
    ),
];

/// Types of what programs have as an address.
const TYPES: &[(&str, Field)] = &[("timespec64", |o| &mut o.type_words)];

/// What is known of a member's offset without BTF.
#[derive(Clone, Copy)]
enum Documented {
    Always(u32),
    Anchored(u32),
}

/// Whether the offsets in [`TABLES`] are those of this machine.
const LAYOUT_HOLDS: bool = cfg!(target_pointer_width = "64");

/// Modules whose BTF describes the types of x_tables.
const TABLE_MODULES: &[&str] = &["x_tables", "ip_tables", "ip6_tables"];

/// Probed functions and the modules that have them, unless they are built in.
const FUNCTIONS: &[(&str, &str)] = &[("ipt_do_table", "ip_tables"), ("ip6t_do_table", "ip6_tables")];

/// Resolves everything that the programs need to know about the running kernel.
///
/// Types come from vmlinux, or from the module that owns them. A member that the kernel may be built
/// without becomes [`ABSENT`], and so does what only belongs to a backend that is not wanted. What stands in the way
/// of nf_tables alone is told in [`Resolved::nftables`].
///
/// # Errors
///
/// If a member is missing that every known kernel has, if several types of one name disagree, or if the
/// arguments of the probed functions are unknown: an offset is never guessed.
pub fn resolve(vmlinux: &Btf, modules: &ModuleBtf<'_>, backends: Backends) -> Result<Resolved, OffsetsError> {
    let mut offsets = Offsets::UNRESOLVED;
    let mut sources = Vec::new();
    let mut note = |structure: &str, path: &str, offset, origin| {
        sources.push(Source {
            member: format!("{structure}.{path}"),
            offset,
            origin,
        });
        offset.unwrap_or(ABSENT)
    };

    for (structure, path, field) in REQUIRED {
        let offset = vmlinux.member(structure, path)?;
        *field(&mut offsets) = note(structure, path, Some(offset), Origin::Vmlinux);
    }
    for (structure, path, owners, field) in OPTIONAL {
        let (offset, origin) = match member(vmlinux, modules, structure, path, owners)? {
            (Ok(offset), origin) => (Some(offset), origin),
            (Err(error), origin) if error.is_absence() => (None, origin),
            (Err(error), _) => return Err(error.into()),
        };
        *field(&mut offsets) = note(structure, path, offset, origin);
    }
    let legacy: &[_] = if backends.legacy { TABLES } else { &[] };
    for (structure, path, field, documented) in legacy {
        let (offset, origin) = match member(vmlinux, modules, structure, path, TABLE_MODULES)? {
            (Err(LookupError::NoStruct(_)), _) if LAYOUT_HOLDS => match *documented {
                Documented::Always(offset) => (offset, Origin::Layout),
                Documented::Anchored(offset) if tables_are_anchored(vmlinux)? => (offset, Origin::Layout),
                Documented::Anchored(_) => return Err(OffsetsError::NoModuleBtf),
            },
            (offset, origin) => (offset?, origin),
        };
        *field(&mut offsets) = note(structure, path, Some(offset), origin);
    }

    let signature = if backends.legacy {
        Some(signature(vmlinux, modules)?)
    } else {
        None
    };
    if let Some((signature, _)) = &signature {
        [offsets.arg_skb, offsets.arg_state, offsets.arg_table] = match signature {
            Signature::TableLast => [0, 1, 2],
            Signature::TableFirst => [1, 2, 0],
        };
    }
    let nftables = backends
        .nftables
        .then(|| nft::resolve(vmlinux, modules, &mut offsets, &mut sources).map_err(Arc::new));
    offsets.tcp_ae = vmlinux.bit("tcphdr", "ae").unwrap_or(ABSENT);
    if vmlinux.function("bpf_rdonly_cast").is_some() {
        for (structure, field) in TYPES {
            *field(&mut offsets) = vmlinux.structure(structure).unwrap_or(ABSENT);
        }
    }
    Ok(Resolved {
        offsets,
        signature,
        nftables,
        sources,
        skips_counted: vmlinux
            .member("bpf_link_info", "perf_event.kprobe.missed")
            .is_ok(),
        trace_bit: vmlinux.bit("sk_buff", "nf_trace").ok(),
    })
}

/// A member of a type that vmlinux or one of `owners` describes, and who was the last to be asked.
fn member(
    vmlinux: &Btf,
    modules: &ModuleBtf<'_>,
    structure: &str,
    path: &str,
    owners: &[&'static str],
) -> Result<(Result<u32, LookupError>, Origin), LoadError> {
    let mut answer = (vmlinux.member(structure, path), Origin::Vmlinux);
    for owner in owners {
        // Only a type that vmlinux does not know can be a module's own.
        if !matches!(answer.0, Err(LookupError::NoStruct(_))) {
            break;
        }
        if let Some(btf) = modules(owner)? {
            answer = (btf.member(structure, path), Origin::Module(owner));
        }
    }
    Ok(answer)
}

/// How the probed functions take their arguments, and who said so.
fn signature(vmlinux: &Btf, modules: &ModuleBtf<'_>) -> Result<(Signature, Origin), OffsetsError> {
    let mut answer: Option<(Signature, Origin)> = None;
    for (function, module) in FUNCTIONS {
        let (parameters, origin) = match vmlinux.parameters(function) {
            Ok(parameters) => (parameters, Origin::Vmlinux),
            Err(LookupError::NoFunction(_)) => match modules(module)? {
                Some(btf) => (btf.parameters(function)?, Origin::Module(module)),
                None => continue,
            },
            Err(error) => return Err(error.into()),
        };
        let Some(signature) = Signature::of(&parameters) else {
            return Err(OffsetsError::UnknownSignature { function, parameters });
        };
        match &answer {
            Some((other, _)) if *other != signature => return Err(OffsetsError::SignaturesDiffer),
            Some(_) => {}
            None => answer = Some((signature, origin)),
        }
    }
    match answer {
        Some(answer) => Ok(answer),
        None if tables_are_anchored(vmlinux)? => Ok((Signature::TableLast, Origin::Vmlinux)),
        None => Err(OffsetsError::NoModuleBtf),
    }
}

/// Whether the kernel's hook functions fetch their table from `struct net`.
///
/// `ipt_do_table` could only become a hook function, and so take the table first, once a hook's private
/// pointer was the table. That came with "ip_tables: pass table pointer via nf_hook_ops" (5.13,
/// `ipt_register_table` in `net/ipv4/netfilter/ip_tables.c`), and the next change, "remove all xt_table
/// anchors from struct net", took away `iptable_filter` from `struct netns_ipv4` (`include/net/netns/ipv4.h`).
/// A kernel that still has the anchor therefore has the old signature.
fn tables_are_anchored(vmlinux: &Btf) -> Result<bool, LookupError> {
    match vmlinux.member("net", "ipv4.iptable_filter") {
        Ok(_) => Ok(true),
        Err(error) if error.is_absence() => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::btf::builder::Builder;
    use super::*;

    /// The types of a vmlinux, all members at made-up offsets; `more` adds to it.
    pub(crate) fn vmlinux_bytes(
        anchored: bool,
        conntrack_mark: bool,
        more: impl FnOnce(&mut Builder),
    ) -> Vec<u8> {
        let mut b = Builder::new();
        let int = b.int("unsigned int", 4);
        let mut simple = |name: &str, members: &[&str]| {
            let members: Vec<_> = (1u32..)
                .zip(members)
                .map(|(at, name)| (*name, int, at * 8))
                .collect();
            b.structure(name, &members)
        };
        simple(
            "sk_buff",
            &[
                "head",
                "end",
                "next",
                "data",
                "len",
                "data_len",
                "network_header",
                "mac_header",
                "mark",
                "sk",
                "dev",
                "active_extensions",
                "extensions",
                "_nfct",
            ],
        );
        simple("skb_shared_info", &["frag_list"]);
        simple("nf_hook_state", &["hook", "pf", "in", "out", "net"]);
        simple("skb_ext", &["offset"]);
        simple("nf_bridge_info", &["physindev", "physinif", "physoutdev"]);
        simple("net_device", &["name", "ifindex", "type", "hard_header_len"]);
        simple("socket", &["file"]);
        simple("file", &["f_cred"]);
        simple("cred", &["fsuid", "fsgid"]);
        simple(
            "nf_conn",
            if conntrack_mark {
                &["status", "tuplehash", "mark"]
            } else {
                &["status", "tuplehash"]
            },
        );
        simple("nf_conntrack_tuple_hash", &["hnnode", "tuple"]);
        let ns = simple("ns_common", &["inum"]);
        let ipv4 = simple(
            "netns_ipv4",
            if anchored {
                &["iptable_filter"]
            } else {
                &["forw_hdr"]
            },
        );
        let common_net = simple("", &["net"]);
        let nft = simple("netns_nftables", &["gencursor"]);
        b.structure("net", &[("ns", ns, 40), ("ipv4", ipv4, 400), ("nft", nft, 800)]);
        let common = b.structure(
            "sock_common",
            &[("skc_state", int, 18), ("skc_net", common_net, 48)],
        );
        b.structure("sock", &[("__sk_common", common, 0), ("sk_socket", int, 600)]);
        b.structure_with_bits("tcphdr", &[("ae", int, 96, 1)]);
        more(&mut b);
        b.bytes()
    }

    fn vmlinux(anchored: bool, conntrack_mark: bool, more: impl FnOnce(&mut Builder)) -> Btf {
        Btf::parse(vmlinux_bytes(anchored, conntrack_mark, more)).unwrap()
    }

    fn pointer_to(b: &mut Builder, structure: &str) -> u32 {
        let structure = b.forward(structure);
        b.pointer(structure)
    }

    fn add_function(b: &mut Builder, name: &str, parameters: &[&str]) {
        let parameters: Vec<_> = parameters
            .iter()
            .map(|name| match *name {
                "void" => b.pointer(0),
                name => pointer_to(b, name),
            })
            .collect();
        b.function(name, &parameters);
    }

    fn add_parameters(b: &mut Builder) {
        b.structure("xt_table_info", &[("entries", 1, 64)]);
        b.structure(
            "xt_action_param",
            &[("matchinfo", 1, 8), ("state", 1, 16), ("hotdrop", 1, 30)],
        );
    }

    /// Fields that only nf_tables has.
    const NFTABLES_LEN: usize = 21;
    const LEGACY: Backends = Backends {
        legacy: true,
        nftables: false,
    };
    const OLD: &[&str] = &["sk_buff", "nf_hook_state", "xt_table"];
    const NEW: &[&str] = &["void", "sk_buff", "nf_hook_state"];

    /// Resolves with modules that each have a function; every module describes `xt_table` too.
    fn resolve_with(vmlinux: Btf, modules: &[(&str, &str, &[&str])]) -> Result<Resolved, OffsetsError> {
        let base = Arc::new(vmlinux);
        let modules: BTreeMap<_, _> = modules
            .iter()
            .map(|(module, function, parameters)| {
                let mut b = Builder::on(&base);
                b.structure("xt_table", &[("private", 1, 32), ("name", 1, 64)]);
                add_parameters(&mut b);
                add_function(&mut b, function, parameters);
                (*module, b.bytes())
            })
            .collect();
        let module = |name: &str| {
            let bytes = modules.get(name);
            Ok(bytes.map(|bytes| Btf::parse_split(&base, bytes.as_slice()).unwrap()))
        };
        resolve(&base, &module, LEGACY)
    }

    #[test]
    fn without_casts_no_type_has_an_id() {
        let modules: &[(&str, &str, &[&str])] = &[("ip_tables", "ipt_do_table", NEW)];
        let mut offsets = resolve_with(vmlinux(false, true, |_| {}), modules)
            .unwrap()
            .offsets;
        for (name, field) in TYPES {
            assert_eq!(*field(&mut offsets), ABSENT, "{name}");
        }
    }

    #[test]
    fn every_field_is_filled() {
        let casting = |b: &mut Builder| {
            b.structure("timespec64", &[("tv_sec", 1, 0), ("tv_nsec", 1, 64)]);
            b.function("bpf_rdonly_cast", &[]);
        };
        let resolved = resolve_with(
            vmlinux(false, true, casting),
            &[("ip_tables", "ipt_do_table", NEW)],
        )
        .unwrap();
        // The arguments and types are no members, and nf_tables was not asked for.
        let absent = format!("{:?}", resolved.offsets)
            .matches(&ABSENT.to_string())
            .count();
        assert_eq!(absent, NFTABLES_LEN);
        assert_eq!(
            resolved.sources.len() + 4 + TYPES.len() + NFTABLES_LEN,
            size_of::<Offsets>() / 4
        );
        assert_eq!(resolved.offsets.net_inum, 48);
        assert_eq!(resolved.offsets.sock_net, 56);
        assert_eq!(
            resolved.origins(),
            [&Origin::Vmlinux, &Origin::Module("ip_tables")]
        );
    }

    #[test]
    fn the_signature_decides_the_arguments() {
        for (parameters, expected) in [(OLD, [0, 1, 2]), (NEW, [1, 2, 0])] {
            for (module, function) in [("ip_tables", "ipt_do_table"), ("ip6_tables", "ip6t_do_table")] {
                let resolved =
                    resolve_with(vmlinux(false, true, |_| {}), &[(module, function, parameters)]).unwrap();
                let o = resolved.offsets;
                assert_eq!([o.arg_skb, o.arg_state, o.arg_table], expected);
                let (_, origin) = resolved.signature.unwrap();
                assert_eq!(origin.to_string(), format!("BTF of {module}"));
            }
        }
    }

    #[test]
    fn built_in_tables_are_described_by_vmlinux() {
        let vmlinux = vmlinux(false, true, |b| {
            b.structure("xt_table", &[("private", 1, 24), ("name", 1, 56)]);
            add_parameters(b);
            add_function(b, "ipt_do_table", NEW);
        });
        let resolved = resolve_with(vmlinux, &[]).unwrap();
        assert_eq!(resolved.origins(), [&Origin::Vmlinux]);
    }

    #[test]
    fn an_unknown_signature_is_refused() {
        let error = resolve_with(
            vmlinux(false, true, |_| {}),
            &[("ip_tables", "ipt_do_table", &["sk_buff", "void"])],
        )
        .unwrap_err();
        assert!(matches!(error, OffsetsError::UnknownSignature { .. }), "{error}");
    }

    #[test]
    fn signatures_that_differ_are_refused() {
        let modules: &[(&str, &str, &[&str])] = &[
            ("ip_tables", "ipt_do_table", NEW),
            ("ip6_tables", "ip6t_do_table", OLD),
        ];
        let error = resolve_with(vmlinux(false, true, |_| {}), modules).unwrap_err();
        assert!(matches!(error, OffsetsError::SignaturesDiffer), "{error}");
    }

    #[test]
    fn without_module_btf_an_anchored_table_proves_the_old_signature() {
        let resolved = resolve_with(vmlinux(true, true, |_| {}), &[]).unwrap();
        assert_eq!(resolved.signature, Some((Signature::TableLast, Origin::Vmlinux)));
        assert_eq!(resolved.offsets.table_private, 24);
        assert_eq!(resolved.offsets.table_name, 56);
        assert_eq!(resolved.origins(), [&Origin::Vmlinux, &Origin::Layout]);
    }

    #[test]
    fn without_module_btf_and_proof_it_is_refused() {
        let error = resolve_with(vmlinux(false, true, |_| {}), &[]).unwrap_err();
        assert!(matches!(error, OffsetsError::NoModuleBtf), "{error}");
    }

    #[test]
    fn a_table_that_is_described_differently_is_refused() {
        let vmlinux = vmlinux(true, true, |b| {
            b.structure("xt_table", &[("name", 1, 56)]);
        });
        let error = resolve_with(vmlinux, &[]).unwrap_err();
        assert!(
            error
                .to_string()
                .ends_with("struct xt_table has no member private")
        );
    }

    #[test]
    fn a_kernel_without_connection_marks_has_none() {
        let resolved = resolve_with(vmlinux(true, false, |_| {}), &[]).unwrap();
        assert_eq!(resolved.offsets.conntrack_mark, ABSENT);
        assert_ne!(resolved.offsets.conntrack_status, ABSENT);
    }

    #[test]
    fn a_missing_member_is_named() {
        let error = resolve(
            &Btf::parse(Builder::new().bytes()).unwrap(),
            &|_| Ok(None),
            LEGACY,
        )
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "failed to resolve kernel structures: struct sk_buff is not defined"
        );
    }
}
