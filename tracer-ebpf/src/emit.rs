//! Everything that is sent to the loader goes through here.

use core::ptr::{read_volatile, write_volatile};

use aya_ebpf::maps::ring_buf::RingBufEntry;
use tracer_common::{Observed, Traversal};

use crate::maps::{RECORDS, WAKE_AT};

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`, `BPF_RB_AVAIL_DATA` and `BPF_RB_RING_SIZE`, `include/uapi/linux/bpf.h`.
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
const AVAILABLE: u64 = 0;
const RING_SIZE: u64 = 1;

/// Sends a record. False where there is no room for it.
#[inline(always)]
pub(crate) fn emit(record: &[u8]) -> bool {
    let wakeup = wakeup(record.len());
    for _ in 0..ATTEMPTS_MAX {
        if RECORDS.output::<[u8]>(record, wakeup).is_ok() {
            return true;
        }
        if is_full(record.len()) {
            return false;
        }
    }
    false
}

/// Room for a record that is filled where it is sent from; to be submitted by [`wakeup`].
#[inline(always)]
pub(crate) fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    for _ in 0..ATTEMPTS_MAX {
        if let Some(entry) = RECORDS.reserve::<T>(0) {
            return Some(entry);
        }
        if is_full(size_of::<T>()) {
            return None;
        }
    }
    None
}

/// A kprobe in the middle of a function runs like an interrupt that cannot be masked, and there the kernel does not wait
/// for the buffer's lock, which another processor may hold (`__bpf_ringbuf_reserve`, `kernel/bpf/ringbuf.c`). It holds it
/// for a moment, a virtual one for as long as its host runs something else; so it is tried again, this often at most.
const ATTEMPTS_MAX: u32 = 16;

/// Whether there is no room for a record of so many bytes.
#[inline(always)]
fn is_full(len: usize) -> bool {
    RECORDS.query(AVAILABLE) + stored_len(len) >= RECORDS.query(RING_SIZE)
}

/// What a record of so many bytes takes in the buffer: the kernel puts a header before it and rounds it up
/// (`kernel/bpf/ringbuf.c`).
#[inline(always)]
fn stored_len(len: usize) -> u64 {
    const HEADER_LEN: u64 = 8;

    (len as u64 + HEADER_LEN).next_multiple_of(HEADER_LEN)
}

/// Sends the record of a traversal. False where there is no room for it.
#[inline(always)]
pub(crate) fn emit_traversal(frame: &Traversal) -> bool {
    const NONE: usize = Traversal::len_with(0) / 8;
    const EACH: usize = size_of::<Observed>() / 8;

    // Most traversals observed little. Their bytes are copied by the program, for which their number must be known
    // beforehand; the kernel's copy goes byte by byte on many machines.
    let sent = match frame.observed_len {
        0 => emit_words::<NONE>(frame),
        1 => emit_words::<{ NONE + EACH }>(frame),
        2 => emit_words::<{ NONE + 2 * EACH }>(frame),
        3 => emit_words::<{ NONE + 3 * EACH }>(frame),
        4 => emit_words::<{ NONE + 4 * EACH }>(frame),
        _ => false,
    };
    sent || emit(frame.bytes())
}

#[inline(always)]
fn emit_words<const N: usize>(frame: &Traversal) -> bool {
    let wakeup = wakeup(8 * N);
    let Some(mut entry) = RECORDS.reserve::<[u64; N]>(0) else {
        return false;
    };
    let (from, to) = (
        (&raw const *frame).cast::<u64>(),
        entry.as_mut_ptr().cast::<u64>(),
    );
    // The compiler leaves a long loop of words a loop, of which each turn costs as much as four words; short ones it
    // writes out.
    let mut start = 0;
    while start + BLOCK <= N {
        for word in 0..BLOCK {
            copy_word(from, to, start + word);
        }
        start += BLOCK;
    }
    for word in 0..N % BLOCK {
        copy_word(from, to, N - N % BLOCK + word);
    }
    entry.submit(wakeup);
    true
}

/// Words that are copied without a loop.
const BLOCK: usize = 16;

#[inline(always)]
fn copy_word(from: *const u64, to: *mut u64, word: usize) {
    // SAFETY: within both. Volatile, as the compiler would else call a function that goes byte by byte.
    unsafe { write_volatile(to.add(word), read_volatile(from.add(word))) };
}

/// How a record of so many bytes is to be sent; asked before there is room for it in the buffer.
///
/// The loader looks into the buffer by itself a few times a second, so it is woken only when much has come: waking it
/// costs more than everything else here. Once for each [`WAKE_AT`] bytes: whoever is awake goes on until the buffer is
/// empty.
#[inline(always)]
pub(crate) fn wakeup(len: usize) -> u64 {
    // SAFETY: a static; volatile, because its value is known only when loaded.
    let wake_at = u64::from(unsafe { read_volatile(&raw const WAKE_AT) });
    let before = RECORDS.query(AVAILABLE);
    let after = before + stored_len(len);
    // Where the multiples of a power of two are passed, the bits from there on change.
    if (before ^ after) & wake_at.wrapping_neg() == 0 {
        NO_WAKEUP
    } else {
        FORCE_WAKEUP
    }
}
