//! What changed a packet on its way, and which step did.

use std::{fmt, sync::Arc};

use super::connections::{Decided, Flow, Manip, manipulates, nat_rule};
use super::{Journey, Outcome, identity::Sight};
use crate::{
    connection::{Endpoint, Translation},
    packet::{Packet, Transport},
    passage::Passage,
    traversal::{Conntrack, ConntrackState, Hook},
};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Place of the passage in which, or after which, it happened.
    pub passage: usize,
    /// The step of that passage that made it, where a step did.
    pub step: Option<usize>,
    /// What changed, from what to what.
    pub what: What,
    /// Who changed it.
    pub by: By,
}

/// What changed, from what to what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// The packet mark.
    Mark(u32, u32),
    /// Source address or port.
    Source(Endpoint, Endpoint),
    /// Destination address or port.
    Destination(Endpoint, Endpoint),
    /// Time to live, hop limit.
    Ttl(u8, u8),
    /// Type of service, traffic class.
    Tos(u8, u8),
}

/// Who changed a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// The step.
    Step,
    /// The table, but it is not known at which step.
    Table,
    /// NAT, as was decided when the connection began.
    Nat {
        /// Whether a reply is changed back.
        undone: bool,
        /// The rule that decided it, if it was seen.
        decided: Option<Arc<Decided>>,
    },
    /// Forwarding, which takes one from the time to live.
    Forwarding,
    /// The way into another network namespace, which resets the mark (`skb_scrub_packet`).
    Namespace,
    /// The way from one node to another.
    Node,
    /// Something between two tables that is not seen.
    Unknown,
}

impl What {
    /// `mark`, `source`, `destination`, `ttl`, `tos`
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Mark(..) => "mark",
            Self::Source(..) => "source",
            Self::Destination(..) => "destination",
            Self::Ttl(..) => "ttl",
            Self::Tos(..) => "tos",
        }
    }

    /// Before, in words.
    #[must_use]
    pub fn before(&self) -> String {
        self.words().0
    }

    /// After, in words.
    #[must_use]
    pub fn after(&self) -> String {
        self.words().1
    }

    fn words(&self) -> (String, String) {
        match self {
            Self::Mark(before, after) => (format!("{before:#x}"), format!("{after:#x}")),
            Self::Source(before, after) | Self::Destination(before, after) => {
                (before.to_string(), after.to_string())
            }
            Self::Ttl(before, after) => (before.to_string(), after.to_string()),
            Self::Tos(before, after) => (format!("{before:#04x}"), format!("{after:#04x}")),
        }
    }
}

/// `mark 0x0>0x4000`
impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = self.words();
        write!(f, "{} {before}>{after}", self.name())
    }
}

/// How a packet looks; what is not known is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Look {
    source: Option<Endpoint>,
    destination: Option<Endpoint>,
    ttl: Option<u8>,
    tos: Option<u8>,
    mark: Option<u32>,
}

impl Look {
    fn of(headers: &[u8], mark: Option<u32>) -> Self {
        let packet = Packet::parse(headers);
        let (source, destination) = packet.as_ref().map(endpoints).unzip();
        let (ttl, tos) = match headers.first().map(|first| first >> 4) {
            Some(4) => (headers.get(8).copied(), headers.get(1).copied()),
            Some(6) => (
                headers.get(7).copied(),
                headers.get(1).map(|second| headers[0] << 4 | second >> 4),
            ),
            _ => (None, None),
        };
        Self {
            source,
            destination,
            ttl,
            tos,
            mark,
        }
    }

