//! Maps, read-only globals and counters.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, PerCpuArray, RingBuf},
};
use tracer_common::{Counter, FRAMES_MAX, Filter, Offsets, PACKETS_MAX, Traversal};

use crate::{follow::Life, traversal::Invocation};

/// Set by the loader. Read-only for the programs, so each load of a field is a constant to the verifier.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::UNRESOLVED;

/// Set by the loader. The verifier removes the tests that the filter does not ask for.
#[unsafe(no_mangle)]
pub(crate) static FILTER: Filter = Filter::EVERYTHING;

/// Reads a field of [`OFFSETS`].
#[macro_export]
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a field of a static; volatile, because its value is known only when loaded.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::OFFSETS.$field) }
    };
}

/// Reads a field of [`FILTER`].
#[macro_export]
macro_rules! asked {
    ($field:ident) => {
        // SAFETY: a field of a static; volatile, because its value is known only when loaded.
        unsafe { core::ptr::read_volatile(&raw const $crate::maps::FILTER.$field) }
    };
}

/// Reads the bytes of a field of [`FILTER`] as words, which takes a quarter of the instructions.
#[macro_export]
macro_rules! asked_words {
    ($($field:tt)+) => {{
        let words = (&raw const $crate::maps::FILTER.$($field)+).cast::<[u32; _]>();
        // SAFETY: a field of a static, aligned (asserted in tracer-common); volatile as above.
        unsafe { core::ptr::read_volatile(words) }
    }};
}

/// Finished traversals on their way to the loader, which sets the size.
#[map]
pub(crate) static RECORDS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// Traversals under way.
#[map]
pub(crate) static FRAMES: HashMap<Invocation, Traversal> = HashMap::with_max_entries(FRAMES_MAX, 0);

/// Followed packets, by address of the `sk_buff`.
#[map]
pub(crate) static FOLLOWED: HashMap<u64, Life> = HashMap::with_max_entries(PACKETS_MAX, 0);

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::COUNT, 0);

/// Adds one. Atomic, because an interrupt on this CPU may count too.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: the map returned a valid, aligned pointer to this CPU's value, and the instruction
        // (`BPF_ATOMIC | BPF_ADD`, every kernel has it) touches nothing else. Rust's own atomics offer
        // no addition for a target without compare-and-swap.
        #[cfg(target_arch = "bpf")]
        unsafe {
            core::arch::asm!("lock *(u64 *)({value} + 0) += {one}", value = in(reg) value, one = in(reg) 1_u64);
        }
        // Host builds only check the types.
        #[cfg(not(target_arch = "bpf"))]
        let _ = value;
    }
}
