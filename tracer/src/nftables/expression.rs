//! What a rule's expressions say: `net/netfilter/nft_*.c`, in the words of `nft --debug=netlink`.

use std::fmt::Write as _;

use super::{
    key_of_map::{LOOKUP_SET, Registers, VERDICT},
    model::{Changes, KeyPart, Statement},
    netlink::Attributes,
};

// Attributes: include/uapi/linux/netfilter/nf_tables.h.
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_REGISTER: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const TARGET_NAME: u16 = 1;

/// `NFT_CONTINUE`, …, `include/uapi/linux/netfilter/nf_tables.h`.
pub(super) mod code {
    pub(in super::super) const CONTINUE: i32 = -1;
    pub(in super::super) const JUMP: i32 = -3;
    pub(in super::super) const GOTO: i32 = -4;
    pub(in super::super) const RETURN: i32 = -5;
}

/// What was read off a rule's expressions.
pub(super) struct Read {
    pub(super) is_tail: bool,
    pub(super) statement: Statement,
    pub(super) changes: Changes,
    pub(super) changes_on_the_way: Changes,
    pub(super) key: Vec<KeyPart>,
    pub(super) text: String,
}

/// Reads a rule's expressions. `key_len` knows how many bytes the keys of a set or map have.
pub(super) fn read(list: Attributes<'_>, key_len: &dyn Fn(&str) -> Option<u32>) -> Read {
    let mut registers = Registers::default();
    let mut key = Vec::new();
    let mut statement = Statement::Nothing;
    let mut text = String::new();
    let mut is_tail = true;
    let (mut changes, mut changes_on_the_way) = (Changes::default(), Changes::default());
    for (_, element) in list.iter().filter(|(kind, _)| *kind == LIST_ELEMENT) {
        let element = Attributes(element);
        let name = element.string(EXPRESSION_NAME).unwrap_or_default();
        let data = element.nested(EXPRESSION_DATA);
        // What comes after a change may still not match; these two always do.
        if !matches!(name.as_str(), "immediate" | "counter") {
            changes_on_the_way = changes;
        }
        if let Some(looked_up) = registers.run(&name, data, key_len) {
            key = looked_up;
        }
        let Changes { mark, headers } = changed(&name, data);
        changes.mark |= mark;
        changes.headers |= headers;
        let said = match name.as_str() {
            "immediate" if data.be32(IMMEDIATE_REGISTER) == Some(VERDICT) => {
                let verdict = data.nested(IMMEDIATE_DATA).nested(DATA_VERDICT);
                let code = verdict.be32(VERDICT_CODE).unwrap_or_default().cast_signed();
                let chain = verdict.string(VERDICT_CHAIN);
                is_tail &= !matches!(code, code::JUMP | code::GOTO | code::CONTINUE);
                let said = verdict_text(code, chain.as_deref());
                statement = chain.map_or(Statement::Verdict, Statement::Chain);
                said
            }
            "counter" => continue,
            "match" | "target" => {
                is_tail = false;
                let extension = data.string(TARGET_NAME).unwrap_or_default();
                let said = format!("{name} {extension}");
                if name == "target" {
                    statement = Statement::Named(extension);
                }
                said
            }
            "lookup" => {
                is_tail = false;
                format!("lookup @{}", data.string(LOOKUP_SET).unwrap_or_default())
            }
            _ => {
                is_tail = false;
                if is_statement(&name) {
                    statement = Statement::Named(name.clone());
                }
                name
            }
        };
        let space = if text.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{space}[{said}]");
    }
    is_tail &= statement == Statement::Verdict;
    Read {
        is_tail,
        statement,
        changes,
        changes_on_the_way,
        key,
        text,
    }
}

/// What an expression may change of the packet.
fn changed(name: &str, data: Attributes<'_>) -> Changes {
    /// `NFTA_META_SREG`, `NFTA_META_KEY`
    const META: (u16, u16) = (3, 2);
    /// `NFT_META_MARK`
    const MARK: u32 = 3;
    const PAYLOAD_SOURCE: u16 = 5;
    const EXTHDR_SOURCE: u16 = 7;
    const EXTHDR_REGISTER: u16 = 1;
    const TARGETS: [&str; 11] = [
        "TTL",
        "HL",
        "TOS",
        "DSCP",
        "ECN",
        "TCPMSS",
        "TCPOPTSTRIP",
        "CHECKSUM",
        "SNPT",
        "DNPT",
        "SYNPROXY",
    ];
    /// `-j MARK`, and those that restore a mark.
    const MARKS: [&str; 3] = ["MARK", "CONNMARK", "SET"];

    let (mark, headers) = match name {
        "meta" => (
            data.get(META.0).is_some() && data.be32(META.1) == Some(MARK),
            false,
        ),
        "payload" => (false, data.get(PAYLOAD_SOURCE).is_some()),
        // Without a register to read into it writes, or strips.
        "exthdr" => (
            false,
            data.get(EXTHDR_SOURCE).is_some() || data.get(EXTHDR_REGISTER).is_none(),
        ),
        "target" => {
            let target = data.string(TARGET_NAME).unwrap_or_default();
            (
                MARKS.contains(&target.as_str()),
                TARGETS.contains(&target.as_str()),
            )
        }
        _ => (false, false),
    };
    Changes { mark, headers }
}

