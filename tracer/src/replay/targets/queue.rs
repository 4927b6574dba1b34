//! `nfqueue_tg` to `nfqueue_tg_v3`, `net/netfilter/xt_NFQUEUE.c`.

use super::Use;
use crate::replay::path::Gap;
use crate::traversal::Verdict;

/// `struct xt_NFQ_info` and its revisions: first queue 0, from revision 1 on number of queues 2, from revision 2
/// on flags 4, of which the lowest is bypass. Which of its queues a packet goes to depends on a hash, or the CPU.
pub(super) fn gives(target: &Use<'_>, verdict: Verdict) -> Result<bool, Gap> {
    let Verdict::Queue { number, bypass } = verdict else {
        return Ok(false);
    };
    let data = target.data;
    let first = data.u16(0)?;
    let count = match target.revision {
        0 => 1,
        _ => data.u16(2)?.max(1),
    };
    let may_bypass = match target.revision {
        0 | 1 => false,
        2 => data.u16(4)? != 0,
        _ => data.u16(4)? & 1 != 0,
    };
    let index = number.checked_sub(first);
    Ok(index.is_some_and(|index| index < count) && bypass == may_bypass)
}
