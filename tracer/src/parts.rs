//! Puts together the records of a traversal that has more steps than one record has room for.

use std::collections::HashMap;

use crate::traversal::{PacketId, Traversal};

/// Traversals that can wait for their rest at once.
const WAITING_MAX: usize = 1024;

/// What waits for its rest.
#[derive(Debug, Default)]
pub struct Parts {
    waiting: HashMap<(PacketId, u64), Traversal>,
}

impl Parts {
    /// Takes a record; gives the whole traversal when its last record has come. What was lost on the way is flagged.
    pub fn join(&mut self, part: Traversal) -> Option<Traversal> {
        if part.part == (0, false) {
            return Some(part);
        }
        let key = (part.packet, part.entered_ns);
        let before = self.waiting.remove(&key);
        let expected = before.as_ref().map_or(0, |before| before.part.0 + 1);
        let mut whole = part;
        whole.observed_cut |= whole.part.0 != expected;
        if let Some(mut before) = before {
            whole.observed_cut |= before.observed_cut;
            before.events.append(&mut whole.events);
            whole.events = before.events;
        }
        if !whole.part.1 {
            return Some(whole);
        }
        if self.waiting.len() >= WAITING_MAX {
            // Their last records were lost.
            self.waiting.clear();
        }
        self.waiting.insert(key, whole);
        None
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::{Observed, Traversal as Record, flags};

    use super::*;

    fn part(number: u8, continues: bool) -> Traversal {
        let mut record = Record {
            family: 2,
            backend: tracer_common::BACKEND_NFTABLES,
            part: number,
            observed_len: 1,
            flags: if continues { flags::CONTINUES } else { 0 },
            ..Record::EMPTY
        };
        record.observed[0] = Observed {
            data: number.into(),
            ..Observed::default()
        };
        Traversal::decode(record.bytes()).unwrap()
    }

    #[test]
    fn parts_become_one_traversal() {
        let mut parts = Parts::default();
        assert!(parts.join(part(0, true)).is_none());
        assert!(parts.join(part(1, true)).is_none());
        let whole = parts.join(part(2, false)).unwrap();
        assert_eq!(whole.events.len(), 3);
        assert!(!whole.observed_cut);
        assert!(!parts.join(part(0, false)).unwrap().observed_cut);
    }

    #[test]
    fn a_part_that_is_lost_is_told() {
        for lost in 0..2 {
            let mut parts = Parts::default();
            for number in (0..2).filter(|number| *number != lost) {
                parts.join(part(number, true));
            }
            assert!(parts.join(part(2, false)).unwrap().observed_cut, "{lost}");
        }
    }
}
