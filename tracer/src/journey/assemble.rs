//! Joins passages to journeys, and knows when a journey is over.
//!
//! A journey is over when the end of its packet was seen and every passage that was announced has come, when a table
//! dropped the packet or a target took it, or when nothing was seen of it for a while. It is handed out a moment
//! later, so that what is tied to it (an answer of `REJECT`, a copy of `TEE`), whose records come first, is known.

use std::collections::{HashMap, VecDeque};

use super::{
    Journey, Outcome, Relation, Tie, changes,
    connections::{Connections, Flow},
    relations::{self, Fragments},
};
use crate::{
    event::{End, Fate},
    passage::Passage,
    recent::Recent,
    traversal::{PacketId, Verdict},
};

/// Journeys under way at once. With more the oldest is cut.
const OPEN_MAX: usize = 8192;
/// Passages of one journey that are kept.
const PASSAGES_MAX: usize = 256;
/// Journeys that are over whose packet is remembered, should it be seen again.
const CLOSED_MAX: usize = 16_384;
/// How long a journey that is over waits for what is tied to it.
const SETTLE_NS: u64 = 2_000_000;
/// How long nothing is seen of a packet before it is taken to have gone.
const IDLE_NS: u64 = 1_000_000_000;
/// The same for a packet in a queue, where a process decides.
const QUEUED_NS: u64 = 30_000_000_000;

/// Joins passages to journeys.
#[derive(Debug, Default)]
pub struct Journeys {
    open: HashMap<PacketId, Open>,
    /// In the order in which they were opened; some are not open any more.
    opened: VecDeque<PacketId>,
    /// Those that are over, with the time from which on they can be handed out.
    over: VecDeque<(u64, Journey)>,
    closed: Recent<PacketId, u64, CLOSED_MAX>,
    connections: Connections,
    fragments: Fragments,
    last_number: u64,
    counts: Counts,
    /// Whether the filter leaves tables out.
    some_tables: bool,
}

/// What was joined so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Journeys that are over.
    pub journeys: u64,
    /// Those of them that are partial.
    pub partial: u64,
    /// Journeys that were cut because too many were under way.
    pub cut: u64,
}

/// A journey under way.
#[derive(Debug)]
struct Open {
    number: u64,
    passages: Vec<Passage>,
    flows: Vec<Flow>,
    ties: Vec<Tie>,
    /// Passages that came, also those that were not kept.
    came: u32,
    /// The last passage by its own number.
    last_pass: u32,
    /// Gaps in these numbers.
    missing: u32,
    /// Whether it was closed to make room.
    cut: bool,
    seen_ns: u64,
    end: Option<(u64, Ending, u32)>,
}

/// How a packet ended, as far as that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Delivered or sent.
    Consumed,
    /// Dropped, by this function.
    Dropped(Option<String>),
    /// Not seen.
    Unseen,
}

impl Journeys {
    /// What was joined so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Some tables do not come, whatever packets met there: what became of a packet is told as far as the others show it.
    pub fn leave_out_tables(&mut self) {
        self.some_tables = true;
    }

    /// Takes a passage; those of one packet come in their order.
    pub fn passage(&mut self, passage: Passage) {
        let packet = passage.traversal.packet;
        let left_ns = passage.traversal.left_ns;
        if !self.open.contains_key(&packet) {
            self.begin(packet, &passage);
        }
        let Some(open) = self.open.get_mut(&packet) else {
            return;
        };
        self.connections.note(open.number, &passage, &mut open.flows);
        let number = open.number;
        let dropped = matches!(passage.traversal.verdict, Verdict::Drop | Verdict::Stolen);
        let alone = passage.traversal.not_followed;
        let sends = relations::may_send(&passage);
        if sends {
            self.tie_sent(number, &passage);
        }
        if let Some(open) = self.open.get_mut(&packet) {
            open.take(passage);
            let whole = open
                .end
                .as_ref()
                .is_some_and(|(_, _, passes)| open.last_pass >= *passes);
            if dropped || whole || alone {
                self.close(packet, left_ns);
            }
        }
    }

