//! Targets that set marks: `mark_tg`, `net/netfilter/xt_mark.c`; `set_target_v3`, `net/netfilter/xt_set.c`.

use super::Use;
use crate::replay::path::Gap;
use crate::replay::view::View;

/// `struct xt_mark_tginfo2`: mark 0, mask 4.
pub(super) fn mark(target: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    view.mark = view.mark & !target.data.u32(4)? ^ target.data.u32(0)?;
    Ok(())
}

/// Whether `SET --map-set` is not asked for, which can set the mark. `struct xt_set_info_target_v3`: index of the
/// set to map 8.
pub(super) fn set_maps_nothing(target: &Use<'_>) -> bool {
    /// `IPSET_INVALID_ID`, `include/uapi/linux/netfilter/ipset/ip_set.h`.
    const NO_SET: u16 = 65_535;

    target.data.u16(8) == Ok(NO_SET)
}
