//! Which packets are followed, from the first traversal that satisfied the filter to the end of their life.
//!
//! The address of an `sk_buff` names a packet only while it lives; the kernel uses it again at once. So an
//! entry of [`lives`] is removed when the `sk_buff` is freed. Should an end be missed (a probe does not
//! run while another one runs on the same CPU), two more checks keep the next packet at that address from
//! being taken for this one: hooks come in an order, and a packet that comes round again (loopback, veth)
//! still has its [`ip::fingerprint`].

use aya_ebpf::helpers::bpf_ktime_get_ns;
use tracer_common::{
    Counter, End, HOOK_FORWARD, HOOK_LOCAL_IN, HOOK_LOCAL_OUT, HOOK_POST_ROUTING, HOOK_PRE_ROUTING, kind,
};

use crate::{asked, emit::emit, form::Form, lives, maps::count, presence::Presence, traversal::TableName};

/// Which addresses are those of followed packets, at little cost: most packets are not.
static PRESENT: Presence = Presence::none();

/// An `sk_buff` has 256 bytes or so.
#[inline(always)]
fn key(skb: u64) -> u64 {
    skb >> 8
}

/// Whether the packet at this address can be a followed one.
#[inline(always)]
pub(crate) fn may_know<F: Form>(skb: u64) -> bool {
    PRESENT.has_any() && PRESENT.may_have(key(F::number(skb)))
}

/// Forgets the packet at this address, if there is one, and gives its life.
#[inline(always)]
fn forget(skb: u64) -> Option<Life> {
    let life = lives::end(skb)?;
    PRESENT.remove(key(skb));
    Some(life)
}

/// Where and when a followed packet was last seen.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Life {
    /// When it was first seen; with the address of the `sk_buff` this is the packet's identity.
    pub(crate) born_ns: u64,
    /// [`crate::ip::fingerprint`] at its last traversal.
    pub(crate) fingerprint: u64,
    pub(crate) netns: u32,
    pub(crate) hook: u8,
    pub(crate) rank: u8,
    /// How many of its traversals were to be recorded so far.
    pub(crate) passes: u16,
    /// Not zero where [`crate::guard`] did not admit the packet: none of its traversals is recorded.
    pub(crate) shed: u64,
}

/// Rank of a table at its hook: the order in which the kernel's hook priorities run them
/// (`enum nf_ip_hook_priorities`, `include/uapi/linux/netfilter_ipv4.h`: raw -300, mangle -150, dnat -100,
/// filter 0, security 50, snat 100). An unknown table has none: zero.
#[inline(always)]
pub(crate) fn rank(hook: u8, table: &TableName) -> u8 {
    match &[table[0].to_ne_bytes(), table[1].to_ne_bytes()] {
        [[b'r', b'a', b'w', 0], _] => 1,
        [[b'm', b'a', b'n', b'g'], [b'l', b'e', 0, 0]] => 2,
        [[b'n', b'a', b't', 0], _] if hook == HOOK_PRE_ROUTING || hook == HOOK_LOCAL_OUT => 3,
        [[b'f', b'i', b'l', b't'], [b'e', b'r', 0, 0]] => 4,
        [[b's', b'e', b'c', b'u'], [b'r', b'i', b't', b'y']] => 5,
        [[b'n', b'a', b't', 0], _] => 6,
        _ => 0,
    }
}

/// The life of the packet at this address with what is seen of it `now`, if this can still be the same packet.
#[inline(always)]
pub(crate) fn known(skb: u64, now: &Life) -> Option<Life> {
    let life = lives::find(skb)?;
    let before = *life;
    if !comes_after(&before, now) {
        count(Counter::EndMissed);
        forget(skb);
        return None;
    }
    let now = Life {
        born_ns: before.born_ns,
        passes: before.passes.wrapping_add(now.passes),
        shed: before.shed,
        ..*now
    };
    *life = now;
    Some(now)
}

/// Whether a packet that was last seen at `before` can be seen `now`.
#[inline(always)]
fn comes_after(before: &Life, now: &Life) -> bool {
    let same_packet = before.fingerprint == now.fingerprint
        || crate::ip::is_fragment_of(before.fingerprint, now.fingerprint);
    if before.netns != now.netns {
        return same_packet;
    }
    match (before.hook, now.hook) {
        // Onward within a hook. The same table again is a packet that a queue sent back (NF_REPEAT). Of nf_tables
        // the order is not known here.
        (from, to) if from == to => {
            let ranked = before.rank != 0 && now.rank != 0;
            ranked && before.rank < now.rank || same_packet && (!ranked || before.rank == now.rank)
        }
        (HOOK_PRE_ROUTING, HOOK_LOCAL_IN | HOOK_FORWARD | HOOK_POST_ROUTING)
        | (HOOK_FORWARD | HOOK_LOCAL_OUT, HOOK_POST_ROUTING) => true,
        // Round again: loopback, a tunnel's inner packet, IPVS, a filter table without neighbours.
        (HOOK_POST_ROUTING | HOOK_LOCAL_IN, HOOK_PRE_ROUTING | HOOK_LOCAL_OUT)
        | (HOOK_LOCAL_OUT | HOOK_POST_ROUTING, HOOK_PRE_ROUTING | HOOK_LOCAL_IN | HOOK_FORWARD) => {
            same_packet
        }
        _ => false,
    }
}

/// Starts to follow a packet. False where there is no room.
#[inline(always)]
pub(crate) fn begin<F: Form>(skb: u64, life: &Life) -> bool {
    if lives::begin::<F>(skb, life) {
        PRESENT.add(key(skb));
        return true;
    }
    count(Counter::PacketsFull);
    false
}

/// Starts to leave a packet out, to its end: a packet is followed whole or not at all.
#[inline(always)]
pub(crate) fn shed<F: Form>(skb: u64, life: Life) -> Life {
    count(Counter::PacketsShed);
    let life = Life { shed: 1, ..life };
    begin::<F>(skb, &life);
    life
}

/// The `sk_buff` is free: whatever comes at this address next is another packet.
#[inline(always)]
pub(crate) fn end<F: Form>(skb: u64, how: u32, location: u64) {
    if !may_know::<F>(skb) {
        return;
    }
    let skb = F::number(skb);
    let Some(life) = forget(skb) else {
        return;
    };
    if life.shed != 0 || asked!(ends) == 0 {
        return;
    }
    let end = End {
        kind: kind::END,
        // SAFETY: the helper has no preconditions.
        ended_ns: unsafe { bpf_ktime_get_ns() },
        born_ns: life.born_ns,
        skb,
        location,
        how,
        passes: u32::from(life.passes),
    };
    if !emit(end.bytes()) {
        count(Counter::EndRingFull);
    }
}