    /// Takes the end of a packet; `function` is asked for the name of the function that dropped it, if one did.
    pub fn end(&mut self, end: &End, function: impl FnOnce(u64) -> Option<String>) {
        let Some(open) = self.open.get_mut(&end.packet) else {
            return;
        };
        let ending = match end.fate {
            Fate::Consumed | Fate::Freed => Ending::Consumed,
            Fate::Dropped { location } => Ending::Dropped(function(location)),
        };
        open.end = Some((end.ended_ns, ending, end.passes));
        if open.last_pass >= end.passes {
            self.close(end.packet, end.ended_ns);
        }
    }

    /// The journeys that are over now, `CLOCK_MONOTONIC`.
    pub fn over(&mut self, now_ns: u64) -> Vec<Journey> {
        let idle: Vec<PacketId> = self
            .open
            .iter()
            .filter(|(_, open)| open.is_idle(now_ns))
            .map(|(packet, _)| *packet)
            .collect();
        self.close_in_order(idle, now_ns);
        let ready = self
            .over
            .iter()
            .take_while(|(due_ns, _)| *due_ns <= now_ns)
            .count();
        let ready: Vec<Journey> = self.over.drain(..ready).map(|(_, journey)| journey).collect();
        self.count(&ready);
        ready
    }

    /// All journeys, also those that are under way: nothing comes any more.
    pub fn rest(&mut self) -> Vec<Journey> {
        let open: Vec<PacketId> = self.open.keys().copied().collect();
        self.close_in_order(open, 0);
        let rest: Vec<Journey> = self.over.drain(..).map(|(_, journey)| journey).collect();
        self.count(&rest);
        rest
    }

    fn count(&mut self, over: &[Journey]) {
        let partial = over.iter().filter(|journey| !journey.partial.is_empty()).count();
        self.counts.journeys += over.len() as u64;
        self.counts.partial += partial as u64;
    }

    fn begin(&mut self, packet: PacketId, passage: &Passage) {
        while self.open.len() >= OPEN_MAX {
            let Some(oldest) = self.opened.pop_front() else {
                break;
            };
            if let Some(open) = self.open.get_mut(&oldest) {
                open.cut = true;
                self.counts.cut += 1;
                self.close(oldest, passage.traversal.left_ns);
            }
        }
        if self.opened.len() >= 2 * OPEN_MAX {
            let open = &self.open;
            self.opened.retain(|packet| open.contains_key(packet));
        }
        self.last_number += 1;
        let number = self.last_number;
        let mut ties = Vec::new();
        let closed = self.closed.get(&packet);
        if let Some(&other) = closed {
            ties.push(Tie {
                relation: Relation::Continues,
                other,
            });
        } else if let Some(other) = self.fragments.note(number, passage) {
            ties.push(Tie {
                relation: Relation::FragmentOf,
                other,
            });
        }
        // What continues a journey does not begin anew.
        let last_pass = if closed.is_some() {
            passage.traversal.pass.saturating_sub(1)
        } else {
            0
        };
        self.opened.push_back(packet);
        self.open.insert(
            packet,
            Open {
                number,
                passages: Vec::new(),
                flows: Vec::new(),
                ties,
                came: 0,
                last_pass,
                missing: 0,
                cut: false,
                seen_ns: 0,
                end: None,
            },
        );
    }

