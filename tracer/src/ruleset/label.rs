//! The names that TRACE gives to rules: `INPUT:policy:3`.
//!
//! The kernel finds a name by walking the blob from the first rule of the hook's chain
//! (`trace_packet` and `get_chainname_rulenum`, `net/ipv4/netfilter/ip_tables.c`; the same in `ip6_tables.c`).
//! [`Labels`] gives the result of that walk, with all its peculiarities, without walking: a rule is counted
//! from the nearest head of a user-defined chain before it or, if there is none after the hook's first rule,
//! from that rule. So the same rule may have different names at different hooks.

use std::fmt;

use super::blob::index_of;
use super::model::{Offset, Standard, Table, Target};
use crate::traversal::Hook;

/// What TRACE says of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A rule.
    Rule,
    /// An unconditional verdict or RETURN in a user-defined chain; also the invisible RETURN at its end.
    Return,
    /// An unconditional verdict or RETURN in a built-in chain; also its policy.
    Policy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rule => "rule",
            Self::Return => "return",
            Self::Policy => "policy",
        })
    }
}

/// The name of a rule within its table. Displayed as TRACE prints it: `INPUT:policy:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label<'a> {
    /// Name of the chain.
    pub chain: &'a str,
    /// What the rule is.
    pub kind: Kind,
    /// Its number in the chain, from 1.
    pub number: u32,
}

impl fmt::Display for Label<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.chain, self.kind, self.number)
    }
}

/// Names the rules of one table.
#[derive(Clone, Debug)]
pub struct Labels {
    /// The hooks of the table: the name of each, and the place of the first rule of its chain.
    hooks: Vec<(Hook, String, usize)>,
    entries: Vec<Entry>,
    /// Names of the user-defined chains, each with the place of its head.
    heads: Vec<(String, usize)>,
}

/// What a name needs to know of an entry.
#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: Offset,
    /// Whether it is unconditional and a standard target with a verdict below zero.
    tail: bool,
    /// How many heads come before it, itself included.
    heads: usize,
}

impl Labels {
    /// Prepares the names of a table's rules.
    #[must_use]
    pub fn new(table: &Table) -> Self {
        let mut heads = Vec::new();
        let mut entries = Vec::with_capacity(table.rules.len());
        for (place, rule) in table.rules.iter().enumerate() {
            let tail = match &rule.target {
                Target::Standard(Standard::Verdict(_) | Standard::Return) => rule.unconditional,
                Target::Standard(Standard::Jump(_)) | Target::Extension(_) => false,
                Target::Head { chain } => {
                    heads.push((chain.clone(), place));
                    false
                }
            };
            entries.push(Entry {
                offset: rule.offset,
                tail,
                heads: heads.len(),
            });
        }
        let place = |offset| index_of(&table.rules, offset);
        let hooks = table.hooks.iter();
        Self {
            hooks: hooks
                .filter_map(|chain| Some((chain.hook, chain.hook.to_string(), place(chain.entry)?)))
                .collect(),
            entries,
            heads,
        }
    }

