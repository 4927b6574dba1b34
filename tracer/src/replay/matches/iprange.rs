//! `iprange_mt4` and `iprange_mt6`, `net/netfilter/xt_iprange.c`.

use super::{Answer, Call};
use crate::traversal::Family;

/// `IPRANGE_*`, `include/uapi/linux/netfilter/xt_iprange.h`.
const SOURCE: u8 = 0x01;
const DESTINATION: u8 = 0x02;
const SOURCE_INVERTED: u8 = 0x10;
const DESTINATION_INVERTED: u8 = 0x20;

/// `struct xt_iprange_mtinfo`: first and last source 0 and 16, first and last destination 32 and 48, flags 64.
pub(super) fn iprange(call: &Call<'_>) -> Answer {
    let flags = call.data.u8(64)?;
    let (source, destination, len) = match call.family {
        Family::Ipv4 => {
            let ip = call.view.ipv4()?;
            (&ip[12..16], &ip[16..20], 4)
        }
        Family::Ipv6 => {
            let ip = call.view.ipv6()?;
            (&ip[8..24], &ip[24..40], 16)
        }
    };
    let within = |address: &[u8], at: usize| -> Answer {
        let first = &call.data.bytes::<16>(at)?[..len];
        let last = &call.data.bytes::<16>(at + 16)?[..len];
        Ok((first..=last).contains(&address))
    };
    // Bytes in network order compare as the numbers do.
    Ok(
        (flags & SOURCE == 0 || within(source, 0)? != (flags & SOURCE_INVERTED != 0))
            && (flags & DESTINATION == 0 || within(destination, 32)? != (flags & DESTINATION_INVERTED != 0)),
    )
}
