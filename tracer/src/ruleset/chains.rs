//! The chains of a table, as `iptables` shows them.

use std::ops::Range;

use super::blob::index_of;
use super::model::{Standard, Table, Target};

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// What happens to a packet at its end.
    pub end: End,
    /// Its rules, as places in [`Table::rules`]: those that `iptables -S` prints, so neither the policy of a
    /// built-in chain nor the RETURN that ends a user-defined one.
    pub rules: Range<usize>,
}

/// The end of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The policy of a built-in chain: the value that `ipt_do_table` returns.
    Policy(u32),
    /// Back to the calling chain.
    Return,
}

impl Chain {
    /// The chains of a table in the order of its blob, which is the order of `iptables-save`.
    #[must_use]
    pub fn all(table: &Table) -> Vec<Self> {
        let mut chains = Vec::new();
        for built_in in &table.hooks {
            let place = |offset| index_of(&table.rules, offset);
            if let (Some(entry), Some(underflow)) = (place(built_in.entry), place(built_in.underflow))
                && let Target::Standard(Standard::Verdict(policy)) = table.rules[underflow].target
            {
                chains.push(Self {
                    name: built_in.hook.to_string(),
                    end: End::Policy(policy),
                    rules: entry..underflow.max(entry),
                });
            }
        }
        let heads: Vec<_> = table
            .rules
            .iter()
            .enumerate()
            .filter_map(|(place, rule)| match &rule.target {
                Target::Head { chain } => Some((place, chain)),
                Target::Standard(_) | Target::Extension(_) => None,
            })
            .collect();
        // The last head is the end of the blob.
        for (&(head, name), &(next, _)) in heads.iter().zip(heads.iter().skip(1)) {
            chains.push(Self {
                name: name.clone(),
                end: End::Return,
                rules: head + 1..(next - 1).max(head + 1),
            });
        }
        chains
    }
}

#[cfg(test)]
mod tests {
    use super::super::builder::{ACCEPT, DROP, TableBuilder, rule};
    use super::*;
    use crate::traversal::{Family, Hook};

    #[test]
    fn chains_have_the_rules_that_were_added() {
        let table = TableBuilder::new(Family::Ipv4, "filter")
            .built_in(Hook::LocalIn, ACCEPT)
            .rule(rule().jump("WEB"))
            .built_in(Hook::Forward, DROP)
            .chain("EMPTY")
            .chain("WEB")
            .rules([rule(), rule().return_()])
            .table();
        let chains: Vec<_> = Chain::all(&table)
            .into_iter()
            .map(|chain| (chain.name, chain.end, chain.rules))
            .collect();
        let expected = [
            ("INPUT".to_owned(), End::Policy(ACCEPT), 0..1),
            ("FORWARD".to_owned(), End::Policy(DROP), 2..2),
            ("EMPTY".to_owned(), End::Return, 4..4),
            ("WEB".to_owned(), End::Return, 6..8),
        ];
        assert_eq!(chains, expected);
    }
}
