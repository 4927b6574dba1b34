//! Rules that could not be read, so that they are not asked for with each packet.

use std::collections::VecDeque;

use super::NoRules;

/// How many of them are known.
const KEPT: usize = 256;
/// How long rules that could not be read are not asked for again: looking for a network namespace that is gone means to
/// look at every thread of the machine.
const ASKED_AGAIN_NS: u64 = 10_000_000_000;

/// What could not be read, by what names a generation of rules.
#[derive(Debug)]
pub(crate) struct Gone<K>(VecDeque<(K, NoRules, u64)>);

impl<K> Default for Gone<K> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<K: PartialEq> Gone<K> {
    /// Why rules need not be asked for, for a packet of this time (`CLOCK_MONOTONIC`). What was replaced does not come
    /// back; where reading failed it is tried again after a while.
    pub(crate) fn why(&self, generation: &K, now_ns: u64) -> Option<NoRules> {
        let (_, why, asked_ns) = self.0.iter().find(|(gone, ..)| gone == generation)?;
        let is_due = now_ns.saturating_sub(*asked_ns) >= ASKED_AGAIN_NS;
        (*why == NoRules::Replaced || !is_due).then(|| why.clone())
    }

    /// Notes that rules were asked for in vain.
    pub(crate) fn note(&mut self, generation: K, why: NoRules, now_ns: u64) {
        self.0.retain(|(gone, ..)| *gone != generation);
        if self.0.len() >= KEPT {
            self.0.pop_front();
        }
        self.0.push_back((generation, why, now_ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_does_not_come_back() {
        let mut gone = Gone::default();
        gone.note(1, NoRules::Replaced, 5);
        assert_eq!(gone.why(&1, 6), Some(NoRules::Replaced));
        assert_eq!(gone.why(&1, u64::MAX), Some(NoRules::Replaced));
        assert_eq!(gone.why(&2, 6), None);
    }

    #[test]
    fn what_could_not_be_read_is_asked_for_again_after_a_while() {
        let failed = || NoRules::Unreadable("no".to_owned());
        let mut gone = Gone::default();
        gone.note(1, failed(), 5);
        assert_eq!(gone.why(&1, ASKED_AGAIN_NS + 4), Some(failed()));
        assert_eq!(gone.why(&1, ASKED_AGAIN_NS + 5), None);
        gone.note(1, failed(), ASKED_AGAIN_NS + 5);
        assert_eq!(gone.why(&1, ASKED_AGAIN_NS + 6), Some(failed()));
    }

    #[test]
    fn the_oldest_are_forgotten() {
        let mut gone = Gone::default();
        for generation in 0..=KEPT {
            gone.note(generation, NoRules::Replaced, 0);
        }
        assert_eq!(gone.why(&0, 0), None);
        assert_eq!(gone.why(&1, 0), Some(NoRules::Replaced));
    }
}
