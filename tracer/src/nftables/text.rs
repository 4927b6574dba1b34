//! The text of rules: as `iptables-nft-save` or `nft` prints them where that is known, in a form of our own where not.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::model::{Family, Ruleset, Table};
use crate::{
    passage::{Action, Step},
    ruleset::{
        Kind,
        text::{self, ParseError, SavedTable},
    },
};

/// The texts of a namespace's rules.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// By handle of the table and of the rule.
    rules: HashMap<(u64, u64), Arc<str>>,
}

impl Texts {
    /// Every text, by handle of the table and of the rule, in their order.
    #[must_use]
    pub fn lines(&self) -> BTreeMap<(u64, u64), Arc<str>> {
        let lines = self.rules.iter();
        lines.map(|(key, text)| (*key, Arc::clone(text))).collect()
    }

    /// The texts again, of what [`Texts::lines`] gave.
    #[must_use]
    pub fn from_lines(lines: impl IntoIterator<Item = ((u64, u64), Arc<str>)>) -> Self {
        Self {
            rules: lines.into_iter().collect(),
        }
    }

    /// Whether every rule has one.
    #[must_use]
    pub fn are_of_all(&self, ruleset: &Ruleset) -> bool {
        let has_all = |table: &Table| {
            let mut handles = table.places.keys();
            handles.all(|handle| self.rules.contains_key(&(table.handle, *handle)))
        };
        ruleset.tables.iter().all(has_all)
    }

    /// Takes what `iptables-save` of the nf_tables kind printed of one family's tables, for each chain in which it has as
    /// many rules.
    ///
    /// # Errors
    /// It is not understood.
    pub fn take_saved(&mut self, tables: &[&Table], saved: &str) -> Result<(), ParseError> {
        let saved = text::parse(saved)?;
        for table in tables {
            let mut same = saved.iter();
            if let Some(saved) = same.find(|saved| saved.name == table.name) {
                self.take_table(table, saved);
            }
        }
        Ok(())
    }

    fn take_table(&mut self, table: &Table, saved: &SavedTable) {
        for chain in &table.chains {
            let mut same = saved.chains.iter();
            let Some(saved) = same.find(|saved| saved.name == chain.name) else {
                continue;
            };
            if saved.rules.len() != chain.rules.len() {
                continue;
            }
            for (rule, text) in chain.rules.iter().zip(&saved.rules) {
                self.rules
                    .insert((table.handle, rule.handle), text.as_str().into());
            }
        }
    }

    /// Takes what `nft -a list ruleset` printed, for rules that have no text yet.
    pub fn take_listed(&mut self, ruleset: &Ruleset, listed: &str) {
        let mut table = None;
        let mut in_chain = false;
        let mut text = String::new();
        for line in listed.lines() {
            let (said, handle) = split_handle(line);
            let words: Vec<&str> = said.split_whitespace().collect();
            match words[..] {
                ["table", family, name, "{"] if !line.starts_with('\t') => {
                    let family = Family::named(family);
                    let mut tables = ruleset.tables.iter();
                    table = tables.find(|table| Some(table.family) == family && table.name == name);
                }
                [kind, _, "{"] if text.is_empty() => in_chain = kind == "chain",
                ["}"] => in_chain = false,
                _ if !in_chain => {}
                // What it says of the chain itself.
                ["type", .., last] if text.is_empty() && last.ends_with(';') => {}
                ["comment", ..] if text.is_empty() && handle.is_none() => {}
                _ => {
                    // A rule with many elements goes over many lines, the last of which has the handle.
                    if !text.is_empty() {
                        text.push(' ');
                    }
                    text.push_str(&words.join(" "));
                    let Some(handle) = handle else { continue };
                    if let Some(table) = table.filter(|table| table.places.contains_key(&handle)) {
                        let key = (table.handle, handle);
                        self.rules.entry(key).or_insert_with(|| text.as_str().into());
                    }
                }
            }
            text.clear();
        }
    }

