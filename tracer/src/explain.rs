//! From a record to its path: finds the rules that were in force and replays the walk through them.
//!
//! The rules of a table are read once for each generation (each replacement makes a new one, which the record
//! names): when the replacement is seen, else when the first record of it arrives. A record whose generation was gone
//! by then has no path, and says so.

mod gone;
mod verification;

use std::{collections::HashMap, sync::Arc};

pub(crate) use self::gone::Gone;
pub use self::verification::Verification;
use crate::{
    nftables::{
        Ruleset,
        explain::{Explained, Explainer as OfNftables, Rules as NftablesRules},
    },
    replay::{self, Completeness, Observation, Outcome, Overlong, PacketAfter},
    ruleset::{Labels, Table, text::Texts},
    traversal::{Backend, Family, Generation, Observed, Traversal},
};

/// Generations kept for each table. A record may arrive after the next replacement was read.
const GENERATIONS_KEPT: usize = 4;
/// Tables kept in all, over every network namespace.
const TABLES_KEPT: usize = 4096;

/// The rules of one generation of a table, with what is said about them.
#[derive(Debug)]
pub struct Rules {
    /// The rules.
    pub table: Table,
    /// Their names, as TRACE says them.
    pub labels: Labels,
    /// Their texts, as `iptables-save` says them.
    pub texts: Texts,
}

/// Why there are no rules to replay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRules {
    /// The table was replaced before it could be read.
    #[error("ruleset replaced before it could be read")]
    Replaced,
    /// It cannot be said which generation the kernel used.
    #[error("ruleset replaced while the packet passed it")]
    Unsure,
    /// Reading failed.
    #[error("ruleset not read: {0}")]
    Unreadable(String),
}

/// A path, or why there is none.
#[derive(Debug)]
pub enum Explanation {
    /// The walk was replayed through these rules.
    Path {
        /// The rules.
        rules: Arc<Rules>,
        /// The steps.
        path: replay::Path,
    },
    /// There was nothing to replay.
    Nothing(NoRules),
    /// The way through a base chain of nf_tables, as the kernel reported it.
    Nftables(Explained),
}

impl Explanation {
    /// Why the path is not certain, or not there.
    #[must_use]
    pub fn partial(&self) -> Option<String> {
        match self {
            Self::Path { path, .. } => match &path.completeness {
                Completeness::Complete => None,
                Completeness::Partial(reason) => Some(reason.to_string()),
            },
            Self::Nothing(reason) => Some(reason.to_string()),
            Self::Nftables(explained) => explained.partial.clone(),
        }
    }
}

/// Whoever can read the rules that a table has now.
pub trait Source {
    /// Reads a table, and tells which generation it is.
    ///
    /// # Errors
    /// Why it cannot be read.
    fn read(&mut self, netns: u32, family: Family, table: &str) -> Result<(Generation, Rules), NoRules>;

    /// Reads the rules of nf_tables that a namespace has now, and tells which generation they are.
    ///
    /// # Errors
    /// Why they cannot be read.
    fn read_nftables(&mut self, netns: u32) -> Result<(Generation, NftablesRules), NoRules>;

    /// Adds the texts to rules of nf_tables that a packet has met, as far as they are still to be had.
    fn with_nftables_texts(&mut self, netns: u32, generation: Generation, ruleset: Ruleset) -> NftablesRules;
}

/// A table of a network namespace.
type TableKey = (u32, Family, String);

/// Explains records.
#[derive(Debug, Default)]
pub struct Explainer {
    /// The generations of each table that were read, the latest last.
    tables: HashMap<TableKey, Vec<(Generation, Arc<Rules>)>>,
    /// Generations that could not be read, and why.
    gone: Gone<Generation>,
    /// The same for nf_tables.
    nftables: OfNftables,
    kernel: Kernel,
    /// Records that were explained completely.
    pub complete: u64,
    /// Records whose path is partial.
    pub partial: u64,
    /// Where paths are held against the kernel's own steps: what came out so far.
    pub verification: Option<Verification>,
}

impl Explainer {
    /// One that holds paths against their traversals' witnesses, if asked to.
    #[must_use]
    pub fn verifying(verifying: bool) -> Self {
        Self {
            verification: verifying.then(Verification::default),
            ..Self::default()
        }
    }

