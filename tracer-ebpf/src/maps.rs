//! Maps, read-only globals and counters.

use core::ptr::read_volatile;

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use tracer_common::{
    ASKING_MAX, COMMITTED_BYTES, CONNECTIONS_MAX, Commit, Counter, FRAMES_MAX, Filter, GENERATIONS_MAX,
    Guard, HeadersAfter, Offsets, PACKETS_MAX, REPLACEMENTS_BYTES, THREAD_NAME_LEN, TableRead, Traversal,
};

use crate::{
    call::{Call, Invocation},
    connection::Key,
    follow::Life,
    lives::LIVES_MAX,
    rules::Asked,
};

/// Set by the loader. Read-only for the programs, so each load of a field is a constant to the verifier.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::UNRESOLVED;

/// Set by the loader. The verifier removes the tests that the filter does not ask for.
#[unsafe(no_mangle)]
pub(crate) static FILTER: Filter = Filter::EVERYTHING;

/// Name of the loader's thread that reads rules. Set by the loader.
#[unsafe(no_mangle)]
pub(crate) static READER: [u8; THREAD_NAME_LEN] = [0xff; THREAD_NAME_LEN];

/// Not zero where traversals are seen by trampolines, which keep their frames in [`SLOTS`] and lives in [`LIVES`]. Set
/// by the loader.
#[unsafe(no_mangle)]
static SLOTTED: u32 = 0;

#[inline(always)]
pub(crate) fn slotted() -> bool {
    // SAFETY: a static; volatile, because its value is known only when loaded.
    unsafe { read_volatile(&raw const SLOTTED) != 0 }
}

/// Bytes in the buffer at which the loader is woken, a power of two. Set by the loader.
#[unsafe(no_mangle)]
pub(crate) static WAKE_AT: u32 = 0;

/// Not zero where [`GUARD`] decides. Set by the loader.
#[unsafe(no_mangle)]
pub(crate) static GUARDED: u32 = 0;

/// How many packets may be followed. The loader changes it while it runs.
#[map]
pub(crate) static GUARD: Array<Guard> = Array::with_max_entries(1, 0);

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

/// Not zero where some rule of nf_tables changes headers and lets the walk go on. The loader sets it when it reads one.
#[map]
pub(crate) static TELLS_HEADERS: Array<u32> = Array::with_max_entries(1, 0);

/// Where headers are written before it is known whether they are to be sent.
#[map]
pub(crate) static HEADERS: PerCpuArray<HeadersAfter> = PerCpuArray::with_max_entries(1, 0);

/// Tables that are being given other rules.
#[map]
pub(crate) static REPLACEMENTS: RingBuf = RingBuf::with_byte_size(REPLACEMENTS_BYTES, 0);

/// What each thread asked for last when it looked for a table, by its id.
#[map]
pub(crate) static ASKED: LruHashMap<u64, Asked> = LruHashMap::with_max_entries(ASKING_MAX, 0);

/// Traversals under way that trampolines saw; see [`crate::frames`].
#[map]
pub(crate) static SLOTS: Array<Traversal> = Array::with_max_entries(FRAMES_MAX, 0);

/// Traversals under way that kprobes saw, by address of their `nf_hook_state`, on nf_tables of their `nft_pktinfo`: it
/// lies on the stack of whoever runs the hook and serves one traversal at a time.
#[map]
pub(crate) static FRAMES: HashMap<u64, Traversal> = HashMap::with_max_entries(FRAMES_MAX, 0);

/// Calls under way of the functions that have a return probe.
#[map]
pub(crate) static CALLS: HashMap<Invocation, Call> = HashMap::with_max_entries(2 * FRAMES_MAX, 0);

/// Followed packets that trampolines saw first; see [`crate::lives`].
#[map]
pub(crate) static LIVES: Array<Life> = Array::with_max_entries(LIVES_MAX as u32, 0);

/// All others, by address of the `sk_buff`.
#[map]
pub(crate) static FOLLOWED: HashMap<u64, Life> = HashMap::with_max_entries(PACKETS_MAX, 0);

/// Tuples of followed connections. The value is nothing; when it is full, those that were used least go.
#[map]
pub(crate) static CONNECTIONS: LruHashMap<Key, u8> = LruHashMap::with_max_entries(2 * CONNECTIONS_MAX, 0);

/// When each `xt_table_info` was made, by its address.
#[map]
pub(crate) static GENERATIONS: HashMap<u64, u64> = HashMap::with_max_entries(GENERATIONS_MAX, 0);

/// Not zero once a generation could not be noted: then one that is not known may be new too.
#[map]
pub(crate) static GENERATIONS_LOST: Array<u32> = Array::with_max_entries(1, 0);

/// The last commit of nf_tables in each network namespace that had one since the start, by its inode number.
#[map]
pub(crate) static COMMITS: HashMap<u32, Commit> = HashMap::with_max_entries(GENERATIONS_MAX, 0);

/// Network namespaces that a commit has given other rules, by inode number.
#[map]
pub(crate) static COMMITTED: RingBuf = RingBuf::with_byte_size(COMMITTED_BYTES, 0);

/// What the loader's reader of rules got last.
#[map]
pub(crate) static TABLE_READ: Array<TableRead> = Array::with_max_entries(1, 0);

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
