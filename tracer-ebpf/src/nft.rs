//! nf_tables: one record for each run of `nft_do_chain`, with what `__nft_trace_packet` is told on the way.
//!
//! The kernel calls `__nft_trace_packet` (`net/netfilter/nf_tables_core.c`) for every rule that matched, every end of
//! a chain and every policy while the static key `nft_trace_enabled` is on, and it returns at once for packets that
//! nobody traces by rule. So its arguments are the path, for every packet.

use core::{mem::offset_of, ptr::read_volatile};

use tracer_common::{
    ABSENT, BACKEND_NFTABLES, Commit, Counter, Generation, HEADERS_LEN_MAX, HeadersAfter, OBSERVED_MAX,
    Observed, TABLE_NAME_LEN, Traversal, flags, nft_step,
};

use crate::{
    call::{self, Call, Invocation},
    emit::emit,
    extension,
    form::Kprobe,
    frames,
    kernel::{Gap, Skb, copy_str, read},
    maps::{COMMITS, COMMITTED, GENERATIONS_LOST, HEADERS, TELLS_HEADERS, count},
    offset,
    traversal::{self, Arguments, NF_STOLEN, NF_VERDICT_MASK, TableName, note_gap},
};

/// `NFT_CONTINUE`, `include/uapi/linux/netfilter/nf_tables.h`.
const NFT_CONTINUE: u32 = (-1_i32).cast_unsigned();
/// `NFT_TRACETYPE_POLICY` and `NFT_TRACETYPE_RETURN` of `enum nft_trace_types`, in the same file.
const TYPE_POLICY: u32 = 1;
const TYPE_RETURN: u32 = 2;
/// Bits of a rule's handle (`struct nft_rule_dp`, `struct nft_rule`: `include/net/netfilter/nf_tables.h`).
const HANDLE_MASK: u64 = (1 << 42) - 1;
/// Bits of `nft_table.family`.
const FAMILY_MASK: u8 = (1 << 6) - 1;
/// `nft_rule_dp.is_last`.
const IS_LAST: u64 = 1;

/// A base chain is entered.
#[inline(always)]
pub(crate) fn enter(invocation: Invocation, pkt: u64, chain: u64) {
    call::forget(invocation);
    // What was left by a run whose return was not seen must not get the steps of this one.
    if frames::hashed::find(pkt).is_some() {
        count(Counter::ExitMissed);
        frames::hashed::close(pkt);
    }
    if let Err(Gap) = try_enter(invocation, pkt, chain) {
        count(Counter::ReadFailed);
    }
}

#[inline(always)]
fn try_enter(invocation: Invocation, pkt: u64, chain: u64) -> Result<(), Gap> {
    let state: u64 = read(pkt, offset!(pkt_state))?;
    // `NFPROTO_IPV4` and `NFPROTO_IPV6` are the numbers of the address families. Chains of inet tables see these two;
    // those of bridge, netdev and arp tables others, which are not followed.
    let family: u8 = read(state, offset!(state_pf))?;
    if family != crate::AF_INET && family != crate::AF_INET6 {
        return Ok(());
    }
    let arguments = Arguments {
        skb: read(pkt, offset!(pkt_skb))?,
        state,
        table: read(chain, offset!(chain_table))?,
        family,
        frame: pkt,
    };
    let form = Kprobe(invocation);
    let headers = Skb(arguments.skb).headers::<Kprobe>()?;
    let concern = traversal::look::<Kprobe>(&arguments, headers)?;
    if !concern.is_certain::<Kprobe>(&arguments, headers)? {
        return Ok(());
    }
    let hook: u8 = read(state, offset!(state_hook))?;
    let mut table_name = [0; TABLE_NAME_LEN];
    copy_str(read(arguments.table, offset!(nft_table_name))?, &mut table_name)?;
    // SAFETY: the same number of bytes, of which every pattern is a value.
    let table_name = unsafe { core::mem::transmute::<[u8; TABLE_NAME_LEN], TableName>(table_name) };
    let Some(frame) = traversal::begin(form, &arguments, headers, concern, hook, 0, &table_name)? else {
        return Ok(());
    };
    frame.backend = BACKEND_NFTABLES;
    if TELLS_HEADERS.get(0).is_some_and(|tells| *tells != 0) {
        frame.flags |= flags::HEADERS_TOLD;
    }
    if fill_chain(frame, chain).is_err() {
        note_gap(frame);
    }
    let net = read(state, offset!(state_net))?;
    match generation(net, frame.netns) {
        Some(generation) => frame.generation = generation,
        None => frame.flags |= flags::GENERATION_UNSURE,
    }
    Ok(())
}

