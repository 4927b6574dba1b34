//! Slots of a map, given out without a hash: to find the one of a thing, or that it has none, costs a few instructions.
//! To give one out takes an instruction that kernels without trampolines lack (`BPF_CMPXCHG`, 5.12).

use core::{
    cell::UnsafeCell,
    ptr::{read_volatile, write_volatile},
};

/// Who has which slot, by an address, zero for nobody. A thing may have one of the `WAYS` of its set. Both numbers are
/// powers of two.
#[repr(transparent)]
pub(crate) struct Owners<const SLOTS: usize, const WAYS: u32>(UnsafeCell<[u64; SLOTS]>);

// SAFETY: the programs read, write and exchange whole words.
unsafe impl<const SLOTS: usize, const WAYS: u32> Sync for Owners<SLOTS, WAYS> {}

impl<const SLOTS: usize, const WAYS: u32> Owners<SLOTS, WAYS> {
    /// The number of sets, which is taken from the upper bits of the product.
    const SETS_LOG2: u32 = (SLOTS as u32 / WAYS).ilog2();

    pub(crate) const fn none() -> Self {
        Self(UnsafeCell::new([0; SLOTS]))
    }

    /// First slot of the set that an address belongs to (Fibonacci hashing: addresses differ in few bits).
    #[inline(always)]
    fn set_of(address: u64) -> u32 {
        ((address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - Self::SETS_LOG2)) as u32) * WAYS
    }

    #[inline(always)]
    fn owner(&self, slot: u32) -> *mut u64 {
        // The mask is for the verifier.
        let slot = slot as usize & (SLOTS - 1);
        // SAFETY: within the array.
        unsafe { self.0.get().cast::<u64>().add(slot) }
    }

    /// The slot of an address, if it has one.
    #[inline(always)]
    pub(crate) fn find(&self, address: u64) -> Option<u32> {
        let set = Self::set_of(address);
        for way in 0..WAYS {
            // SAFETY: within the array; whole words.
            if unsafe { read_volatile(self.owner(set + way)) } == address {
                return Some(set + way);
            }
        }
        None
    }

    /// A slot for an address that has none; `None` where its set is full.
    #[inline(always)]
    pub(crate) fn open(&self, address: u64) -> Option<u32> {
        let set = Self::set_of(address);
        for way in 0..WAYS {
            let slot = set + way;
            // SAFETY: within the array; whole words.
            if unsafe { read_volatile(self.owner(slot)) } == 0 && self.claim(slot, address) {
                return Some(slot);
            }
        }
        None
    }

    /// Takes the slot away from whoever has it.
    #[inline(always)]
    pub(crate) fn close(&self, slot: u32) {
        // SAFETY: within the array; whole words.
        unsafe { write_volatile(self.owner(slot), 0) };
    }

    /// Gives an empty slot to an address, unless another one was faster.
    #[inline(always)]
    fn claim(&self, slot: u32, address: u64) -> bool {
        let owner = self.owner(slot);
        #[cfg(target_arch = "bpf")]
        {
            let before: u64;
            // SAFETY: within the array; compares the word with r0, which is zero, and stores `address` if they are
            // equal.
            unsafe {
                core::arch::asm!(
                    "r0 = 0",
                    "r0 = cmpxchg_64({owner} + 0, r0, {address})",
                    owner = in(reg) owner,
                    address = in(reg) address,
                    out("r0") before,
                );
            }
            before == 0
        }
        // Host builds only check the types.
        #[cfg(not(target_arch = "bpf"))]
        {
            let _ = (owner, address);
            false
        }
    }
}
