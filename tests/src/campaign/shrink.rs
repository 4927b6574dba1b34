//! Takes a ruleset apart as long as the difference remains.

use std::time::{Duration, Instant};

use super::rules::Ruleset;

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The smallest ruleset found that still shows a difference, if any does again, with what `differs` says of it.
pub(super) fn small<T>(
    ruleset: &Ruleset,
    mut differs: impl FnMut(&Ruleset) -> Option<T>,
) -> Option<(Ruleset, T)> {
    let end = Instant::now() + LIMIT;
    let mut best = (ruleset.clone(), differs(ruleset)?);
    let mut size = best.0.len().div_ceil(2);
    while size > 0 && Instant::now() < end {
        let mut at = 0;
        while at < best.0.len() && Instant::now() < end {
            let smaller = best.0.without(at..at + size).without_unused_chains();
            match differs(&smaller) {
                Some(said) => best = (smaller, said),
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
            Some(said) => best = (smaller, said),
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

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;
    use crate::campaign::generate;

    /// The rules that are not there to make the kernel trace.
    fn rules(ruleset: &Ruleset) -> Vec<String> {
        let tables = ruleset.tables.iter();
        let rules = tables.flat_map(|table| table.rules.iter().filter(|rule| !rule.is_trace));
        rules.map(ToString::to_string).collect()
    }

    #[test]
    fn what_makes_the_difference_is_left_and_nothing_else() {
        let marks = |ruleset: &Ruleset| {
            let rules = rules(ruleset);
            let has = |part: &str| rules.iter().any(|rule| rule.contains(part));
            (has("MARK --set-mark") && has("-m length ")).then_some(())
        };
        let shrunk = (0..200).filter_map(|seed| {
            let ruleset = generate::ruleset(&mut Rng::with_seed(seed));
            small(&ruleset, marks)
        });
        let mut count = 0;
        for (small, ()) in shrunk {
            assert!(marks(&small).is_some());
            for place in 0..small.len() {
                let smaller = small.without(place..place + 1).without_unused_chains();
                assert!(marks(&smaller).is_none(), "{small}");
            }
            let without_match = (0..).map_while(|place| without_match(&small, place));
            for smaller in without_match {
                assert!(marks(&smaller).is_none(), "{small}");
            }
            let traced = small.tables.iter().flat_map(|table| &table.rules);
            assert!(traced.filter(|rule| rule.is_trace).count() > 0);
            count += 1;
        }
        assert!(count > 10, "{count}");
    }

    #[test]
    fn a_difference_that_does_not_come_again_is_not_looked_for() {
        let ruleset = generate::ruleset(&mut Rng::with_seed(1));
        assert!(small(&ruleset, |_| None::<()>).is_none());
    }
}
