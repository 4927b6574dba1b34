//! Replicas of match functions that depend on nothing but their data, the packet, and what conntrack knew of it.

mod comment;
mod conntrack;
mod dccp;
mod dscp;
mod ecn;
mod extension_headers;
mod icmp;
mod iprange;
mod ipsec;
mod length;
mod mark;
mod mobility;
mod multiport;
mod sctp;
mod tcp;
mod ttl;
mod udp;

use super::data::Data;
use super::header::Parameters;
use super::path::Gap;
use super::view::View;
use crate::ruleset::Extension;
use crate::traversal::Family;

/// What a match function is called with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// `par->matchinfo`
    pub(super) data: Data<'a>,
    /// `par->match->revision`
    pub(super) revision: u8,
    /// `xt_family(par)`
    pub(super) family: Family,
    /// `par->thoff` and `par->fragoff`
    pub(super) parameters: Parameters,
    /// `skb`
    pub(super) view: &'a View,
}

/// What a match function answers.
pub(super) type Answer = Result<bool, Stop>;

/// An answer that is neither yes nor no.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// No, and `par->hotdrop`.
    Hotdrop,
    /// It cannot be told.
    Unknown(Gap),
}

impl From<Gap> for Stop {
    fn from(gap: Gap) -> Self {
        Self::Unknown(gap)
    }
}

/// A replica of a match function.
struct Replica {
    /// The function.
    answer: fn(&Call<'_>) -> Answer,
    /// Whether a use with this data asks only for what the replica knows.
    knows: fn(Data<'_>) -> bool,
}

impl Replica {
    /// A replica that knows everything its data can ask for.
    fn of(answer: fn(&Call<'_>) -> Answer) -> Self {
        Self::limited(answer, |_| true)
    }

    /// A replica that what is observed is held against: stable kernels have come to drop malformed packets here that
    /// others let pass, and no number tells which they are.
    fn checking(answer: fn(&Call<'_>) -> Answer) -> Self {
        Self::limited(answer, |_| false)
    }

    fn limited(answer: fn(&Call<'_>) -> Answer, knows: fn(Data<'_>) -> bool) -> Self {
        Self { answer, knows }
    }
}

/// The replicas there are.
fn replica(extension: &Extension, family: Family) -> Option<Replica> {
    use Family::{Ipv4, Ipv6};
    Some(match (extension.name.as_str(), extension.revision, family) {
        ("comment", 0, _) => Replica::of(comment::comment),
        ("tcp", 0, _) => Replica::of(tcp::tcp),
        ("tcpmss", 0, _) => Replica::of(tcp::mss),
        ("udp" | "udplite", 0, _) => Replica::of(udp::udp),
        ("icmp", 0, Ipv4) => Replica::of(icmp::icmp),
        ("icmp6", 0, Ipv6) => Replica::of(icmp::icmp6),
        ("multiport", 1, _) => Replica::of(multiport::multiport),
        ("mark", 1, _) => Replica::of(mark::mark),
        ("conntrack", 1..=3, _) => Replica::limited(conntrack::conntrack, conntrack::knows),
        ("state", 0, _) => Replica::of(conntrack::state),
        ("length", 0, Ipv4) => Replica::of(length::ipv4),
        ("length", 0, Ipv6) => Replica::of(length::ipv6),
        ("ttl", 0, Ipv4) => Replica::of(ttl::ttl),
        ("hl", 0, Ipv6) => Replica::of(ttl::hop_limit),
        ("dscp", 0, _) => Replica::of(dscp::dscp),
        ("tos", 1, _) => Replica::of(dscp::tos),
        ("ecn", 0, _) => Replica::of(ecn::ecn),
        ("iprange", 1, _) => Replica::of(iprange::iprange),
        ("esp", 0, _) => Replica::of(ipsec::esp),
        ("ah", 0, Ipv4) => Replica::of(ipsec::ah_ipv4),
        ("ah", 0, Ipv6) => Replica::of(ipsec::ah_ipv6),
        ("sctp", 0, _) => Replica::limited(sctp::sctp, sctp::knows),
        ("dccp", 0, _) => Replica::limited(dccp::dccp, dccp::knows),
        ("frag", 0, Ipv6) => Replica::checking(extension_headers::fragment),
        ("hbh", 0, Ipv6) => Replica::checking(extension_headers::hop_by_hop),
        ("dst", 0, Ipv6) => Replica::checking(extension_headers::destination),
        ("rt", 0, Ipv6) => Replica::checking(extension_headers::routing),
        ("ipv6header", 0, Ipv6) => Replica::checking(extension_headers::present),
        ("mh", 0, Ipv6) => Replica::of(mobility::mobility),
        _ => return None,
    })
}

/// Whether this use of a match is replayed.
pub(super) fn is_pure(extension: &Extension, family: Family, data: Data<'_>) -> bool {
    replica(extension, family).is_some_and(|replica| (replica.knows)(data))
}

/// What the match function would answer.
pub(super) fn answer(extension: &Extension, call: &Call<'_>) -> Answer {
    match replica(extension, call.family) {
        Some(replica) => (replica.answer)(call),
        None => Err(Gap::NoReplica.into()),
    }
}

impl<'a> Call<'a> {
    /// The transport header of most matches: later fragments have none, which is a no, and a packet that ends
    /// within it is dropped on the spot.
    fn transport<const LEN: usize>(&self) -> Result<Option<&'a [u8; LEN]>, Stop> {
        if self.parameters.fragment_offset != 0 {
            return Ok(None);
        }
        self.view
            .array(self.parameters.transport)?
            .ok_or(Stop::Hotdrop)
            .map(Some)
    }
}

/// `result ^ info->invert` as C does it: an `invert` other than 0 and 1 makes both answers a yes.
fn inverted(result: bool, invert: u8) -> bool {
    u8::from(result) ^ invert != 0
}