    /// What is known to differ afterwards.
    fn differences(&self, after: &Self) -> Vec<What> {
        fn pair<T: PartialEq + Copy>(before: Option<T>, after: Option<T>) -> Option<(T, T)> {
            before.zip(after).filter(|(before, after)| before != after)
        }
        /// Headers that are cut have no ports; that is no change.
        fn ends(before: Option<Endpoint>, after: Option<Endpoint>) -> Option<(Endpoint, Endpoint)> {
            pair(before, after).filter(|(before, after)| {
                before.address != after.address || before.port.is_some() && after.port.is_some()
            })
        }
        [
            ends(self.source, after.source).map(|(before, after)| What::Source(before, after)),
            ends(self.destination, after.destination).map(|(before, after)| What::Destination(before, after)),
            pair(self.ttl, after.ttl).map(|(before, after)| What::Ttl(before, after)),
            pair(self.tos, after.tos).map(|(before, after)| What::Tos(before, after)),
            pair(self.mark, after.mark).map(|(before, after)| What::Mark(before, after)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// Source and destination with their ports.
pub(super) fn endpoints(packet: &Packet) -> (Endpoint, Endpoint) {
    let (source, destination) = match packet.transport {
        Transport::Tcp {
            source, destination, ..
        }
        | Transport::Ports { source, destination } => (Some(source), Some(destination)),
        Transport::LaterFragment { .. } | Transport::Icmp { .. } | Transport::Other => (None, None),
    };
    (
        Endpoint {
            address: packet.source,
            port: source,
        },
        Endpoint {
            address: packet.destination,
            port: destination,
        },
    )
}

/// Everything that changed a packet on its way.
pub(super) fn find(passages: &[Passage], flows: &[Flow], outcome: &Outcome) -> Vec<Change> {
    let mut changes = Vec::new();
    let mut now: Option<Look> = None;
    for (index, passage) in passages.iter().enumerate() {
        let traversal = &passage.traversal;
        let entry = Look::of(&traversal.headers, Some(traversal.mark_before));
        if let Some(before) = now
            && index > 0
        {
            between(&mut changes, index - 1, &before, &entry, passages, flows);
        }
        now = Some(within(&mut changes, index, entry, passage));
    }
    if let (Some(index), Some(now)) = (passages.len().checked_sub(1), now)
        && goes_on(&passages[index], outcome)
    {
        after_the_last(&mut changes, index, &now, &passages[index], flows);
    }
    changes
}

/// What changed between the end of a journey on one node and its next part on another.
pub(super) fn across(from: &Journey, to: &Journey) -> Vec<Change> {
    let (last, first) = (&from.last().traversal, &to.first().traversal);
    let depth = |headers: &[u8]| Sight::of(headers).map(|sight| sight.depth);
    if depth(&last.headers) != depth(&first.headers) {
        // One is the tunnel's packet, the other what is in it.
        return Vec::new();
    }
    let mark = last.mark_after.unwrap_or(last.mark_before);
    let mut before = Look::of(&last.headers, Some(mark));
    let index = from.passages.len() - 1;
    for change in from.changes.iter().filter(|change| change.passage == index) {
        match change.what {
            What::Source(_, after) => before.source = Some(after),
            What::Destination(_, after) => before.destination = Some(after),
            What::Ttl(_, after) => before.ttl = Some(after),
            What::Tos(_, after) => before.tos = Some(after),
            What::Mark(..) => {}
        }
    }
    let after = Look::of(&first.headers, Some(first.mark_before));
    let differences = before.differences(&after).into_iter();
    let change = |what| Change {
        passage: index,
        step: None,
        what,
        by: By::Node,
    };
    differences.map(change).collect()
}

/// Changes within a table; how the packet looks when it leaves it.
fn within(changes: &mut Vec<Change>, index: usize, entry: Look, passage: &Passage) -> Look {
    let traversal = &passage.traversal;
    let mut now = entry;
    for (place, pair) in passage.steps.windows(2).enumerate() {
        let (before, after) = (
            Look::of(&pair[0].headers, Some(pair[0].mark)),
            Look::of(&pair[1].headers, Some(pair[1].mark)),
        );
        for what in before.differences(&after) {
            changes.push(Change {
                passage: index,
                step: Some(place),
                what,
                by: By::Step,
            });
        }
        now = after;
    }
    if let Some(mark_after) = traversal.mark_after {
        if let Some(before) = now.mark
            && before != mark_after
        {
            // The last step is certain to have made it only if it ended the table.
            let decided = passage.decided_by().is_some();
            changes.push(Change {
                passage: index,
                step: decided.then(|| passage.steps.len() - 1),
                what: What::Mark(before, mark_after),
                by: if decided { By::Step } else { By::Table },
            });
        }
        now.mark = Some(mark_after);
    }
    if nat_rule(passage).is_some()
        && let Some(translation) = translation(passage)
    {
        let (old, what): (_, fn(_, _) -> _) = match manipulates(traversal.hook) {
            Manip::Destination => (&mut now.destination, What::Destination),
            Manip::Source => (&mut now.source, What::Source),
        };
        if let Some(before) = *old
            && before.address == translation.before.address
            && before != translation.after
        {
            let after = Endpoint {
                port: before.port.and(translation.after.port),
                ..translation.after
            };
            changes.push(Change {
                passage: index,
                step: Some(passage.steps.len() - 1),
                what: what(before, after),
                by: By::Step,
            });
            *old = Some(after);
        }
    }
    now
}

/// What the NAT rule of this passage decided.
fn translation(passage: &Passage) -> Option<Translation> {
    let connection = passage.traversal.connection?;
    match manipulates(passage.traversal.hook) {
        Manip::Destination => connection.dnat(),
        Manip::Source => connection.snat(),
    }
}

/// Changes between two tables.
fn between(
    changes: &mut Vec<Change>,
    index: usize,
    before: &Look,
    after: &Look,
    passages: &[Passage],
    flows: &[Flow],
) {
    let (from, to) = (&passages[index].traversal, &passages[index + 1].traversal);
    for what in before.differences(after) {
        let by = match what {
            What::Source(..) | What::Destination(..) => {
                nat_of(&passages[index], &what, flows).unwrap_or(By::Unknown)
            }
            What::Ttl(before, after)
                if before.checked_sub(1) == Some(after)
                    && from.hook == Hook::PreRouting
                    && matches!(to.hook, Hook::Forward | Hook::PostRouting) =>
            {
                By::Forwarding
            }
            What::Mark(_, 0) if from.netns != to.netns => By::Namespace,
            What::Ttl(..) | What::Tos(..) | What::Mark(..) => By::Unknown,
        };
        changes.push(Change {
            passage: index,
            step: None,
            what,
            by,
        });
    }
}

/// The NAT of the connection that makes this change.
fn nat_of(passage: &Passage, what: &What, flows: &[Flow]) -> Option<By> {
    let flow = flows.iter().find(|flow| flow.is_of(&passage.traversal))?;
    let connection = &flow.connection;
    let (original, reply) = (&connection.original, &connection.reply);
    let fits = |seen: &Endpoint, known: Endpoint| {
        seen.address == known.address && (seen.port.is_none() || seen.port == known.port)
    };
    let (decided, from, to, before, after) = match (what, flow.reply) {
        (What::Destination(before, after), false) => {
            (&flow.dnat, original.destination(), reply.source(), before, after)
        }
        (What::Source(before, after), false) => {
            (&flow.snat, original.source(), reply.destination(), before, after)
        }
        (What::Destination(before, after), true) => {
            (&flow.snat, reply.destination(), original.source(), before, after)
        }
        (What::Source(before, after), true) => {
            (&flow.dnat, reply.source(), original.destination(), before, after)
        }
        (What::Mark(..) | What::Ttl(..) | What::Tos(..), _) => return None,
    };
    (fits(before, from) && fits(after, to)).then(|| By::Nat {
        undone: flow.reply,
        decided: decided.clone(),
    })
}

/// Whether NAT has had its say after the last table: right there at INPUT and POSTROUTING, where it comes last, and
/// elsewhere if the packet has gone on to one of these.
fn goes_on(last: &Passage, outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Delivered | Outcome::Sent | Outcome::Passed => true,
        Outcome::Accepted | Outcome::DroppedByKernel { .. } => {
            manipulates(last.traversal.hook) == Manip::Source
        }
        Outcome::Dropped { .. }
        | Outcome::DroppedByHook { .. }
        | Outcome::Stolen
        | Outcome::Queued { .. } => false,
    }
}

/// NAT changes addresses after the last table that sees them. For a connection that is known this is no guess:
/// `nf_nat_packet` (`net/netfilter/nf_nat_core.c`) makes of every packet the inverse of the other direction's tuple.
/// A packet that only has to do with the connection (an ICMP error) is left out.
fn after_the_last(changes: &mut Vec<Change>, index: usize, now: &Look, passage: &Passage, flows: &[Flow]) {
    let traversal = &passage.traversal;
    let tracked = matches!(
        traversal.conntrack,
        Conntrack::Tracked {
            state: ConntrackState::New | ConntrackState::Established,
            ..
        }
    );
    let flow = flows.iter().find(|flow| flow.is_of(traversal));
    let Some(flow) = flow.filter(|_| tracked) else {
        return;
    };
    let back = |translation: Translation| Translation {
        before: translation.after,
        after: translation.before,
    };
    let (dnat, snat) = (flow.connection.dnat(), flow.connection.snat());
    let (source, destination, by_source, by_destination) = if flow.reply {
        (dnat.map(back), snat.map(back), &flow.dnat, &flow.snat)
    } else {
        (snat, dnat, &flow.snat, &flow.dnat)
    };
    let made: [(_, _, _, fn(_, _) -> _); 2] = [
        (now.destination, destination, by_destination, What::Destination),
        (now.source, source, by_source, What::Source),
    ];
    for (seen, translation, decided, what) in made {
        let Some((translation, seen)) = translation.zip(seen) else {
            continue;
        };
        let fits = seen.address == translation.before.address
            && (seen.port.is_none() || seen.port == translation.before.port);
        if fits && translation.before != translation.after {
            let after = Endpoint {
                port: seen.port.and(translation.after.port),
                ..translation.after
            };
            changes.push(Change {
                passage: index,
                step: None,
                what: what(seen, after),
                by: By::Nat {
                    undone: flow.reply,
                    decided: decided.clone(),
                },
            });
        }
    }
}
