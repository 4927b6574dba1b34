//! Connections that a followed packet belongs to: their other packets, replies above all, are followed too.
//!
//! A connection is known by the tuples that conntrack finds it by, in its network namespace: the original one never
//! changes, the reply's says what comes back after NAT. Not by the address of its `nf_conn`, which the kernel uses
//! again for another connection as soon as this one is gone.
//!
//! Before conntrack has seen a packet (raw) its headers make the tuple, as `nf_ct_get_tuple`
//! (`net/netfilter/nf_conntrack_core.c`) makes it; afterwards its `nf_conn` has it.

use core::{
    cell::UnsafeCell,
    ptr::{read_volatile, write_volatile},
};

use tracer_common::{ABSENT, Counter, TUPLE_LEN, Traversal, flags, protocols};

use crate::{
    asked,
    form::Form,
    ip::{Copied, Loaded, Start, Words},
    kernel::{Gap, Skb, read},
    maps::{CONNECTIONS, count},
    offset,
    traversal::Arguments,
};

/// `IPPROTO_ICMP`
const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`
const ICMPV6: u8 = 58;

/// A tuple in a network namespace.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Key {
    /// `struct nf_conntrack_tuple` without the direction.
    tuple: [u32; TUPLE_LEN / 4],
    netns: u32,
}

impl Key {
    #[inline(always)]
    fn of_conntrack(mut tuple: [u32; TUPLE_LEN / 4], netns: u32) -> Self {
        // `dst.dir` is the last byte.
        tuple[9] &= 0x00ff_ffff;
        Self { tuple, netns }
    }

    /// `None` where the packet has no transport header.
    #[inline(always)]
    fn of_headers(header: u64, family: u8, netns: u32) -> Result<Option<Self>, Gap> {
        if offset!(type_words) == ABSENT {
            let mut words = Words::uninit();
            Self::of_start(&Copied::read(&mut words, header, family)?, netns)
        } else {
            Self::of_start(&Loaded { header, family }, netns)
        }
    }

    #[inline(always)]
    fn of_start(start: &impl Start, netns: u32) -> Result<Option<Self>, Gap> {
        let transport = start.transport()?;
        let Some(at) = transport.header else {
            return Ok(None);
        };
        let (source, destination): (u16, u16) = match transport.protocol {
            protocols::TCP | protocols::UDP | protocols::UDP_LITE | protocols::SCTP | protocols::DCCP => {
                let [source, destination]: [u16; 2] = read(at, 0)?;
                (source, destination)
            }
            ICMP | ICMPV6 => {
                // Type and code, checksum, identifier.
                let [kind, _, id]: [u16; 3] = read(at, 0)?;
                (id, kind)
            }
            _ => (0, 0),
        };
        let (from, to) = (start.source(), start.destination());
        let family = u32::from(start.family());
        let protocol = u32::from(transport.protocol);
        Ok(Some(Self {
            tuple: [
                from[0],
                from[1],
                from[2],
                from[3],
                u32::from(source) | family << 16,
                to[0],
                to[1],
                to[2],
                to[3],
                u32::from(destination) | protocol << 16,
            ],
            netns,
        }))
    }
}

/// Whether connections are to be followed, and the kernel has them.
#[inline(always)]
fn asked_for() -> bool {
    asked!(connections) != 0
        && offset!(skb_nfct) != ABSENT
        && offset!(conntrack_tuplehash) != ABSENT
        && offset!(tuplehash_tuple) != ABSENT
}

/// Not zero once a connection is followed.
#[repr(transparent)]
struct Any(UnsafeCell<u32>);

// SAFETY: the programs read and write the whole word.
unsafe impl Sync for Any {}

static ANY: Any = Any(UnsafeCell::new(0));

/// Whether any connection is followed: until then no packet has to be asked for its own.
#[inline(always)]
pub(crate) fn any() -> bool {
    // SAFETY: the static's own word.
    unsafe { read_volatile(ANY.0.get()) != 0 }
}

/// Whether the packet belongs to a connection that is followed.
#[inline(always)]
pub(crate) fn is_followed<F: Form>(arguments: &Arguments, header: u64, netns: u32) -> Result<bool, Gap> {
    if !any() {
        return Ok(false);
    }
    let conntrack = F::read::<u64>(arguments.skb, offset!(skb_nfct))? & !7;
    let key = if conntrack == 0 {
        Key::of_headers(header, arguments.family, netns)?
    } else {
        let original = offset!(conntrack_tuplehash) + offset!(tuplehash_tuple);
        Some(Key::of_conntrack(read(conntrack, original)?, netns))
    };
    Ok(key.is_some_and(|key| CONNECTIONS.get_ptr(key).is_some()))
}

/// A followed packet has passed a table: its connection is followed from now on. After nat it has the tuple that
/// replies will have.
#[inline(always)]
pub(crate) fn follow(frame: &Traversal) {
    if !asked_for() || frame.flags & flags::TUPLES == 0 {
        return;
    }
    // SAFETY: the same number of bytes, of which every pattern is a value.
    let words = |bytes: [u8; TUPLE_LEN]| unsafe {
        core::mem::transmute::<[u8; TUPLE_LEN], [u32; TUPLE_LEN / 4]>(bytes)
    };
    note(Key::of_conntrack(words(frame.original), frame.netns), true);
    note(Key::of_conntrack(words(frame.reply), frame.netns), false);
}

/// The same for a packet at a table that is not recorded.
#[inline(always)]
pub(crate) fn follow_unrecorded(skb: Skb, netns: u32) -> Result<(), Gap> {
    if !asked_for() {
        return Ok(());
    }
    let conntrack = read::<u64>(skb.0, offset!(skb_nfct))? & !7;
    if conntrack != 0 {
        let original = offset!(conntrack_tuplehash) + offset!(tuplehash_tuple);
        let reply = original + offset!(tuplehash_tuple) + TUPLE_LEN as u32;
        note(Key::of_conntrack(read(conntrack, original)?, netns), true);
        note(Key::of_conntrack(read(conntrack, reply)?, netns), false);
    }
    Ok(())
}

#[inline(always)]
fn note(key: Key, is_original: bool) {
    // SAFETY: the static's own word.
    unsafe { write_volatile(ANY.0.get(), 1) };
    // Looking it up is also what keeps it among those that were used last.
    if CONNECTIONS.get_ptr(key).is_none() && CONNECTIONS.insert(key, 0, 0).is_ok() && is_original {
        count(Counter::ConnectionsFollowed);
    }
}
