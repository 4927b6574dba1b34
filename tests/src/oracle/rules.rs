//! The rules of the current network namespace: what a rule's target says about a packet.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context as _, Result};

use crate::command;
use crate::neighbours::{FAMILIES, Family};

/// Table and chain of a family.
type Key = (Family, String, String);

/// All rules.
#[derive(Debug, Default)]
pub(super) struct Rules {
    targets: HashMap<Key, Vec<String>>,
    policies: HashMap<Key, String>,
}

/// The tables that this namespace has by now. Asking for another one would make it.
fn tables(family: Family) -> Result<Vec<String>> {
    let path = match family {
        Family::V4 => "/proc/thread-self/net/ip_tables_names",
        Family::V6 => "/proc/thread-self/net/ip6_tables_names",
    };
    match fs::read_to_string(path) {
        Ok(names) => Ok(names.lines().map(str::to_owned).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("failed to read: {path}")),
    }
}

impl Rules {
    pub(super) fn of_this_namespace() -> Result<Self> {
        let mut rules = Self::default();
        for family in FAMILIES {
            for table in tables(family)? {
                let text = command::run(&format!("{} -t {table} -S", family.tool()))?;
                rules.add(family, &table, &text);
            }
        }
        Ok(rules)
    }

    /// Reads what `iptables -S` prints.
    fn add(&mut self, family: Family, table: &str, text: &str) {
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let Some(chain) = words.get(1) else { continue };
            let key = (family, table.to_owned(), (*chain).to_owned());
            match (words.first(), words.get(2)) {
                (Some(&"-P"), Some(policy)) => {
                    self.policies.insert(key, (*policy).to_owned());
                }
                (Some(&"-A"), _) => {
                    let target = words
                        .iter()
                        .position(|word| *word == "-j")
                        .and_then(|at| words.get(at + 1));
                    self.targets
                        .entry(key)
                        .or_default()
                        .push(target.copied().unwrap_or_default().to_owned());
                }
                _ => {}
            }
        }
    }

    pub(super) fn is_base(&self, family: Family, table: &str, chain: &str) -> bool {
        self.policies
            .contains_key(&(family, table.to_owned(), chain.to_owned()))
    }

    /// What the entry with this number says, from 1: the verdict, or `None` where the packet goes on in the
    /// table. The entry after the last rule of a built-in chain is its policy, that of another one a return.
    pub(super) fn verdict(&self, family: Family, table: &str, chain: &str, number: u32) -> Option<&str> {
        let key = (family, table.to_owned(), chain.to_owned());
        let rule = self
            .targets
            .get(&key)
            .and_then(|targets| targets.get(usize::try_from(number).ok()?.checked_sub(1)?));
        match rule.map(String::as_str) {
            None => self.policies.get(&key).map(String::as_str),
            Some("ACCEPT" | "DNAT" | "SNAT" | "MASQUERADE" | "REDIRECT" | "NETMAP") => Some("ACCEPT"),
            Some("DROP" | "REJECT") => Some("DROP"),
            Some(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_come_from_targets_and_policies() {
        let mut rules = Rules::default();
        rules.add(
            Family::V4,
            "filter",
            "-P INPUT DROP\n-N USER\n-A INPUT -p tcp -j REJECT --reject-with tcp-reset\n-A INPUT -j USER\n\
             -A USER -p udp\n",
        );
        let verdict = |chain, number| rules.verdict(Family::V4, "filter", chain, number);
        assert_eq!(verdict("INPUT", 1), Some("DROP"));
        assert_eq!(verdict("INPUT", 2), None);
        assert_eq!(verdict("INPUT", 3), Some("DROP"));
        assert_eq!(verdict("USER", 1), None);
        assert_eq!(verdict("USER", 2), None);
        assert!(rules.is_base(Family::V4, "filter", "INPUT") && !rules.is_base(Family::V4, "filter", "USER"));
    }
}
