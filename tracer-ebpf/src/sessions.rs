//! Entry points of sessions: one program that runs where a function is entered and, if it then asked for it, where that
//! very call returns (`kprobe.session`, 6.10). The kernel does not preempt it, and a packet that nobody follows pays for
//! the entry alone.
//!
//! Each stands for the pair of kprobes that its name begins with, and has `_s` at the end. What it returns at the entry is
//! the question: [`DONE`] or [`RETURN_TOO`].

use core::{cell::UnsafeCell, ptr::read_volatile};

use aya_ebpf::{EbpfContext as _, bindings::pt_regs, macros::kprobe, programs::ProbeContext};
use tracer_common::observed;

use crate::{
    AF_INET, AF_INET6, Registers, extension,
    form::Trampoline,
    frames,
    kernel::{cookie, is_return, typed},
    offset,
    traversal::{self, Arguments, in_order},
};

/// The return of this call does not matter.
const DONE: u32 = 1;
/// The program runs at the return of this call too.
const RETURN_TOO: u32 = 0;

/// Not zero once no traversal may begin any more, while those under way still end.
#[repr(transparent)]
struct Closing(UnsafeCell<u32>);

// SAFETY: the programs only read the word.
unsafe impl Sync for Closing {}

/// In a section of its own, and so a map of its own, which the loader writes when it detaches.
#[unsafe(link_section = ".bss.closing")]
static CLOSING: Closing = Closing(UnsafeCell::new(0));

#[kprobe]
#[inline(always)]
fn ipt_s(ctx: ProbeContext) -> u32 {
    traversal(&ctx, AF_INET)
}

#[kprobe]
#[inline(always)]
fn ip6t_s(ctx: ProbeContext) -> u32 {
    traversal(&ctx, AF_INET6)
}

/// `bool match(skb, par)`: the upper bits of the register are anything.
#[kprobe]
fn match_s(ctx: ProbeContext) -> u32 {
    call(&ctx, |state, param, returned| {
        extension::left(state, param, returned & 0xff, 0);
    })
}

/// `unsigned int target(skb, par)`
#[kprobe]
fn target_s(ctx: ProbeContext) -> u32 {
    call(&ctx, |state, param, returned| {
        extension::left(state, param, returned, observed::TARGET);
    })
}

/// A target function that changes the packet's headers.
#[kprobe]
fn target_changed_s(ctx: ProbeContext) -> u32 {
    call(&ctx, extension::left_changed)
}

#[inline(always)]
fn traversal(ctx: &ProbeContext, family: u8) -> u32 {
    let registers = Registers(ctx.regs);
    if is_return(ctx.as_ptr()) {
        // SAFETY: the word of this call, which the entry wrote.
        let state = unsafe { read_volatile(cookie(ctx.as_ptr())) };
        // Zero is what the kernel puts there, and no traversal's name.
        if state != 0 {
            ended(state, returned(ctx.regs));
        }
        return DONE;
    }
    // SAFETY: the static's own word.
    if unsafe { read_volatile(CLOSING.0.get()) } != 0 {
        return DONE;
    }
    let Some([skb, state, table]) = in_order(registers.first_three()) else {
        return DONE;
    };
    let typed_state = typed(state, offset!(type_state));
    let arguments = Arguments {
        skb: typed(skb, offset!(type_skb)),
        state: typed_state,
        table,
        family,
        frame: typed_state,
    };
    if !traversal::enter(Trampoline, &arguments) {
        return DONE;
    }
    // SAFETY: the word of this call.
    unsafe { cookie(ctx.as_ptr()).write_volatile(state) };
    RETURN_TOO
}

/// A function of its own: most packets do not come here, and so do not pay for saving what it changes.
#[inline(never)]
fn ended(state: u64, verdict: u32) {
    traversal::session_returned(state, verdict);
}

/// A call of a match or target function: `then` gets the traversal that it is part of, its argument, and what it
/// returned.
#[inline(always)]
fn call(ctx: &ProbeContext, then: impl FnOnce(u64, u64, u32)) -> u32 {
    if is_return(ctx.as_ptr()) {
        // SAFETY: the word of this call, which the entry wrote.
        let param = unsafe { read_volatile(cookie(ctx.as_ptr())) };
        if param != 0
            && let Some(state) = extension::traversal_of(param)
        {
            then(state, param, returned(ctx.regs));
        }
        return DONE;
    }
    let Some(param) = Registers(ctx.regs).argument(1) else {
        return DONE;
    };
    match extension::traversal_of(param) {
        Some(state) if frames::find(state).is_some() => {}
        _ => return DONE,
    }
    // SAFETY: the word of this call.
    unsafe { cookie(ctx.as_ptr()).write_volatile(param) };
    RETURN_TOO
}

#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn returned(registers: *const pt_regs) -> u32 {
    // SAFETY: the context that the kernel passed to the program.
    unsafe { read_volatile(&raw const (*registers).rax) as u32 }
}

/// Host builds (`cargo check`, editors) have no target architecture.
#[cfg(not(bpf_target_arch = "x86_64"))]
fn returned(_: *const pt_regs) -> u32 {
    0
}
