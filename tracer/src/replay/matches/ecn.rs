//! `ecn_mt4` and `ecn_mt6`, `net/netfilter/xt_ecn.c`.

use super::{Answer, Call};
use crate::replay::path::Gap;
use crate::traversal::Family;

/// `XT_ECN_OP_*`, `include/uapi/linux/netfilter/xt_ecn.h`.
const IP: u8 = 0x01;
const ECE: u8 = 0x10;
const CWR: u8 = 0x20;

/// `struct xt_ecn_info`: what is asked 0, inversions 1, ECN bits of the IP header 2.
pub(super) fn ecn(call: &Call<'_>) -> Answer {
    let data = call.data;
    let (asked, invert) = (data.u8(0)?, data.u8(1)?);
    if asked & IP != 0 {
        let bits = match call.family {
            Family::Ipv4 => call.view.ipv4()?[1],
            Family::Ipv6 => call.view.ipv6()?[1] >> 4,
        };
        if (bits & 3 == data.u8(2)?) == (invert & IP != 0) {
            return Ok(false);
        }
    }
    if asked & (ECE | CWR) == 0 {
        return Ok(true);
    }
    // As `tcpmss`, this would read the payload of a later fragment.
    if call.parameters.fragment_offset != 0 {
        return Err(Gap::KernelsDiffer.into());
    }
    let Some(tcp) = call.view.array::<20>(call.parameters.transport)? else {
        return Ok(false);
    };
    let has = |operation: u8, flag: u8| {
        asked & operation == 0 || (tcp[13] & flag != 0) != (invert & operation != 0)
    };
    Ok(has(ECE, 0x40) && has(CWR, 0x80))
}
