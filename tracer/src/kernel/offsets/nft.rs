//! Where nf_tables keeps what the programs read.

use tracer_common::Offsets;

use super::super::btf::{Btf, LookupError, Parameter};
use super::{Field, LAYOUT_HOLDS, ModuleBtf, OffsetsError, Origin, Source, tables_are_anchored};

/// Reports every rule that a packet meets while tracing is on: `net/netfilter/nf_tables_core.c`.
const TRACE: &str = "__nft_trace_packet";
/// The module that has all of this, unless it is built in.
const MODULE: &str = "nf_tables";

/// Members and where they are on kernels that describe no modules and whose legacy tables are anchored in `struct net`
/// (up to 5.12): `include/net/netfilter/nf_tables.h`. Table and chain are checked against what nfnetlink says of
/// them whenever rules are looked up.
const MEMBERS: &[(&str, &[&str], Field, u32)] = &[
    ("nft_pktinfo", &["skb"], |o| &mut o.pkt_skb, 0),
    // The state was in an `xt_action_param` until 5.13.
    ("nft_pktinfo", &["state", "xt.state"], |o| &mut o.pkt_state, 32),
    ("nft_chain", &["table"], |o| &mut o.chain_table, 64),
    ("nft_chain", &["handle"], |o| &mut o.chain_handle, 72),
    ("nft_chain", &["name"], |o| &mut o.chain_name, 88),
    ("nft_table", &["handle"], |o| &mut o.nft_table_handle, 224),
    ("nft_table", &["name"], |o| &mut o.nft_table_name, 240),
];

/// Members of `struct nft_traceinfo` that are arguments of their own in later kernels.
const INFO: &[(&str, Field, u32)] = &[
    ("pkt", |o| &mut o.trace_info_pkt, 0),
    ("rule", |o| &mut o.trace_info_rule, 24),
    ("verdict", |o| &mut o.trace_info_verdict, 32),
];

/// `struct nft_rule.handle`, which packets meet up to 5.16, without BTF: its word, and its bits in the word.
const RULE_HANDLE: (u32, u32) = (16, 0);
/// The byte that `struct nft_table.family`, of six bits, begins in, without BTF.
const TABLE_FAMILY: u32 = 236;

/// Fills what belongs to nf_tables.
pub(super) fn resolve(
    vmlinux: &Btf,
    modules: &ModuleBtf<'_>,
    offsets: &mut Offsets,
    sources: &mut Vec<Source>,
) -> Result<(), OffsetsError> {
    let module = modules(MODULE)?;
    let (btf, origin) = match &module {
        Some(module) => (module, Origin::Module(MODULE)),
        None => (vmlinux, Origin::Vmlinux),
    };
    let described = !matches!(btf.member("nft_chain", "handle"), Err(LookupError::NoStruct(_)));
    if !(described || LAYOUT_HOLDS && tables_are_anchored(vmlinux)?) {
        return Err(OffsetsError::NoNftablesBtf);
    }
    // This one is in the kernel's own types, whether or not modules are described.
    offsets.net_gencursor = vmlinux.member("net", "nft.gencursor")?;
    sources.push(Source {
        member: "net.nft.gencursor".to_owned(),
        offset: Some(offsets.net_gencursor),
        origin: Origin::Vmlinux,
    });
    let mut note = |member: String, offset| {
        sources.push(Source {
            member,
            offset: Some(offset),
            origin: if described { origin.clone() } else { Origin::Layout },
        });
        offset
    };
    for (structure, paths, field, documented) in MEMBERS {
        let offset = if described {
            one_of(btf, structure, paths)?
        } else {
            *documented
        };
        *field(offsets) = note(format!("{structure}.{}", paths[0]), offset);
    }
    (offsets.rule_handle, offsets.rule_handle_shift) =
        if described { rule_handle(btf)? } else { RULE_HANDLE };
    note("rule handle".to_owned(), offsets.rule_handle);
    offsets.nft_table_family = if described {
        table_family(btf)?
    } else {
        TABLE_FAMILY
    };
    note("nft_table.family".to_owned(), offsets.nft_table_family);
    if let Some(offset) = optional(btf.member("nft_rule_dp_last", "chain"))? {
        offsets.rule_last_chain = note("nft_rule_dp_last.chain".to_owned(), offset);
    }
    let parameters = if described {
        btf.parameters(TRACE)?
    } else {
        vec![pointer("nft_traceinfo"), pointer("nft_chain"), Parameter::Other]
    };
    arguments(&parameters, offsets)?;
    for (member, field, documented) in INFO {
        let offset = if described {
            optional(btf.member("nft_traceinfo", member))?
        } else {
            Some(*documented)
        };
        if let Some(offset) = offset {
            *field(offsets) = note(format!("nft_traceinfo.{member}"), offset);
        }
    }
    let has = |argument, member| argument != tracer_common::ABSENT || member != tracer_common::ABSENT;
    let whole = has(offsets.arg_trace_pkt, offsets.trace_info_pkt)
        && has(offsets.arg_trace_rule, offsets.trace_info_rule)
        && has(offsets.arg_trace_verdict, offsets.trace_info_verdict)
        && has(offsets.arg_trace_chain, offsets.rule_last_chain);
    if whole { Ok(()) } else { Err(unknown(parameters)) }
}