    /// The path of one traversal.
    pub fn explain(&mut self, traversal: &Traversal, source: &mut dyn Source) -> Explanation {
        let explanation = match traversal.backend {
            Backend::Nftables(_) => Explanation::Nftables(self.nftables.explain(traversal, source)),
            Backend::Legacy => self.explain_legacy(traversal, source),
        };
        match explanation.partial() {
            None => self.complete += 1,
            Some(_) => self.partial += 1,
        }
        explanation
    }

    fn explain_legacy(&mut self, traversal: &Traversal, source: &mut dyn Source) -> Explanation {
        match self.rules(traversal, source) {
            Ok(rules) => {
                let (mut path, proved) = replay(&rules.table, traversal, self.kernel.overlong());
                self.kernel.learn(proved);
                if let Some(verification) = &mut self.verification {
                    verification.check(traversal, &rules, &mut path);
                }
                Explanation::Path { rules, path }
            }
            Err(reason) => {
                if let Some(verification) = &mut self.verification {
                    verification.without_rules();
                }
                Explanation::Nothing(reason)
            }
        }
    }

    /// Reads the rules that a traversal met, should they not be known, and says nothing about its path.
    pub fn know(&mut self, traversal: &Traversal, source: &mut dyn Source) {
        // Whoever asks for the path gets the reason again.
        let _ = match traversal.backend {
            Backend::Nftables(_) => self.nftables.know(traversal, source),
            Backend::Legacy => self.rules(traversal, source).map(drop),
        };
    }

    fn rules(&mut self, traversal: &Traversal, source: &mut dyn Source) -> Result<Arc<Rules>, NoRules> {
        if traversal.generation_unsure {
            return Err(NoRules::Unsure);
        }
        let key = (traversal.netns, traversal.family, traversal.table.clone());
        let known = self.tables.get(&key).into_iter().flatten();
        if let Some((_, rules)) = known
            .into_iter()
            .find(|(known, _)| *known == traversal.generation)
        {
            return Ok(Arc::clone(rules));
        }
        if let Some(why) = self.gone.why(&traversal.generation, traversal.left_ns) {
            return Err(why);
        }
        let read = source.read(traversal.netns, traversal.family, &traversal.table);
        let (generation, now_ns) = (traversal.generation, traversal.left_ns);
        let (read, rules) = read.inspect_err(|why| self.gone.note(generation, why.clone(), now_ns))?;
        let rules = Arc::new(rules);
        self.remember(key, read, Arc::clone(&rules));
        if read == generation {
            Ok(rules)
        } else {
            self.gone.note(generation, NoRules::Replaced, now_ns);
            Err(NoRules::Replaced)
        }
    }

    /// Whether these rules were read.
    #[must_use]
    pub fn knows(&self, netns: u32, family: Family, table: &str, generation: Generation) -> bool {
        let key = (netns, family, table.to_owned());
        let mut known = self.tables.get(&key).into_iter().flatten();
        known.any(|(known, _)| *known == generation)
    }

    /// Keeps rules that were read before any packet met them.
    pub fn learn(&mut self, netns: u32, generation: Generation, rules: Rules) {
        let key = (netns, rules.table.family, rules.table.name.clone());
        self.remember(key, generation, Arc::new(rules));
    }

    /// The same for the rules of nf_tables of a namespace.
    pub fn learn_nftables(&mut self, netns: u32, generation: Generation, rules: NftablesRules) {
        self.nftables.learn(netns, generation.made_ns, rules);
    }

    /// Notes that every record up to this time has been looked at: older rules of nf_tables are not wanted any more.
    pub fn seen(&mut self, now_ns: u64) {
        self.nftables.seen(now_ns);
    }

    /// Whether these rules of nf_tables were read.
    #[must_use]
    pub fn knows_nftables(&self, netns: u32, generation: Generation) -> bool {
        self.nftables.knows(netns, generation.made_ns)
    }

