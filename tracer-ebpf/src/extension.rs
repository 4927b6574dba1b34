//! Match and target functions: what they answered, added to the record of the traversal that called them.

use tracer_common::{
    ABSENT, Counter, HeadersAfter, OBSERVED_MAX, Observed, Traversal, flags, kind, observed,
};

use crate::{
    call::{self, Call, Invocation},
    emit::{reserve, wakeup},
    form::{Form, Kprobe},
    frames,
    kernel::{Gap, Skb, copy_headers, read},
    maps::count,
    offset,
    traversal::NF_STOLEN,
};

/// `XT_CONTINUE`, `include/uapi/linux/netfilter/x_tables.h`.
const XT_CONTINUE: u32 = 0xffff_ffff;

/// A match or target function is called, `(skb, par)`.
#[inline(always)]
pub(crate) fn enter(invocation: Invocation, param: u64) {
    call::forget(invocation);
    if !frames::any_open() || offset!(param_state) == ABSENT {
        return;
    }
    let Ok(state) = read::<u64>(param, offset!(param_state)) else {
        return;
    };
    // Most calls are of packets that nobody follows. A call that is not noted is missed by the replay.
    if frames::find(state).is_some() {
        call::begin(invocation, &Call { state, param });
    }
}

/// It has returned.
#[inline(always)]
pub(crate) fn leave(invocation: Invocation, returned: u32, kind: u32) {
    if let Some(Call { state, param }) = call::end(invocation)
        && let Some(frame) = frames::find(state)
    {
        note(frame, param, returned, kind);
    }
}

/// A target that changes headers has returned: where the walk goes on, what it made of them is sent as well.
#[inline(always)]
pub(crate) fn leave_changed(invocation: Invocation, returned: u32) {
    if let Some(Call { state, param }) = call::end(invocation)
        && let Some(frame) = frames::find(state)
    {
        note_changed(frame, param, returned);
    }
}

/// A match or target function has returned, and its arguments are at hand.
#[inline(always)]
pub(crate) fn returned<F: Form>(param: u64, returned: u32, kind: u32) {
    if let Some(frame) = frame_of::<F>(param) {
        note(frame, F::number(param), returned, kind);
    }
}

/// The same of a target that changes headers.
#[inline(always)]
pub(crate) fn returned_changed<F: Form>(param: u64, returned: u32) {
    if let Some(frame) = frame_of::<F>(param) {
        note_changed(frame, F::number(param), returned);
    }
}

/// The record of the traversal that a call is part of, if that is recorded.
#[inline(always)]
fn frame_of<F: Form>(param: u64) -> Option<&'static mut Traversal> {
    if !frames::any_open() || offset!(param_state) == ABSENT {
        return None;
    }
    let state = F::read::<u64>(param, offset!(param_state)).ok()?;
    frames::find(F::number(state))
}

#[inline(always)]
fn note_changed(frame: &mut Traversal, param: u64, returned: u32) {
    if returned == XT_CONTINUE {
        send_headers(frame);
    }
    note(frame, param, returned, observed::TARGET);
}

#[inline(always)]
fn note(frame: &mut Traversal, param: u64, returned: u32, kind: u32) {
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

/// Sends the headers as they are now, as of the call that will be noted next. Without them the path is partial.
#[inline(always)]
fn send_headers(frame: &mut Traversal) {
    let wakeup = wakeup(size_of::<HeadersAfter>());
    let Some(mut entry) = reserve::<HeadersAfter>() else {
        count(Counter::HeadersFull);
        return;
    };
    let after = entry.as_mut_ptr();
    // SAFETY: the ring buffer's memory, of the right size and alignment, which nobody else sees until it is submitted.
    let filled = unsafe { fill_headers(&mut *after, frame) };
    match filled {
        Ok(()) => entry.submit(wakeup),
        Err(Gap) => {
            entry.discard(wakeup);
            frame.flags |= flags::READ_FAILED;
            count(Counter::ReadFailed);
        }
    }
}

/// The headers as they are now, as of what will be noted next.
#[inline(always)]
pub(crate) fn fill_headers(after: &mut HeadersAfter, frame: &Traversal) -> Result<(), Gap> {
    let skb = Skb(frame.skb);
    let network_header = skb.headers::<Kprobe>()?.network();
    let packet_len = skb.len::<Kprobe>()?;
    let linear_len = skb.linear_len::<Kprobe>(packet_len, network_header)?;
    after.kind = kind::HEADERS_AFTER;
    after.skb = frame.skb;
    after.entered_ns = frame.entered_ns;
    after.packet_len = packet_len;
    after.index = u16::from(frame.part) * OBSERVED_MAX as u16 + frame.observed_len as u16;
    // Bytes beyond the packet's are never sent: the memory is that of earlier records.
    after.headers = [0; tracer_common::HEADERS_LEN_MAX];
    after.headers_len = copy_headers(network_header, linear_len, &mut after.headers)?;
    Ok(())
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
        observed.mark = Skb(skb).mark::<Kprobe>()?;
    }
    Ok(observed)
}
