//! Matches on IPv6 extension headers: `frag_mt6`, `hbh_mt6` (both `hbh` and `dst`), `rt_mt6` and
//! `ipv6header_mt6`, all in `net/ipv6/netfilter/ip6t_*.c`.

use super::{Answer, Call, Stop};
use crate::replay::ipv6::{
    AUTH, DEST, ESP, FRAGMENT, HOP, NONE, NotFound, ROUTING, extension_len, find_extension,
};
use crate::replay::path::Gap;
use crate::replay::view::{be16, be32};

/// An extension header and where it begins. Without it the answer is no; a packet that ends within it, or within
/// one before it, is dropped.
pub(super) fn header<'a, const LEN: usize>(
    call: &Call<'a>,
    kind: u8,
) -> Result<Option<(u32, &'a [u8; LEN])>, Stop> {
    match find_extension(call.view, kind)? {
        Ok(at) => call
            .view
            .array(at)?
            .ok_or(Stop::Hotdrop)
            .map(|header| Some((at, header))),
        Err(NotFound::Absent) => Ok(None),
        Err(NotFound::Malformed) => Err(Stop::Hotdrop),
    }
}

/// `struct ip6t_frag`: identifications 0, length 8, what is asked 12, inversions 13. The length is not asked for.
pub(super) fn fragment(call: &Call<'_>) -> Answer {
    /// `IP6T_FRAG_*`, `include/uapi/linux/netfilter_ipv6/ip6t_frag.h`.
    const RESERVED: u8 = 0x04;
    const FIRST: u8 = 0x08;
    const MORE: u8 = 0x10;
    const LAST: u8 = 0x20;
    const INVERT_ID: u8 = 0x01;

    let Some((_, header)) = header::<8>(call, FRAGMENT)? else {
        return Ok(false);
    };
    let (reserved, offset) = (header[1], be16(header, 2));
    let more = offset & 1 != 0;
    let data = call.data;
    let asked = data.u8(12)?;
    let id = data.range_u32_has(0, be32(header, 4))? ^ (data.u8(13)? & INVERT_ID != 0);
    let refused = asked & RESERVED != 0 && (reserved != 0 || offset & 6 != 0)
        || asked & FIRST != 0 && offset & !7 != 0
        || asked & MORE != 0 && !more
        || asked & LAST != 0 && more;
    Ok(id && !refused)
}

pub(super) fn hop_by_hop(call: &Call<'_>) -> Answer {
    options(call, HOP)
}

pub(super) fn destination(call: &Call<'_>) -> Answer {
    options(call, DEST)
}

/// `struct ip6t_opts`: length 0, what is asked 4, inversions 5, options 6, their number 38.
fn options(call: &Call<'_>, kind: u8) -> Answer {
    /// `IP6T_OPTS_*`, `include/uapi/linux/netfilter_ipv6/ip6t_opts.h`.
    const LEN: u8 = 0x01;
    const OPTIONS: u8 = 0x02;
    const INVERT_LEN: u8 = 0x01;
    /// `IP6T_OPTS_OPTSNR`
    const OPTIONS_MAX: u8 = 16;
    /// A length that stands for any.
    const ANY: u8 = 0xff;

    let Some((at, &[_, len])) = header::<2>(call, kind)? else {
        return Ok(false);
    };
    let len = extension_len(kind, len);
    if call.view.len - at < len {
        // A no to some kernels; newer stable ones drop the packet on the spot.
        return Err(Gap::KernelsDiffer.into());
    }
    let data = call.data;
    let asked = data.u8(4)?;
    let len_fits = asked & LEN == 0 || (data.u32(0)? == len) ^ (data.u8(5)? & INVERT_LEN != 0);
    if asked & OPTIONS == 0 {
        return Ok(len_fits);
    }
    let count = data.u8(38)?;
    if count > OPTIONS_MAX {
        return Err(Gap::ShortData.into());
    }
    let (mut at, mut left) = (at + 2, len - 2);
    for option in 0..count {
        let [asked_kind, asked_len] = data.u16(6 + 2 * usize::from(option))?.to_be_bytes();
        if left < 1 {
            return Ok(false);
        }
        let Some(&[kind]) = call.view.array(at)? else {
            return Ok(false);
        };
        if kind != asked_kind {
            return Ok(false);
        }
        let option_len = if kind == 0 {
            1
        } else {
            if left < 2 {
                return Ok(false);
            }
            let Some(&[len]) = call.view.array(at + 1)? else {
                return Ok(false);
            };
            if asked_len != ANY && asked_len != len {
                return Ok(false);
            }
            u32::from(len) + 2
        };
        // The last option may reach beyond its header.
        let beyond = at > call.view.len.wrapping_sub(option_len) || left < option_len;
        if beyond && option + 1 < count {
            return Ok(false);
        }
        at = at.saturating_add(option_len);
        left = left.saturating_sub(option_len);
    }
    Ok(len_fits)
}

