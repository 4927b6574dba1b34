//! Which packets to follow, decided in user space: on what the programs recorded, by the same rules as in the
//! programs. Pure.
//!
//! Answers are `Option<bool>`: `None` where the bytes that would decide were not recorded.

mod contradiction;
mod criteria;
pub mod expression;
mod headers;
mod selection;

pub use contradiction::Contradiction;
pub use headers::{Headers, Transport};
pub use selection::{Selection, Wanted};

/// Whether all hold, as far as is known.
fn all(answers: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut all = Some(true);
    for answer in answers {
        match answer {
            Some(true) => {}
            Some(false) => return Some(false),
            None => all = None,
        }
    }
    all
}

/// Whether any holds, as far as is known.
fn any(answers: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    all(answers.into_iter().map(|answer| answer.map(|answer| !answer))).map(|none| !none)
}
