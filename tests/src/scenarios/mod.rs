//! The tests that run in every guest. A scenario is a function that gets a fresh network namespace.

mod calico;
mod campaigns;
mod concurrency;
mod connections;
mod ends;
mod extensions;
mod fields;
mod filters;
mod follow;
mod ground;
mod loss;
mod nested;
mod nftables;
mod nodeport;
mod nodes;
mod oracle;
mod pages;
mod places;
mod queue;
mod real;
mod recordings;
mod replacement;
mod rules;
mod terminals;
mod verify;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use libtest_mimic::{Failed, Trial};

use crate::netns;
use crate::tracer::ProbesSkipped;

/// All of them, in the order in which they run.
#[must_use]
pub fn all() -> Vec<Trial> {
    [
        ends::first_trials(),
        ground::trials(),
        nodeport::trials(),
        nftables::trials(),
        calico::trials(),
        rules::trials(),
        oracle::trials(),
        pages::trials(),
        campaigns::trials(),
        nested::trials(),
        real::trials(),
        verify::trials(),
        follow::trials(),
        filters::trials(),
        connections::trials(),
        fields::trials(),
        recordings::trials(),
        nodes::trials(),
        places::trials(),
        queue::trials(),
        terminals::trials(),
        loss::trials(),
        concurrency::trials(),
        replacement::trials(),
        ends::trials(),
        extensions::trials(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Times a scenario is played in which the kernel skips probes.
const PLAYED_MAX: u32 = 4;

/// Scenarios that took longest and are told at the end.
const SLOWEST: usize = 12;

static TOOK: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// A test that runs in a network namespace of its own.
fn trial(name: &str, body: fn() -> Result<()>) -> Trial {
    let called = name.to_owned();
    Trial::test(name, move || {
        let started = Instant::now();
        let mut played = 1;
        let result = loop {
            match netns::isolated(body) {
                Err(error) if error.is::<ProbesSkipped>() && played < PLAYED_MAX => {
                    eprintln!("playing it again: {error}");
                    played += 1;
                }
                result => break result.map_err(|error| Failed::from(format!("{error:#}"))),
            }
        };
        if let Ok(mut took) = TOOK.lock() {
            took.push((started.elapsed(), called));
        }
        result
    })
}

/// Where the time went: the slowest of the scenarios that have run, a line each.
#[must_use]
pub fn slowest() -> String {
    let Ok(mut took) = TOOK.lock() else {
        return String::new();
    };
    took.sort_unstable_by(|one, other| other.cmp(one));
    let line = |(took, name): &(Duration, String)| format!("{:>6.1} s  {name}\n", took.as_secs_f32());
    took.iter().take(SLOWEST).map(line).collect()
}
