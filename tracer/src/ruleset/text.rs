//! The text of rules: as `iptables-save` prints them where that is known, in a form of our own where not.

mod own;
mod save;

use std::borrow::Cow;

use thiserror::Error;

pub(crate) use self::own::chain_at;
pub use self::save::{ParseError, SavedChain, SavedTable, parse};
use super::blob::index_of;
use super::chains::{Chain, End};
use super::model::{Offset, Standard, Table, Target};

/// The texts of one table's rules.
#[derive(Clone, Debug, Default)]
pub struct Texts {
    /// In the order of the table's entries; empty where nothing was saved.
    saved: Vec<Option<Box<str>>>,
}

/// Why a saved table is not the table that was read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Mismatch {
    /// It was not understood.
    #[error(transparent)]
    Parse(#[from] ParseError),
    /// It has other tables.
    #[error("saved tables are not just {0}")]
    Table(String),
    /// It has other chains.
    #[error("saved table has other chains, from {0} on")]
    Chain(String),
    /// It has other policies.
    #[error("saved chain {0} has another policy")]
    Policy(String),
    /// A chain has another number of rules.
    #[error("saved chain {chain} has {saved} rules, not {read}")]
    Count {
        /// The chain.
        chain: String,
        /// How many were saved.
        saved: usize,
        /// How many there are.
        read: usize,
    },
    /// A rule goes somewhere else.
    #[error("saved rule {number} of chain {chain} has another target")]
    Target {
        /// The chain.
        chain: String,
        /// The rule's number in it, from 1.
        number: usize,
    },
}

impl Texts {
    /// No saved texts: all are of our own form.
    #[must_use]
    pub fn own() -> Self {
        Self::default()
    }

    /// The texts that were saved, in the order of the table's entries; none at all where nothing was saved.
    #[must_use]
    pub fn lines(&self) -> &[Option<Box<str>>] {
        &self.saved
    }

    /// The texts again, of what [`Texts::lines`] gave for the same table. `None` where there are not as many as the
    /// table has entries.
    #[must_use]
    pub fn from_lines(table: &Table, lines: Vec<Option<Box<str>>>) -> Option<Self> {
        (lines.is_empty() || lines.len() == table.rules.len()).then_some(Self { saved: lines })
    }

    /// The texts that `iptables-save -t` printed, given to the table's rules by chain and number.
    ///
    /// # Errors
    /// When the text is not of this very table: chains, policies, numbers of rules, and what each rule jumps to
    /// or says are compared.
    pub fn saved(table: &Table, save: &str) -> Result<Self, Mismatch> {
        let mut tables = parse(save)?;
        let (Some(saved), true) = (tables.pop(), tables.is_empty()) else {
            return Err(Mismatch::Table(table.name.clone()));
        };
        if saved.name != table.name {
            return Err(Mismatch::Table(table.name.clone()));
        }
        let chains = Chain::all(table);
        let mut texts = vec![None; table.rules.len()];
        // The tool prints chains in the order of the blob.
        let mut saved_chains = saved.chains.into_iter();
        for chain in chains {
            let Some(saved) = saved_chains.next().filter(|saved| saved.name == chain.name) else {
                return Err(Mismatch::Chain(chain.name));
            };
            let policy = match chain.end {
                End::Policy(0) => Some("DROP"),
                End::Policy(1) => Some("ACCEPT"),
                End::Policy(_) | End::Return => None,
            };
            if saved.policy.as_deref() != policy {
                return Err(Mismatch::Policy(chain.name));
            }
            if saved.rules.len() != chain.rules.len() {
                return Err(Mismatch::Count {
                    chain: chain.name,
                    saved: saved.rules.len(),
                    read: chain.rules.len(),
                });
            }
            for (index, (place, text)) in chain.rules.zip(saved.rules).enumerate() {
                if !same_target(table, place, &text) {
                    return Err(Mismatch::Target {
                        chain: chain.name,
                        number: index + 1,
                    });
                }
                texts[place] = Some(text.into_boxed_str());
            }
        }
        match saved_chains.next() {
            Some(more) => Err(Mismatch::Chain(more.name)),
            None => Ok(Self { saved: texts }),
        }
    }

