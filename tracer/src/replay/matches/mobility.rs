//! `mh_mt6`, `net/ipv6/netfilter/ip6t_mh.c`.

use super::{Answer, Call, Stop};
use crate::replay::ipv6::NONE;

/// `IP6T_MH_INV_TYPE`
const INVERT_TYPE: u8 = 0x01;

/// `struct ip6t_mh`: types 0 and 1, inversions 2. A mobility header that is followed by another header has the
/// packet dropped.
pub(super) fn mobility(call: &Call<'_>) -> Answer {
    let Some(&[following, _, kind, ..]) = call.transport::<6>()? else {
        return Ok(false);
    };
    if following != NONE {
        return Err(Stop::Hotdrop);
    }
    let data = call.data;
    Ok((data.u8(0)?..=data.u8(1)?).contains(&kind) ^ (data.u8(2)? & INVERT_TYPE != 0))
}
