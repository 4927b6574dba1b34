//! Which traversals are shown: those of packets that satisfied the filter at some table, from there on.

use tracer_common::{Filter, criteria};

use super::{
    Headers, all,
    criteria::{in_scope, satisfied},
    expression::Expression,
};
use crate::{
    connection::Tuple,
    event::End,
    kernel::preflight::Families,
    recent::Recent,
    traversal::{Conntrack, PacketId, Traversal},
};

/// Packets, and tuples, of which is known whether they are followed. Of one that is seen again after so many others
/// it is decided anew.
const RECENT_MAX: usize = 1_000_000;

/// Which packets to follow, and which of their traversals to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The families that are left.
    pub families: Families,
    /// What the programs can decide.
    pub filter: Filter,
    /// What they cannot: it has to hold too, at the same table.
    pub rest: Option<Expression>,
    /// Whether to follow the other packets of a followed packet's connection too, replies above all.
    pub connections: bool,
}

impl Wanted {
    /// Whether it leaves any packet out.
    #[must_use]
    pub fn is_filter(&self) -> bool {
        self.families != Families::ALL || self.rest.is_some() || self.filter != Filter::EVERYTHING
    }

    /// Whether it leaves out tables of the packets that are followed.
    #[must_use]
    pub fn leaves_out_tables(&self) -> bool {
        self.filter.hooks != Filter::EVERYTHING.hooks || self.filter.tables_len > 0
    }

    /// Whether packets are followed that do not satisfy it, because another one of their connection does.
    #[must_use]
    pub fn follows_connections(&self) -> bool {
        self.connections && (self.rest.is_some() || self.filter.criteria & !criteria::NETNS != 0)
    }

    /// The filter for the programs. Where they cannot decide all, every table of a packet is needed to decide.
    #[must_use]
    pub fn for_programs(&self) -> Filter {
        let Filter {
            hooks,
            tables_len,
            tables,
            ..
        } = Filter::EVERYTHING;
        let filter = Filter {
            // Without criteria every packet is followed anyway; replies are in the same namespace.
            connections: u8::from(self.connections && self.filter.criteria & !criteria::NETNS != 0),
            ..self.filter
        };
        match self.rest {
            None => filter,
            Some(_) => Filter {
                hooks,
                tables_len,
                tables,
                ..filter
            },
        }
    }
}

/// Selects from what was recorded, as the programs would have if they could decide all.
#[derive(Debug)]
pub struct Selection {
    wanted: Wanted,
    packets: Recent<PacketId, Known, RECENT_MAX>,
    /// Tuples of followed connections, each in its recording and network namespace.
    connections: Recent<(u32, u32, Tuple), (), RECENT_MAX>,
    /// Packets that are followed because what would decide was not recorded.
    pub undecided: u64,
}

impl Selection {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            packets: Recent::default(),
            connections: Recent::default(),
            undecided: 0,
        }
    }

    /// Whether to show a traversal. Asked in the order in which they happened. The packet's traversals are counted
    /// anew, from the first that is shown.
    pub fn takes(&mut self, traversal: &mut Traversal) -> bool {
        let mut known = self.packets.get(&traversal.packet).copied().unwrap_or_default();
        known.followed = known.followed || self.is_of_connection(traversal) || self.satisfies(traversal);
        if known.followed {
            self.follow_connection(traversal);
        }
        let shown = known.followed && in_scope(&self.wanted.filter, traversal);
        traversal.pass = traversal.pass.saturating_sub(known.dropped);
        traversal.first = traversal.pass <= 1;
        known.dropped += u32::from(!shown);
        self.packets.insert(traversal.packet, known);
        shown
    }

    /// Whether to tell the end of a packet.
    pub fn takes_end(&mut self, end: &mut End) -> bool {
        let known = self.packets.remove(&end.packet).unwrap_or_default();
        end.passes = end.passes.saturating_sub(known.dropped);
        known.followed
    }

    /// Whether packets are taken for their connection.
    #[must_use]
    pub fn follows_connections(&self) -> bool {
        self.wanted.follows_connections()
    }

    /// By the tuple that conntrack has of it, or will make of its headers: as `tracer-ebpf/src/connection.rs`.
    fn is_of_connection(&self, traversal: &Traversal) -> bool {
        if !self.wanted.connections {
            return false;
        }
        let tuple = match traversal.conntrack {
            Conntrack::Tracked { .. } => traversal.connection.map(|connection| connection.original),
            Conntrack::None | Conntrack::Untracked | Conntrack::Orphaned => Headers::of(traversal).tuple(),
        };
        let key = |tuple| (traversal.packet.recording(), traversal.netns, tuple);
        tuple.is_some_and(|tuple| self.connections.get(&key(tuple)).is_some())
    }

    fn follow_connection(&mut self, traversal: &Traversal) {
        if let (true, Some(connection)) = (self.wanted.connections, traversal.connection) {
            for tuple in [connection.original, connection.reply] {
                let key = (traversal.packet.recording(), traversal.netns, tuple);
                self.connections.insert(key, ());
            }
        }
    }

    fn satisfies(&mut self, traversal: &Traversal) -> bool {
        let rest = self.wanted.rest.as_ref();
        let satisfies = all([
            Some(self.wanted.families.contains(traversal.family)),
            satisfied(&self.wanted.filter, traversal),
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
