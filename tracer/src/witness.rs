//! The steps of a traversal as the kernel took them, from the second source (`--verify`).

use std::collections::VecDeque;

use tracer_common::Witness as Record;

use crate::{ruleset::Offset, traversal::Traversal};

/// Witnesses that wait for their traversals. Each is sent just before its traversal, so no more wait than there are
/// processors, and those whose traversal the buffer had no room for.
const PENDING_MAX: usize = 1024;

/// The steps of one traversal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    skb: u64,
    entered_ns: u64,
    /// The rules whose matches all held, in order. What is no rule has an offset that no rule has.
    pub steps: Vec<Offset>,
    /// Whether there were more than a record has room for.
    pub cut: bool,
}

impl Witness {
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            skb: record.skb,
            entered_ns: record.entered_ns,
            steps: record.steps[..record.steps_len as usize].to_vec(),
            cut: record.cut != 0,
        }
    }

    /// Of a traversal that was not recorded.
    #[cfg(test)]
    pub(crate) fn from_steps(steps: &[Offset], cut: bool) -> Self {
        Self {
            skb: 0,
            entered_ns: 0,
            steps: steps.to_vec(),
            cut,
        }
    }
}

/// Brings witnesses and their traversals together.
#[derive(Debug, Default)]
pub struct Witnesses(VecDeque<Witness>);

impl Witnesses {
    /// Keeps a witness until its traversal comes.
    pub fn keep(&mut self, witness: Witness) {
        if self.0.len() >= PENDING_MAX {
            self.0.pop_front();
        }
        self.0.push_back(witness);
    }

    /// Gives a traversal its witness, if there is one.
    pub fn complete(&mut self, traversal: &mut Traversal) {
        let is_its = |witness: &Witness| {
            witness.skb == traversal.packet.skb() && witness.entered_ns == traversal.entered_ns
        };
        let place = self.0.iter().rposition(is_its);
        traversal.witness = place.and_then(|place| self.0.remove(place));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traversal(skb: u64, entered_ns: u64) -> Traversal {
        let record = tracer_common::Traversal {
            family: 2,
            skb,
            entered_ns,
            ..tracer_common::Traversal::EMPTY
        };
        Traversal::decode(record.bytes()).unwrap()
    }

    fn witness(skb: u64, entered_ns: u64, step: Offset) -> Witness {
        let mut record = Record {
            skb,
            entered_ns,
            steps_len: 1,
            ..Record::EMPTY
        };
        record.steps[0] = step;
        Witness::of(&Record::from_bytes(record.bytes()).unwrap())
    }

    #[test]
    fn a_traversal_gets_the_witness_of_its_packet_and_time() {
        let mut witnesses = Witnesses::default();
        witnesses.keep(witness(1, 10, 100));
        witnesses.keep(witness(2, 10, 200));
        witnesses.keep(witness(1, 11, 300));
        for (skb, entered_ns, step) in [
            (1, 11, Some(300)),
            (2, 10, Some(200)),
            (2, 10, None),
            (1, 12, None),
        ] {
            let mut traversal = traversal(skb, entered_ns);
            witnesses.complete(&mut traversal);
            let steps = traversal.witness.map(|witness| witness.steps);
            assert_eq!(steps, step.map(|step| vec![step]), "{skb} at {entered_ns}");
        }
    }

    #[test]
    fn witnesses_whose_traversals_never_come_do_not_pile_up() {
        let mut witnesses = Witnesses::default();
        for entered_ns in 0..5000 {
            witnesses.keep(witness(1, entered_ns, 0));
        }
        assert_eq!(witnesses.0.len(), PENDING_MAX);
    }

    #[test]
    fn any_bytes_are_a_witness_or_none() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some(record) = Record::from_bytes(bytes) {
                assert_eq!(Witness::of(&record).steps.len(), record.steps_len as usize);
            }
        });
    }
}