#[inline(always)]
fn fill_chain(frame: &mut Traversal, chain: u64) -> Result<(), Gap> {
    frame.table_handle = read(frame.table, offset!(nft_table_handle))?;
    frame.table_family = read::<u8>(frame.table, offset!(nft_table_family))? & FAMILY_MASK;
    frame.chain_handle = read(chain, offset!(chain_handle))?;
    copy_str(read(chain, offset!(chain_name))?, &mut frame.chain_name)
}

/// The base chain has said what becomes of the packet.
#[inline(always)]
pub(crate) fn leave(invocation: Invocation, verdict: u32) {
    let Some((key, frame)) = traversal::close(invocation, verdict) else {
        return;
    };
    // It looked once which rules are in force, in between: if they are the same at both ends it met these.
    if generation_met(key, frame.netns) != Some(frame.generation) {
        frame.flags |= flags::GENERATION_UNSURE;
    }
    traversal::send(frame);
    frames::hashed::close(key);
}

/// Arguments of `__nft_trace_packet`, as far as this kernel passes them.
pub(crate) struct Trace {
    pub(crate) info: Option<u64>,
    pub(crate) pkt: Option<u64>,
    pub(crate) verdict: Option<u64>,
    pub(crate) rule: Option<u64>,
    pub(crate) chain: Option<u64>,
    pub(crate) kind: Option<u64>,
}

/// A rule matched, a chain ended, or the policy decides.
#[inline(always)]
pub(crate) fn trace(trace: &Trace) {
    let Some(info) = trace.info else { return };
    let pkt = match trace.pkt {
        Some(pkt) => pkt,
        None => match read(info, offset!(trace_info_pkt)) {
            Ok(pkt) => pkt,
            Err(Gap) => return,
        },
    };
    // Most calls are of packets that nobody follows.
    let Some(frame) = frames::hashed::find(pkt) else {
        return;
    };
    if frame.observed_len as usize >= OBSERVED_MAX {
        if frame.part == u8::MAX {
            frame.flags |= flags::OBSERVED_CUT;
            return;
        }
        frame.flags |= flags::CONTINUES;
        traversal::send(frame);
        frame.flags &= !flags::CONTINUES;
        frame.part += 1;
        frame.observed_len = 0;
    }
    let index = frame.observed_len as usize;
    if index >= OBSERVED_MAX {
        return;
    }
    match step(trace, info, frame.skb) {
        Ok(step) => {
            // What a rule has stolen may be gone.
            let is_there = step.returned & NF_VERDICT_MASK != NF_STOLEN && step.flags & nft_step::POLICY == 0;
            if is_there && frame.flags & flags::HEADERS_TOLD != 0 {
                tell_headers(frame);
            }
            frame.observed[index] = step;
            frame.observed_len += 1;
        }
        Err(Gap) => note_gap(frame),
    }
}

/// Sends the headers as the step that will be noted next has left them, if they are no longer what they were at entry.
#[inline(always)]
fn tell_headers(frame: &mut Traversal) {
    let Some(after) = HEADERS.get_ptr_mut(0) else {
        frame.flags &= !flags::HEADERS_TOLD;
        return;
    };
    // SAFETY: this processor's value, valid and aligned, and no other program of nf_tables runs within this one.
    let after = unsafe { &mut *after };
    if extension::fill_headers(after, frame).is_err() {
        frame.flags &= !flags::HEADERS_TOLD;
        return note_gap(frame);
    }
    if frame.changed == 0 && after.packet_len == frame.packet_len && begin_alike(&frame.headers, after) {
        return;
    }
    if emit(after.bytes()) {
        frame.changed = frame.changed.saturating_add(1);
    } else {
        frame.flags &= !flags::HEADERS_TOLD;
        count(Counter::HeadersFull);
    }
}

