//! Takes a ruleset apart as long as the difference remains.

use std::time::{Duration, Instant};

use super::compare::Comparison;
use super::observe::Observer;
use super::rules::Ruleset;
use super::{Trial, trial};

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The smallest ruleset found that still shows a difference, if any does again.
pub(super) fn small(
    observer: &mut Observer,
    ruleset: &Ruleset,
    packets_seed: u64,
) -> Option<(Ruleset, Trial)> {
    let end = Instant::now() + LIMIT;
    let mut differs = |ruleset: &Ruleset| {
        let trial = trial(observer, ruleset, packets_seed).ok()?;
        matches!(trial.comparison, Comparison::Different { .. }).then_some(trial)
    };
    let mut best = (ruleset.clone(), differs(ruleset)?);
    let mut size = best.0.len().div_ceil(2);
    while size > 0 && Instant::now() < end {
        let mut at = 0;
        while at < best.0.len() && Instant::now() < end {
            let smaller = best.0.without(at..at + size).without_unused_chains();
            match differs(&smaller) {
                Some(trial) => best = (smaller, trial),
                None => at += size,
            }
        }
        size /= 2;
    }
    let mut place = 0;
    while Instant::now() < end {
        let Some(smaller) = without_match(&best.0, place) else {
            break;
        };
        match differs(&smaller) {
            Some(trial) => best = (smaller, trial),
            None => place += 1,
        }
    }
    Some(best)
}

/// Without one match, counted over all rules; `None` beyond the last.
fn without_match(ruleset: &Ruleset, mut place: usize) -> Option<Ruleset> {
    let mut smaller = ruleset.clone();
    for rule in smaller.tables.iter_mut().flat_map(|table| &mut table.rules) {
        if place < rule.matches.len() {
            rule.matches.remove(place);
            return Some(smaller);
        }
        place -= rule.matches.len();
    }
    None
}
