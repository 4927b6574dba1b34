//! `multiport_mt`, `net/netfilter/xt_multiport.c`.

use super::{Answer, Call, inverted};
use crate::replay::path::Gap;
use crate::replay::view::be16;

/// `XT_MULTI_PORTS`
const PORTS_MAX: usize = 15;

/// `struct xt_multiport_v1`: which ports 0, count 1, ports 2, range flags 32, inversion 47.
pub(super) fn multiport(call: &Call<'_>) -> Answer {
    let Some(header) = call.transport::<4>()? else {
        return Ok(false);
    };
    let (source, destination) = (be16(header, 0), be16(header, 2));
    let data = call.data;
    let which = data.u8(0)?;
    let count = usize::from(data.u8(1)?);
    let invert = data.u8(47)?;
    let port = |at: usize| match at {
        0..PORTS_MAX => data.u16(2 + 2 * at),
        _ => Err(Gap::ShortData),
    };
    let mut at = 0;
    while at < count {
        let first = port(at)?;
        let last = if data.u8(32 + at)? != 0 {
            at += 1;
            port(at)?
        } else {
            first
        };
        at += 1;
        let (source, destination) = (
            (first..=last).contains(&source),
            (first..=last).contains(&destination),
        );
        let hit = match which {
            0 => source,
            1 => destination,
            2 => source || destination,
            _ => false,
        };
        if hit {
            return Ok(inverted(true, invert));
        }
    }
    Ok(invert != 0)
}
