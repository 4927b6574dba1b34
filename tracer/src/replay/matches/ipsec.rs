//! `esp_mt`, `net/netfilter/xt_esp.c`; `ah_mt`, `net/ipv4/netfilter/ipt_ah.c`; `ah_mt6`,
//! `net/ipv6/netfilter/ip6t_ah.c`.

use super::extension_headers::header;
use super::{Answer, Call};
use crate::replay::ipv6::{AUTH, extension_len};
use crate::replay::view::{be16, be32};

/// `XT_ESP_INV_SPI`, `IPT_AH_INV_SPI`, `IP6T_AH_INV_SPI`
const INVERT_SPI: u8 = 0x01;
/// `IP6T_AH_INV_LEN`
const INVERT_LEN: u8 = 0x02;

/// `struct xt_esp`: SPIs 0, inversions 8.
pub(super) fn esp(call: &Call<'_>) -> Answer {
    match call.transport::<8>()? {
        Some(header) => spi(call, be32(header, 0), call.data.u8(8)?),
        None => Ok(false),
    }
}

/// `struct ipt_ah`, the same.
pub(super) fn ah_ipv4(call: &Call<'_>) -> Answer {
    match call.transport::<12>()? {
        Some(header) => spi(call, be32(header, 4), call.data.u8(8)?),
        None => Ok(false),
    }
}

/// `struct ip6t_ah`: SPIs 0, length 8, whether the reserved bits are to be zero 12, inversions 13.
pub(super) fn ah_ipv6(call: &Call<'_>) -> Answer {
    let Some((_, header)) = header::<12>(call, AUTH)? else {
        return Ok(false);
    };
    let data = call.data;
    let invert = data.u8(13)?;
    let len = data.u32(8)?;
    let len_fits = len == 0 || (len == extension_len(AUTH, header[1])) ^ (invert & INVERT_LEN != 0);
    let reserved_fits = data.u8(12)? == 0 || be16(header, 2) == 0;
    Ok(spi(call, be32(header, 4), invert)? && len_fits && reserved_fits)
}

fn spi(call: &Call<'_>, spi: u32, invert: u8) -> Answer {
    Ok(call.data.range_u32_has(0, spi)? ^ (invert & INVERT_SPI != 0))
}
