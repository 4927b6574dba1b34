//! How many packets may be followed.

/// A rate as the programs keep it: each followed packet takes its share of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Guard {
    /// What a packet takes; zero for no limit.
    pub interval_ns: u64,
    /// `CLOCK_MONOTONIC` at which the next packet may begin. The programs move it on.
    pub next_ns: u64,
}

const _: () = assert!(size_of::<Guard>() == 16);