/// Whether the headers are the same as these, as far as they go: what is not linear is not written to.
#[inline(always)]
fn begin_alike(headers: &[u8; HEADERS_LEN_MAX], after: &HeadersAfter) -> bool {
    const WORD_LEN: usize = 8;

    let (one, other) = (
        headers.as_ptr().cast::<u64>(),
        after.headers.as_ptr().cast::<u64>(),
    );
    let len = usize::from(after.headers_len);
    for word in 0..HEADERS_LEN_MAX / WORD_LEN {
        let Some(left_len @ 1..) = len.checked_sub(word * WORD_LEN) else {
            return true;
        };
        // SAFETY: within both, which are aligned (asserted below). Volatile, as the compiler would else call a function
        // that goes byte by byte.
        let mut differing = unsafe { read_volatile(one.add(word)) ^ read_volatile(other.add(word)) };
        if left_len < WORD_LEN {
            differing &= u64::from_le((1 << (8 * left_len)) - 1);
        }
        if differing != 0 {
            return false;
        }
    }
    true
}

const _: () = assert!(offset_of!(Traversal, headers).is_multiple_of(8));
const _: () = assert!(offset_of!(HeadersAfter, headers).is_multiple_of(8));

#[inline(always)]
fn step(trace: &Trace, info: u64, skb: u64) -> Result<Observed, Gap> {
    let kind = trace.kind.unwrap_or_default() as u32;
    if kind == TYPE_POLICY {
        return Ok(Observed {
            data: 0,
            returned: 0,
            mark: Skb(skb).mark::<Kprobe>()?,
            flags: nft_step::POLICY,
        });
    }
    let verdict = match trace.verdict {
        Some(verdict) => verdict,
        None => read(info, offset!(trace_info_verdict))?,
    };
    // `struct nft_verdict` begins with its code.
    let code: u32 = read(verdict, 0)?;
    let rule = match trace.rule {
        Some(rule) => rule,
        None => read(info, offset!(trace_info_rule))?,
    };
    let (handle, flags) = if offset!(rule_last_chain) == ABSENT {
        // The rule is whichever was looked at last where the chain has ended: `nf_trace_fill_rule_info`,
        // `net/netfilter/nf_tables_trace.c`.
        match trace.chain {
            Some(chain) if kind == TYPE_RETURN && code == NFT_CONTINUE => {
                (read(chain, offset!(chain_handle))?, nft_step::CHAIN_END)
            }
            _ => (handle_of(rule)?, 0),
        }
    } else {
        // Here `kind` is wrong where a chain ends, but the end is a rule of its own.
        let word: u64 = read(rule, offset!(rule_handle))?;
        if word & IS_LAST == 0 {
            (handle_of(rule)?, 0)
        } else {
            let chain: u64 = read(rule, offset!(rule_last_chain))?;
            (read(chain, offset!(chain_handle))?, nft_step::CHAIN_END)
        }
    };
    Ok(Observed {
        data: handle as u32,
        returned: code,
        // What a rule has stolen may be gone.
        mark: if code & NF_VERDICT_MASK == NF_STOLEN {
            0
        } else {
            Skb(skb).mark::<Kprobe>()?
        },
        flags: flags | ((handle >> 32) as u32) << nft_step::HANDLE_SHIFT,
    })
}

#[inline(always)]
fn handle_of(rule: u64) -> Result<u64, Gap> {
    let word: u64 = read(rule, offset!(rule_handle))?;
    Ok(word >> offset!(rule_handle_shift) & HANDLE_MASK)
}

/// The rules in force where the packet is; see [`generation`].
#[inline(always)]
fn generation_met(pkt: u64, netns: u32) -> Option<Generation> {
    let state: u64 = read(pkt, offset!(pkt_state)).ok()?;
    let net: u64 = read(state, offset!(state_net)).ok()?;
    generation(net, netns)
}

/// The rules that are in force in a network namespace; `None` where that is not known.
///
/// `nf_tables_commit` (`net/netfilter/nf_tables_api.c`) puts the new rules beside the old ones and then in force all at
/// once, by `gencursor`, which says which of the two `nft_do_chain` takes.
#[inline(always)]
fn generation(net: u64, netns: u32) -> Option<Generation> {
    let Some(commit) = COMMITS.get_ptr(netns) else {
        if GENERATIONS_LOST.get(0).is_some_and(|lost| *lost != 0) {
            return None;
        }
        return Some(made(0));
    };
    let begun_ns = commit::begun_ns(commit);
    // This order and that of `commit::note_begin` belong together.
    let cursor = commit::cursor(commit);
    let before_ns = commit::before_ns(commit);
    let now = gencursor(net).ok()?;
    if commit::begun_ns(commit) != begun_ns {
        // Another commit has begun meanwhile.
        return None;
    }
    Some(made(if now == cursor { before_ns } else { begun_ns }))
}