/// Where the handle of a rule is, as packets meet it: the offset of its word, and by how many bits it is shifted.
fn rule_handle(btf: &Btf) -> Result<(u32, u32), OffsetsError> {
    const WORD_BITS: u32 = 64;

    let bits = match optional(btf.bit("nft_rule_dp", "handle"))? {
        Some(bits) => bits,
        None => btf.bit("nft_rule", "handle")?,
    };
    Ok((bits / WORD_BITS * 8, bits % WORD_BITS))
}

/// The byte whose low bits are the family of a table.
fn table_family(btf: &Btf) -> Result<u32, OffsetsError> {
    let bits = btf.bit("nft_table", "family")?;
    if !bits.is_multiple_of(8) {
        return Err(LookupError::Bitfield {
            structure: "nft_table".to_owned(),
            path: "family".to_owned(),
        }
        .into());
    }
    Ok(bits / 8)
}

/// `__nft_trace_packet` takes `(info, chain, type)` up to 6.3, then step by step more, since 6.4 `(pkt, verdict, rule,
/// info, type)`. What it takes is known by its type; the trace type is the last.
fn arguments(parameters: &[Parameter], offsets: &mut Offsets) -> Result<(), OffsetsError> {
    let Some((Parameter::Other, pointers)) = parameters.split_last() else {
        return Err(unknown(parameters.to_vec()));
    };
    for (position, parameter) in (0..).zip(pointers) {
        let Parameter::StructPointer(name) = parameter else {
            return Err(unknown(parameters.to_vec()));
        };
        let field = match name.as_str() {
            "nft_traceinfo" => &mut offsets.arg_trace_info,
            "nft_pktinfo" => &mut offsets.arg_trace_pkt,
            "nft_verdict" => &mut offsets.arg_trace_verdict,
            "nft_rule" | "nft_rule_dp" => &mut offsets.arg_trace_rule,
            "nft_chain" => &mut offsets.arg_trace_chain,
            _ => return Err(unknown(parameters.to_vec())),
        };
        *field = position;
    }
    offsets.arg_trace_type = u32::try_from(pointers.len()).unwrap_or(tracer_common::ABSENT);
    if offsets.arg_trace_info == tracer_common::ABSENT {
        return Err(unknown(parameters.to_vec()));
    }
    Ok(())
}

fn unknown(parameters: Vec<Parameter>) -> OffsetsError {
    OffsetsError::UnknownSignature {
        function: TRACE,
        parameters,
    }
}

fn pointer(name: &str) -> Parameter {
    Parameter::StructPointer(name.to_owned())
}

/// The first of several members that the structure has.
fn one_of(btf: &Btf, structure: &str, paths: &[&str]) -> Result<u32, LookupError> {
    let mut answer = Err(LookupError::NoStruct(structure.to_owned()));
    for path in paths {
        answer = btf.member(structure, path);
        if !matches!(answer, Err(LookupError::NoMember { .. })) {
            break;
        }
    }
    answer
}

/// `None` for what the kernel does not have.
fn optional(answer: Result<u32, LookupError>) -> Result<Option<u32>, LookupError> {
    match answer {
        Ok(offset) => Ok(Some(offset)),
        Err(error) if error.is_absence() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::ABSENT;

    use super::super::tests::vmlinux_bytes;
    use super::super::{Backends, Origin, resolve};
    use super::*;

    const NFTABLES: Backends = Backends {
        legacy: false,
        nftables: true,
    };

    fn trace_of(names: &[&str]) -> Result<Offsets, OffsetsError> {
        let mut parameters: Vec<_> = names.iter().map(|name| pointer(name)).collect();
        parameters.push(Parameter::Other);
        let mut offsets = Offsets::UNRESOLVED;
        arguments(&parameters, &mut offsets).map(|()| offsets)
    }

    #[test]
    fn the_arguments_are_known_by_their_types() {
        let old = trace_of(&["nft_traceinfo", "nft_chain"]).unwrap();
        assert_eq!(
            (old.arg_trace_info, old.arg_trace_chain, old.arg_trace_type),
            (0, 1, 2)
        );
        assert_eq!(old.arg_trace_pkt, ABSENT);
        let new = trace_of(&["nft_pktinfo", "nft_verdict", "nft_rule_dp", "nft_traceinfo"]).unwrap();
        assert_eq!(
            [
                new.arg_trace_pkt,
                new.arg_trace_verdict,
                new.arg_trace_rule,
                new.arg_trace_info,
                new.arg_trace_type
            ],
            [0, 1, 2, 3, 4]
        );
        assert!(trace_of(&["nft_traceinfo", "nft_set"]).is_err());
        assert!(trace_of(&["nft_pktinfo"]).is_err());
    }

    #[test]
    fn an_old_kernel_without_module_btf_has_the_documented_layout() {
        let vmlinux = Btf::parse(vmlinux_bytes(true, true, |_| {})).unwrap();
        let resolved = resolve(&vmlinux, &|_| Ok(None), NFTABLES).unwrap();
        assert!(matches!(resolved.nftables, Some(Ok(()))));
        assert_eq!(resolved.offsets.nft_table_name, 240);
        assert_eq!(resolved.offsets.nft_table_family, 236);
        assert_eq!(resolved.offsets.rule_last_chain, ABSENT);
        assert_eq!(resolved.origins(), [&Origin::Vmlinux, &Origin::Layout]);
    }

    #[test]
    fn a_later_kernel_without_module_btf_is_refused() {
        let vmlinux = Btf::parse(vmlinux_bytes(false, true, |_| {})).unwrap();
        let resolved = resolve(&vmlinux, &|_| Ok(None), NFTABLES).unwrap();
        assert!(matches!(resolved.nftables, Some(Err(_))));
    }
}
