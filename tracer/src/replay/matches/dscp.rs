//! `dscp_mt`, `dscp_mt6` and `tos_mt`, `net/netfilter/xt_dscp.c`.

use super::{Answer, Call};
use crate::replay::path::Gap;
use crate::replay::view::{View, be16};
use crate::traversal::Family;

/// `struct xt_dscp_info`: value 0, inversion 1.
pub(super) fn dscp(call: &Call<'_>) -> Answer {
    let field = ds_field(call.family, call.view)?;
    Ok((field >> 2 == call.data.u8(0)?) ^ (call.data.u8(1)? != 0))
}

/// `struct xt_tos_match_info`: mask 0, value 1, inversion 2.
pub(super) fn tos(call: &Call<'_>) -> Answer {
    let field = ds_field(call.family, call.view)?;
    Ok((field & call.data.u8(0)? == call.data.u8(1)?) ^ (call.data.u8(2)? != 0))
}

/// `ipv4_get_dsfield` and `ipv6_get_dsfield`, `include/net/dsfield.h`.
fn ds_field(family: Family, view: &View) -> Result<u8, Gap> {
    match family {
        Family::Ipv4 => view.ipv4().map(|ip| ip[1]),
        Family::Ipv6 => view
            .ipv6()
            .map(|ip| be16(ip, 0).to_be_bytes())
            .map(|[high, low]| high << 4 | low >> 4),
    }
}
