//! The tests that run in every guest. A scenario is a function that gets a fresh network namespace.

mod ground;
mod nodeport;
mod rules;

use anyhow::Result;
use libtest_mimic::{Failed, Trial};

use crate::netns;

/// All of them.
#[must_use]
pub fn all() -> Vec<Trial> {
    [ground::trials(), nodeport::trials(), rules::trials()]
        .into_iter()
        .flatten()
        .collect()
}

/// A test that runs in a network namespace of its own.
fn trial(name: &str, body: fn() -> Result<()>) -> Trial {
    Trial::test(name, move || {
        netns::isolated(body).map_err(|error| Failed::from(format!("{error:#}")))
    })
}
