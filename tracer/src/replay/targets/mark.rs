//! Targets that set marks: `mark_tg`, `net/netfilter/xt_mark.c`; `connmark_tg` and `connmark_tg_v2`,
//! `net/netfilter/xt_connmark.c`; `set_target_v3`, `net/netfilter/xt_set.c`.

use super::Use;
use crate::replay::path::Gap;
use crate::replay::view::{Connection, View};

/// `struct xt_mark_tginfo2`: mark 0, mask 4.
pub(super) fn mark(target: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    view.mark = view.mark & !target.data.u32(4)? ^ target.data.u32(0)?;
    Ok(())
}

/// `struct xt_connmark_tginfo1` and `2`: connection mark 0, its mask 4, packet's mask 8; mode 12 in revision 1; in
/// revision 2 direction 12 and width 13 of a shift, mode 14.
pub(super) fn connmark(target: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    /// `XT_CONNMARK_*`, `include/uapi/linux/netfilter/xt_connmark.h`.
    const SET: u8 = 0;
    const SAVE: u8 = 1;
    const RESTORE: u8 = 2;
    /// `D_SHIFT_RIGHT`
    const RIGHT: u8 = 1;

    let data = target.data;
    let (connection_mark, connection_mask, packet_mask) = (data.u32(0)?, data.u32(4)?, data.u32(8)?);
    let (direction, width, mode) = match target.revision {
        1 => (0, 0, data.u8(12)?),
        _ => (data.u8(12)?, data.u8(13)?, data.u8(14)?),
    };
    let shifted = |mark: u32| {
        // What C does not define depends on the machine.
        let shift = if direction == RIGHT {
            u32::checked_shr
        } else {
            u32::checked_shl
        };
        shift(mark, u32::from(width)).ok_or(Gap::KernelsDiffer)
    };
    let mark = match &mut view.connection {
        Connection::None | Connection::Untracked => return Ok(()),
        Connection::Unknown => return Err(Gap::Connection),
        Connection::Tracked { mark, .. } => mark,
    };
    let current = mark.ok_or(Gap::Connection)?;
    match mode {
        SET => *mark = Some(shifted(current & !connection_mask ^ connection_mark)?),
        SAVE => *mark = Some(current & !connection_mask ^ shifted(view.mark & packet_mask)?),
        RESTORE => view.mark = view.mark & !packet_mask ^ shifted(current & connection_mask)?,
        _ => {}
    }
    Ok(())
}

/// Whether `SET --map-set` is not asked for, which can set the mark. `struct xt_set_info_target_v3`: index of the
/// set to map 8.
pub(super) fn set_maps_nothing(target: &Use<'_>) -> bool {
    /// `IPSET_INVALID_ID`, `include/uapi/linux/netfilter/ipset/ip_set.h`.
    const NO_SET: u16 = 65_535;

    target.data.u16(8) == Ok(NO_SET)
}
