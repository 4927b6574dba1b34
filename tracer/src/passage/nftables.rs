//! From a record of a base chain of nf_tables and its explanation to a [`Passage`].

use super::{Passage, Step};
use crate::{
    explain::Explanation,
    names::Names,
    traversal::{Backend, Traversal},
};

impl Passage {
    /// Of either backend: what was recorded, and the path where one was asked for. Chains have the names that the
    /// rules on the way tell.
    #[must_use]
    pub fn of(traversal: Traversal, explanation: Option<&Explanation>) -> Self {
        let mut passage = if traversal.backend == Backend::Legacy {
            Self::legacy(traversal, explanation)
        } else {
            Self::nftables(traversal, explanation)
        };
        let texts = passage
            .steps
            .iter()
            .map(|step| (&*step.chain, step.text.as_deref()));
        let names = Names::of(texts.map(|(chain, text)| (chain, text.unwrap_or_default())));
        for step in &mut passage.steps {
            step.meaning = names.chain(&step.chain);
        }
        passage
    }

    fn nftables(traversal: Traversal, explanation: Option<&Explanation>) -> Self {
        let steps: Vec<Step> = match explanation {
            Some(Explanation::Nftables(explained)) => explained.steps.clone(),
            Some(Explanation::Path { .. } | Explanation::Nothing(_)) | None => Vec::new(),
        };
        Self {
            backend: traversal.backend,
            chain: traversal.chain.as_str().into(),
            steps,
            hotdrop: None,
            partial: explanation.and_then(Explanation::partial),
            traversal,
        }
    }
}