    fn remember(&mut self, key: TableKey, generation: Generation, rules: Arc<Rules>) {
        if self.tables.len() >= TABLES_KEPT && !self.tables.contains_key(&key) {
            // They are read again when they are needed again.
            self.tables.clear();
        }
        let known = self.tables.entry(key).or_default();
        known.retain(|(other, _)| *other != generation);
        if known.len() >= GENERATIONS_KEPT {
            known.remove(0);
        }
        known.push((generation, rules));
    }
}

/// What records have proved the kernel to be. It is the same throughout a trace.
#[derive(Debug, Default)]
struct Kernel {
    skips: u32,
    refuses: u32,
}

impl Kernel {
    /// So many records must agree, and none may disagree: a single one may have lost something.
    const PROOFS: u32 = 3;

    fn overlong(&self) -> Option<Overlong> {
        match (self.skips, self.refuses) {
            (Self::PROOFS.., 0) => Some(Overlong::Skipped),
            (0, Self::PROOFS..) => Some(Overlong::Refused),
            _ => None,
        }
    }

    fn learn(&mut self, proved: Option<Overlong>) {
        match proved {
            Some(Overlong::Skipped) => self.skips += 1,
            Some(Overlong::Refused) => self.refuses += 1,
            None => {}
        }
    }
}

/// Replays the walk of a traversal through the rules that it met.
fn replay(table: &Table, traversal: &Traversal, known: Option<Overlong>) -> (replay::Path, Option<Overlong>) {
    let observed: Vec<Observation> = (0..)
        .zip(&traversal.observed)
        .map(|(index, observed)| {
            let mut after = traversal.changed.iter();
            observation(observed, after.find(|after| after.observed == index))
        })
        .collect();
    replay::walk_knowing(table, traversal, &observed, known)
}

fn observation(observed: &Observed, headers: Option<&crate::changed::Changed>) -> Observation {
    use tracer_common::observed::{HOTDROP, TARGET};

    let outcome = if observed.flags & TARGET != 0 {
        Outcome::Target {
            verdict: observed.returned,
            after: PacketAfter {
                mark: observed.mark,
                headers: headers.map(|after| replay::HeadersAfter {
                    bytes: Arc::clone(&after.bytes),
                    packet_len: after.packet_len,
                }),
            },
        }
    } else {
        Outcome::Match {
            matched: observed.returned != 0,
            hotdrop: observed.flags & HOTDROP != 0,
            mark: observed.mark,
        }
    };
    Observation {
        data: observed.data,
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(number: u64) -> Generation {
        Generation {
            table_info: number,
            made_ns: number,
        }
    }

    /// Answers with the third generation, whichever is asked for, and counts.
    struct Third(u32);

    impl Source for Third {
        fn read(&mut self, _: u32, family: Family, name: &str) -> Result<(Generation, Rules), NoRules> {
            self.0 += 1;
            let table = Table {
                family,
                name: name.to_owned(),
                hooks: Vec::new(),
                rules: Vec::new(),
                stack_len_max: 0,
                blob: Vec::new(),
            };
            let rules = Rules {
                labels: Labels::new(&table),
                texts: Texts::own(),
                table,
            };
            Ok((generation(3), rules))
        }

        fn read_nftables(&mut self, _: u32) -> Result<(Generation, NftablesRules), NoRules> {
            Err(NoRules::Replaced)
        }

        fn with_nftables_texts(&mut self, _: u32, _: Generation, ruleset: Ruleset) -> NftablesRules {
            NftablesRules { ruleset, texts: None }
        }
    }

    #[test]
    fn what_is_gone_is_asked_for_once() {
        let record = tracer_common::Traversal {
            family: 2,
            ..tracer_common::Traversal::EMPTY
        };
        let mut traversal = Traversal::decode(record.bytes()).unwrap();
        let (mut explainer, mut source) = (Explainer::default(), Third(0));
        let mut explain = |number, reads| {
            traversal.generation = generation(number);
            let explanation = explainer.explain(&traversal, &mut source);
            assert_eq!(source.0, reads, "generation {number}");
            matches!(explanation, Explanation::Nothing(NoRules::Replaced))
        };
        assert!(explain(1, 1));
        assert!(explain(1, 1));
        assert!(explain(2, 2));
        assert!(explain(1, 2));
        assert!(explain(2, 2));
        assert!(!explain(3, 2));
    }
}
