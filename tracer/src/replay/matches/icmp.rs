//! `icmp_match` and `icmp6_match`: in `ip_tables.c` and `ip6_tables.c` up to 6.1, in
//! `net/netfilter/xt_tcpudp.c` since, and the same in both places.

use super::{Answer, Call};

/// `IPT_ICMP_INV` and `IP6T_ICMP_INV`
const INVERT: u8 = 0x01;
/// The type that stands for any, with ICMP but not with ICMPv6.
const ANY: u8 = 0xff;

/// `struct ipt_icmp`: type 0, codes 1 and 2, inversions 3.
pub(super) fn icmp(call: &Call<'_>) -> Answer {
    let Some(&[kind, code, ..]) = call.transport::<8>()? else {
        return Ok(false);
    };
    let any = call.data.u8(0)? == ANY;
    Ok((any || in_range(call, kind, code)?) ^ (call.data.u8(3)? & INVERT != 0))
}

/// `struct ip6t_icmp`, the same.
pub(super) fn icmp6(call: &Call<'_>) -> Answer {
    let Some(&[kind, code, ..]) = call.transport::<8>()? else {
        return Ok(false);
    };
    Ok(in_range(call, kind, code)? ^ (call.data.u8(3)? & INVERT != 0))
}

fn in_range(call: &Call<'_>, kind: u8, code: u8) -> Answer {
    let data = call.data;
    Ok(kind == data.u8(0)? && (data.u8(1)?..=data.u8(2)?).contains(&code))
}
