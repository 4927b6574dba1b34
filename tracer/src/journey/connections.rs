//! The connections that packets belong to, and the rules that gave them other addresses.

use std::sync::Arc;

use super::RuleRef;
use crate::{
    connection::{Connection, Tuple},
    passage::Passage,
    recent::Recent,
    traversal::{Conntrack, ConntrackState, Hook, Traversal, Verdict},
};

/// Connections remembered. Of one that comes again after so many others the NAT rules are not known any more.
pub(super) const CONNECTIONS_MAX: usize = 65_536;

/// A packet's relation to a connection.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Numbers count connections in the order in which they appeared, from 1.
    pub number: u64,
    /// Number of the recording that it is from.
    pub recording: u32,
    /// Network namespace that tracks it.
    pub netns: u32,
    /// Whether the packet goes in the reply direction.
    pub reply: bool,
    /// State of the connection for this packet.
    pub state: ConntrackState,
    /// The connection as the packet left it.
    pub connection: Connection,
    /// The rule that decided where its packets go instead, if it was seen.
    pub dnat: Option<Arc<Decided>>,
    /// The rule that decided which source its packets have instead, if it was seen.
    pub snat: Option<Arc<Decided>>,
}

impl Flow {
    /// Whether a traversal is in the network namespace that tracks it.
    pub(super) fn is_of(&self, traversal: &Traversal) -> bool {
        (self.recording, self.netns) == (traversal.packet.recording(), traversal.netns)
    }
}

/// A NAT decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The rule.
    pub rule: RuleRef,
    /// Number of the packet that met it; zero where that is not shown.
    pub journey: u64,
}

/// A connection while it lives: the address is used again, but hardly for the same addresses and ports.
type Key = (u32, u32, u64, Tuple);

#[derive(Clone, Debug)]
struct Known {
    number: u64,
    dnat: Option<Arc<Decided>>,
    snat: Option<Arc<Decided>>,
}

/// Everything known of connections.
#[derive(Debug, Default)]
pub(super) struct Connections {
    last: u64,
    known: Recent<Key, Known, CONNECTIONS_MAX>,
}

impl Connections {
    /// Takes note of a passage, and adds its connection to the flows of its journey.
    pub(super) fn note(&mut self, journey: u64, passage: &Passage, flows: &mut Vec<Flow>) {
        let traversal = &passage.traversal;
        let Some(connection) = traversal.connection else {
            return;
        };
        let key = (
            traversal.packet.recording(),
            traversal.netns,
            connection.address,
            connection.original,
        );
        let known = self.known(key);
        if let Some(rule) = nat_rule(passage) {
            let decided = Some(Arc::new(Decided { rule, journey }));
            match manipulates(traversal.hook) {
                Manip::Destination => known.dnat = decided,
                Manip::Source => known.snat = decided,
            }
        }
        let (state, reply) = match traversal.conntrack {
            Conntrack::Tracked { state, reply, .. } => (state, reply),
            // Attached by the table itself.
            Conntrack::None | Conntrack::Untracked | Conntrack::Orphaned => (ConntrackState::New, false),
        };
        let flow = Flow {
            number: known.number,
            recording: traversal.packet.recording(),
            netns: traversal.netns,
            reply,
            state,
            connection,
            dnat: known.dnat.clone(),
            snat: known.snat.clone(),
        };
        match flows.iter_mut().find(|flow| flow.is_of(traversal)) {
            Some(last) => *last = flow,
            None => flows.push(flow),
        }
    }

    fn known(&mut self, key: Key) -> &mut Known {
        self.known.get_or_insert_with(key, || {
            self.last += 1;
            Known {
                number: self.last,
                dnat: None,
                snat: None,
            }
        })
    }
}

/// Which address NAT changes at a hook (`HOOK2MANIP`, `include/net/netfilter/nf_nat.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manip {
    Source,
    Destination,
}

pub(super) fn manipulates(hook: Hook) -> Manip {
    match hook {
        Hook::PostRouting | Hook::LocalIn => Manip::Source,
        _ => Manip::Destination,
    }
}

/// The rule of a passage that decided about NAT.
pub(super) fn nat_rule(passage: &Passage) -> Option<RuleRef> {
    let step = passage.decided_by()?;
    let is_nat = step
        .action
        .is_one_of(&["DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP"]);
    (is_nat && passage.traversal.verdict == Verdict::Accept).then(|| RuleRef::of(passage, step))
}
