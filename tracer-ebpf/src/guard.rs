//! How many packets may be followed (`--max-rate`, `--max-cpu`): so many a second, evenly.

use crate::maps::{GUARD, GUARDED};

/// Packets may come together as long as they are this far ahead of their time.
const BURST_NS: u64 = 100_000_000;

/// Whether a packet that satisfies the filter may be followed.
///
/// Each packet takes its interval of time, and one that would begin too far ahead of now is not admitted. Two
/// processors may take the same interval: the rate is a limit for the load, not a count.
#[inline(always)]
pub(crate) fn admits(now_ns: u64) -> bool {
    // SAFETY: a static; volatile, because its value is known only when loaded.
    if unsafe { core::ptr::read_volatile(&raw const GUARDED) } == 0 {
        return true;
    }
    let Some(guard) = GUARD.get_ptr_mut(0) else {
        return true;
    };
    // SAFETY: the map returned a valid, aligned pointer; whole words are read and written.
    unsafe {
        let (interval_ns, next_ns) = (
            core::ptr::read_volatile(&raw const (*guard).interval_ns),
            core::ptr::read_volatile(&raw const (*guard).next_ns),
        );
        let begins_ns = if next_ns > now_ns { next_ns } else { now_ns };
        if begins_ns - now_ns > BURST_NS {
            return false;
        }
        core::ptr::write_volatile(&raw mut (*guard).next_ns, begins_ns + interval_ns);
    }
    true
}