/// Expressions that act rather than ask. `meta`, `ct`, `payload` and `exthdr` may do either.
fn is_statement(name: &str) -> bool {
    [
        "reject",
        "masq",
        "nat",
        "redir",
        "log",
        "queue",
        "notrack",
        "dup",
        "fwd",
        "tproxy",
        "synproxy",
        "dynset",
        "flow_offload",
    ]
    .contains(&name)
}

fn verdict_text(verdict: i32, chain: Option<&str>) -> String {
    let chain = chain.unwrap_or_default();
    match verdict {
        code::CONTINUE => "continue".to_owned(),
        code::JUMP => format!("jump {chain}"),
        code::GOTO => format!("goto {chain}"),
        code::RETURN => "return".to_owned(),
        0 => "drop".to_owned(),
        1 => "accept".to_owned(),
        other => format!("verdict {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        model::IpVersion,
        netlink::{Message, Writer},
    };
    use super::*;

    /// An IPv4 address, a protocol and a port, each in words of four bytes.
    const KEY_LEN: u32 = 12;

    fn read_of(body: impl FnOnce(&mut Writer)) -> Read {
        let mut writer = Writer::default();
        writer.message(0, 0, 0, 0, 0, body);
        let attributes = Message::all(writer.bytes()).next().unwrap().attributes();
        read(attributes, &|_| Some(KEY_LEN))
    }

    fn expression(list: &mut Writer, name: &str, data: impl FnOnce(&mut Writer)) {
        list.nested(LIST_ELEMENT, |element| {
            element.string(EXPRESSION_NAME, name);
            element.nested(EXPRESSION_DATA, data);
        });
    }

    fn immediate(list: &mut Writer, code: i32, chain: Option<&str>) {
        expression(list, "immediate", |data| {
            data.attribute(IMMEDIATE_REGISTER, &0_u32.to_be_bytes());
            data.nested(IMMEDIATE_DATA, |data| {
                data.nested(DATA_VERDICT, |verdict| {
                    verdict.attribute(VERDICT_CODE, &code.to_be_bytes());
                    if let Some(chain) = chain {
                        verdict.string(VERDICT_CHAIN, chain);
                    }
                });
            });
        });
    }

    #[test]
    fn a_verdict_without_condition_is_a_tail() {
        let rule = read_of(|list| {
            expression(list, "counter", |_| {});
            immediate(list, code::RETURN, None);
        });
        assert!(rule.is_tail);
        assert_eq!(
            (rule.statement, rule.text.as_str()),
            (Statement::Verdict, "[return]")
        );
    }

    #[test]
    fn a_jump_or_a_condition_makes_it_a_rule() {
        let rule = read_of(|list| immediate(list, code::JUMP, Some("X")));
        assert!(!rule.is_tail);
        assert_eq!(rule.statement, Statement::Chain("X".into()));
        let rule = read_of(|list| {
            expression(list, "match", |data| data.string(TARGET_NAME, "comment"));
            immediate(list, 1, None);
        });
        assert!(!rule.is_tail);
        assert_eq!(rule.text, "[match comment] [accept]");
        let rule = read_of(|list| expression(list, "target", |data| data.string(TARGET_NAME, "MARK")));
        assert_eq!(rule.statement, Statement::Named("MARK".into()));
    }

    /// `ip daddr . meta l4proto . th dport vmap @services`
    fn services(list: &mut Writer) {
        for (register, base, offset, len) in [(1_u32, 1_u32, 16_u32, 4_u32), (10, 2, 2, 2)] {
            expression(list, "payload", |data| {
                for (kind, value) in (1..).zip([register, base, offset, len]) {
                    data.attribute(kind, &value.to_be_bytes());
                }
            });
        }
        expression(list, "meta", |data| {
            for (kind, value) in (1..).zip([9_u32, 16]) {
                data.attribute(kind, &value.to_be_bytes());
            }
        });
        expression(list, "lookup", |data| {
            data.string(LOOKUP_SET, "services");
            data.attribute(2, &1_u32.to_be_bytes());
            data.attribute(3, &0_u32.to_be_bytes());
        });
    }

    #[test]
    fn what_a_verdict_map_is_asked_for_is_known_if_it_comes_from_the_packet() {
        let key = [
            KeyPart::Destination(IpVersion::V4),
            KeyPart::Protocol,
            KeyPart::DestinationPort,
        ];
        assert_eq!(read_of(services).key, key);
        // What was in the registers before does not matter, what was written to the packet does.
        let rule = read_of(|list| {
            expression(list, "numgen", |_| {});
            services(list);
        });
        assert_eq!(rule.key, key);
        let rule = read_of(|list| {
            expression(list, "payload", |data| data.attribute(5, &[0; 4]));
            services(list);
        });
        assert!(rule.key.is_empty());
    }
}