/// `IP6T_RT_*`, `include/uapi/linux/netfilter_ipv6/ip6t_rt.h`.
mod routing_flags {
    pub(super) const TYPE: u8 = 0x01;
    pub(super) const LEN: u8 = 0x04;
    pub(super) const RESERVED: u8 = 0x08;
    pub(super) const ADDRESSES: u8 = 0x30;
    pub(super) const INVERT_TYPE: u8 = 0x01;
    pub(super) const INVERT_SEGMENTS: u8 = 0x02;
    pub(super) const INVERT_LEN: u8 = 0x04;
}

/// `struct ip6t_rt`: type 0, segments left 4, length 12, what is asked 16, inversions 17.
pub(super) fn routing(call: &Call<'_>) -> Answer {
    use routing_flags::{ADDRESSES, INVERT_LEN, INVERT_SEGMENTS, INVERT_TYPE, LEN, RESERVED, TYPE};

    let Some((at, &[_, len, kind, segments_left])) = header::<4>(call, ROUTING)? else {
        return Ok(false);
    };
    let len = extension_len(ROUTING, len);
    if call.view.len - at < len {
        // A no to some kernels; newer stable ones drop the packet on the spot.
        return Err(Gap::KernelsDiffer.into());
    }
    let data = call.data;
    let (asked, invert) = (data.u8(16)?, data.u8(17)?);
    let segments = data.range_u32_has(4, u32::from(segments_left))? ^ (invert & INVERT_SEGMENTS != 0);
    let len_fits = asked & LEN == 0 || (data.u32(12)? == len) ^ (invert & INVERT_LEN != 0);
    let kind_fits = asked & TYPE == 0 || (data.u32(0)? == u32::from(kind)) ^ (invert & INVERT_TYPE != 0);
    if asked & (RESERVED | ADDRESSES) != 0 {
        return Err(Gap::NoReplica.into());
    }
    Ok(segments && len_fits && kind_fits)
}

/// `struct ip6t_ipv6header_info`: headers 0, inversions 1, whether others may be there too 2.
pub(super) fn present(call: &Call<'_>) -> Answer {
    /// `MASK_*`, `include/uapi/linux/netfilter_ipv6/ip6t_ipv6header.h`.
    const PROTOCOL: u8 = 0x01;

    let mut next = call.view.ipv6()?[6];
    let mut at = 40;
    let mut left = i64::from(call.view.len) - 40;
    let mut seen = 0;
    // `nf_ip6_ext_hdr`, which counts ESP.
    while let Some(bit) = present_bit(next) {
        if next == NONE {
            seen |= bit;
            break;
        }
        if left < 2 {
            return Ok(false);
        }
        seen |= bit;
        if next == ESP {
            break;
        }
        let Some(&[following, len]) = call.view.array(at)? else {
            return Err(Stop::Hotdrop);
        };
        let len = extension_len(next, len);
        next = following;
        left -= i64::from(len);
        at += len;
        if at > call.view.len {
            break;
        }
    }
    if next != NONE && next != ESP {
        seen |= PROTOCOL;
    }
    let (asked, invert, soft) = (call.data.u8(0)?, call.data.u8(1)?, call.data.u8(2)?);
    Ok(if soft != 0 {
        (seen ^ asked ^ invert) & asked == 0
    } else {
        (seen == asked) ^ (invert != 0)
    })
}

fn present_bit(header: u8) -> Option<u8> {
    Some(match header {
        HOP => 0x80,
        DEST => 0x40,
        ROUTING => 0x20,
        FRAGMENT => 0x10,
        AUTH => 0x08,
        ESP => 0x04,
        NONE => 0x02,
        _ => return None,
    })
}
