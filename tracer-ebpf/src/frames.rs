//! Traversals under way: a frame for each, named by the address of its `nf_hook_state`. That lies on the stack of
//! whoever runs the hook and serves one traversal at a time.
//!
//! Trampolines keep frames in [`slots`], kprobes keep theirs [`hashed`].

use core::{cell::UnsafeCell, ptr::read_volatile};

use tracer_common::Traversal;

use crate::{maps::slotted, presence::add};

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
    if slotted() {
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

/// Frames in slots.
pub(crate) mod slots {
    use core::{mem::offset_of, ptr::write_volatile};

    use tracer_common::{Counter, FRAMES_MAX, Traversal, kind};

    use crate::{
        maps::{SLOTS, count},
        slots::Owners,
        verify,
    };

    /// By `nf_hook_state`. In a section of its own, and so a map of its own, which the loader looks at when it detaches.
    #[unsafe(link_section = ".bss.owners")]
    static OWNERS: Owners<{ FRAMES_MAX as usize }, 2> = Owners::none();

    /// The slot of a traversal, if it has one.
    #[inline(always)]
    pub(crate) fn find(state: u64) -> Option<u32> {
        OWNERS.find(state)
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
        let Some(slot) = OWNERS.open(state) else {
            count(Counter::FramesFull);
            return None;
        };
        super::opened();
        let frame = frame(slot)?;
        clear(frame);
        Some(frame)
    }

    #[inline(always)]
    pub(crate) fn close(slot: u32) {
        OWNERS.close(slot);
        super::closed();
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
