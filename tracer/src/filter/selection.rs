//! Which traversals are shown: those of packets that satisfied the filter at some table, from there on.

use std::collections::HashSet;

use tracer_common::Filter;

use super::{all, criteria};
use crate::{
    kernel::preflight::Families,
    traversal::{PacketId, Traversal},
};

/// Packets of which is known that they are followed. Of one that is seen again after so many others it is decided
/// anew.
const FOLLOWED_MAX: usize = 1_000_000;

/// Selects traversals as the programs do.
#[derive(Debug)]
pub struct Selection {
    families: Families,
    filter: Filter,
    followed: Recent,
    /// Packets that are followed because what would decide was not recorded.
    pub undecided: u64,
}

impl Selection {
    /// By the flags of the command line.
    #[must_use]
    pub fn new(families: Families, filter: Filter) -> Self {
        Self {
            families,
            filter,
            followed: Recent::default(),
            undecided: 0,
        }
    }

    /// Whether to show a traversal. Asked in the order in which they happened.
    pub fn takes(&mut self, traversal: &Traversal) -> bool {
        self.follows(traversal) && criteria::in_scope(&self.filter, traversal)
    }

    fn follows(&mut self, traversal: &Traversal) -> bool {
        if self.followed.contains(traversal.packet) {
            return true;
        }
        let satisfied = all([
            Some(self.families.contains(traversal.family)),
            criteria::satisfied(&self.filter, traversal),
        ]);
        if satisfied.is_none() {
            self.undecided += 1;
        }
        // What may be wanted is shown rather than lost.
        let follows = satisfied != Some(false);
        if follows {
            self.followed.insert(traversal.packet);
        }
        follows
    }
}

/// The packets that were seen last. Memory is bounded: two generations of half the limit, the older one dropped.
#[derive(Debug, Default)]
struct Recent {
    now: HashSet<PacketId>,
    before: HashSet<PacketId>,
}

impl Recent {
    fn contains(&mut self, packet: PacketId) -> bool {
        if self.now.contains(&packet) {
            return true;
        }
        let before = self.before.contains(&packet);
        if before {
            self.insert(packet);
        }
        before
    }

    fn insert(&mut self, packet: PacketId) {
        if self.now.len() >= FOLLOWED_MAX / 2 {
            self.before = std::mem::take(&mut self.now);
        }
        self.now.insert(packet);
    }
}
