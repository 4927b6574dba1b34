//! Traversals under way: a frame for each, named by the address of its `nf_hook_state`. That lies on the stack of
//! whoever runs the hook and serves one traversal at a time.
//!
//! Trampolines keep frames in [`slots`], where to find that a traversal has none costs a few instructions; it takes
//! an instruction that kernels without trampolines lack (`BPF_CMPXCHG`, 5.12), so kprobes keep theirs [`hashed`].

use core::{cell::UnsafeCell, ptr::read_volatile};

use tracer_common::Traversal;

use crate::{maps::SLOTTED, presence::add};

/// How many frames are open.
#[repr(transparent)]
struct Open(UnsafeCell<u32>);

// SAFETY: the programs read the whole word, and add to it atomically.
unsafe impl Sync for Open {}

static OPEN: Open = Open(UnsafeCell::new(0));

/// Whether any traversal is recorded now. Mostly none is, and then there is nothing to look for.
#[inline(always)]
pub(crate) fn any_open() -> bool {
    // SAFETY: the static's own word.
    unsafe { read_volatile(OPEN.0.get()) != 0 }
}

#[inline(always)]
fn opened() {
    add(OPEN.0.get(), 1);
}

#[inline(always)]
fn closed() {
    add(OPEN.0.get(), u32::MAX);
}

/// The frame of a traversal, wherever this kernel has it.
#[inline(always)]
pub(crate) fn find(state: u64) -> Option<&'static mut Traversal> {
    if !any_open() {
        return None;
    }
    // SAFETY: a static; volatile, because its value is known only when loaded.
    if unsafe { read_volatile(&raw const SLOTTED) } != 0 {
        slots::find(state).and_then(slots::frame)
    } else {
        hashed::find(state)
    }
}

/// Frames in a hash map.
pub(crate) mod hashed {
    use tracer_common::{Counter, Traversal};

    use crate::{
        maps::{FRAMES, count},
        verify,
    };

    static EMPTY: Traversal = Traversal::EMPTY;

    #[inline(always)]
    pub(crate) fn open(state: u64) -> Option<&'static mut Traversal> {
        if find(state).is_some() {
            // An earlier traversal with this state has returned unseen.
            verify::forget(state);
            count(Counter::ExitMissed);
            close(state);
        }
        #[expect(
            clippy::needless_borrows_for_generic_args,
            reason = "by value it would not fit on the stack"
        )]
        if FRAMES.insert(state, &EMPTY, 0).is_err() {
            count(Counter::FramesFull);
            return None;
        }
        super::opened();
        // SAFETY: as in `find`.
        FRAMES.get_ptr_mut(state).map(|frame| unsafe { &mut *frame })
    }

    #[inline(always)]
    pub(crate) fn find(state: u64) -> Option<&'static mut Traversal> {
        if !super::any_open() {
            return None;
        }
        // SAFETY: the map returned a valid, aligned pointer, and this traversal alone uses the entry.
        FRAMES.get_ptr_mut(state).map(|frame| unsafe { &mut *frame })
    }

    #[inline(always)]
    pub(crate) fn close(state: u64) {
        if FRAMES.remove(state).is_ok() {
            super::closed();
        }
    }
}

/// Frames in slots: a traversal may have one of the two of its set.
pub(crate) mod slots {
    use core::{
        cell::UnsafeCell,
        mem::offset_of,
        ptr::{read_volatile, write_volatile},
    };

    use tracer_common::{Counter, FRAMES_MAX, Traversal, kind};

    use crate::{
        maps::{SLOTS, count},
        verify,
    };

    /// Slots of a set.
    const WAYS: u32 = 2;
    /// The sets' number is a power of two, taken from the upper bits of the product.
    const SETS_LOG2: u32 = (FRAMES_MAX / WAYS).ilog2();

    /// `nf_hook_state` of the traversal that has the slot; zero for none.
    #[repr(transparent)]
    struct Owners(UnsafeCell<[u64; FRAMES_MAX as usize]>);

