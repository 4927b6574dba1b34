//! What was seen of a match or target function while the kernel walked the table.

use std::sync::Arc;

use crate::ruleset::Offset;

/// One call of a match or target function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Which extension's: where its data begins, `par->matchinfo` or `par->targinfo` minus `entries`.
    pub data: Offset,
    /// What the function answered.
    pub outcome: Outcome,
}

/// What a function answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A match function.
    Match {
        /// What it returned.
        matched: bool,
        /// `par->hotdrop` at its return.
        hotdrop: bool,
        /// `skb->mark` at its return: `socket --restore-skmark` sets it.
        mark: u32,
    },
    /// A target function.
    Target {
        /// What it returned: `XT_CONTINUE` (0xffff_ffff), or a verdict as netfilter codes it.
        verdict: u32,
        /// The packet at its return.
        after: PacketAfter,
    },
}

/// The packet after a target function. After a verdict that is not `XT_CONTINUE` it does not matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketAfter {
    /// `skb->mark`
    pub mark: u32,
    /// The headers, needed of targets that change them.
    pub headers: Option<HeadersAfter>,
}

/// The headers after a target function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadersAfter {
    /// The start of the packet from the network header on.
    pub bytes: Arc<[u8]>,
    /// Length from the network header to the end: `skb->len`.
    pub packet_len: u32,
}
