//! From nfnetlink's answers to a [`Ruleset`].

use std::collections::HashMap;

use super::{
    expression,
    model::{Base, Chain, Family, Rule, Ruleset, Table},
    netlink::{Message, kind, message},
};
use crate::traversal::{Hook, Verdict};

// Attributes: include/uapi/linux/netfilter/nf_tables.h.
const TABLE_NAME: u16 = 1;
const TABLE_HANDLE: u16 = 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_HANDLE: u16 = 2;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_KEY_LEN: u16 = 5;

/// Puts a ruleset together from the answers to requests for tables, chains, sets and rules, in this order.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    ruleset: Ruleset,
    tables: HashMap<(Family, String), usize>,
    chains: HashMap<(usize, String), usize>,
    /// Bytes of the keys of sets and maps.
    key_lens: HashMap<(usize, String), u32>,
}

impl Decoder {
    /// Takes one answer. `None` where it is not as the kernel writes it, or belongs to nothing.
    pub(super) fn take(&mut self, answer: &Message<'_>) -> Option<()> {
        let of = |message| answer.kind == kind(message);
        if of(message::NEW_TABLE) {
            self.table(answer)
        } else if of(message::NEW_CHAIN) {
            self.chain(answer)
        } else if of(message::NEW_SET) {
            self.set(answer)
        } else if of(message::NEW_RULE) {
            self.rule(answer)
        } else {
            Some(())
        }
    }

    pub(super) fn ruleset(self) -> Ruleset {
        self.ruleset
    }

    fn table(&mut self, answer: &Message<'_>) -> Option<()> {
        let attributes = answer.attributes();
        let table = Table {
            family: answer.family()?.into(),
            name: attributes.string(TABLE_NAME)?,
            handle: attributes.be64(TABLE_HANDLE)?,
            chains: Vec::new(),
            places: HashMap::new(),
        };
        let key = (table.family, table.name.clone());
        self.tables.insert(key, self.ruleset.tables.len());
        self.ruleset.tables.push(table);
        Some(())
    }

    fn chain(&mut self, answer: &Message<'_>) -> Option<()> {
        let attributes = answer.attributes();
        let family = Family::from(answer.family()?);
        let table = *self.tables.get(&(family, attributes.string(CHAIN_TABLE)?))?;
        let hook = attributes.nested(CHAIN_HOOK);
        let base = hook.be32(HOOK_NUMBER).and_then(|number| {
            Some(Base {
                hook: hook_of(family, number),
                priority: hook.be32(HOOK_PRIORITY)?.cast_signed(),
                policy: Verdict::from(attributes.be32(CHAIN_POLICY)?),
            })
        });
        let chain = Chain {
            name: attributes.string(CHAIN_NAME)?,
            handle: attributes.be64(CHAIN_HANDLE)?,
            base,
            rules: Vec::new(),
        };
        let chains = &mut self.ruleset.tables[table].chains;
        self.chains.insert((table, chain.name.clone()), chains.len());
        chains.push(chain);
        Some(())
    }

    fn set(&mut self, answer: &Message<'_>) -> Option<()> {
        let attributes = answer.attributes();
        let family = Family::from(answer.family()?);
        let table = *self.tables.get(&(family, attributes.string(SET_TABLE)?))?;
        let name = attributes.string(SET_NAME)?;
        self.key_lens.insert((table, name), attributes.be32(SET_KEY_LEN)?);
        Some(())
    }

    fn rule(&mut self, answer: &Message<'_>) -> Option<()> {
        let attributes = answer.attributes();
        let family = Family::from(answer.family()?);
        let table = *self.tables.get(&(family, attributes.string(RULE_TABLE)?))?;
        let chain = *self.chains.get(&(table, attributes.string(RULE_CHAIN)?))?;
        let handle = attributes.be64(RULE_HANDLE)?;
        let key_len = |set: &str| self.key_lens.get(&(table, set.to_owned())).copied();
        let read = expression::read(attributes.nested(RULE_EXPRESSIONS), &key_len);
        let rule = Rule {
            handle,
            is_tail: read.is_tail,
            statement: read.statement,
            changes: read.changes,
            changes_on_the_way: read.changes_on_the_way,
            key: read.key,
            text: read.text,
        };
        let table = &mut self.ruleset.tables[table];
        let rules = &mut table.chains[chain].rules;
        table.places.insert(handle, (chain, rules.len()));
        rules.push(rule);
        Some(())
    }
}

/// The numbers of netdev's hooks are others.
fn hook_of(family: Family, number: u32) -> Hook {
    let number = u8::try_from(number).unwrap_or(u8::MAX);
    if family == Family::Netdev {
        Hook::Other(number)
    } else {
        Hook::from(number)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{model::Statement, netlink::Writer};
    use super::*;

    #[test]
    fn rules_find_their_chains_and_numbers() {
        let mut writer = Writer::default();
        writer.message(kind(message::NEW_TABLE), 0, 0, 2, 0, |table| {
            table.string(TABLE_NAME, "filter");
            table.attribute(TABLE_HANDLE, &9_u64.to_be_bytes());
        });
        writer.message(kind(message::NEW_CHAIN), 0, 0, 2, 0, |chain| {
            chain.string(CHAIN_TABLE, "filter");
            chain.string(CHAIN_NAME, "INPUT");
            chain.attribute(CHAIN_HANDLE, &1_u64.to_be_bytes());
            chain.nested(CHAIN_HOOK, |hook| {
                hook.attribute(HOOK_NUMBER, &1_u32.to_be_bytes());
                hook.attribute(HOOK_PRIORITY, &(-150_i32).to_be_bytes());
            });
            chain.attribute(CHAIN_POLICY, &0_u32.to_be_bytes());
        });
        for handle in [4_u64, 7] {
            writer.message(kind(message::NEW_RULE), 0, 0, 2, 0, |rule| {
                rule.string(RULE_TABLE, "filter");
                rule.string(RULE_CHAIN, "INPUT");
                rule.attribute(RULE_HANDLE, &handle.to_be_bytes());
            });
        }
        let mut decoder = Decoder::default();
        for answer in Message::all(writer.bytes()) {
            decoder.take(&answer).unwrap();
        }
        let ruleset = decoder.ruleset();
        let table = ruleset.table(9).unwrap();
        let base = Base {
            hook: Hook::LocalIn,
            priority: -150,
            policy: Verdict::Drop,
        };
        assert_eq!(table.chains[0].base, Some(base));
        assert_eq!(table.places[&7], (0, 1));
        assert_eq!(table.chains[0].rules[1].statement, Statement::Nothing);
        assert!(table.is_iptables());
    }

    #[test]
    fn any_answer_is_taken_or_refused() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let mut decoder = Decoder::default();
            for answer in Message::all(bytes) {
                let _ = decoder.take(&answer);
            }
        });
    }
}
