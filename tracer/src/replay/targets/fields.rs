//! Targets that change a field of the IP header: `ttl_tg` and `hl_tg6`, `net/netfilter/xt_HL.c`; `dscp_tg`,
//! `dscp_tg6`, `tos_tg` and `tos_tg6`, `net/netfilter/xt_DSCP.c`.

use super::Use;
use crate::replay::data::Data;
use crate::replay::path::Gap;
use crate::replay::view::{View, be16};
use crate::traversal::Family;

/// `struct ipt_TTL_info`: mode 0, value 1.
pub(super) fn ttl(target: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    let old = view.ipv4()?[8];
    let new = hops(target.data, old)?;
    if new != old {
        let ip = view.ipv4_mut()?;
        let sum = be16(ip, 10);
        let changed = replaced(sum, u16::from(old) << 8, u16::from(new) << 8);
        [ip[10], ip[11]] = changed.to_be_bytes();
        ip[8] = new;
    }
    Ok(())
}

/// `struct ip6t_HL_info`, the same.
pub(super) fn hop_limit(target: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    let old = view.ipv6()?[7];
    let new = hops(target.data, old)?;
    if new != old {
        view.ipv6_mut()?[7] = new;
    }
    Ok(())
}

/// `IPT_TTL_SET`, `_INC` and `_DEC`, `include/uapi/linux/netfilter_ipv4/ipt_TTL.h`.
fn hops(data: Data<'_>, old: u8) -> Result<u8, Gap> {
    let value = data.u8(1)?;
    Ok(match data.u8(0)? {
        0 => value,
        1 => old.saturating_add(value),
        2 => old.saturating_sub(value),
        _ => old,
    })
}

/// `csum_replace2`, `include/net/checksum.h`: the sum after a word under it has changed.
fn replaced(sum: u16, old: u16, new: u16) -> u16 {
    /// `csum16_add`
    fn add(a: u16, b: u16) -> u16 {
        let (sum, carry) = a.overflowing_add(b);
        sum + u16::from(carry)
    }
    !add(add(!sum, !old), new)
}

/// `struct xt_DSCP_info`: value 0. The two bits beside it, ECN, stay.
pub(super) fn dscp(target: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    let value = target.data.u8(0)?;
    let old = ds_field(target.family, view)?;
    if old >> 2 == value {
        return Ok(());
    }
    // A value beyond six bits is refused when the rule is added.
    set_ds_field(target.family, view, old & 3 | value << 2)
}

/// `struct xt_tos_target_info`: value 0, mask 1.
pub(super) fn tos(target: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    let old = ds_field(target.family, view)?;
    let new = old & !target.data.u8(1)? ^ target.data.u8(0)?;
    if new == old {
        return Ok(());
    }
    set_ds_field(target.family, view, new)
}

fn ds_field(family: Family, view: &View) -> Result<u8, Gap> {
    match family {
        Family::Ipv4 => view.ipv4().map(|ip| ip[1]),
        Family::Ipv6 => view.ipv6().map(|ip| ip[0] << 4 | ip[1] >> 4),
    }
}

/// `ipv4_change_dsfield` and `ipv6_change_dsfield`, `include/net/dsfield.h`.
fn set_ds_field(family: Family, view: &mut View, new: u8) -> Result<(), Gap> {
    match family {
        Family::Ipv4 => {
            let ip = view.ipv4_mut()?;
            // Not `csum_replace2`: the two differ in which zero they write.
            let mut sum = u32::from(be16(ip, 10)) + u32::from(ip[1]);
            if (sum + 1) >> 16 != 0 {
                sum = (sum + 1) & 0xffff;
            }
            sum = sum.wrapping_sub(u32::from(new));
            sum = sum.wrapping_add(sum >> 16);
            let [.., high, low] = sum.to_be_bytes();
            [ip[10], ip[11]] = [high, low];
            ip[1] = new;
        }
        Family::Ipv6 => {
            let ip = view.ipv6_mut()?;
            ip[0] = ip[0] & 0xf0 | new >> 4;
            ip[1] = ip[1] & 0x0f | new << 4;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_word_leaves_a_valid_checksum() {
        // A header whose TTL goes from 64 to 63, with the sums that a full computation gives.
        assert_eq!(replaced(0xb1e6, 0x4000, 0x3f00), 0xb2e6);
        assert_eq!(replaced(0xb2e6, 0x3f00, 0x4000), 0xb1e6);
    }
}
