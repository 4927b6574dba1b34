//! The numbers of rules, as the tools say them: `nft -a list ruleset` prints rules in order, with their handles.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result, bail};

use super::super::rules::Family;
use super::Rules;
use super::npt::Translation;
use crate::command;

/// Tables of iptables'.
const IPTABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// How iptables' TRACE calls a rule without condition that ends a chain: in a built-in chain `policy`, elsewhere
/// `return` (`trace_packet`, `net/ipv4/netfilter/ip_tables.c`).
const TAILS: [&str; 3] = ["accept", "drop", "return"];

/// Matches for which `iptables-nft-restore` may load expressions of nf_tables' own, or none; of any other it loads the
/// match itself.
const OWN_MATCHES: [&str; 5] = ["among", "limit", "mark", "tcp", "udp"];

/// The matches of a rule: `tcp` in `-p tcp -m tcp --dport 80`.
fn matches(rule: &str) -> impl Iterator<Item = &str> {
    let words = rule.split(' ');
    let next = words.clone().skip(1);
    words
        .zip(next)
        .filter(|(word, _)| *word == "-m")
        .map(|(_, name)| name)
}

/// A chain: family and name of the table, name of the chain.
type ChainKey = (u8, String, String);

/// Where rules are, and how many a chain has.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    rules: HashMap<(u8, String, u64), (String, u32)>,
    lens: HashMap<ChainKey, u32>,
    bases: HashSet<ChainKey>,
    tails: HashSet<(ChainKey, u32)>,
    /// Tables whose rules are told as iptables tells them.
    iptables: HashSet<(u8, String)>,
    /// By family, table, and `chain:kind:number`.
    translations: HashMap<(u8, String, String), Translation>,
}

/// Whether a rule of iptables' has no condition: it counts and says a verdict.
fn is_tail(words: &[&str]) -> bool {
    matches!(words, ["counter", "packets", _, "bytes", _, verdict] if TAILS.contains(verdict))
}

impl Numbers {
    /// Of the rules in the current namespace, that these were loaded as.
    pub(super) fn read(rules: &Rules) -> Result<Self> {
        let mut numbers = Self::parse(&command::run("nft -a list ruleset")?)?;
        match rules {
            Rules::Native(_) => {}
            Rules::Iptables(ruleset) => Family::ALL
                .into_iter()
                .for_each(|family| numbers.take_loaded(family, &ruleset.text(family))),
            Rules::Saved(saved) => saved
                .iter()
                .for_each(|(family, text)| numbers.take_loaded(*family, text)),
        }
        Ok(numbers)
    }