    /// The text of a step in a table.
    #[must_use]
    pub fn of(&self, table: &Table, step: &Step) -> Option<Arc<str>> {
        if let Some(handle) = step.handle {
            if let Some(text) = self.rules.get(&(table.handle, handle)) {
                return Some(Arc::clone(text));
            }
            let (chain, place) = table.places.get(&handle)?;
            return Some(table.chains[*chain].rules[*place].text.as_str().into());
        }
        match (&step.action, step.kind, table.is_iptables()) {
            (Action::Verdict(policy), Kind::Policy, true) => {
                Some(format!("-P {} {policy}", step.chain).into())
            }
            (Action::Verdict(policy), Kind::Policy, false) => {
                Some(format!("policy {}", policy.to_string().to_lowercase()).into())
            }
            _ => None,
        }
    }
}

/// A line without the handle at its end.
fn split_handle(line: &str) -> (&str, Option<u64>) {
    let split = line.rsplit_once(" # handle ");
    match split.map(|(said, handle)| (said, handle.trim().parse())) {
        Some((said, Ok(handle))) => (said, Some(handle)),
        _ => (line, None),
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Chain, Changes, Rule, Statement};
    use super::*;

    fn table(family: Family, name: &str, handles: &[u64]) -> Table {
        let rule = |handle: &u64| Rule {
            handle: *handle,
            is_tail: false,
            statement: Statement::Nothing,
            changes: Changes::default(),
            changes_on_the_way: Changes::default(),
            key: Vec::new(),
            text: "[own]".into(),
        };
        Table {
            family,
            name: name.into(),
            handle: 1,
            chains: vec![Chain {
                name: "FORWARD".into(),
                handle: 1,
                base: None,
                rules: handles.iter().map(rule).collect(),
            }],
            places: handles
                .iter()
                .enumerate()
                .map(|(at, handle)| (*handle, (0, at)))
                .collect(),
        }
    }

    #[test]
    fn nft_says_the_handle_at_the_end_of_a_rule() {
        let ruleset = Ruleset {
            tables: vec![table(Family::Inet, "k", &[5, 6, 7])],
        };
        let listed = "table ip k { # handle 9\n\tchain c { # handle 1\n\t\taccept # handle 5\n\t}\n}\n\
                      table inet k { # handle 1\n\tset s { # handle 3\n\t\ttype ipv4_addr\n\t}\n\
                      \tchain FORWARD { # handle 1\n\t\ttype filter hook forward priority 0; policy accept;\n\
                      \t\tip daddr vmap { 1.1.1.1 : drop,\n\t\t\t     2.2.2.2 : accept } # handle 5\n\
                      \t\tcounter packets 0 bytes 0 comment \"a # handle 7\" drop # handle 6\n\
                      \t\tcounter # handle 7\n\t}\n}\n";
        let mut texts = Texts::default();
        texts.take_listed(&ruleset, listed);
        let of = |handle| &*texts.rules[&(1, handle)];
        assert_eq!(of(5), "ip daddr vmap { 1.1.1.1 : drop, 2.2.2.2 : accept }");
        assert_eq!(of(6), "counter packets 0 bytes 0 comment \"a # handle 7\" drop");
        assert_eq!(of(7), "counter");
    }

    #[test]
    fn saved_rules_are_known_by_their_number() {
        let table = table(Family::Ip, "filter", &[5, 6]);
        let saved = "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j X\n-A FORWARD -j Y\nCOMMIT\n";
        let mut texts = Texts::default();
        texts.take_saved(&[&table], saved).unwrap();
        assert_eq!(&*texts.rules[&(1, 6)], "-A FORWARD -j Y");
        let mut texts = Texts::default();
        let fewer = saved.replace("-A FORWARD -j Y\n", "");
        texts.take_saved(&[&table], &fewer).unwrap();
        assert!(texts.rules.is_empty());
    }
}
