//! A ruleset as a value: what the generator makes, the tools load, and the shrinker takes apart.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};

/// Family of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// iptables
    V4,
    /// ip6tables
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::V4 => "iptables",
            Self::V6 => "ip6tables",
        })
    }
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The chain it is in.
    pub chain: String,
    /// What comes before `-j`, in pieces that can be left out.
    pub matches: Vec<String>,
    /// `-j` or `-g` with all that follows; empty for none.
    pub target: String,
    /// The first rule of raw, which makes the kernel trace: never left out.
    pub is_trace: bool,
}

impl Rule {
    /// The chain that it jumps or goes to, if it is a chain of the table.
    fn leads_to(&self, chain: &str) -> bool {
        self.target.split_whitespace().nth(1) == Some(chain)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "-A {}", self.chain)?;
        for word in self
            .matches
            .iter()
            .chain(Some(&self.target).filter(|target| !target.is_empty()))
        {
            write!(f, " {word}")?;
        }
        Ok(())
    }
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: &'static str,
    /// Built-in chains with their policies.
    pub policies: Vec<(&'static str, &'static str)>,
    /// User-defined chains.
    pub chains: Vec<String>,
    /// Rules, in any order of chains.
    pub rules: Vec<Rule>,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.name)?;
        for (chain, policy) in &self.policies {
            writeln!(f, ":{chain} {policy}")?;
        }
        for chain in &self.chains {
            writeln!(f, ":{chain} -")?;
        }
        for rule in &self.rules {
            writeln!(f, "{rule}")?;
        }
        writeln!(f, "COMMIT")
    }
}

/// Tables of both families, and the sets that they use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// For `ipset restore`.
    pub sets: String,
    /// The tables.
    pub tables: Vec<Table>,
}

impl Ruleset {
    /// The text for one family's restore tool.
    #[must_use]
    pub fn text(&self, family: Family) -> String {
        let mut text = String::new();
        for table in self.tables.iter().filter(|table| table.family == family) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{table}");
        }
        text
    }

    /// Leaves out the rules in these lines of [`Ruleset::text`], counted from one; returns how many.
    pub fn leave_out_lines(&mut self, family: Family, lines: &BTreeSet<usize>) -> usize {
        let mut left_out = 0;
        let mut line = 0;
        for table in self.tables.iter_mut().filter(|table| table.family == family) {
            line += 1 + table.policies.len() + table.chains.len();
            table.rules.retain(|_| {
                line += 1;
                let leaves = lines.contains(&line);
                left_out += usize::from(leaves);
                !leaves
            });
            // COMMIT
            line += 1;
        }
        left_out
    }

    /// Each rule with the text of a ruleset that has it alone, to find one that the tools refuse.
    pub fn alone(&self) -> impl Iterator<Item = (Family, &Rule, String)> {
        self.tables.iter().flat_map(|table| {
            table.rules.iter().map(|rule| {
                let mut alone = table.clone();
                alone.rules = vec![rule.clone()];
                (table.family, rule, alone.to_string())
            })
        })
    }

    /// How many rules there are, besides those that make the kernel trace.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tables
            .iter()
            .map(|table| table.rules.iter().filter(|rule| !rule.is_trace).count())
            .sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Without the rules at these places, counted over all tables as [`Ruleset::len`] does.
    #[must_use]
    pub fn without(&self, places: std::ops::Range<usize>) -> Self {
        let mut at = 0;
        let mut smaller = self.clone();
        for table in &mut smaller.tables {
            table.rules.retain(|rule| {
                if rule.is_trace {
                    return true;
                }
                at += 1;
                !places.contains(&(at - 1))
            });
        }
        smaller
    }

    /// Without chains that no rule leads to, and their rules. The built-in ones stay.
    #[must_use]
    pub fn without_unused_chains(&self) -> Self {
        let mut smaller = self.clone();
        for table in &mut smaller.tables {
            loop {
                let unused = table.chains.iter().position(|chain| {
                    !table
                        .rules
                        .iter()
                        .any(|rule| rule.chain != *chain && rule.leads_to(chain))
                });
                let Some(unused) = unused else { break };
                let chain = table.chains.remove(unused);
                table.rules.retain(|rule| rule.chain != chain);
            }
        }
        smaller
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.sets.is_empty() {
            writeln!(f, "# ipset restore\n{}", self.sets)?;
        }
        for family in Family::ALL {
            writeln!(f, "# {family}-legacy-restore\n{}", self.text(family))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_left_out_by_their_lines() {
        let rule = |target: &str| Rule {
            chain: "A".to_owned(),
            matches: Vec::new(),
            target: target.to_owned(),
            is_trace: false,
        };
        let table = |name, targets: [&str; 2]| Table {
            family: Family::V4,
            name,
            policies: vec![("OUTPUT", "ACCEPT")],
            chains: vec!["A".to_owned()],
            rules: targets.map(rule).to_vec(),
        };
        let mut ruleset = Ruleset {
            sets: String::new(),
            tables: vec![table("raw", ["-j a", "-j b"]), table("filter", ["-j c", "-j d"])],
        };
        let lines: Vec<String> = ruleset.text(Family::V4).lines().map(str::to_owned).collect();
        let of = |rule: &str| lines.iter().position(|line| line.contains(rule)).unwrap() + 1;
        let refused = BTreeSet::from([of("-j b"), of("-j c")]);
        assert_eq!(ruleset.leave_out_lines(Family::V4, &refused), 2);
        let text = ruleset.text(Family::V4);
        assert!(text.contains("-j a") && text.contains("-j d"), "{text}");
        assert!(!text.contains("-j b") && !text.contains("-j c"), "{text}");
    }
}
