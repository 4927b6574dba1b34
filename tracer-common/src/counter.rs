//! What the programs count, each at the spot where it happens.

/// Index into the per-CPU counter array `COUNTERS`.
///
/// Everything but [`Counter::Delivered`] is a loss or an anomaly that the user is told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Records handed to the ring buffer.
    Delivered,
    /// Records that found the ring buffer full.
    RingFull,
    /// Reads of kernel memory that failed; the record that has the gap is flagged.
    ReadFailed,
    /// Traversals not recorded because [`crate::FRAMES_MAX`] others were under way.
    FramesFull,
    /// Traversals whose exit was never seen: the kernel ran the entry probe but not the return probe.
    ExitMissed,
    /// Packets that are not followed beyond one traversal because [`crate::PACKETS_MAX`] others are alive.
    PacketsFull,
    /// Replacements of a table that are not known as such because [`crate::GENERATIONS_MAX`] tables are alive.
    GenerationsFull,
    /// Followed packets whose end was not seen, noticed when the kernel had used their address again.
    EndMissed,
    /// [`crate::End`] records that found the ring buffer full.
    EndRingFull,
    /// Connections that were followed. Beyond [`crate::CONNECTIONS_MAX`] those that were used least are forgotten.
    ConnectionsFollowed,
    /// Headers after a target that changed them which found the ring buffer full: the path is partial. On nf_tables they
    /// are not known from there on.
    HeadersFull,
    /// Packets that were left out to keep a limit ([`crate::Guard`]).
    PacketsShed,
    /// Traversals of those packets that would have been recorded.
    TraversalsShed,
}

impl Counter {
    /// How many counters there are.
    pub const COUNT: u32 = 13;

    /// Every counter, in index order.
    pub const ALL: [Self; Self::COUNT as usize] = [
        Self::Delivered,
        Self::RingFull,
        Self::ReadFailed,
        Self::FramesFull,
        Self::ExitMissed,
        Self::PacketsFull,
        Self::GenerationsFull,
        Self::EndMissed,
        Self::EndRingFull,
        Self::ConnectionsFollowed,
        Self::HeadersFull,
        Self::PacketsShed,
        Self::TraversalsShed,
    ];
}
