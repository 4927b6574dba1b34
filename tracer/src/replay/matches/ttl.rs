//! `ttl_mt` and `hl_mt6`, `net/netfilter/xt_hl.c`.

use super::{Answer, Call};

/// `struct ipt_ttl_info`: comparison 0, value 1.
pub(super) fn ttl(call: &Call<'_>) -> Answer {
    compare(call, call.view.ipv4()?[8])
}

/// `struct ip6t_hl_info`, the same.
pub(super) fn hop_limit(call: &Call<'_>) -> Answer {
    compare(call, call.view.ipv6()?[7])
}

/// `IPT_TTL_EQ` and so on, `include/uapi/linux/netfilter_ipv4/ipt_ttl.h`.
fn compare(call: &Call<'_>, value: u8) -> Answer {
    let asked = call.data.u8(1)?;
    Ok(match call.data.u8(0)? {
        0 => value == asked,
        1 => value != asked,
        2 => value < asked,
        3 => value > asked,
        _ => false,
    })
}
