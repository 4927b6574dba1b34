//! From a record of a base chain of nf_tables and its explanation to a [`Passage`].

use super::{Passage, Step};
use crate::{
    explain::Explanation,
    traversal::{Backend, Traversal},
};

impl Passage {
    /// Of either backend: what was recorded, and the path where one was asked for.
    #[must_use]
    pub fn of(traversal: Traversal, explanation: Option<&Explanation>) -> Self {
        if traversal.backend == Backend::Legacy {
            return Self::legacy(traversal, explanation);
        }
        let steps: Vec<Step> = match explanation {
            Some(Explanation::Nftables(explained)) => explained.steps.clone(),
            Some(Explanation::Path { .. } | Explanation::Nothing(_)) | None => Vec::new(),
        };
        Self {
            backend: Backend::Nftables,
            chain: traversal.chain.as_str().into(),
            steps,
            hotdrop: None,
            partial: explanation.and_then(Explanation::partial),
            traversal,
        }
    }
}
