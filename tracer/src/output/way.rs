//! A journey as drawings show it: devices and chains, one after another, with what happened between them.

use std::sync::Arc;

use super::words::{author, device};
use crate::{
    journey::{Change, Journey},
    passage::{Action, Passage},
    ruleset::Kind,
    traversal::{Device, Hook, Traversal},
};

/// A place on the way.
#[derive(Debug)]
pub(super) enum Node {
    /// A device that it came in or went out by.
    Device {
        /// Its name.
        name: String,
        /// Whether it came in by it.
        into: bool,
        /// What happened before.
        before: Vec<String>,
    },
    /// A chain that it went through, or back to.
    Chain {
        /// The table, as [`Traversal::table_in_words`] has it.
        table: String,
        /// The chain.
        chain: Arc<str>,
        /// What the chain is for.
        meaning: Option<Arc<str>>,
        /// What happened before.
        before: Vec<String>,
    },
}

impl Node {
    /// What happened on the way to it.
    pub(super) fn notes_before(&self) -> &[String] {
        match self {
            Self::Device { before, .. } | Self::Chain { before, .. } => before,
        }
    }
}

/// A packet's way.
#[derive(Debug)]
pub(super) struct Way {
    /// The places, in order.
    pub(super) nodes: Vec<Node>,
    /// What happened behind the last one.
    pub(super) after: Vec<String>,
}

/// The places on a packet's way. A chain in which nothing happened is left out with the rule that called it, and so is
/// coming back to a chain in which nothing more happened.
pub(super) fn way(journey: &Journey) -> Way {
    let mut nodes = Vec::new();
    let mut notes: Vec<String> = Vec::new();
    let mut known_in = None;
    for (index, passage) in journey.passages.iter().enumerate() {
        let traversal = &passage.traversal;
        if let Some(device) = &traversal.in_device
            && known_in != Some((traversal.packet.recording(), traversal.netns, device.ifindex))
        {
            known_in = Some((traversal.packet.recording(), traversal.netns, device.ifindex));
            nodes.push(Node::Device {
                name: place(traversal, device),
                into: true,
                before: std::mem::take(&mut notes),
            });
        }
        let changes: Vec<&Change> = journey
            .changes
            .iter()
            .filter(|change| change.passage == index)
            .collect();
        let mut last: Option<(&str, u16)> = None;
        let drawn = drawn(passage, &changes);
        for (index, &place) in drawn.iter().enumerate() {
            let step = &passage.steps[place];
            let made: Vec<String> = changes
                .iter()
                .filter(|change| change.step == Some(place))
                .map(|change| change.what.to_string())
                .collect();
            if last != Some((&step.chain, step.depth)) {
                nodes.push(Node::Chain {
                    table: traversal.table_in_words(),
                    chain: Arc::clone(&step.chain),
                    meaning: step.meaning.clone(),
                    before: std::mem::take(&mut notes),
                });
                last = Some((&step.chain, step.depth));
            }
            let next = drawn.get(index + 1).map(|next| &passage.steps[*next].chain);
            let number = step
                .number
                .map_or_else(String::new, |number| format!(" {number}"));
            let what = match &step.action {
                // The arrow leads there.
                Action::Jump(to) | Action::Goto(to) if made.is_empty() && next == Some(to) => String::new(),
                action => format!(": {action}"),
            };
            let made = if made.is_empty() {
                String::new()
            } else {
                format!(", {}", made.join(", "))
            };
            notes.push(format!("{}{number}{what}{made}", step.kind));
        }
        if let Some(hotdrop) = &passage.hotdrop {
            if last.is_none() {
                nodes.push(Node::Chain {
                    table: traversal.table_in_words(),
                    chain: Arc::clone(&passage.chain),
                    meaning: None,
                    before: std::mem::take(&mut notes),
                });
            }
            notes.push(format!("dropped by a match of {}", hotdrop.label));
        }
        for change in changes.iter().filter(|change| change.step.is_none()) {
            notes.push(format!("{} ({})", change.what, author(&change.by)));
        }
        let next = journey.passages.get(index + 1).map(|next| &next.traversal);
        let joins = journey.joint_at(index + 1).is_some();
        let leaves =
            joins || next.is_none_or(|next| next.hook != traversal.hook || next.netns != traversal.netns);
        if leaves
            && traversal.hook == Hook::PostRouting
            && let Some(device) = &traversal.out_device
            && (next.is_some() || !journey.outcome.is_drop())
        {
            nodes.push(Node::Device {
                name: place(traversal, device),
                into: false,
                before: std::mem::take(&mut notes),
            });
        }
        if let Some(joint) = journey.joint_at(index + 1)
            && let Some(behind) = journey.passages.get(index + 1)
        {
            notes.push(joint.words(behind));
        }
    }
    Way { nodes, after: notes }
}

/// The places of the steps that are drawn: all but returns, and calls of chains that were left with nothing done there.
/// A goto does not come back, so the end of the chain that it went to is that of the chain that it left, too.
fn drawn(passage: &Passage, changes: &[&Change]) -> Vec<usize> {
    let changes_at = |place| changes.iter().any(|change| change.step == Some(place));
    let mut drawn = Vec::new();
    for (place, step) in passage.steps.iter().enumerate() {
        if changes_at(place) || step.kind != Kind::Return || step.action != Action::Return {
            drawn.push(place);
            continue;
        }
        let mut left = &step.chain;
        while let Some(&call) = drawn.last()
            && let Action::Jump(to) | Action::Goto(to) = &passage.steps[call].action
            && to == left
            && !changes_at(call)
        {
            drawn.pop();
            if matches!(passage.steps[call].action, Action::Jump(_)) {
                break;
            }
            left = &passage.steps[call].chain;
        }
    }
    drawn
}

/// A device with its node, where there are several, or its namespace, where that has a name, and whoever has its other
/// end.
fn place(traversal: &Traversal, of: &Device) -> String {
    match traversal.node.as_ref().or(traversal.netns_name.as_ref()) {
        Some(place) => format!("{place}: {}", device(of)),
        None => device(of),
    }
}
