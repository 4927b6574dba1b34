//! What the programs send, as domain values.

use tracer_common::{End as RecordOfEnd, HeadersAfter, Witness as RecordOfWitness, ends, kind};

use crate::{
    changed::Changed,
    traversal::{DecodeError, PacketId, Traversal},
    witness::Witness,
};

/// One record.
#[derive(Clone, Debug)]
pub enum Event {
    /// A packet has passed a table.
    Traversal(Box<Traversal>),
    /// A packet is gone.
    End(End),
    /// The steps of the traversal that comes next, or soon after.
    Witness(Witness),
    /// What a target made of the packet in the traversal that comes next, or soon after.
    Changed(Changed),
}

/// The end of a followed packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Whose end.
    pub packet: PacketId,
    /// `CLOCK_MONOTONIC`
    pub ended_ns: u64,
    /// What became of it.
    pub fate: Fate,
    /// How many traversals of it were to be recorded: if fewer came, records were lost.
    pub passes: u32,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Delivered or sent (`consume_skb`).
    Consumed,
    /// Dropped (`kfree_skb`) by the function with this address in it.
    Dropped {
        /// An address in the kernel's text.
        location: u64,
    },
    /// Its memory was given back on a way that does not say why.
    Freed,
}

impl Event {
    /// Makes a domain value of the bytes that a program sent.
    ///
    /// # Errors
    /// Bytes that the programs of this build cannot have sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let kind = bytes.first_chunk().map(|first| u64::from_ne_bytes(*first));
        if kind == Some(kind::END) {
            let record = RecordOfEnd::from_bytes(bytes).ok_or(DecodeError::Length(bytes.len()))?;
            return Ok(Self::End(End::of(&record)));
        }
        if kind == Some(kind::WITNESS) {
            let record = RecordOfWitness::from_bytes(bytes).ok_or(DecodeError::Length(bytes.len()))?;
            return Ok(Self::Witness(Witness::of(&record)));
        }
        if kind == Some(kind::HEADERS_AFTER) {
            let record = HeadersAfter::from_bytes(bytes).ok_or(DecodeError::Length(bytes.len()))?;
            return Ok(Self::Changed(Changed::of(&record)));
        }
        Traversal::decode(bytes).map(|traversal| Self::Traversal(Box::new(traversal)))
    }

    /// When it was over, `CLOCK_MONOTONIC`; zero of what only goes with another one, or of which more comes.
    #[must_use]
    pub fn over_ns(&self) -> u64 {
        match self {
            Self::Traversal(traversal) => traversal.left_ns,
            Self::End(end) => end.ended_ns,
            Self::Witness(_) | Self::Changed(_) => 0,
        }
    }
}

impl End {
    fn of(record: &RecordOfEnd) -> Self {
        Self {
            packet: PacketId::new(record.skb, record.born_ns),
            ended_ns: record.ended_ns,
            fate: match record.how {
                ends::CONSUMED => Fate::Consumed,
                ends::DROPPED => Fate::Dropped {
                    location: record.location,
                },
                _ => Fate::Freed,
            },
            passes: record.passes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_record_is_decoded_as_what_it_says_it_is() {
        let record = RecordOfEnd {
            kind: kind::END,
            ended_ns: 9,
            born_ns: 1,
            skb: 2,
            location: 3,
            how: ends::DROPPED,
            passes: 4,
        };
        let Ok(Event::End(end)) = Event::decode(record.bytes()) else {
            panic!("no end");
        };
        assert_eq!(end.packet, PacketId::new(2, 1));
        assert_eq!((end.fate, end.passes), (Fate::Dropped { location: 3 }, 4));
        let traversal = tracer_common::Traversal {
            family: 2,
            ..tracer_common::Traversal::EMPTY
        };
        assert!(matches!(
            Event::decode(traversal.bytes()),
            Ok(Event::Traversal(_))
        ));
        let witness = RecordOfWitness {
            steps_len: 2,
            ..RecordOfWitness::EMPTY
        };
        assert!(matches!(
            Event::decode(witness.bytes()),
            Ok(Event::Witness(witness)) if witness.steps == [0, 0]
        ));
        let other = tracer_common::Traversal { kind: 9, ..traversal };
        assert!(Event::decode(other.bytes()).is_err());
    }

    #[test]
    fn any_bytes_decode_or_are_refused() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let _ = Event::decode(bytes);
        });
    }
}
