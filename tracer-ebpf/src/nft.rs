//! nf_tables: one record for each run of `nft_do_chain`, with what `__nft_trace_packet` is told on the way.
//!
//! The kernel calls `__nft_trace_packet` (`net/netfilter/nf_tables_core.c`) for every rule that matched, every end of
//! a chain and every policy while the static key `nft_trace_enabled` is on, and it returns at once for packets that
//! nobody traces by rule. So its arguments are the path, for every packet.

use tracer_common::{
    ABSENT, BACKEND_NFTABLES, Commit, Counter, Generation, OBSERVED_MAX, Observed, TABLE_NAME_LEN, Traversal,
    flags, nft_step,
};

use crate::{
    call::{self, Call, Invocation},
    form::Kprobe,
    frames,
    kernel::{Gap, Skb, copy_str, read},
    maps::{COMMITS, GENERATIONS_LOST, count},
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
/// `nft_rule_dp.is_last`.
const IS_LAST: u64 = 1;
/// [`Call::param`] of a commit, which has no frame.
const COMMIT: u64 = 1;

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
    if !traversal::concerns::<Kprobe>(&arguments)? {
        return Ok(());
    }
    let hook: u8 = read(state, offset!(state_hook))?;
    let mut table_name = [0; TABLE_NAME_LEN];
    copy_str(read(arguments.table, offset!(nft_table_name))?, &mut table_name)?;
    // SAFETY: the same number of bytes, of which every pattern is a value.
    let table_name = unsafe { core::mem::transmute::<[u8; TABLE_NAME_LEN], TableName>(table_name) };
    let Some(frame) = traversal::begin(form, &arguments, hook, 0, &table_name)? else {
        return Ok(());
    };
    frame.backend = BACKEND_NFTABLES;
    if fill_chain(frame, chain).is_err() {
        note_gap(frame);
    }
    match generation(frame.netns) {
        Some(generation) => frame.generation = generation,
        None => frame.flags |= flags::GENERATION_UNSURE,
    }
    Ok(())
}

#[inline(always)]
fn fill_chain(frame: &mut Traversal, chain: u64) -> Result<(), Gap> {
    frame.table_handle = read(frame.table, offset!(nft_table_handle))?;
    frame.chain_handle = read(chain, offset!(chain_handle))?;
    copy_str(read(chain, offset!(chain_name))?, &mut frame.chain_name)
}

/// The base chain has said what becomes of the packet.
#[inline(always)]
pub(crate) fn leave(invocation: Invocation, verdict: u32) {
    let Some((key, frame)) = traversal::close(invocation, verdict) else {
        return;
    };
    if generation(frame.netns) != Some(frame.generation) {
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
            frame.observed[index] = step;
            frame.observed_len += 1;
        }
        Err(Gap) => note_gap(frame),
    }
}

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

/// The rules that a network namespace has now; `None` while they are being replaced, and where that is not known.
#[inline(always)]
fn generation(netns: u32) -> Option<Generation> {
    match COMMITS.get_ptr(netns) {
        Some(commit) => {
            // SAFETY: the map returned a valid, aligned pointer.
            let Commit { begun_ns, done_ns } = unsafe { *commit };
            (begun_ns == done_ns).then_some(Generation {
                table_info: 0,
                made_ns: begun_ns,
            })
        }
        None if GENERATIONS_LOST.get(0).is_some_and(|lost| *lost != 0) => None,
        None => Some(Generation {
            table_info: 0,
            made_ns: 0,
        }),
    }
}

/// The kernel begins to replace the rules of a network namespace; a lock keeps others from doing so meanwhile.
#[inline(always)]
pub(crate) fn commit_enter(invocation: Invocation, net: u64) {
    call::forget(invocation);
    let Ok(netns) = read::<u32>(net, offset!(net_inum)) else {
        return lose();
    };
    let done_ns = COMMITS.get_ptr(netns).map_or(0, |commit| {
        // SAFETY: the map returned a valid, aligned pointer.
        unsafe { (*commit).done_ns }
    });
    let commit = Commit {
        begun_ns: traversal::now_ns(),
        done_ns,
    };
    if COMMITS.insert(netns, commit, 0).is_err() {
        return lose();
    }
    // Not noted, the commit is never over, and paths are not certain until the next one.
    call::begin(
        invocation,
        &Call {
            state: u64::from(netns),
            param: COMMIT,
        },
    );
}

#[inline(always)]
fn lose() {
    count(Counter::GenerationsFull);
    let _ = GENERATIONS_LOST.set(0, 1, 0);
}

/// The rules are replaced, or the kernel has found that they cannot be.
#[inline(always)]
pub(crate) fn commit_leave(invocation: Invocation) {
    let Some(Call { state, .. }) = call::end(invocation) else {
        return;
    };
    if let Some(commit) = COMMITS.get_ptr_mut(state as u32) {
        // SAFETY: the map returned a valid, aligned pointer; the kernel's lock keeps other commits away.
        unsafe { (*commit).done_ns = (*commit).begun_ns };
    }
}