    /// Ties the packets that targets of this passage have sent, whose records have come before.
    fn tie_sent(&mut self, number: u64, passage: &Passage) {
        let is_child = |passages: &[Passage]| {
            let mut first = passages.first().into_iter();
            first.any(|first| relations::sent(passage, first))
        };
        let mut children = Vec::new();
        let tie = Tie {
            relation: Relation::SentBy,
            other: number,
        };
        for open in self.open.values_mut() {
            if is_child(&open.passages) {
                open.ties.push(tie);
                children.push(open.number);
            }
        }
        for (_, journey) in &mut self.over {
            if is_child(&journey.passages) {
                journey.ties.push(tie);
                children.push(journey.number);
            }
        }
        children.sort_unstable();
        if let Some(open) = self.open.get_mut(&passage.traversal.packet) {
            open.ties.extend(children.into_iter().map(|other| Tie {
                relation: Relation::Sent,
                other,
            }));
        }
    }

    fn close_in_order(&mut self, mut packets: Vec<PacketId>, at_ns: u64) {
        packets.sort_unstable_by_key(|packet| self.open.get(packet).map(|open| open.number));
        for packet in packets {
            self.close(packet, at_ns);
        }
    }

    fn close(&mut self, packet: PacketId, at_ns: u64) {
        let Some(open) = self.open.remove(&packet) else {
            return;
        };
        self.closed.insert(packet, open.number);
        // An idle journey waits no longer: `at_ns` is the time now, and what is due is taken in order.
        let due_ns = at_ns.saturating_add(SETTLE_NS);
        let due_ns = self.over.back().map_or(due_ns, |(last, _)| due_ns.max(*last));
        self.over.push_back((due_ns, open.journey(self.some_tables)));
    }
}

impl Open {
    fn take(&mut self, passage: Passage) {
        let traversal = &passage.traversal;
        if !traversal.not_followed {
            let gap = traversal.pass.saturating_sub(self.last_pass.saturating_add(1));
            self.missing = self.missing.saturating_add(gap);
        }
        self.last_pass = self.last_pass.max(traversal.pass);
        self.came = self.came.saturating_add(1);
        self.seen_ns = self.seen_ns.max(traversal.left_ns);
        if self.passages.len() < PASSAGES_MAX {
            self.passages.push(passage);
        }
    }

    fn is_idle(&self, now_ns: u64) -> bool {
        let queued = self
            .passages
            .last()
            .is_some_and(|passage| matches!(passage.traversal.verdict, Verdict::Queue { .. }));
        let patience_ns = if queued { QUEUED_NS } else { IDLE_NS };
        now_ns.saturating_sub(self.seen_ns) > patience_ns
    }

    fn journey(self, some_tables: bool) -> Journey {
        let mut partial = Vec::new();
        let (ended_ns, ending, passes) = match self.end {
            Some((ended_ns, ending, passes)) => (Some(ended_ns), ending, passes),
            None => (None, Ending::Unseen, 0),
        };
        let missing = self.missing.saturating_add(passes.saturating_sub(self.last_pass));
        if missing > 0 {
            partial.push(format!("{missing} of its tables were lost on the way to tracer"));
        }
        if self.cut {
            partial.push("not followed to its end: too many packets at once".to_owned());
        }
        let unkept = (self.came as usize).saturating_sub(self.passages.len());
        if unkept > 0 {
            partial.push(format!("{unkept} more tables are not shown"));
        }
        for passage in &self.passages {
            let traversal = &passage.traversal;
            if let Some(why) = &passage.partial {
                partial.push(format!("{}:{}: {why}", traversal.table_in_words(), passage.chain));
            } else if traversal.incomplete {
                partial.push(format!(
                    "{}:{}: kernel memory could not be read while the packet was recorded",
                    traversal.table_in_words(),
                    passage.chain
                ));
            }
            if traversal.not_followed {
                partial.push("not followed beyond this table: too many packets at once".to_owned());
            }
        }
        let outcome = Outcome::of(&self.passages, &ending, some_tables);
        Journey {
            number: self.number,
            changes: changes::find(&self.passages, &self.flows, &outcome),
            outcome,
            passages: self.passages,
            flows: self.flows,
            ties: self.ties,
            joints: Vec::new(),
            ended_ns,
            partial,
        }
    }
}