#[inline(always)]
fn made(made_ns: u64) -> Generation {
    Generation {
        table_info: 0,
        made_ns,
    }
}

#[inline(always)]
fn gencursor(net: u64) -> Result<u64, Gap> {
    Ok(u64::from(read::<u8>(net, offset!(net_gencursor))?))
}

/// Members of a [`Commit`], which one processor looks at while another one notes the next: word by word, in the order
/// of the program.
mod commit {
    use tracer_common::Commit;

    macro_rules! member {
        ($name:ident) => {
            #[inline(always)]
            pub(super) fn $name(commit: *const Commit) -> u64 {
                // SAFETY: a value of the map, valid and aligned.
                unsafe { (&raw const (*commit).$name).read_volatile() }
            }
        };
    }

    member!(begun_ns);
    member!(before_ns);
    member!(cursor);

    /// The next commit begins; the kernel's lock keeps others from doing so meanwhile. Whoever sees one of these and
    /// still the old `begun_ns` is told the same as before.
    #[inline(always)]
    pub(super) fn note_begin(commit: *mut Commit, next: &Commit) {
        // SAFETY: a value of the map, valid and aligned.
        unsafe {
            (&raw mut (*commit).before_ns).write_volatile(next.before_ns);
            (&raw mut (*commit).cursor).write_volatile(next.cursor);
            (&raw mut (*commit).begun_ns).write_volatile(next.begun_ns);
        }
    }

    #[inline(always)]
    pub(super) fn note_over(commit: *mut Commit, over_ns: u64) {
        // SAFETY: as above.
        unsafe { (&raw mut (*commit).over_ns).write_volatile(over_ns) }
    }
}

/// The kernel begins to replace the rules of a network namespace; a lock keeps others from doing so meanwhile.
#[inline(always)]
pub(crate) fn commit_enter(invocation: Invocation, net: u64) {
    call::forget(invocation);
    let Ok(begun_ns) = note_begin(net) else {
        return lose();
    };
    // Not noted, the commit is never over: nobody reads its rules before the next one.
    call::begin(
        invocation,
        &Call {
            state: net,
            param: begun_ns,
        },
    );
}

#[inline(always)]
fn note_begin(net: u64) -> Result<u64, Gap> {
    let netns: u32 = read(net, offset!(net_inum))?;
    let cursor = gencursor(net)?;
    let begun_ns = traversal::now_ns();
    let mut next = Commit {
        begun_ns,
        over_ns: 0,
        before_ns: 0,
        cursor,
    };
    let Some(commit) = COMMITS.get_ptr_mut(netns) else {
        // Not over: zero is what came before the first.
        return COMMITS.insert(netns, next, 0).map(|()| begun_ns).map_err(|_| Gap);
    };
    next.before_ns = if commit::cursor(commit) == cursor {
        commit::before_ns(commit)
    } else {
        commit::begun_ns(commit)
    };
    commit::note_begin(commit, &next);
    Ok(begun_ns)
}

#[inline(always)]
fn lose() {
    count(Counter::GenerationsFull);
    let _ = GENERATIONS_LOST.set(0, 1, 0);
}

/// The rules are replaced, or the kernel has found that they cannot be. It has given back the lock: the next commit may
/// have begun, and even be over.
#[inline(always)]
pub(crate) fn commit_leave(invocation: Invocation) {
    let Some(Call {
        state: net,
        param: begun_ns,
    }) = call::end(invocation)
    else {
        return;
    };
    let (Ok(netns), Ok(cursor)) = (read::<u32>(net, offset!(net_inum)), gencursor(net)) else {
        return lose();
    };
    let Some(commit) = COMMITS.get_ptr_mut(netns) else {
        return;
    };
    let in_force = commit::cursor(commit) != cursor;
    if commit::begun_ns(commit) != begun_ns {
        // The end of the one that has begun meanwhile is told.
        return;
    }
    if !in_force {
        return commit::note_over(commit, begun_ns | Commit::FAILED);
    }
    commit::note_over(commit, begun_ns);
    // Without room the rules are read when a packet has met them.
    let _ = COMMITTED.output::<u32>(&netns, 0);
}
