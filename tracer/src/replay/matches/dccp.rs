//! `dccp_mt`, `net/netfilter/xt_dccp.c`, as far as ports and types. Options are to be observed.

use super::{Answer, Call};
use crate::replay::data::Data;
use crate::replay::path::Gap;
use crate::replay::view::be16;

/// `XT_DCCP_*`, `include/uapi/linux/netfilter/xt_dccp.h`.
const SOURCE: u16 = 0x01;
const DESTINATION: u16 = 0x02;
const TYPE: u16 = 0x04;
const OPTION: u16 = 0x08;

pub(super) fn knows(data: Data<'_>) -> bool {
    data.u16(8).is_ok_and(|asked| asked & OPTION == 0)
}

/// `struct xt_dccp_info`: destination ports 0, source ports 4, what is asked 8, inversions 10, types 12, option 14.
pub(super) fn dccp(call: &Call<'_>) -> Answer {
    let Some(header) = call.transport::<12>()? else {
        return Ok(false);
    };
    let data = call.data;
    let (asked, invert) = (data.u16(8)?, data.u16(10)?);
    let is = |bit: u16, value: bool| asked & bit == 0 || value ^ (invert & bit != 0);
    let kind = header[8] >> 1 & 0xf;
    if !is(SOURCE, data.range_u16_has(4, be16(header, 0))?)
        || !is(DESTINATION, data.range_u16_has(0, be16(header, 2))?)
        || !is(TYPE, data.u16(12)? & 1 << kind != 0)
    {
        return Ok(false);
    }
    if asked & OPTION != 0 {
        return Err(Gap::NoReplica.into());
    }
    Ok(true)
}
