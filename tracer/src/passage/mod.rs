//! One packet's way through one table at one hook, explained, in words that fit every backend.
//!
//! What comes before is told apart by backend: legacy tables are blobs with offsets, nf_tables are rules with
//! handles. What comes after (journeys, formats, names) sees only this: a [`Passage`] is the [`Traversal`] that was
//! recorded and the [`Step`]s that it took. `legacy.rs` and
//! `nftables.rs` make it of an [`Explanation`](crate::explain::Explanation).

mod legacy;
mod nftables;
mod step;

use std::sync::Arc;

pub use step::{Action, Backend, Step};

use crate::traversal::Traversal;

/// A traversal with its steps.
#[derive(Clone, Debug)]
pub struct Passage {
    /// What was recorded. For nf_tables it is that of one base chain.
    pub traversal: Traversal,
    /// Whose rules they are.
    pub backend: Backend,
    /// The built-in or base chain that the packet entered.
    pub chain: Arc<str>,
    /// The rules that it met, in order: those that TRACE would log. Empty where no path was asked for, or where
    /// [`Passage::partial`] says that there is none.
    pub steps: Vec<Step>,
    /// Where the packet was dropped at once because of what a match found (`hotdrop`), which TRACE does not log:
    /// the rule that the match belongs to. The last step then did not decide anything.
    pub hotdrop: Option<Hotdrop>,
    /// Why the steps are not certain, or not all, or not there.
    pub partial: Option<String>,
}

/// A rule with a match that had the packet dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hotdrop {
    /// `chain:rule:number`
    pub label: String,
    /// The rule's text, where texts were read.
    pub text: Option<Arc<str>>,
}

impl Passage {
    /// How long the kernel took for the table, the cost of tracing it included.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.traversal.left_ns.saturating_sub(self.traversal.entered_ns)
    }

    /// The step that gave the verdict of the table; `None` where a match did ([`Passage::hotdrop`]), or the steps
    /// are not known to the end.
    #[must_use]
    pub fn decided_by(&self) -> Option<&Step> {
        self.steps
            .last()
            .filter(|step| self.hotdrop.is_none() && step.action.verdict() == Some(self.traversal.verdict))
    }
}

impl Passage {
    /// The chains that led to the last step: `FORWARD`, `cali-FORWARD`, `cali-from-wl-dispatch`, … A chain that was
    /// left by a goto is among them, one that was returned from is not.
    #[must_use]
    pub fn chain_path(&self) -> Vec<&str> {
        let mut path: Vec<(u16, &str)> = Vec::new();
        let mut by_goto = false;
        for step in &self.steps {
            let chain: &str = &step.chain;
            path.retain(|(depth, _)| *depth <= step.depth);
            if !by_goto && let Some(known) = path.iter().position(|known| *known == (step.depth, chain)) {
                path.truncate(known + 1);
            } else {
                if !by_goto {
                    path.retain(|(depth, _)| *depth < step.depth);
                }
                path.push((step.depth, chain));
            }
            by_goto = matches!(step.action, Action::Goto(_));
        }
        path.into_iter().map(|(_, chain)| chain).collect()
    }
}