    /// The name that TRACE prints for the rule at `offset` when the table is called at `hook`; `None` if the
    /// table is not called there, or nothing begins at that offset.
    ///
    /// The kernel's walk does not stop at the head of a chain, nor does it see what lies before the chain of the
    /// hook. It then gives the end of the blob for a name, and so does this.
    #[must_use]
    pub fn of(&self, hook: Hook, offset: Offset) -> Option<Label<'_>> {
        let (_, hook_name, root) = self.hooks.iter().find(|(candidate, ..)| *candidate == hook)?;
        let place = self
            .entries
            .binary_search_by_key(&offset, |entry| entry.offset)
            .ok()?;
        let is_head = self.head(place, *root).is_some_and(|(_, head)| head == place);
        if place < *root || is_head {
            // The walk misses the rule and goes on to the end.
            let (chain, number) = self.count(hook_name, self.entries.len() - 1, *root);
            return Some(Label {
                chain,
                kind: Kind::Rule,
                number,
            });
        }
        let (chain, number) = self.count(hook_name, place, *root);
        let kind = match (self.entries[place].tail, self.head(place, *root)) {
            (false, _) => Kind::Rule,
            (true, Some(_)) => Kind::Return,
            (true, None) => Kind::Policy,
        };
        Some(Label { chain, kind, number })
    }

    /// The nearest head of a chain that the walk from `root` meets on its way to `place`, `place` included.
    fn head(&self, place: usize, root: usize) -> Option<(&str, usize)> {
        let (name, head) = self.heads.get(self.entries[place].heads.checked_sub(1)?)?;
        (*head >= root).then_some((name.as_str(), *head))
    }

    /// Name and number that the walk from `root` has when it has counted the entry at `place`.
    fn count<'a>(&'a self, hook_name: &'a str, place: usize, root: usize) -> (&'a str, u32) {
        let (chain, number) = match self.head(place, root) {
            Some((name, head)) => (name, place - head),
            None => (hook_name, place + 1 - root),
        };
        (chain, u32::try_from(number).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::super::builder::{ACCEPT, DROP, TableBuilder, rule};
    use super::*;
    use crate::traversal::Family;

    /// The walk as the kernel writes it.
    fn walk(table: &Table, hook: Hook, offset: Offset) -> Option<(String, Kind, u32)> {
        let built_in = table.hooks.iter().find(|chain| chain.hook == hook)?;
        table.rules.iter().find(|rule| rule.offset == offset)?;
        let hook_name = hook.to_string();
        let (mut chain, mut named, mut kind, mut number) = (hook_name.as_str(), false, Kind::Rule, 0);
        for rule in table.rules.iter().filter(|rule| rule.offset >= built_in.entry) {
            if let Target::Head { chain: name } = &rule.target {
                (chain, named, number) = (name, true, 0);
            } else if rule.offset == offset {
                number += 1;
                let negative = matches!(
                    rule.target,
                    Target::Standard(Standard::Verdict(_) | Standard::Return)
                );
                if rule.unconditional && negative {
                    kind = if named { Kind::Return } else { Kind::Policy };
                }
                break;
            } else {
                number += 1;
            }
        }
        Some((chain.to_owned(), kind, number))
    }

    fn all_agree(table: &Table) {
        let labels = Labels::new(table);
        let hooks = Hook::NAMED.into_iter().chain([Hook::Other(9)]);
        for hook in hooks {
            let offsets = table.rules.iter().flat_map(|rule| [rule.offset, rule.offset + 8]);
            for offset in offsets {
                let label = labels.of(hook, offset);
                let label = label.map(|label| (label.chain.to_owned(), label.kind, label.number));
                assert_eq!(label, walk(table, hook, offset), "{hook} {offset}");
            }
        }
    }

    fn table() -> Table {
        TableBuilder::new(Family::Ipv4, "filter")
            .built_in(Hook::LocalIn, ACCEPT)
            .rule(rule().protocol(6).jump("C1"))
            .rule(rule().verdict(ACCEPT))
            .built_in(Hook::LocalOut, DROP)
            .rule(rule().source("10.0.0.0/8").verdict(DROP))
            .chain("C1")
            .rule(rule())
            .rule(rule().return_())
            .rule(rule().comment("conditional").return_())
            .chain("C2")
            .table()
    }

    #[test]
    fn rules_have_the_names_that_trace_prints() {
        let table = table();
        let labels = Labels::new(&table);
        let name = |hook, place: usize| labels.of(hook, table.rules[place].offset).unwrap().to_string();
        let input: Vec<_> = (0..3).map(|place| name(Hook::LocalIn, place)).collect();
        assert_eq!(input, ["INPUT:rule:1", "INPUT:policy:2", "INPUT:policy:3"]);
        let output: Vec<_> = (3..5).map(|place| name(Hook::LocalOut, place)).collect();
        assert_eq!(output, ["OUTPUT:rule:1", "OUTPUT:policy:2"]);
        for hook in [Hook::LocalIn, Hook::LocalOut] {
            let user: Vec<_> = (6..10).chain([11]).map(|place| name(hook, place)).collect();
            let expected = [
                "C1:rule:1",
                "C1:return:2",
                "C1:rule:3",
                "C1:return:4",
                "C2:return:1",
            ];
            assert_eq!(user, expected);
        }
    }

    #[test]
    fn what_the_walk_misses_has_the_name_of_the_end() {
        let table = table();
        let labels = Labels::new(&table);
        let missed = labels.of(Hook::LocalOut, table.rules[0].offset).unwrap();
        assert_eq!(missed.to_string(), "ERROR:rule:0");
        assert_eq!(labels.of(Hook::LocalIn, table.rules[5].offset), Some(missed));
        // A later built-in chain is counted on.
        let later = labels.of(Hook::LocalIn, table.rules[4].offset).unwrap();
        assert_eq!(later.to_string(), "INPUT:policy:5");
    }

    #[test]
    fn there_are_no_names_where_there_are_no_rules() {
        let labels = Labels::new(&table());
        assert_eq!(labels.of(Hook::Forward, 0), None);
        assert_eq!(labels.of(Hook::LocalIn, 8), None);
        assert_eq!(labels.of(Hook::LocalIn, u32::MAX), None);
    }

    #[test]
    fn every_name_is_what_the_kernels_walk_finds() {
        all_agree(&table());
        bolero::check!()
            .with_type::<(Vec<u8>, [u8; 5])>()
            .for_each(|(kinds, entries)| {
                let rules = kinds.iter().take(40).map(|kind| match kind % 6 {
                    0 => rule(),
                    1 => rule().return_(),
                    2 => rule().verdict(DROP),
                    3 => rule().protocol(17).verdict(ACCEPT),
                    4 => rule().extension("LOG", 0, &[]),
                    _ => rule().head("CHAIN"),
                });
                let mut table = TableBuilder::new(Family::Ipv6, "raw")
                    .built_in(Hook::PreRouting, ACCEPT)
                    .built_in(Hook::LocalOut, ACCEPT)
                    .chain("FIRST")
                    .rules(rules)
                    .table();
                // Chains of hooks anywhere.
                for (chain, place) in table.hooks.iter_mut().zip(entries) {
                    chain.entry = table.rules[usize::from(*place) % table.rules.len()].offset;
                }
                all_agree(&table);
            });
    }
}