    /// Takes what was loaded by `iptables-nft-restore`.
    fn take_loaded(&mut self, family: Family, loaded: &str) {
        let family = match family {
            Family::V4 => 2,
            Family::V6 => 10,
        };
        self.iptables
            .extend(IPTABLES.map(|table| (family, table.to_owned())));
        let mut table = "";
        let mut lens: HashMap<ChainKey, u32> = HashMap::new();
        for line in loaded.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = name;
            }
            let Some(rule) = line.strip_prefix("-A ") else {
                continue;
            };
            let chain = rule.split(' ').next().unwrap_or_default();
            let key = (family, table.to_owned(), chain.to_owned());
            let number = lens.entry(key.clone()).or_default();
            *number += 1;
            // nft does not list every condition: no comment, and no range that is all there is.
            if matches(rule).any(|name| !OWN_MATCHES.contains(&name)) {
                self.tails.remove(&(key, *number));
            }
            if let Some(translation) = Translation::parse(rule) {
                let label = format!("{chain}:rule:{number}");
                self.translations
                    .insert((family, table.to_owned(), label), translation);
            }
        }
    }

    /// What a rule of this name makes of an address.
    pub(super) fn translation(&self, family: u8, table: &str, label: &str) -> Option<Translation> {
        let key = (family, table.to_owned(), label.to_owned());
        self.translations.get(&key).copied()
    }

    fn parse(listed: &str) -> Result<Self> {
        let mut numbers = Self::default();
        let mut table = None;
        let mut chain: Option<ChainKey> = None;
        for line in listed.lines() {
            let (said, handle) = match line.rsplit_once(" # handle ") {
                Some((said, handle)) => (said, handle.trim().parse::<u64>().ok()),
                None => (line, None),
            };
            let words: Vec<&str> = said.split_whitespace().collect();
            match words[..] {
                ["table", family, name, "{"] => {
                    let family = match family {
                        "inet" => 1,
                        "ip" => 2,
                        "ip6" => 10,
                        other => bail!("failed to read: nft -a list ruleset: family {other}"),
                    };
                    table = Some((family, name.to_owned()));
                }
                ["chain", name, "{"] => {
                    let (family, table) = table.clone().context("failed to read: a chain without table")?;
                    let key = (family, table, name.to_owned());
                    numbers.lens.insert(key.clone(), 0);
                    chain = Some(key);
                }
                ["type", .., last] if last.ends_with(';') => numbers.bases.extend(chain.clone()),
                [.., "{"] | ["}"] => chain = None,
                _ => {
                    let (Some(chain), Some(handle)) = (&chain, handle) else {
                        continue;
                    };
                    let len = numbers.lens.entry(chain.clone()).or_default();
                    *len += 1;
                    if is_tail(&words) {
                        numbers.tails.insert((chain.clone(), *len));
                    }
                    let key = (chain.0, chain.1.clone(), handle);
                    numbers.rules.insert(key, (chain.2.clone(), *len));
                }
            }
        }
        Ok(numbers)
    }

    /// `chain:kind:number` of a rule that the kernel reported in a chain.
    pub(super) fn rule(&self, family: u8, table: &str, chain: &str, handle: u64) -> Result<String> {
        let key = (family, table.to_owned(), handle);
        let (of, number) = self
            .rules
            .get(&key)
            .with_context(|| format!("nft does not list rule {handle} of table {table}"))?;
        if of != chain {
            bail!("rule {handle} of table {table} is in chain {of}, reported in {chain}");
        }
        let key = (family, table.to_owned(), chain.to_owned());
        let kind = if !self.is_iptables(family, table) || !self.tails.contains(&(key.clone(), *number)) {
            "rule"
        } else if self.bases.contains(&key) {
            "policy"
        } else {
            "return"
        };
        Ok(format!("{chain}:{kind}:{number}"))
    }

    /// Whether a table's rules are iptables'.
    fn is_iptables(&self, family: u8, table: &str) -> bool {
        self.iptables.contains(&(family, table.to_owned()))
    }

    /// `chain:kind:number` of the end of a chain; `None` where iptables has no line for it: the end of a built-in
    /// chain, whose policy has.
    pub(super) fn end(&self, family: u8, table: &str, chain: &str, policy: bool) -> Option<String> {
        let key = (family, table.to_owned(), chain.to_owned());
        let kind = if policy { "policy" } else { "return" };
        if !self.is_iptables(family, table) {
            return Some(format!("{chain}:{kind}:"));
        }
        if !policy && self.bases.contains(&key) {
            return None;
        }
        let number = self.lens.get(&key).copied().unwrap_or_default() + 1;
        Some(format!("{chain}:{kind}:{number}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_numbered_in_their_chains() {
        let listed = "table ip filter { # handle 1\n\tset s { # handle 9\n\t\ttype ipv4_addr\n\t}\n\n\
                      \tchain A { # handle 4\n\t\tip saddr { 1.1.1.1,\n\t\t\t 2.2.2.2 } drop # handle 7\n\
                      \t\tcounter accept # handle 8\n\t}\n\n\tchain INPUT { # handle 2\n\
                      \t\ttype filter hook input priority filter; policy accept;\n\t}\n}\n";
        let mut numbers = Numbers::parse(listed).unwrap();
        assert_eq!(numbers.rule(2, "filter", "A", 8).unwrap(), "A:rule:2");
        assert!(numbers.rule(2, "filter", "INPUT", 8).is_err());
        assert_eq!(
            numbers.end(2, "filter", "INPUT", false).as_deref(),
            Some("INPUT:return:")
        );
        numbers.iptables.insert((2, "filter".to_owned()));
        assert_eq!(numbers.end(2, "filter", "INPUT", false), None);
        assert_eq!(
            numbers.end(2, "filter", "A", false).as_deref(),
            Some("A:return:3")
        );
        assert_eq!(
            numbers.end(2, "filter", "INPUT", true).as_deref(),
            Some("INPUT:policy:1")
        );
    }
}
