//! A replayed path held against the steps that the kernel was seen to take.

use super::path::Path;
use crate::{ruleset::Offset, witness::Witness};

/// What came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Every step is the kernel's, and the kernel took no other.
    Same,
    /// Every step that the witness has room for is the kernel's.
    SameSoFar,
    /// The replay could not be followed to its end. So far its steps are the kernel's, who then took these.
    GoesOn(Vec<Offset>),
    /// A step is not the kernel's.
    Differs {
        /// Which one, from 0.
        at: usize,
        /// What the replay has there; `None` where it has ended.
        replayed: Option<Offset>,
        /// What the kernel took from there on; empty where it had ended.
        witnessed: Vec<Offset>,
    },
}

/// Compares the steps of a path with those of its witness.
#[must_use]
pub fn compare(path: &Path, witness: &Witness) -> Comparison {
    let replayed: Vec<Offset> = path.steps.iter().map(|step| step.offset).collect();
    let witnessed = &witness.steps;
    let same = replayed.iter().zip(witnessed).take_while(|(a, b)| a == b).count();
    let ended = path.verdict.is_some();
    if same == replayed.len() && !ended {
        Comparison::GoesOn(witnessed[same..].to_vec())
    } else if same == witnessed.len() && witness.cut {
        Comparison::SameSoFar
    } else if same == replayed.len() && same == witnessed.len() {
        Comparison::Same
    } else {
        Comparison::Differs {
            at: same,
            replayed: replayed.get(same).copied(),
            witnessed: witnessed[same..].to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::path::{Completeness, Reason, Step};
    use super::*;
    use crate::traversal::Verdict;

    fn path(steps: &[Offset], verdict: Option<Verdict>) -> Path {
        let step = |offset: &Offset| Step {
            offset: *offset,
            mark: 0,
            headers: [].into(),
            packet_len: 0,
        };
        Path {
            steps: steps.iter().map(step).collect(),
            verdict,
            hotdrop: None,
            completeness: match verdict {
                Some(_) => Completeness::Complete,
                None => Completeness::Partial(Reason::RecordIncomplete),
            },
        }
    }

    fn ended(replayed: &[Offset], witnessed: &[Offset]) -> Comparison {
        let path = path(replayed, Some(Verdict::Accept));
        compare(&path, &Witness::from_steps(witnessed, false))
    }

    fn stopped(replayed: &[Offset], witnessed: &[Offset]) -> Comparison {
        compare(&path(replayed, None), &Witness::from_steps(witnessed, false))
    }

    fn differs(at: usize, replayed: Option<Offset>, witnessed: &[Offset]) -> Comparison {
        Comparison::Differs {
            at,
            replayed,
            witnessed: witnessed.to_vec(),
        }
    }

    #[test]
    fn a_path_is_the_same_only_if_every_step_is() {
        assert_eq!(ended(&[1, 2], &[1, 2]), Comparison::Same);
        assert_eq!(ended(&[], &[]), Comparison::Same);
        assert_eq!(ended(&[1, 2], &[1, 3]), differs(1, Some(2), &[3]));
        assert_eq!(ended(&[1, 2], &[1]), differs(1, Some(2), &[]));
        assert_eq!(ended(&[1], &[1, 2, 3]), differs(1, None, &[2, 3]));
        assert_eq!(ended(&[1], &[]), differs(0, Some(1), &[]));
    }

    #[test]
    fn a_replay_that_stopped_is_told_how_it_goes_on() {
        assert_eq!(stopped(&[1], &[1, 2, 3]), Comparison::GoesOn(vec![2, 3]));
        assert_eq!(stopped(&[1], &[1]), Comparison::GoesOn(vec![]));
        assert_eq!(stopped(&[1, 2], &[1, 3]), differs(1, Some(2), &[3]));
        assert_eq!(stopped(&[1, 2], &[1]), differs(1, Some(2), &[]));
    }

    #[test]
    fn a_witness_that_was_cut_vouches_for_what_it_saw() {
        let cut = |replayed: &[Offset], witnessed: &[Offset]| {
            let path = path(replayed, Some(Verdict::Accept));
            compare(&path, &Witness::from_steps(witnessed, true))
        };
        assert_eq!(cut(&[1, 2, 3], &[1, 2]), Comparison::SameSoFar);
        assert_eq!(cut(&[1, 9, 3], &[1, 2]), differs(1, Some(9), &[2]));
        assert_eq!(cut(&[1], &[1, 2]), differs(1, None, &[2]));
    }
}
