//! The lives of followed packets, by address of the `sk_buff`.
//!
//! Trampolines keep them in slots: a packet is looked for at each of its traversals and at its end. What finds no slot,
//! and what kprobes see, is hashed.

use core::{cell::UnsafeCell, ptr::read_volatile};

use crate::{
    follow::Life,
    form::Form,
    maps::{FOLLOWED, LIVES, slotted},
    presence::add,
    slots::Owners,
};

/// Slots: more than there are packets on their way at once, mostly; those that wait in queues are hashed then.
pub(crate) const LIVES_MAX: usize = 4096;

static OWNERS: Owners<LIVES_MAX, 4> = Owners::none();

/// How many are hashed.
#[repr(transparent)]
struct Hashed(UnsafeCell<u32>);

// SAFETY: the programs read the whole word, and add to it atomically.
unsafe impl Sync for Hashed {}

static HASHED: Hashed = Hashed(UnsafeCell::new(0));

/// Where a packet's life is kept.
enum Place {
    Slot(u32),
    Hashed,
}

#[inline(always)]
fn place(skb: u64) -> Option<Place> {
    if slotted()
        && let Some(slot) = OWNERS.find(skb)
    {
        return Some(Place::Slot(slot));
    }
    // SAFETY: the static's own word.
    (unsafe { read_volatile(HASHED.0.get()) } != 0).then_some(Place::Hashed)
}

#[inline(always)]
fn life(skb: u64, place: &Place) -> Option<&'static mut Life> {
    let life = match place {
        Place::Slot(slot) => LIVES.get_ptr_mut(*slot),
        Place::Hashed => FOLLOWED.get_ptr_mut(skb),
    };
    // SAFETY: the map returned a valid, aligned pointer; the entry is preallocated and stays mapped, and nobody else
    // uses the life of a packet that this CPU is working on.
    life.map(|life| unsafe { &mut *life })
}

/// The life of the packet at this address.
#[inline(always)]
pub(crate) fn find(skb: u64) -> Option<&'static mut Life> {
    life(skb, &place(skb)?)
}

/// Notes the life of a packet that has none yet. False where there is no room.
#[inline(always)]
pub(crate) fn begin<F: Form>(skb: u64, new: &Life) -> bool {
    if F::ON_TRAMPOLINE
        && let Some(slot) = OWNERS.open(skb)
        && let Some(life) = life(skb, &Place::Slot(slot))
    {
        *life = *new;
        return true;
    }
    let noted = FOLLOWED.insert(skb, new, 0).is_ok();
    if noted {
        add(HASHED.0.get(), 1);
    }
    noted
}

/// Ends the life of the packet at this address, and gives it.
#[inline(always)]
pub(crate) fn end(skb: u64) -> Option<Life> {
    let place = place(skb)?;
    let ended = *life(skb, &place)?;
    match place {
        Place::Slot(slot) => OWNERS.close(slot),
        Place::Hashed => {
            FOLLOWED.remove(skb).ok()?;
            add(HASHED.0.get(), u32::MAX);
        }
    }
    Some(ended)
}
