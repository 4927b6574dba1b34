//! From a record of a base chain to its path: finds the rules that were in force and follows the steps through them.

use std::{collections::HashMap, sync::Arc};

use super::{
    model::{Ruleset, Table},
    text::Texts,
    walk::{Doubt, walk},
};
use crate::{
    explain::{Gone, NoRules, Source},
    passage::Step,
    traversal::Traversal,
};

/// Generations kept for each namespace. A record may arrive after the next commit was read.
const GENERATIONS_KEPT: usize = 4;
/// Namespaces kept.
const NAMESPACES_KEPT: usize = 4096;

/// The rules of a namespace between two commits.
#[derive(Debug, Default)]
pub struct Rules {
    /// The rules.
    pub ruleset: Ruleset,
    /// Their texts.
    pub texts: Texts,
}

/// A path.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    /// The steps, with their texts.
    pub steps: Vec<Step>,
    /// Why they are not certain, or not all, or not there.
    pub partial: Option<String>,
}

/// The generations that were read.
#[derive(Debug, Default)]
pub struct Explainer {
    /// By namespace, the latest last.
    known: HashMap<u32, Vec<(u64, Arc<Rules>)>>,
    /// What could not be read.
    gone: Gone<(u32, u64)>,
}

impl Explainer {
    /// The path of one traversal.
    pub fn explain(&mut self, traversal: &Traversal, source: &mut dyn Source) -> Explained {
        let rules = match self.rules(traversal, source) {
            Ok(rules) => rules,
            Err(reason) => {
                return Explained {
                    steps: Vec::new(),
                    partial: Some(reason.to_string()),
                };
            }
        };
        let Some(table) = table(&rules.ruleset, traversal) else {
            return Explained {
                steps: Vec::new(),
                partial: Some(Doubt::NoTable(traversal.table.clone()).to_string()),
            };
        };
        let (mut steps, doubt) = walk(table, traversal);
        for step in &mut steps {
            step.text = rules.texts.of(table, step);
        }
        Explained {
            steps,
            partial: doubt.map(|doubt| doubt.to_string()),
        }
    }

    /// Reads the rules that a traversal met, should they not be known.
    ///
    /// # Errors
    /// Why they are not known.
    pub fn know(&mut self, traversal: &Traversal, source: &mut dyn Source) -> Result<(), NoRules> {
        self.rules(traversal, source).map(drop)
    }

    fn rules(&mut self, traversal: &Traversal, source: &mut dyn Source) -> Result<Arc<Rules>, NoRules> {
        if traversal.generation_unsure {
            return Err(NoRules::Unsure);
        }
        let wanted = (traversal.netns, traversal.generation.made_ns);
        let known = self.known.get(&wanted.0).into_iter().flatten();
        if let Some((_, rules)) = known.into_iter().find(|(made_ns, _)| *made_ns == wanted.1) {
            return Ok(Arc::clone(rules));
        }
        if let Some(why) = self.gone.why(&wanted, traversal.left_ns) {
            return Err(why);
        }
        let read = source.read_nftables(traversal.netns);
        let (generation, rules) =
            read.inspect_err(|why| self.gone.note(wanted, why.clone(), traversal.left_ns))?;
        let made_ns = generation.made_ns;
        let rules = self.learn(traversal.netns, made_ns, rules);
        if made_ns == wanted.1 {
            return Ok(rules);
        }
        self.gone.note(wanted, NoRules::Replaced, traversal.left_ns);
        Err(NoRules::Replaced)
    }

    /// Keeps rules that were read.
    pub fn learn(&mut self, netns: u32, made_ns: u64, rules: Rules) -> Arc<Rules> {
        if self.known.len() >= NAMESPACES_KEPT && !self.known.contains_key(&netns) {
            // They are read again when they are needed again.
            self.known.clear();
        }
        let rules = Arc::new(rules);
        let known = self.known.entry(netns).or_default();
        known.retain(|(other, _)| *other != made_ns);
        if known.len() >= GENERATIONS_KEPT {
            known.remove(0);
        }
        known.push((made_ns, Arc::clone(&rules)));
        rules
    }
}

/// The table that a record names, by handle; the name is compared as far as the record has it.
fn table<'a>(ruleset: &'a Ruleset, traversal: &Traversal) -> Option<&'a Table> {
    ruleset.table(traversal.table_handle).filter(|table| {
        let recorded = traversal.table.as_bytes();
        table.name.as_bytes() == recorded
            || recorded.len() == tracer_common::TABLE_NAME_LEN - 1
                && table.name.as_bytes().starts_with(recorded)
    })
}
