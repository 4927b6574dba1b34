//! `length_mt` and `length_mt6`, `net/netfilter/xt_length.c`.
//!
//! Up to 5.15 they read the length from the IP header, cut to sixteen bits. Later kernels know packets longer
//! than that (BIG TCP): IPv4 then takes `skb->len` where the header says zero and the packet is GSO
//! (`skb_ip_totlen`), IPv6 always takes `skb->len`. Where these would answer differently the answer is unknown.

use super::{Answer, Call, inverted};
use crate::replay::path::Gap;
use crate::replay::view::be16;

/// `struct xt_length_info`: least and greatest 0, inversion 4.
pub(super) fn ipv4(call: &Call<'_>) -> Answer {
    let packet_len = call.view.packet_len()?;
    match be16(call.view.ipv4()?, 2) {
        0 => agreed(call, 0, packet_len),
        len => has(call, u32::from(len)),
    }
}

/// The same struct.
pub(super) fn ipv6(call: &Call<'_>) -> Answer {
    let payload_len = be16(call.view.ipv6()?, 4);
    agreed(
        call,
        u32::from(payload_len.wrapping_add(40)),
        call.view.packet_len()?,
    )
}

fn agreed(call: &Call<'_>, old: u32, new: u32) -> Answer {
    let (old, new) = (has(call, old)?, has(call, new)?);
    if old == new {
        Ok(old)
    } else {
        Err(Gap::KernelsDiffer.into())
    }
}

fn has(call: &Call<'_>, len: u32) -> Answer {
    let data = call.data;
    let range = u32::from(data.u16(0)?)..=u32::from(data.u16(2)?);
    Ok(inverted(range.contains(&len), data.u8(4)?))
}
