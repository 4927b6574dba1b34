//! `tcp_mt`, `net/netfilter/xt_tcpudp.c`, and `tcpmss_mt`, `net/netfilter/xt_tcpmss.c`.
//!
//! Both walk the TCP options. The newest stable kernels stop at an option that is the last byte (`i == optlen -
//! 1`), where others read its length from beyond the options, a byte of payload or of the stack. Either way the
//! walk ends there, and the byte decides nothing: the answers are the same.

use super::{Answer, Call, Stop, inverted};
use crate::replay::path::Gap;
use crate::replay::view::be16;

/// `XT_TCP_INV_*`, `include/uapi/linux/netfilter/xt_tcpudp.h`.
mod invert {
    pub(super) const SOURCE: u8 = 0x01;
    pub(super) const DESTINATION: u8 = 0x02;
    pub(super) const FLAGS: u8 = 0x04;
    pub(super) const OPTION: u8 = 0x08;
}

const HEADER_LEN: u32 = 20;

/// `struct xt_tcp`: source ports 0, destination ports 4, option 8, flag mask 9, flags 10, inversions 11.
pub(super) fn tcp(call: &Call<'_>) -> Answer {
    if call.parameters.fragment_offset == 1 {
        return Err(Stop::Hotdrop);
    }
    let Some(header) = call.transport::<20>()? else {
        return Ok(false);
    };
    let data = call.data;
    let invert = data.u8(11)?;
    let is = |bit: u8, value: bool| value ^ (invert & bit != 0);
    if !is(invert::SOURCE, data.range_u16_has(0, be16(header, 0))?)
        || !is(invert::DESTINATION, data.range_u16_has(4, be16(header, 2))?)
        || !is(invert::FLAGS, header[13] & data.u8(9)? == data.u8(10)?)
    {
        return Ok(false);
    }
    match data.u8(8)? {
        0 => Ok(true),
        option => {
            let found = options(call, header)?.any(|(kind, _)| kind == option);
            Ok(is(invert::OPTION, found))
        }
    }
}

/// `struct xt_tcpmss_match_info`: least and greatest 0, inversion 4.
///
/// A rule with this match alone reads the payload of later fragments as a header. That is not worth the trust
/// that every kernel does so.
pub(super) fn mss(call: &Call<'_>) -> Answer {
    /// `TCPOPT_MSS`, four bytes long.
    const MSS: u8 = 2;

    if call.parameters.fragment_offset != 0 {
        return Err(Gap::KernelsDiffer.into());
    }
    let Some(header) = call.transport::<20>()? else {
        return Ok(false);
    };
    let value = options(call, header)?.find_map(|(kind, rest)| match rest {
        [4, high, low, ..] if kind == MSS => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    });
    let invert = call.data.u8(4)?;
    match value {
        Some(value) => Ok(inverted(call.data.range_u16_has(0, value)?, invert)),
        None => Ok(invert != 0),
    }
}

/// The options, each with the bytes that follow its kind up to the end of all options. A header that claims to be
/// shorter than itself, or longer than the packet, has the packet dropped.
fn options<'a>(
    call: &Call<'a>,
    header: &[u8; 20],
) -> Result<impl Iterator<Item = (u8, &'a [u8])> + use<'a>, Stop> {
    let len = u32::from(header[12] >> 4) * 4;
    let options_len = len.checked_sub(HEADER_LEN).ok_or(Stop::Hotdrop)?;
    let mut rest = call
        .view
        .bytes(call.parameters.transport + HEADER_LEN, options_len)?
        .ok_or(Stop::Hotdrop)?;
    Ok(std::iter::from_fn(move || {
        let (&kind, after) = rest.split_first()?;
        let step = match after.first() {
            Some(&len) if kind >= 2 => usize::from(len).max(1),
            _ => 1,
        };
        rest = rest.get(step..).unwrap_or_default();
        Some((kind, after))
    }))
}
