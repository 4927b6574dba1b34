//! Pairs the entry of a function with its return.

use tracer_common::Counter;

use crate::{
    frames,
    maps::{CALLS, count},
    presence::Presence,
    verify,
};

/// Which calls are noted, at little cost.
static NOTED: Presence = Presence::none();

/// One call of a function, by where its return address lies on the kernel stack.
///
/// This names the call on every kernel, however it is interrupted, preempted or moved to another CPU before
/// it returns: no other call can use that stack slot while it lasts. A stack of frames per CPU cannot say
/// so: `ipt_do_table` disables bottom halves only after its entry and enables them before its return, and a
/// preemptible kernel may run another task's traversal on this CPU at both ends.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Invocation(u64);

impl Invocation {
    /// At entry the stack pointer points to the return address, and so it does at the instruction that returns.
    #[inline(always)]
    pub(crate) fn at_entry(stack_pointer: u64) -> Self {
        Self(stack_pointer)
    }

    /// At return the address has been taken from the stack (x86: `arch_rethook_trampoline`, before 5.18
    /// `kretprobe_trampoline`, both report the caller's stack pointer).
    #[inline(always)]
    pub(crate) fn at_return(stack_pointer: u64) -> Self {
        Self(stack_pointer.wrapping_sub(8))
    }
}

/// What a return probe has to know of the entry.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// Address of the `nf_hook_state`: the traversal that the call is, or is part of.
    pub(crate) state: u64,
    /// Address of the `xt_action_param` of a match or target function, zero for a traversal.
    pub(crate) param: u64,
}

/// Notes a call. False where there is no room.
#[inline(always)]
pub(crate) fn begin(invocation: Invocation, call: &Call) -> bool {
    let noted = CALLS.insert(invocation, call, 0).is_ok();
    if noted {
        NOTED.add(invocation.0 >> 3);
    }
    noted
}

/// Takes the call that returns now, if it was noted.
#[inline(always)]
pub(crate) fn end(invocation: Invocation) -> Option<Call> {
    if !NOTED.has_any() || !NOTED.may_have(invocation.0 >> 3) {
        return None;
    }
    // SAFETY: the map returned a valid, aligned pointer, and this call alone uses the entry.
    let call = unsafe { *CALLS.get_ptr(invocation)? };
    if CALLS.remove(invocation).is_ok() {
        NOTED.remove(invocation.0 >> 3);
    }
    Some(call)
}

/// A function was entered: a call noted at the same place of the stack has returned unseen, and must not be
/// taken for the one that begins.
#[inline(always)]
pub(crate) fn forget(invocation: Invocation) {
    if let Some(call) = end(invocation) {
        count(Counter::ExitMissed);
        if call.param == 0 {
            verify::forget(call.state);
            frames::hashed::close(call.state);
        }
    }
}
