//! `sctp_mt`, `net/netfilter/xt_sctp.c`, as far as ports. Chunks lie in the payload: they are to be observed.

use super::{Answer, Call};
use crate::replay::data::Data;
use crate::replay::path::Gap;
use crate::replay::view::be16;

/// `XT_SCTP_*`, `include/uapi/linux/netfilter/xt_sctp.h`.
const SOURCE: u32 = 0x01;
const DESTINATION: u32 = 0x02;
const CHUNKS: u32 = 0x04;

pub(super) fn knows(data: Data<'_>) -> bool {
    data.u32(60).is_ok_and(|asked| asked & CHUNKS == 0)
}

/// `struct xt_sctp_info`: destination ports 0, source ports 4, chunks 8, what is asked 60, inversions 64.
pub(super) fn sctp(call: &Call<'_>) -> Answer {
    let Some(header) = call.transport::<12>()? else {
        return Ok(false);
    };
    let data = call.data;
    let (asked, invert) = (data.u32(60)?, data.u32(64)?);
    let is = |bit: u32, value: bool| asked & bit == 0 || value ^ (invert & bit != 0);
    if !is(SOURCE, data.range_u16_has(4, be16(header, 0))?)
        || !is(DESTINATION, data.range_u16_has(0, be16(header, 2))?)
    {
        return Ok(false);
    }
    if asked & CHUNKS != 0 {
        return Err(Gap::NoReplica.into());
    }
    Ok(true)
}
