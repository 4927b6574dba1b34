//! The two forms of a probe on a function, and what hangs on it: how memory is read, and how a return finds its
//! entry.
//!
//! | | trampoline (fentry, fexit) | kprobe, kretprobe |
//! |---|---|---|
//! | reads | loads, where the verifier knows the type | `bpf_probe_read_kernel` |
//! | at return | has the arguments again | has nothing: the entry notes the call |
//!
//! A trampoline costs a third of a kprobe pair. Which form is taken is decided by trying when tracer attaches.

use core::{
    cell::UnsafeCell,
    ptr::{read_volatile, write_volatile},
};

use crate::{
    call::{self, Call, Invocation},
    frames,
    kernel::{self, Gap},
};
use tracer_common::Traversal;

pub(crate) trait Form: Copy {
    /// Whether it is a trampoline.
    const ON_TRAMPOLINE: bool;

    /// Reads a `T` at `address + offset`. The address is an argument of the function, or was read through one by this
    /// very method and is a pointer in the kernel's types; anything else is read by [`kernel::read`].
    fn read<T: Copy>(address: u64, offset: u32) -> Result<T, Gap>;

    /// The address as a number, to be computed and compared with.
    fn number(address: u64) -> u64;

    /// A traversal was entered: one that was under way with this name, which is an argument still, has returned unseen.
    fn forget(self, frame: u64);

    /// Opens an empty frame for the traversal that was entered.
    fn open(self, state: u64) -> Option<&'static mut Traversal>;
}

/// A pointer whose type the verifier knows, as a number.
///
/// The verifier lets a program subtract pointers, and nothing else. So the pointer becomes its distance from a fixed
/// place; and the place becomes a number by being stored and loaded again. Every run on every CPU stores the same.
#[inline(always)]
pub(crate) fn number(address: u64) -> u64 {
    #[repr(transparent)]
    struct Place(UnsafeCell<u64>);
    // SAFETY: every write is of the same word.
    unsafe impl Sync for Place {}
    static PLACE: Place = Place(UnsafeCell::new(0));

    let place = PLACE.0.get();
    let start = place.expose_provenance() as u64;
    // SAFETY: the static's own memory, a whole word.
    let start_number = unsafe {
        write_volatile(place, start);
        read_volatile(place)
    };
    distance(address, start).wrapping_add(start_number)
}

/// `address - start`, in that order whatever is done with it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn distance(address: u64, start: u64) -> u64 {
    let mut distance = address;
    // SAFETY: arithmetic on registers.
    unsafe {
        core::arch::asm!("{distance} -= {start}", distance = inout(reg) distance, start = in(reg) start);
    }
    distance
}

/// Host builds only check the types.
#[cfg(not(target_arch = "bpf"))]
fn distance(address: u64, start: u64) -> u64 {
    address.wrapping_sub(start)
}

/// A trampoline.
#[derive(Clone, Copy)]
pub(crate) struct Trampoline;

impl Form for Trampoline {
    const ON_TRAMPOLINE: bool = true;

    /// The load itself cannot fail: the kernel makes one of a bad address read zero (`BPF_PROBE_MEM`).
    #[inline(always)]
    fn read<T: Copy>(address: u64, offset: u32) -> Result<T, Gap> {
        let address = core::ptr::with_exposed_provenance::<T>((address + u64::from(offset)) as usize);
        // SAFETY: the verifier knows the pointer's type, and refuses the program unless the load is in its bounds.
        Ok(unsafe { read_volatile(address) })
    }

    #[inline(always)]
    fn number(address: u64) -> u64 {
        number(address)
    }

    #[inline(always)]
    fn forget(self, frame: u64) {
        if frames::any_open() {
            frames::slots::forget(number(frame));
        }
    }

    #[inline(always)]
    fn open(self, state: u64) -> Option<&'static mut Traversal> {
        frames::slots::open(state)
    }
}

/// A kprobe, and the call that it saw.
#[derive(Clone, Copy)]
pub(crate) struct Kprobe(pub(crate) Invocation);

impl Form for Kprobe {
    const ON_TRAMPOLINE: bool = false;

    #[inline(always)]
    fn read<T: Copy>(address: u64, offset: u32) -> Result<T, Gap> {
        kernel::read(address, offset)
    }

    #[inline(always)]
    fn number(address: u64) -> u64 {
        address
    }

    #[inline(always)]
    fn forget(self, _: u64) {
        call::forget(self.0);
    }

    #[inline(always)]
    fn open(self, state: u64) -> Option<&'static mut Traversal> {
        let frame = frames::hashed::open(state)?;
        if call::begin(self.0, &Call { state, param: 0 }) {
            return Some(frame);
        }
        frames::hashed::close(state);
        crate::maps::count(tracer_common::Counter::FramesFull);
        None
    }
}
