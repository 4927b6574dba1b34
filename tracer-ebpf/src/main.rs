//! The eBPF programs of `tracer`.
//!
//! | file | what it does |
//! |---|---|
//! | `main.rs` | entry points of kprobes and tracepoints: take the arguments out of the context, call, nothing else |
//! | `trampolines.rs` | the same for trampolines; each has the name of the kprobe that it stands for and `_t` |
//! | `traversal.rs` | `ipt_do_table` and `ip6t_do_table`: entry, return, and the frame between them |
//! | `nft.rs` | the same for nf_tables: `nft_do_chain`, the steps in between, and commits |
//! | `extension.rs` | match and target functions: what they answered during a traversal |
//! | `guard.rs` | how many packets may be followed |
//! | `emit.rs` | sends every record |
//! | `rules.rs` | which rules a table had |
//! | `form.rs` | what differs between trampoline and kprobe |
//! | `frames.rs` | the records of traversals under way |
//! | `call.rs` | pairs the entry of a function with its return, for kprobes |
//! | `verify.rs` | the second source of steps, for `--verify` |
//! | `follow.rs` | which packets are followed, from the first hook to the end of their life |
//! | `lives.rs` | where and when each of them was last seen |
//! | `connection.rs` | which connections are followed: replies belong to what was asked for |
//! | `filter.rs` | does this packet satisfy the user's filter |
//! | `ip.rs` | the few header fields that following and filter look at |
//! | `presence.rs` | tells cheaply what is not in a map |
//! | `slots.rs` | gives out the slots of a map, for trampolines |
//! | `kernel.rs` | every read of kernel memory |
//! | `maps.rs` | maps, read-only globals, counters |

#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(
    clippy::cast_possible_truncation,
    reason = "words are cut to the width of a field on purpose"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros of programs want the context by value"
)]

mod call;
mod connection;
mod emit;
mod extension;
mod filter;
mod follow;
mod form;
mod frames;
mod guard;
mod ip;
mod kernel;
mod lives;
mod maps;
mod nft;
mod presence;
mod rules;
mod slots;
mod trampolines;
mod traversal;
mod verify;

use core::ptr::read_volatile;

