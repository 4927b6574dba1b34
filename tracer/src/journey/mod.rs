//! The whole way of a packet: its passages joined from the first hook to the last, what changed it and where, and
//! how it ended.
//!
//! Everything here is pure and bounded in memory: passages and ends of packets in, journeys out. `assemble.rs` joins,
//! `nodes.rs` joins what several nodes have recorded; the other files say what can be said of a journey once it is over.

mod assemble;
mod changes;
mod connections;
mod identity;
pub(crate) mod nodes;
mod outcome;
mod relations;
mod tally;
#[cfg(test)]
pub(crate) mod tests;

use std::{fmt, ops::Range, sync::Arc};

pub use assemble::{Counts, Journeys};
pub use changes::{By, Change, What};
pub use connections::{Decided, Flow};
pub use nodes::{How, Joint, NodeCounts, Nodes};
pub use outcome::{Outcome, is_before_queue, is_behind_queue};
pub use relations::{Relation, Tie};
pub use tally::{Tally, Who};

use crate::{
    passage::{Backend, Passage, Step},
    traversal::{Device, Hook, Verdict},
};

/// The whole way of one packet.
#[derive(Clone, Debug)]
pub struct Journey {
    /// Numbers count packets in the order in which they appeared, from 1.
    pub number: u64,
    /// Its passages in order, at least one.
    pub passages: Vec<Passage>,
    /// What changed it, in order.
    pub changes: Vec<Change>,
    /// The connections that it belonged to: one for each network namespace in which it was tracked.
    pub flows: Vec<Flow>,
    /// What became of it.
    pub outcome: Outcome,
    /// Other packets that it has to do with.
    pub ties: Vec<Tie>,
    /// Where it goes on on another node, or in or out of a tunnel; in order.
    pub joints: Vec<Joint>,
    /// When its end was seen, `CLOCK_MONOTONIC`; `None` where it was not.
    pub ended_ns: Option<u64>,
    /// Why what is said here is not certain, or not all; empty where it is complete.
    pub partial: Vec<String>,
}

/// Consecutive passages at one hook of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// The hook.
    pub hook: Hook,
    /// Number of the recording that it is from.
    pub recording: u32,
    /// The machine, where there are several.
    pub node: Option<Arc<str>>,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// What the machine calls it.
    pub netns_name: Option<Arc<str>>,
    /// In device.
    pub in_device: Option<Device>,
    /// Out device.
    pub out_device: Option<Device>,
    /// The passages, as places in [`Journey::passages`].
    pub passages: Range<usize>,
}

/// A rule, named so that it can be found again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RuleRef {
    /// Whose rule.
    pub backend: Backend,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `table:chain:rule:number`; with the backend before it where that is not legacy, it is what this displays as.
    pub label: String,
    /// Its text, where texts were read.
    pub text: Option<Arc<str>>,
}

impl RuleRef {
    /// A step of a passage.
    #[must_use]
    pub fn of(passage: &Passage, step: &Step) -> Self {
        Self {
            backend: passage.backend,
            netns: passage.traversal.netns,
            label: format!("{}:{}", passage.traversal.table, step.label()),
            text: step.text.clone(),
        }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.backend.prefix(), self.label)
    }
}

impl Journey {
    /// The hooks that it passed, each with the tables there.
    #[must_use]
    pub fn stations(&self) -> Vec<Station> {
        let mut stations: Vec<Station> = Vec::new();
        for (index, passage) in self.passages.iter().enumerate() {
            let traversal = &passage.traversal;
            let recording = traversal.packet.recording();
            let begins = self.joint_at(index).is_some();
            match stations.last_mut() {
                Some(last) if !begins && last.hook == traversal.hook && last.netns == traversal.netns => {
                    last.passages.end = index + 1;
                    // Within OUTPUT a mark or NAT may route the packet anew.
                    last.out_device.clone_from(&traversal.out_device);
                }
                _ => stations.push(Station {
                    hook: traversal.hook,
                    recording,
                    node: traversal.node.clone(),
                    netns: traversal.netns,
                    netns_name: traversal.netns_name.clone(),
                    in_device: traversal.in_device.clone(),
                    out_device: traversal.out_device.clone(),
                    passages: index..index + 1,
                }),
            }
        }
        stations
    }

    /// The first passage.
    #[must_use]
    pub fn first(&self) -> &Passage {
        &self.passages[0]
    }

    /// The last passage.
    #[must_use]
    pub fn last(&self) -> &Passage {
        &self.passages[self.passages.len() - 1]
    }

    /// Steps over all tables.
    #[must_use]
    pub fn steps_len(&self) -> usize {
        self.passages.iter().map(|passage| passage.steps.len()).sum()
    }

    /// From the first entry to the end, or where that was not seen to the last return. Of several nodes it is what each
    /// took by its own clock, without the way between them.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        let before: u64 = self.joints.iter().map(|joint| joint.before_ns).sum();
        before + self.part_ns(self.ended_ns.unwrap_or(self.last().traversal.left_ns))
    }

    /// From the first entry of its last part to this time.
    fn part_ns(&self, end_ns: u64) -> u64 {
        let first = self.joints.last().map_or(0, |joint| joint.passage);
        let passage = self.passages.get(first).unwrap_or(self.first());
        end_ns.saturating_sub(passage.traversal.entered_ns)
    }

    /// What lies before a passage, where the journey comes from another node or a tunnel there.
    #[must_use]
    pub fn joint_at(&self, passage: usize) -> Option<&Joint> {
        self.joints.iter().find(|joint| joint.passage == passage)
    }

    /// The rule, return or policy that dropped or rejected it, if one did.
    #[must_use]
    pub fn dropped_by(&self) -> Option<RuleRef> {
        let Outcome::Dropped { passage, .. } = self.outcome else {
            return None;
        };
        let passage = self.passages.get(passage)?;
        if let Some(hotdrop) = &passage.hotdrop {
            return Some(RuleRef {
                backend: passage.backend,
                netns: passage.traversal.netns,
                label: format!("{}:{}", passage.traversal.table, hotdrop.label),
                text: hotdrop.text.clone(),
            });
        }
        passage.decided_by().map(|step| RuleRef::of(passage, step))
    }

    /// The rule that sent it to the queue at which, or behind which, it was dropped.
    #[must_use]
    pub fn queued_by(&self) -> Option<RuleRef> {
        let Outcome::DroppedByHook { function, .. } = &self.outcome else {
            return None;
        };
        let last = self.last();
        let in_queue = matches!(last.traversal.verdict, Verdict::Queue { .. })
            && (is_before_queue(function) || is_behind_queue(function));
        let step = last.decided_by().filter(|_| in_queue)?;
        Some(RuleRef::of(last, step))
    }
}