    /// The text of the rule at `offset` of the table that these are the texts of: `-A INPUT -j ACCEPT`, or
    /// `-P INPUT DROP` of a policy. `None` where `iptables` shows nothing: the head of a chain, the RETURN that
    /// ends it, and where no entry begins.
    #[must_use]
    pub fn of(&self, table: &Table, offset: Offset) -> Option<Cow<'_, str>> {
        let place = index_of(&table.rules, offset)?;
        match self.saved.get(place) {
            Some(Some(text)) => Some(Cow::Borrowed(text)),
            Some(None) | None => own::text(table, place).map(Cow::Owned),
        }
    }
}

/// Whether a saved rule has the standard target of the table's rule. Extensions are not compared: some are printed
/// under another name.
fn same_target(table: &Table, place: usize, text: &str) -> bool {
    let rule = &table.rules[place];
    let expected = match &rule.target {
        Target::Standard(Standard::Jump(to)) if *to == rule.next => {
            // No target at all: `-j` can only be within a comment, in quotes.
            return true;
        }
        Target::Standard(Standard::Jump(to)) => chain_at(table, *to),
        Target::Standard(Standard::Return) => Some("RETURN"),
        Target::Standard(Standard::Verdict(0)) => Some("DROP"),
        Target::Standard(Standard::Verdict(1)) => Some("ACCEPT"),
        Target::Standard(Standard::Verdict(3)) => Some("QUEUE"),
        Target::Standard(Standard::Verdict(_)) | Target::Extension(_) | Target::Head { .. } => return true,
    };
    let words = text.rsplit_once(' ');
    words.is_some_and(|(before, name)| {
        Some(name) == expected && (before.ends_with(" -j") || before.ends_with(" -g"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::builder::{ACCEPT, DROP, TableBuilder, rule};
    use super::*;
    use crate::traversal::{Family, Hook};

    fn table() -> Table {
        TableBuilder::new(Family::Ipv4, "filter")
            .built_in(Hook::LocalIn, ACCEPT)
            .rule(rule().comment("a b").jump("WEB"))
            .built_in(Hook::Forward, DROP)
            .chain("WEB")
            .rule(rule().protocol(6).verdict(DROP))
            .rule(rule().comment("nothing"))
            .rule(rule().extension("LOG", 0, &[4]))
            .table()
    }

    const SAVE: &str = "# Generated\n*filter\n:INPUT ACCEPT [1:2]\n:FORWARD DROP [0:0]\n:WEB - [0:0]\n\
        -A INPUT -m comment --comment \"a b\" -j WEB\n\
        -A WEB -p tcp -j DROP\n-A WEB -m comment --comment nothing\n-A WEB -j LOG\nCOMMIT\n";

    #[test]
    fn saved_texts_are_given_to_the_rules() {
        let table = table();
        let texts = Texts::saved(&table, SAVE).unwrap();
        let all: Vec<_> = table
            .rules
            .iter()
            .map(|rule| texts.of(&table, rule.offset))
            .collect();
        let all: Vec<_> = all.iter().map(Option::as_deref).collect();
        let expected = [
            Some("-A INPUT -m comment --comment \"a b\" -j WEB"),
            Some("-P INPUT ACCEPT"),
            Some("-P FORWARD DROP"),
            None,
            Some("-A WEB -p tcp -j DROP"),
            Some("-A WEB -m comment --comment nothing"),
            Some("-A WEB -j LOG"),
            None,
            None,
        ];
        assert_eq!(all, expected);
        assert_eq!(texts.of(&table, 8), None);
    }

    #[test]
    fn texts_of_another_table_are_refused() {
        let refused = |from: &str, to: &str| {
            let save = SAVE.replace(from, to);
            assert_ne!(save, SAVE);
            Texts::saved(&table(), &save).unwrap_err().to_string()
        };
        assert_eq!(refused("*filter", "*nat"), "saved tables are not just filter");
        assert_eq!(
            refused(":WEB - [0:0]\n", ":WEB - [0:0]\n:X - [0:0]\n"),
            "saved table has other chains, from X on"
        );
        assert_eq!(
            refused("FORWARD", "OUTPUT"),
            "saved table has other chains, from FORWARD on"
        );
        assert_eq!(
            refused("INPUT ACCEPT", "INPUT DROP"),
            "saved chain INPUT has another policy"
        );
        assert_eq!(
            refused("-A WEB -j LOG\n", ""),
            "saved chain WEB has 2 rules, not 3"
        );
        assert_eq!(
            refused("tcp -j DROP", "tcp -j ACCEPT"),
            "saved rule 1 of chain WEB has another target"
        );
        assert_eq!(refused("COMMIT", "COMIT"), "line 10 is not understood");
    }
}
