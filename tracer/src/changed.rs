//! The packet's headers as a target, or a rule of nf_tables, left them that changed them.

use std::{collections::HashMap, sync::Arc};

use tracer_common::HeadersAfter as Record;

use crate::traversal::Traversal;

/// Headers that wait for the record of their traversal, which may have been lost.
const PENDING_MAX: usize = 16_384;

/// The headers when a target function returned, or after a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    skb: u64,
    entered_ns: u64,
    /// Which of [`Traversal::observed`] it is.
    pub observed: u16,
    /// The start of the packet from the network header on.
    pub bytes: Arc<[u8]>,
    /// Length from the network header to the end.
    pub packet_len: u32,
}

impl Changed {
    pub(crate) fn of(record: &Record) -> Self {
        let len = usize::from(record.headers_len).min(record.headers.len());
        Self {
            skb: record.skb,
            entered_ns: record.entered_ns,
            observed: record.index,
            bytes: record.headers[..len].into(),
            packet_len: record.packet_len,
        }
    }
}

/// Brings headers and the traversals together in which they changed.
#[derive(Debug, Default)]
pub struct Changes {
    /// By address of the `sk_buff` and time of entry.
    pending: HashMap<(u64, u64), Vec<Changed>>,
    len: usize,
}

impl Changes {
    /// Keeps headers until their traversal comes.
    pub fn keep(&mut self, changed: Changed) {
        if self.len >= PENDING_MAX {
            // Most of their traversals were lost. Of the others it is known that headers are missing.
            self.pending.clear();
            self.len = 0;
        }
        self.len += 1;
        let key = (changed.skb, changed.entered_ns);
        self.pending.entry(key).or_default().push(changed);
    }

    /// Gives a traversal what was kept for it.
    pub fn complete(&mut self, traversal: &mut Traversal) {
        let key = (traversal.packet.skb(), traversal.entered_ns);
        traversal.changed = self.pending.remove(&key).unwrap_or_default();
        self.len -= traversal.changed.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_to_their_traversal_in_order() {
        let mut changes = Changes::default();
        let changed = |entered_ns, observed| Changed {
            skb: 7,
            entered_ns,
            observed,
            bytes: [0x45, 0].into(),
            packet_len: 64,
        };
        for (entered_ns, observed) in [(9, 1), (8, 0), (9, 3)] {
            changes.keep(changed(entered_ns, observed));
        }
        let record = tracer_common::Traversal {
            family: 2,
            skb: 7,
            entered_ns: 9,
            ..tracer_common::Traversal::EMPTY
        };
        let mut traversal = Traversal::decode(record.bytes()).unwrap();
        changes.complete(&mut traversal);
        assert_eq!(traversal.changed, [changed(9, 1), changed(9, 3)]);
        assert_eq!(changes.pending[&(7, 8)], [changed(8, 0)]);
        assert_eq!(changes.len, 1);
    }

    #[test]
    fn headers_whose_traversals_never_come_do_not_pile_up() {
        let mut changes = Changes::default();
        for entered_ns in 0..100_000 {
            changes.keep(Changed {
                skb: 1,
                entered_ns,
                observed: 0,
                bytes: [].into(),
                packet_len: 0,
            });
        }
        assert!(changes.len <= PENDING_MAX);
        assert_eq!(changes.pending.len(), changes.len);
    }

    #[test]
    fn any_bytes_are_headers_or_none() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some(record) = Record::from_bytes(bytes) {
                assert!(Changed::of(&record).bytes.len() <= record.headers.len());
            }
        });
    }
}
