//! Packets that have to do with each other.

use std::collections::HashMap;

use crate::{packet::Packet, passage::Passage};

/// Fragmented packets remembered.
const FRAGMENTED_MAX: usize = 1024;

/// Another packet, and what it has to do with this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tie {
    /// What.
    pub relation: Relation,
    /// Number of the other packet.
    pub other: u64,
}

/// What another packet has to do with this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// A target of this packet's way (`REJECT`, `TEE`, `SYNPROXY`) sent the other one.
    Sent,
    /// This one was sent by a target on the other's way.
    SentBy,
    /// This one is the rest of the other, which was shown when nothing had been seen of it for a while.
    Continues,
    /// Both are fragments of one packet; the other was the first that was seen.
    FragmentOf,
}

impl Relation {
    /// In words: `sent #7`
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::SentBy => "sent by",
            Self::Continues => "continues",
            Self::FragmentOf => "fragment of the same packet as",
        }
    }
}

/// Whether a passage may have sent packets of its own.
pub(super) fn may_send(passage: &Passage) -> bool {
    let mut steps = passage.steps.iter();
    steps.any(|step| step.action.is_one_of(&["REJECT", "TEE", "DUP", "SYNPROXY"]))
}

/// Whether a packet that was first seen in `child` was sent by a target in `parent`. The target runs with bottom
/// halves disabled, so what is born meanwhile on that CPU is born by it; the addresses have to fit as well.
pub(super) fn sent(parent: &Passage, child: &Passage) -> bool {
    let (outer, inner) = (&parent.traversal, &child.traversal);
    if !inner.first
        || inner.cpu != outer.cpu
        || inner.netns != outer.netns
        || inner.packet == outer.packet
        || inner.packet.recording() != outer.packet.recording()
        || inner.entered_ns < outer.entered_ns
        || inner.left_ns > outer.left_ns
    {
        return false;
    }
    let (Some(outer), Some(inner)) = (Packet::parse(&outer.headers), Packet::parse(&inner.headers)) else {
        return false;
    };
    let copy = inner.source == outer.source && inner.destination == outer.destination;
    let answer = inner.source == outer.destination && inner.destination == outer.source;
    // An ICMP error may come from another address of this machine.
    let error = inner.destination == outer.source && matches!(inner.protocol, 1 | 58);
    copy || answer || error
}

/// Which packet a fragment is of.
type FragmentKey = (u32, u32, Vec<u8>);

/// Fragments seen, by the packet that they are of.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    first: HashMap<FragmentKey, u64>,
}

impl Fragments {
    /// Notes a packet that was just seen for the first time. If it is a fragment of one that was seen before: the
    /// number of that.
    pub(super) fn note(&mut self, number: u64, passage: &Passage) -> Option<u64> {
        let key = (
            passage.traversal.packet.recording(),
            passage.traversal.netns,
            fragment_identity(&passage.traversal.headers)?,
        );
        if let Some(first) = self.first.get(&key) {
            return Some(*first);
        }
        if self.first.len() >= FRAGMENTED_MAX {
            self.first.clear();
        }
        self.first.insert(key, number);
        None
    }
}

/// Of a fragment of IPv4: addresses, protocol and identification, which all fragments share (RFC 791). Of IPv6, where
/// the fragment header comes first: addresses and identification (RFC 8200).
fn fragment_identity(headers: &[u8]) -> Option<Vec<u8>> {
    /// More fragments, and the offset.
    const IS_FRAGMENT: u16 = 0x3fff;
    const FRAGMENT: u8 = 44;

    match headers.first()? >> 4 {
        4 => {
            let header: &[u8; 20] = headers.first_chunk()?;
            let place = u16::from_be_bytes([header[6], header[7]]);
            (place & IS_FRAGMENT != 0).then(|| [&header[12..20], &header[4..6], &header[9..10]].concat())
        }
        6 => {
            let header: &[u8; 48] = headers.first_chunk()?;
            (header[6] == FRAGMENT).then(|| [&header[8..40], &header[44..48]].concat())
        }
        _ => None,
    }
}
