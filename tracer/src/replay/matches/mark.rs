//! `mark_mt`, `net/netfilter/xt_mark.c`.

use super::{Answer, Call, inverted};

/// `struct xt_mark_mtinfo1`: mark 0, mask 4, inversion 8. The mark is the packet's at this rule.
pub(super) fn mark(call: &Call<'_>) -> Answer {
    let data = call.data;
    Ok(inverted(
        call.view.mark & data.u32(4)? == data.u32(0)?,
        data.u8(8)?,
    ))
}