    // SAFETY: the programs read, write and exchange whole words.
    unsafe impl Sync for Owners {}

    /// In a section of its own, and so a map of its own, which the loader looks at when it detaches.
    #[unsafe(link_section = ".bss.owners")]
    static OWNERS: Owners = Owners(UnsafeCell::new([0; FRAMES_MAX as usize]));

    /// First slot of the set that a traversal belongs to (Fibonacci hashing: addresses of stacks differ in few bits).
    #[inline(always)]
    fn set_of(state: u64) -> u32 {
        ((state.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS_LOG2)) as u32) * WAYS
    }

    #[inline(always)]
    fn owner(slot: u32) -> *mut u64 {
        // The mask is for the verifier.
        let slot = (slot & (FRAMES_MAX - 1)) as usize;
        // SAFETY: within the array.
        unsafe { OWNERS.0.get().cast::<u64>().add(slot) }
    }

    /// The slot of a traversal, if it has one.
    #[inline(always)]
    pub(crate) fn find(state: u64) -> Option<u32> {
        let set = set_of(state);
        for way in 0..WAYS {
            // SAFETY: within the array; whole words.
            if unsafe { read_volatile(owner(set + way)) } == state {
                return Some(set + way);
            }
        }
        None
    }

    #[inline(always)]
    pub(crate) fn frame(slot: u32) -> Option<&'static mut Traversal> {
        // SAFETY: the map returned a valid, aligned pointer, and the slot's owner alone uses it.
        SLOTS.get_ptr_mut(slot).map(|frame| unsafe { &mut *frame })
    }

    #[inline(always)]
    pub(crate) fn forget(state: u64) {
        if let Some(slot) = find(state) {
            verify::forget(state);
            count(Counter::ExitMissed);
            close(slot);
        }
    }

    #[inline(always)]
    pub(crate) fn open(state: u64) -> Option<&'static mut Traversal> {
        let set = set_of(state);
        for way in 0..WAYS {
            let slot = set + way;
            // SAFETY: within the array; whole words.
            if unsafe { read_volatile(owner(slot)) } == 0 && claim(slot, state) {
                super::opened();
                let frame = frame(slot)?;
                clear(frame);
                return Some(frame);
            }
        }
        count(Counter::FramesFull);
        None
    }

    #[inline(always)]
    pub(crate) fn close(slot: u32) {
        // SAFETY: within the array; whole words.
        unsafe { write_volatile(owner(slot), 0) };
        super::closed();
    }

    /// Makes the slot this traversal's, unless another one was faster.
    #[inline(always)]
    fn claim(slot: u32, state: u64) -> bool {
        let owner = owner(slot);
        #[cfg(target_arch = "bpf")]
        {
            let before: u64;
            // SAFETY: within the array; compares the word with r0, which is zero, and stores `state` if they are equal.
            unsafe {
                core::arch::asm!(
                    "r0 = 0",
                    "r0 = cmpxchg_64({owner} + 0, r0, {state})",
                    owner = in(reg) owner,
                    state = in(reg) state,
                    out("r0") before,
                );
            }
            before == 0
        }
        // Host builds only check the types.
        #[cfg(not(target_arch = "bpf"))]
        {
            let _ = (owner, state);
            false
        }
    }

    /// All zeros but the kind: the whole part that is always sent, and the headers, so that no byte of another packet
    /// is sent with this one.
    #[inline(always)]
    fn clear(frame: &mut Traversal) {
        const WORDS: usize = offset_of!(Traversal, observed) / 8;
        let words = core::ptr::from_mut(frame).cast::<u64>();
        for word in 0..WORDS {
            // SAFETY: within the frame. Volatile, as the compiler would else call a function that goes byte by byte.
            unsafe { write_volatile(words.add(word), 0) };
        }
        frame.kind = kind::TRAVERSAL;
    }
}
