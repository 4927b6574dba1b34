//! Which traversals are shown: those of packets that satisfied the filter at some table, from there on.

use std::collections::HashMap;

use tracer_common::Filter;

use super::{Headers, all, criteria, expression::Expression};
use crate::{
    event::End,
    kernel::preflight::Families,
    traversal::{PacketId, Traversal},
};

/// Packets of which is known whether they are followed. Of one that is seen again after so many others it is decided
/// anew.
const PACKETS_MAX: usize = 1_000_000;

/// Which packets to follow, and which of their traversals to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The families that are left.
    pub families: Families,
    /// What the programs can decide.
    pub filter: Filter,
    /// What they cannot: it has to hold too, at the same table.
    pub rest: Option<Expression>,
}

impl Wanted {
    /// The filter for the programs. Where they cannot decide all, every table of a packet is needed to decide.
    #[must_use]
    pub fn for_programs(&self) -> Filter {
        let Filter {
            hooks,
            tables_len,
            tables,
            ..
        } = Filter::EVERYTHING;
        match self.rest {
            None => self.filter,
            Some(_) => Filter {
                hooks,
                tables_len,
                tables,
                ..self.filter
            },
        }
    }
}

/// Selects from what was recorded, as the programs would have if they could decide all.
#[derive(Debug)]
pub struct Selection {
    wanted: Wanted,
    packets: Packets,
    /// Packets that are followed because what would decide was not recorded.
    pub undecided: u64,
}

impl Selection {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            packets: Packets::default(),
            undecided: 0,
        }
    }

    /// Whether to show a traversal. Asked in the order in which they happened. The packet's traversals are counted
    /// anew, from the first that is shown.
    pub fn takes(&mut self, traversal: &mut Traversal) -> bool {
        let mut known = self.packets.get(traversal.packet).unwrap_or_default();
        known.followed = known.followed || self.satisfies(traversal);
        let shown = known.followed && criteria::in_scope(&self.wanted.filter, traversal);
        traversal.pass = traversal.pass.saturating_sub(known.dropped);
        traversal.first = traversal.pass <= 1;
        known.dropped += u32::from(!shown);
        self.packets.set(traversal.packet, known);
        shown
    }

    /// Whether to tell the end of a packet.
    pub fn takes_end(&mut self, end: &mut End) -> bool {
        let known = self.packets.end(end.packet).unwrap_or_default();
        end.passes = end.passes.saturating_sub(known.dropped);
        known.followed
    }

    fn satisfies(&mut self, traversal: &Traversal) -> bool {
        let rest = self.wanted.rest.as_ref();
        let satisfies = all([
            Some(self.wanted.families.contains(traversal.family)),
            criteria::satisfied(&self.wanted.filter, traversal),
            rest.map_or(Some(true), |rest| rest.holds(&Headers::of(traversal))),
        ]);
        if satisfies.is_none() {
            self.undecided += 1;
        }
        // What may be wanted is shown rather than lost.
        satisfies != Some(false)
    }
}

/// What is known of a packet.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    followed: bool,
    /// How many of its traversals came and were not shown.
    dropped: u32,
}

/// The packets that were seen last. Memory is bounded: two generations of half the limit, the older one dropped.
#[derive(Debug, Default)]
struct Packets {
    now: HashMap<PacketId, Known>,
    before: HashMap<PacketId, Known>,
}

impl Packets {
    fn get(&self, packet: PacketId) -> Option<Known> {
        let found = self.now.get(&packet).or_else(|| self.before.get(&packet));
        found.copied()
    }

    fn set(&mut self, packet: PacketId, known: Known) {
        if self.now.len() >= PACKETS_MAX / 2 && !self.now.contains_key(&packet) {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.insert(packet, known);
    }

    fn end(&mut self, packet: PacketId) -> Option<Known> {
        let before = self.before.remove(&packet);
        self.now.remove(&packet).or(before)
    }
}
