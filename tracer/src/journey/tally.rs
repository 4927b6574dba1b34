//! How often each rule decided: drops and NAT, for the summary at the end and `drops --stats`.

use std::collections::HashMap;

use super::{Journey, Outcome, RuleRef, connections::nat_rule};

/// Rules that are counted on their own; what more there is is counted together.
const RULES_MAX: usize = 4096;

/// Counts of decisions.
#[derive(Debug, Default)]
pub struct Tally {
    drops: HashMap<Who, u64>,
    nat: HashMap<RuleRef, u64>,
    /// Packets that netfilter dropped or rejected.
    pub dropped: u64,
}

/// Who dropped a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// A rule, with its text.
    Rule(String, Option<String>),
    /// A table, but the rule is not known.
    Table(String),
    /// A queue, or what is behind it: the rule that sent the packet there, with its text.
    Queue(String, Option<String>),
    /// Another hook function.
    Hook(String),
    /// The same, or a table that the filter leaves out.
    LeftOut,
    /// Any other, there were too many.
    Others,
}

impl Tally {
    /// Counts what decided about a journey.
    pub fn add(&mut self, journey: &Journey) {
        if journey.outcome.is_drop() {
            self.dropped += 1;
            let who = Who::of(journey);
            let room = self.drops.len() < RULES_MAX || self.drops.contains_key(&who);
            *self
                .drops
                .entry(if room { who } else { Who::Others })
                .or_default() += 1;
        }
        for rule in journey.passages.iter().filter_map(nat_rule) {
            if self.nat.len() < RULES_MAX || self.nat.contains_key(&rule) {
                *self.nat.entry(rule).or_default() += 1;
            }
        }
    }

    /// Who dropped how many packets, the most first.
    #[must_use]
    pub fn drops(&self) -> Vec<(u64, &Who)> {
        let mut drops: Vec<_> = self.drops.iter().map(|(who, count)| (*count, who)).collect();
        drops.sort_unstable_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(b.1)));
        drops
    }

    /// Which NAT rules decided about how many connections, the most first.
    #[must_use]
    pub fn nat(&self) -> Vec<(u64, &RuleRef)> {
        let mut nat: Vec<_> = self.nat.iter().map(|(rule, count)| (*count, rule)).collect();
        nat.sort_unstable_by(|a, b| {
            b.0.cmp(&a.0)
                .then_with(|| a.1.label.cmp(&b.1.label).then(a.1.backend.cmp(&b.1.backend)))
        });
        nat
    }
}

impl Who {
    fn of(journey: &Journey) -> Self {
        if let Some(rule) = journey.dropped_by() {
            return Self::Rule(rule.to_string(), rule.text.map(|text| text.to_string()));
        }
        if let Some(rule) = journey.queued_by() {
            return Self::Queue(rule.to_string(), rule.text.map(|text| text.to_string()));
        }
        let last = &journey.last().traversal;
        match &journey.outcome {
            Outcome::DroppedByHook {
                some_tables: true, ..
            } => Self::LeftOut,
            Outcome::DroppedByHook { .. } => Self::Hook(format!("{}:{}", last.table_in_words(), last.hook)),
            _ => Self::Table(format!("{}:{}", last.table_in_words(), last.hook)),
        }
    }
}

impl std::fmt::Display for Who {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rule(label, Some(text)) => write!(f, "{label}  {text}"),
            Self::Rule(label, None) => f.write_str(label),
            Self::Table(table) => write!(f, "{table}, it is not known which rule"),
            Self::Queue(label, Some(text)) => write!(f, "in the queue of {label}  {text}"),
            Self::Queue(label, None) => write!(f, "in the queue of {label}"),
            Self::LeftOut => {
                f.write_str("a table that is left out (--table, --hook), or another hook function")
            }
            Self::Hook(after) => write!(f, "another hook function after {after}"),
            Self::Others => f.write_str("other rules"),
        }
    }
}