use aya_ebpf::{
    bindings::pt_regs,
    macros::{kprobe, kretprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use call::Invocation;
use form::Kprobe;
use tracer_common::{ends, observed};
use traversal::{Arguments, in_order};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[kprobe]
#[inline(always)]
fn ipt_enter(ctx: ProbeContext) -> u32 {
    enter(&ctx, AF_INET);
    0
}

#[kretprobe]
fn ipt_leave(ctx: RetProbeContext) -> u32 {
    leave(&ctx);
    0
}

#[kprobe]
#[inline(always)]
fn ip6t_enter(ctx: ProbeContext) -> u32 {
    enter(&ctx, AF_INET6);
    0
}

#[kretprobe]
fn ip6t_leave(ctx: RetProbeContext) -> u32 {
    leave(&ctx);
    0
}

/// Any match or target function: `(skb, par)`.
#[kprobe]
fn extension_enter(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    if let Some(param) = registers.argument(1) {
        extension::enter(Invocation::at_entry(registers.stack_pointer()), param);
    }
    0
}

/// `bool match(skb, par)`: the upper bits of the register are anything.
#[kretprobe]
fn match_leave(ctx: RetProbeContext) -> u32 {
    let invocation = Invocation::at_return(Registers(ctx.regs).stack_pointer());
    extension::leave(invocation, ctx.ret::<u32>() & 0xff, 0);
    0
}

/// `unsigned int target(skb, par)`
#[kretprobe]
fn target_leave(ctx: RetProbeContext) -> u32 {
    let invocation = Invocation::at_return(Registers(ctx.regs).stack_pointer());
    extension::leave(invocation, ctx.ret(), observed::TARGET);
    0
}

/// A target function that changes the packet's headers.
#[kretprobe]
fn target_leave_changed(ctx: RetProbeContext) -> u32 {
    let invocation = Invocation::at_return(Registers(ctx.regs).stack_pointer());
    extension::leave_changed(invocation, ctx.ret());
    0
}

/// At an instruction of `ipt_do_table` or `ip6t_do_table` that returns: what their return probes do.
#[kprobe]
fn table_return(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    let invocation = Invocation::at_entry(registers.stack_pointer());
    traversal::leave(invocation, registers.result() as u32);
    0
}

/// The same of a match function.
#[kprobe]
fn match_return(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    let invocation = Invocation::at_entry(registers.stack_pointer());
    extension::leave(invocation, registers.result() as u32 & 0xff, 0);
    0
}

/// The same of a target function.
#[kprobe]
fn target_return(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    let invocation = Invocation::at_entry(registers.stack_pointer());
    extension::leave(invocation, registers.result() as u32, observed::TARGET);
    0
}

/// The same of a target function that changes the packet's headers.
#[kprobe]
fn target_return_changed(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    let invocation = Invocation::at_entry(registers.stack_pointer());
    extension::leave_changed(invocation, registers.result() as u32);
    0
}

/// The same of `nft_do_chain`.
#[kprobe]
fn nft_return(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    let invocation = Invocation::at_entry(registers.stack_pointer());
    nft::leave(invocation, registers.result() as u32);
    0
}

/// `struct xt_table_info *xt_alloc_table_info(unsigned int size)`
#[kretprobe]
fn rules_made(ctx: RetProbeContext) -> u32 {
    rules::made(ctx.ret());
    0
}

/// `struct xt_table_info *xt_replace_table(struct xt_table *table, unsigned int num_counters, struct xt_table_info
/// *newinfo, int *error)`
#[kprobe]
fn rules_used(ctx: ProbeContext) -> u32 {
    if let (Some(table), Some(table_info)) = (ctx.arg(0), ctx.arg(2)) {
        rules::made(table_info);
        rules::replaced(table, table_info);
    }
    0
}

/// `void xt_free_table_info(struct xt_table_info *info)`
#[kprobe]
fn rules_freed(ctx: ProbeContext) -> u32 {
    if let Some(table_info) = ctx.arg(0) {
        rules::freed(table_info);
    }
    0
}

/// `struct xt_table *xt_find_table_lock(struct net *net, u_int8_t af, const char *name)`
#[kprobe]
fn rules_asked(ctx: ProbeContext) -> u32 {
    if let (Some(net), Some(family)) = (ctx.arg(0), ctx.arg(1)) {
        rules::asked(net, family);
    }
    0
}

/// The return of `xt_find_table_lock`
#[kretprobe]
fn rules_looked_up(ctx: RetProbeContext) -> u32 {
    rules::looked_up(ctx.ret());
    0
}

/// `unsigned int nft_do_chain(struct nft_pktinfo *pkt, void *priv)`: `priv` is the base chain's `nft_chain`.
#[kprobe]
// The stacks of a program and of all that it calls are 512 bytes at most: one call less.
#[inline(always)]
fn nft_enter(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    if let (Some(pkt), Some(chain)) = (registers.argument(0), registers.argument(1)) {
        nft::enter(Invocation::at_entry(registers.stack_pointer()), pkt, chain);
    }
    0
}

#[kretprobe]
fn nft_leave(ctx: RetProbeContext) -> u32 {
    let invocation = Invocation::at_return(Registers(ctx.regs).stack_pointer());
    nft::leave(invocation, ctx.ret());
    0
}

/// `__nft_trace_packet`, whose arguments moved: see `Offsets`.
#[kprobe]
fn nft_trace(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    nft::trace(&nft::Trace {
        info: registers.argument(offset!(arg_trace_info)),
        pkt: registers.argument(offset!(arg_trace_pkt)),
        verdict: registers.argument(offset!(arg_trace_verdict)),
        rule: registers.argument(offset!(arg_trace_rule)),
        chain: registers.argument(offset!(arg_trace_chain)),
        kind: registers.argument(offset!(arg_trace_type)),
    });
    0
}

/// `static int nf_tables_commit(struct net *net, struct sk_buff *skb)`
#[kprobe]
fn nft_commit_enter(ctx: ProbeContext) -> u32 {
    let registers = Registers(ctx.regs);
    if let Some(net) = registers.argument(0) {
        nft::commit_enter(Invocation::at_entry(registers.stack_pointer()), net);
    }
    0
}

#[kretprobe]
fn nft_commit_leave(ctx: RetProbeContext) -> u32 {
    nft::commit_leave(Invocation::at_return(Registers(ctx.regs).stack_pointer()));
    0
}

/// `trace_kfree_skb(skb, location, …)`: a packet was dropped.
#[raw_tracepoint(tracepoint = "kfree_skb")]
fn skb_dropped(ctx: RawTracePointContext) -> u32 {
    follow::end::<Kprobe>(ctx.arg(0), ends::DROPPED, ctx.arg(1));
    0
}

/// `trace_consume_skb(skb, …)`: a packet was used up.
#[raw_tracepoint(tracepoint = "consume_skb")]
fn skb_consumed(ctx: RawTracePointContext) -> u32 {
    follow::end::<Kprobe>(ctx.arg(0), ends::CONSUMED, 0);
    0
}

/// `kfree_skbmem(skb)`: the memory is given back, on the ways that have no tracepoint (`__kfree_skb` from
/// the TCP receive path, `net/core/skbuff.c`).
#[kprobe]
fn skb_freed(ctx: ProbeContext) -> u32 {
    if let Some(skb) = ctx.arg(0) {
        follow::end::<Kprobe>(skb, ends::FREED, 0);
    }
    0
}

/// Within `ipt_do_table`, where it asks whether it has to log the rule.
#[kprobe]
fn ipt_step(ctx: ProbeContext) -> u32 {
    verify::step(ctx.regs as u64, false);
    0
}

/// The same in `ip6t_do_table`.
#[kprobe]
fn ip6t_step(ctx: ProbeContext) -> u32 {
    verify::step(ctx.regs as u64, true);
    0
}

/// Never attached: the loader runs it, with an address and a length, to read the kernel's code.
#[raw_tracepoint]
fn read_code(ctx: RawTracePointContext) -> u32 {
    verify::copy_code(ctx.arg(0), ctx.arg(1));
    0
}

#[inline(always)]
fn enter(ctx: &ProbeContext, family: u8) {
    let registers = Registers(ctx.regs);
    let Some([skb, state, table]) = in_order(registers.first_three()) else {
        return;
    };
    let arguments = Arguments {
        skb,
        state,
        table,
        family,
        frame: state,
    };
    let invocation = Invocation::at_entry(registers.stack_pointer());
    traversal::enter(Kprobe(invocation), &arguments);
}

#[inline(always)]
fn leave(ctx: &RetProbeContext) {
    let registers = Registers(ctx.regs);
    traversal::leave(Invocation::at_return(registers.stack_pointer()), ctx.ret::<u32>());
}

/// The registers at the probe.
struct Registers(*const pt_regs);

#[cfg(bpf_target_arch = "x86_64")]
impl Registers {
    /// All are read, each at its constant offset as the verifier wants it; with one read in each arm the
    /// compiler would compute the offset.
    #[inline(always)]
    fn argument(&self, position: u32) -> Option<u64> {
        // SAFETY: the context that the kernel passed to the program.
        let (first, second, third, fourth, fifth) = unsafe {
            (
                read_volatile(&raw const (*self.0).rdi),
                read_volatile(&raw const (*self.0).rsi),
                read_volatile(&raw const (*self.0).rdx),
                read_volatile(&raw const (*self.0).rcx),
                read_volatile(&raw const (*self.0).r8),
            )
        };
        match position {
            0 => Some(first),
            1 => Some(second),
            2 => Some(third),
            3 => Some(fourth),
            4 => Some(fifth),
            _ => None,
        }
    }

    #[inline(always)]
    fn first_three(&self) -> [u64; 3] {
        // SAFETY: the context that the kernel passed to the program.
        unsafe {
            [
                read_volatile(&raw const (*self.0).rdi),
                read_volatile(&raw const (*self.0).rsi),
                read_volatile(&raw const (*self.0).rdx),
            ]
        }
    }

    #[inline(always)]
    fn stack_pointer(&self) -> u64 {
        // SAFETY: the context that the kernel passed to the program.
        unsafe { read_volatile(&raw const (*self.0).rsp) }
    }

    /// What a function that returns now gives.
    #[inline(always)]
    fn result(&self) -> u64 {
        // SAFETY: the context that the kernel passed to the program.
        unsafe { read_volatile(&raw const (*self.0).rax) }
    }
}

/// Host builds (`cargo check`, editors) have no target architecture.
#[cfg(not(bpf_target_arch = "x86_64"))]
impl Registers {
    fn argument(&self, _: u32) -> Option<u64> {
        None
    }

    fn first_three(&self) -> [u64; 3] {
        [0; 3]
    }

    fn stack_pointer(&self) -> u64 {
        0
    }

    fn result(&self) -> u64 {
        0
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
