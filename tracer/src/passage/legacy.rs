//! From a record of a legacy table and its explanation to a [`Passage`].

use std::sync::Arc;

use super::{Action, Backend, Hotdrop, Passage, Step};
use crate::{
    explain::{Explanation, Rules},
    replay,
    ruleset::{Rule, Standard, Target, text::chain_at},
    traversal::{Traversal, Verdict},
};

impl Passage {
    /// Of a legacy table.
    pub(super) fn legacy(traversal: Traversal, explanation: Option<&Explanation>) -> Self {
        let (steps, hotdrop) = match explanation {
            Some(Explanation::Path { rules, path }) => {
                (steps(&traversal, rules, path), hotdrop(&traversal, rules, path))
            }
            Some(Explanation::Nothing(_) | Explanation::Nftables(_)) | None => (Vec::new(), None),
        };
        Self {
            backend: Backend::Legacy,
            chain: traversal.hook.to_string().into(),
            steps,
            hotdrop,
            partial: explanation.and_then(Explanation::partial),
            traversal,
        }
    }
}

fn hotdrop(traversal: &Traversal, rules: &Rules, path: &replay::Path) -> Option<Hotdrop> {
    let offset = path.hotdrop?;
    let label = rules.labels.of(traversal.hook, offset)?;
    let text = rules.texts.of(&rules.table, offset);
    Some(Hotdrop {
        label: label.to_string(),
        text: text.map(Arc::from),
    })
}

fn steps(traversal: &Traversal, rules: &Rules, path: &replay::Path) -> Vec<Step> {
    let mut steps = Vec::with_capacity(path.steps.len());
    let mut depth: u16 = 0;
    for (index, step) in path.steps.iter().enumerate() {
        let (Some(label), Some(rule)) = (
            rules.labels.of(traversal.hook, step.offset),
            rules.table.rule(step.offset),
        ) else {
            // The walk logs only rules of the table that it is given, which all have names.
            continue;
        };
        if is_policy(rules, traversal, rule) {
            // However it was reached, nothing is pending any more.
            depth = 0;
        }
        let next = path.steps.get(index + 1);
        let ended = path.verdict.filter(|_| next.is_none() && path.hotdrop.is_none());
        steps.push(Step {
            chain: label.chain.into(),
            kind: label.kind,
            number: Some(label.number),
            handle: None,
            text: rules.texts.of(&rules.table, step.offset).map(Arc::from),
            action: action(rules, rule, ended),
            depth,
            mark: step.mark,
            mark_after: match (next, ended) {
                (Some(next), _) => Some(next.mark),
                (None, Some(_)) => traversal.mark_after,
                // The walk was not followed to its end, or went on without a line: nobody knows whose it was.
                (None, None) => None,
            },
            headers: Arc::clone(&step.headers),
            packet_len: step.packet_len,
            meaning: None,
        });
        depth = match &rule.target {
            Target::Standard(Standard::Jump(to)) if *to != rule.next && !rule.is_goto(traversal.family) => {
                depth.saturating_add(1)
            }
            Target::Standard(Standard::Return) => depth.saturating_sub(1),
            _ => depth,
        };
    }
    steps
}

/// Whether a rule is the policy of the built-in chain.
fn is_policy(rules: &Rules, traversal: &Traversal, rule: &Rule) -> bool {
    let mut hooks = rules.table.hooks.iter();
    hooks.any(|chain| chain.hook == traversal.hook && chain.underflow == rule.offset)
}

fn action(rules: &Rules, rule: &Rule, ended: Option<Verdict>) -> Action {
    match &rule.target {
        Target::Standard(Standard::Verdict(verdict)) => Action::Verdict(Verdict::from(*verdict)),
        Target::Standard(Standard::Return) => Action::Return,
        // The kernel drops what jumps deeper than its stack; the verdict is the rule's all the same.
        Target::Standard(Standard::Jump(_)) if ended.is_some() => {
            ended.map_or(Action::Continue, Action::Verdict)
        }
        Target::Standard(Standard::Jump(to)) if *to == rule.next => Action::Continue,
        Target::Standard(Standard::Jump(to)) => {
            let chain = chain_at(&rules.table, *to).unwrap_or("?").into();
            if rule.is_goto(rules.table.family) {
                Action::Goto(chain)
            } else {
                Action::Jump(chain)
            }
        }
        Target::Extension(extension) => Action::Target {
            name: extension.name.as_str().into(),
            verdict: ended,
        },
        Target::Head { .. } => Action::Verdict(Verdict::Drop),
    }
}
