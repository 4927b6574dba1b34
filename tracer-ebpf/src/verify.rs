//! The second source of steps (`--verify`): the place in `ipt_do_table` and `ip6t_do_table` where they ask whether
//! they have to log. It is passed exactly once for each rule whose matches all held, whatever the answer is.

use tracer_common::{
    CODE_CHUNK_LEN, CodeChunk, FRAMES_MAX, NO_RULE, Sites, Traversal, WITNESSED_MAX, Witness,
};

use aya_ebpf::{
    helpers::generated::bpf_probe_read_kernel,
    macros::map,
    maps::{Array, HashMap},
};

use crate::{emit::emit, frames, kernel::read, offset};

/// Set by the loader. Without it the verifier removes everything here from the programs.
#[unsafe(no_mangle)]
static SITES: Sites = Sites::NONE;

/// Reads a field of [`SITES`].
macro_rules! site {
    ($($field:tt)+) => {
        // SAFETY: a field of a static; volatile, because its value is known only when loaded.
        unsafe { core::ptr::read_volatile(&raw const SITES.$($field)+) }
    };
}

/// Witnesses of the traversals under way, by address of the `sk_buff`: a packet is in one traversal at a time, and
/// those that a target sends meanwhile (TEE, REJECT) are others. The loader makes it small when nothing is witnessed.
#[map]
static WITNESSES: HashMap<u64, Witness> = HashMap::with_max_entries(FRAMES_MAX, 0);

/// A piece of the kernel's code on its way to the loader.
#[map]
static CODE: Array<CodeChunk> = Array::with_max_entries(1, 0);

static EMPTY: Witness = Witness::EMPTY;

/// A frame was opened and filled.
#[inline(always)]
pub(crate) fn begin(frame: &Traversal) {
    if site!(witnessing) == 0 {
        return;
    }
    #[expect(
        clippy::needless_borrows_for_generic_args,
        reason = "by value it would not fit on the stack"
    )]
    if WITNESSES.insert(frame.skb, &EMPTY, 0).is_err() {
        // The loader misses it, and says so.
        return;
    }
    if let Some(witness) = WITNESSES.get_ptr_mut(frame.skb) {
        // SAFETY: the map returned a valid, aligned pointer, and this traversal alone uses the entry.
        let witness = unsafe { &mut *witness };
        witness.skb = frame.skb;
        witness.entered_ns = frame.entered_ns;
        witness.entries = frame.generation.table_info + u64::from(offset!(table_info_entries));
    }
}

/// A rule's matches have all held. `registers` is the address of the `pt_regs`.
#[inline(always)]
pub(crate) fn step(registers: u64, is_ipv6: bool) {
    let at = if is_ipv6 { site!(ipv6) } else { site!(ipv4) };
    let (Ok(skb), Ok(entry)) = (read::<u64>(registers, at.skb), read::<u64>(registers, at.entry)) else {
        return;
    };
    let Some(witness) = WITNESSES.get_ptr_mut(skb) else {
        return;
    };
    // SAFETY: the map returned a valid, aligned pointer, and this traversal alone uses the entry.
    let witness = unsafe { &mut *witness };
    let index = witness.steps_len as usize;
    if index >= WITNESSED_MAX {
        witness.cut = 1;
        return;
    }
    let offset = entry.wrapping_sub(witness.entries);
    witness.steps[index] = if offset < u64::from(NO_RULE) {
        offset as u32
    } else {
        NO_RULE
    };
    witness.steps_len = index as u32 + 1;
}

/// The traversal of a frame ends: sends what its witness saw, before its own record.
#[inline(always)]
pub(crate) fn end(frame: &Traversal) {
    if site!(witnessing) == 0 {
        return;
    }
    if let Some(witness) = of(frame) {
        // Where there is no room the loader misses it, and says so.
        emit(witness.bytes());
        let _ = WITNESSES.remove(frame.skb);
    }
}

/// The traversal with this `nf_hook_state` has ended unseen, and its frame is about to go.
#[inline(always)]
pub(crate) fn forget(state: u64) {
    if site!(witnessing) == 0 {
        return;
    }
    let Some(frame) = frames::find(state) else {
        return;
    };
    if of(frame).is_some() {
        let _ = WITNESSES.remove(frame.skb);
    }
}

/// The witness of a frame. There is none where the packet is gone, and another one has its address and a traversal of
/// its own.
#[inline(always)]
fn of(frame: &Traversal) -> Option<&Witness> {
    let witness = WITNESSES.get_ptr(frame.skb)?;
    // SAFETY: the map returned a valid, aligned pointer.
    let witness = unsafe { &*witness };
    (witness.entered_ns == frame.entered_ns).then_some(witness)
}

/// Copies `len` bytes of the kernel's code at `address`.
#[inline(always)]
pub(crate) fn copy_code(address: u64, len: u64) {
    let Some(chunk) = CODE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: the map returned a valid, aligned pointer; the loader runs this once at a time.
    let chunk = unsafe { &mut *chunk };
    let len = len.min(CODE_CHUNK_LEN as u64) as u32;
    // SAFETY: `len` is at most the size of the chunk, and the helper checks the address.
    let failed = unsafe { bpf_probe_read_kernel(chunk.bytes.as_mut_ptr().cast(), len, address as *const _) };
    chunk.len = if failed == 0 { u64::from(len) } else { 0 };
}
