//! Entry points of trampolines. They need no `Invocation`: the arguments are at hand at both ends.
//!
//! Each is the other form of a kprobe in `main.rs`, and has its name with `_t` at the end. The context is the
//! arguments and, in fexit, the return value after them.

use aya_ebpf::{
    EbpfContext as _,
    macros::{fentry, fexit},
    programs::{FEntryContext, FExitContext},
};
use core::ptr::read_volatile;
use tracer_common::{ends, observed};

use crate::{
    AF_INET, AF_INET6, extension, follow,
    form::{Trampoline, number},
    frames, rules,
    traversal::{self, Arguments, in_order},
};

#[fentry]
#[inline(always)]
fn ipt_enter_t(ctx: FEntryContext) -> i32 {
    enter(&Words(ctx.as_ptr().cast()), AF_INET);
    0
}

#[fexit]
#[inline(always)]
fn ipt_leave_t(ctx: FExitContext) -> i32 {
    leave(&Words(ctx.as_ptr().cast()), AF_INET);
    0
}

#[fentry]
#[inline(always)]
fn ip6t_enter_t(ctx: FEntryContext) -> i32 {
    enter(&Words(ctx.as_ptr().cast()), AF_INET6);
    0
}

#[fexit]
#[inline(always)]
fn ip6t_leave_t(ctx: FExitContext) -> i32 {
    leave(&Words(ctx.as_ptr().cast()), AF_INET6);
    0
}

/// `bool match(skb, par)`: the upper bits of the register are anything.
#[fexit]
fn match_leave_t(ctx: FExitContext) -> i32 {
    let words = Words(ctx.as_ptr().cast());
    extension::returned::<Trampoline>(words.at(1), words.at(2) as u32 & 0xff, 0);
    0
}

/// `unsigned int target(skb, par)`
#[fexit]
fn target_leave_t(ctx: FExitContext) -> i32 {
    let words = Words(ctx.as_ptr().cast());
    extension::returned::<Trampoline>(words.at(1), words.at(2) as u32, observed::TARGET);
    0
}

/// `struct xt_table_info *xt_alloc_table_info(unsigned int size)`
#[fexit]
fn rules_made_t(ctx: FExitContext) -> i32 {
    rules::made(number(Words(ctx.as_ptr().cast()).at(1)));
    0
}

/// `struct xt_table_info *xt_replace_table(struct xt_table *table, unsigned int num_counters, struct xt_table_info
/// *newinfo, int *error)`
#[fentry]
fn rules_used_t(ctx: FEntryContext) -> i32 {
    let words = Words(ctx.as_ptr().cast());
    let (table, table_info) = (number(words.at(0)), number(words.at(2)));
    rules::made(table_info);
    rules::replaced(table, table_info);
    0
}

/// `struct xt_table *xt_find_table_lock(struct net *net, u_int8_t af, const char *name)`
#[fentry]
fn rules_asked_t(ctx: FEntryContext) -> i32 {
    let words = Words(ctx.as_ptr().cast());
    rules::asked(number(words.at(0)), words.at(1));
    0
}

/// A target function that changes the packet's headers.
#[fexit]
fn target_leave_changed_t(ctx: FExitContext) -> i32 {
    let words = Words(ctx.as_ptr().cast());
    extension::returned_changed::<Trampoline>(words.at(1), words.at(2) as u32);
    0
}

/// `void xt_free_table_info(struct xt_table_info *info)`
#[fentry]
fn rules_freed_t(ctx: FEntryContext) -> i32 {
    rules::freed(number(Words(ctx.as_ptr().cast()).at(0)));
    0
}

/// `struct xt_table *xt_find_table_lock(struct net *net, u_int8_t af, const char *name)`
#[fexit]
fn rules_looked_up_t(ctx: FExitContext) -> i32 {
    rules::looked_up(number(Words(ctx.as_ptr().cast()).at(3)));
    0
}

/// `kfree_skbmem(skb)` and others whose first argument is a packet that ends.
#[fentry]
fn skb_freed_t(ctx: FEntryContext) -> i32 {
    follow::end::<Trampoline>(Words(ctx.as_ptr().cast()).at(0), ends::FREED, 0);
    0
}

#[inline(always)]
fn enter(words: &Words, family: u8) {
    if let Some(arguments) = arguments(words, family) {
        traversal::enter(Trampoline, &arguments);
    }
}

#[inline(always)]
fn leave(words: &Words, family: u8) {
    if frames::any_open()
        && let Some(arguments) = arguments(words, family)
    {
        returned(arguments.skb, arguments.frame, words.at(3) as u32);
    }
}

/// A function of its own: most packets do not come here, and so do not pay for saving what it changes.
#[inline(never)]
fn returned(skb: u64, frame: u64, verdict: u32) {
    traversal::returned(skb, frame, verdict);
}

#[inline(always)]
fn arguments(words: &Words, family: u8) -> Option<Arguments> {
    // All are read, each at its constant offset as the verifier wants it; with one read in each arm the compiler would
    // compute the offset.
    let words_at = [words.at(0), words.at(1), words.at(2)];
    let [skb, state, table] = in_order(words_at)?;
    Some(Arguments {
        skb,
        state,
        table,
        family,
        frame: state,
    })
}

/// The context.
struct Words(*const u64);

impl Words {
    #[inline(always)]
    fn at(&self, position: usize) -> u64 {
        // SAFETY: the context that the kernel passed to the program.
        unsafe { read_volatile(self.0.add(position)) }
    }
}
