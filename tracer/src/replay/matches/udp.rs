//! `udp_mt`, `net/netfilter/xt_tcpudp.c`, for UDP and UDP-Lite.

use super::{Answer, Call};
use crate::replay::view::be16;

/// `XT_UDP_INV_*`
mod invert {
    pub(super) const SOURCE: u8 = 0x01;
    pub(super) const DESTINATION: u8 = 0x02;
}

/// `struct xt_udp`: source ports 0, destination ports 4, inversions 8.
pub(super) fn udp(call: &Call<'_>) -> Answer {
    let Some(header) = call.transport::<8>()? else {
        return Ok(false);
    };
    let invert = call.data.u8(8)?;
    let source = call.data.range_u16_has(0, be16(header, 0))?;
    let destination = call.data.range_u16_has(4, be16(header, 2))?;
    Ok((source ^ (invert & invert::SOURCE != 0)) && (destination ^ (invert & invert::DESTINATION != 0)))
}
