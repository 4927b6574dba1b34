//! Match and target functions: what they answered, added to the record of the traversal that called them.

use tracer_common::{ABSENT, OBSERVED_MAX, Observed, flags, observed};

use crate::{
    call::{self, Call, Invocation},
    kernel::{Gap, Skb, read},
    maps::FRAMES,
    offset,
    traversal::NF_STOLEN,
};

/// A match or target function is called, `(skb, par)`.
#[inline(always)]
pub(crate) fn enter(invocation: Invocation, param: u64) {
    call::forget(invocation);
    if offset!(param_state) == ABSENT {
        return;
    }
    let Ok(state) = read::<u64>(param, offset!(param_state)) else {
        return;
    };
    // Most calls are of packets that nobody follows. A call that is not noted is missed by the replay.
    if FRAMES.get_ptr(state).is_some() {
        call::begin(invocation, &Call { state, param });
    }
}

/// It has returned.
#[inline(always)]
pub(crate) fn leave(invocation: Invocation, returned: u32, kind: u32) {
    let Some(Call { state, param }) = call::end(invocation) else {
        return;
    };
    let Some(frame) = FRAMES.get_ptr_mut(state) else {
        return;
    };
    // SAFETY: the map returned a valid, aligned pointer, and this traversal alone uses the entry.
    let frame = unsafe { &mut *frame };
    let index = frame.observed_len as usize;
    if index >= OBSERVED_MAX {
        frame.flags |= flags::OBSERVED_CUT;
        return;
    }
    match observe(frame.skb, frame.generation.table_info, param, returned, kind) {
        Ok(observed) => {
            frame.observed[index] = observed;
            frame.observed_len += 1;
        }
        Err(Gap) => frame.flags |= flags::READ_FAILED,
    }
}

#[inline(always)]
fn observe(skb: u64, table_info: u64, param: u64, returned: u32, kind: u32) -> Result<Observed, Gap> {
    let info: u64 = read(param, offset!(param_info))?;
    let entries = table_info + u64::from(offset!(table_info_entries));
    let mut observed = Observed {
        data: info.wrapping_sub(entries) as u32,
        returned,
        mark: 0,
        flags: kind,
    };
    if read::<u8>(param, offset!(param_hotdrop))? != 0 {
        observed.flags |= observed::HOTDROP;
    }
    if kind == observed::TARGET && returned & 0xff == NF_STOLEN {
        observed.flags |= observed::GONE;
    } else {
        observed.mark = Skb(skb).mark()?;
    }
    Ok(observed)
}
