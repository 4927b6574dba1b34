//! Tells at the cost of a few instructions that something is not in a map, which is what most packets are.

use core::{cell::UnsafeCell, ptr::read_volatile};

/// Counts of what hashes to the same place, and after them the count of all.
#[repr(transparent)]
pub(crate) struct Presence(UnsafeCell<[u32; PLACES as usize + 1]>);

const PLACES: u64 = 4096;

// SAFETY: the programs read whole words, and add to them atomically.
unsafe impl Sync for Presence {}

impl Presence {
    pub(crate) const fn none() -> Self {
        Self(UnsafeCell::new([0; PLACES as usize + 1]))
    }

    #[inline(always)]
    fn place(&self, key: u64) -> *mut u32 {
        // SAFETY: within the array.
        unsafe { self.0.get().cast::<u32>().add((key & (PLACES - 1)) as usize) }
    }

    #[inline(always)]
    fn all(&self) -> *mut u32 {
        // SAFETY: within the array.
        unsafe { self.0.get().cast::<u32>().add(PLACES as usize) }
    }

    /// Whether anything is there: asked first, for it takes no key.
    #[inline(always)]
    pub(crate) fn has_any(&self) -> bool {
        // SAFETY: within the array; whole words.
        unsafe { read_volatile(self.all()) != 0 }
    }

    /// Whether it can be there. `key` differs between things in its low bits.
    #[inline(always)]
    pub(crate) fn may_have(&self, key: u64) -> bool {
        // SAFETY: within the array; whole words.
        unsafe { read_volatile(self.place(key)) != 0 }
    }

    /// It is there now.
    #[inline(always)]
    pub(crate) fn add(&self, key: u64) {
        add(self.all(), 1);
        add(self.place(key), 1);
    }

    /// It is there no more.
    #[inline(always)]
    pub(crate) fn remove(&self, key: u64) {
        add(self.place(key), u32::MAX);
        add(self.all(), u32::MAX);
    }
}

/// Adds to a word that several processors may change at once.
#[inline(always)]
pub(crate) fn add(place: *mut u32, what: u32) {
    // SAFETY: the instruction (`BPF_ATOMIC | BPF_ADD`, every kernel has it) touches this word alone.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!(
            "lock *(u32 *)({place} + 0) += {what}",
            place = in(reg) place,
            what = in(reg) u64::from(what),
        );
    }
    // Host builds only check the types.
    #[cfg(not(target_arch = "bpf"))]
    let _ = (place, what);
}
