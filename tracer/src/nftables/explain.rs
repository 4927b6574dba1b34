//! From a record of a base chain to its path: finds the rules that were in force and follows the steps through them.

use std::{collections::HashMap, sync::Arc};

use super::{
    key_of_map::key_of,
    model::{Ruleset, Table},
    text::Texts,
    walk::{Doubt, walk},
};
use crate::{
    explain::{Gone, NoRules, Source},
    passage::Step,
    traversal::Traversal,
};

/// How long after it was replaced a generation is kept, by the time of the records: those of packets that met it may
/// still be on their way, or wait to be looked at.
const KEPT_NS: u64 = 1_000_000_000;
/// Generations kept for each namespace.
const GENERATIONS_MAX: usize = 256;
/// Namespaces kept.
const NAMESPACES_KEPT: usize = 4096;

/// The rules of a namespace between two commits.
#[derive(Debug, Default)]
pub struct Rules {
    /// The rules.
    pub ruleset: Ruleset,
    /// Their texts; `None` as long as no packet has met these rules: most are replaced before, and asking costs a
    /// process or two.
    pub texts: Option<Texts>,
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
    /// Records up to this time have been looked at.
    seen_ns: u64,
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
            step.text = rules.texts.as_ref().and_then(|texts| texts.of(table, step));
            if let (Some(key), Some(text)) = (key(table, traversal, step), &step.text) {
                step.text = Some(format!("{text} [{key}]").into());
            }
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
        let rules = self.rules_alone(traversal, source)?;
        if rules.texts.is_some() {
            return Ok(rules);
        }
        let ruleset = rules.ruleset.clone();
        let rules = source.with_nftables_texts(traversal.netns, traversal.generation, ruleset);
        Ok(self.learn(traversal.netns, traversal.generation.made_ns, rules))
    }

    fn rules_alone(&mut self, traversal: &Traversal, source: &mut dyn Source) -> Result<Arc<Rules>, NoRules> {
        self.seen(traversal.left_ns);
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
        let place = known.partition_point(|(other, _)| *other < made_ns);
        known.insert(place, (made_ns, Arc::clone(&rules)));
        // Each was replaced when the next one came into force.
        let is_late = |(replaced_ns, _): &(u64, _)| replaced_ns.saturating_add(KEPT_NS) < self.seen_ns;
        let late = known.iter().skip(1).take_while(|next| is_late(next)).count();
        let first = late.max(known.len().saturating_sub(GENERATIONS_MAX));
        known.drain(..first);
        rules
    }

    /// Notes that every record up to this time has been looked at.
    pub fn seen(&mut self, now_ns: u64) {
        self.seen_ns = self.seen_ns.max(now_ns);
    }

    /// Whether these rules were read.
    #[must_use]
    pub fn knows(&self, netns: u32, made_ns: u64) -> bool {
        let mut known = self.known.get(&netns).into_iter().flatten();
        known.any(|(other, _)| *other == made_ns)
    }
}

/// What a step looked up in a verdict map, where it is known.
fn key(table: &Table, traversal: &Traversal, step: &Step) -> Option<String> {
    let (chain, place) = table.places.get(&step.handle?)?;
    let rule = table.chains[*chain].rules.get(*place)?;
    if rule.key.is_empty() {
        return None;
    }
    let devices = [&traversal.in_device, &traversal.out_device].map(Option::as_ref);
    key_of(&rule.key, &step.headers, devices)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_kept_as_long_as_records_may_be_on_their_way() {
        let mut explainer = Explainer::default();
        let mut learn = |made_ns, seen_ns| {
            explainer.seen(seen_ns);
            explainer.learn(1, made_ns, Rules::default());
            let known = &explainer.known[&1];
            known.iter().map(|(made_ns, _)| *made_ns).collect::<Vec<_>>()
        };
        assert_eq!(learn(0, 0), [0]);
        assert_eq!(learn(5, 0), [0, 5]);
        // Rules that were read before and get their texts now.
        assert_eq!(learn(0, 6), [0, 5]);
        assert_eq!(learn(9, 5 + KEPT_NS), [0, 5, 9]);
        assert_eq!(learn(10, 6 + KEPT_NS), [5, 9, 10]);
    }
}
