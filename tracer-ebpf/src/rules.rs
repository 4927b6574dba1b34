//! Which rules a table had: each replacement is an `xt_table_info` of its own.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns};
use tracer_common::{Counter, Generation, Replacement, TABLE_NAME_LEN, TableRead};

use crate::{
    kernel::{Gap, read},
    maps::{ASKED, GENERATIONS, GENERATIONS_LOST, READER, REPLACEMENTS, TABLE_READ, count},
    offset,
    presence::Presence,
};

/// Which of them are known, at little cost: those that are older than the trace are not.
static KNOWN: Presence = Presence::none();

/// Where the kernel puts them: into slabs, and into pages of their own.
#[inline(always)]
fn key(table_info: u64) -> u64 {
    table_info >> 6 ^ table_info >> 12
}

/// `xt_alloc_table_info` returned, or `xt_replace_table` is called with it: whatever lay at this address before is
/// another generation, and no packet has met this one.
#[inline(always)]
pub(crate) fn made(table_info: u64) {
    if table_info == 0 {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let is_known = GENERATIONS.get_ptr(table_info).is_some();
    if GENERATIONS.insert(table_info, now_ns, 0).is_ok() {
        if !is_known {
            KNOWN.add(key(table_info));
        }
    } else {
        count(Counter::GenerationsFull);
        let _ = GENERATIONS_LOST.set(0, 1, 0);
    }
}

/// Whether this may be the name of two generations.
#[inline(always)]
pub(crate) fn is_unsure(generation: &Generation) -> bool {
    generation.made_ns == 0 && GENERATIONS_LOST.get(0).is_some_and(|lost| *lost != 0)
}

/// `xt_free_table_info` is called.
#[inline(always)]
pub(crate) fn freed(table_info: u64) {
    if GENERATIONS.remove(table_info).is_ok() {
        KNOWN.remove(key(table_info));
    }
}

/// The generation that a table has now.
#[inline(always)]
pub(crate) fn of(table: u64) -> Result<Generation, Gap> {
    Ok(named(address_of(table)?))
}

/// Where it lies: the whole name, for as long as it cannot have been given back.
#[inline(always)]
pub(crate) fn address_of(table: u64) -> Result<u64, Gap> {
    read(table, offset!(table_private))
}

#[inline(always)]
fn named(table_info: u64) -> Generation {
    let known = if KNOWN.may_have(key(table_info)) {
        GENERATIONS.get_ptr(table_info)
    } else {
        None
    };
    let made_ns = known.map_or(0, |made_ns| {
        // SAFETY: the map returned a valid, aligned pointer.
        unsafe { *made_ns }
    });
    Generation { table_info, made_ns }
}

/// Which table a thread looked for: `xt_table` does not say to which network namespace it belongs.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Asked {
    netns: u32,
    family: u32,
}

/// `xt_find_table_lock` is called.
#[inline(always)]
pub(crate) fn asked(net: u64, family: u64) {
    let Ok(netns) = read(net, offset!(net_inum)) else {
        return;
    };
    let asked = Asked {
        netns,
        // `u_int8_t`: the upper bits of the register are anything.
        family: (family & 0xff) as u32,
    };
    let _ = ASKED.insert(bpf_get_current_pid_tgid(), asked, 0);
}

/// `xt_replace_table` is called, by a thread that has just looked for the table. It holds the table's lock, so who asks
/// for the rules from now on waits until these are in force. Where it fails the rules stay as they are, and are read
/// once more.
#[inline(always)]
pub(crate) fn replaced(table: u64, table_info: u64) {
    let Some(asked) = ASKED.get_ptr(bpf_get_current_pid_tgid()) else {
        return;
    };
    // SAFETY: the map returned a valid, aligned pointer; only this thread writes to the entry.
    let asked = unsafe { *asked };
    let Ok(table_name) = read::<[u8; TABLE_NAME_LEN]>(table, offset!(table_name)) else {
        return;
    };
    let replacement = Replacement {
        generation: named(table_info),
        netns: asked.netns,
        family: asked.family,
        table_name,
    };
    // Without room the rules are read when a packet has met them.
    let _ = REPLACEMENTS.output::<Replacement>(&replacement, 0);
}

/// `xt_find_table_lock` returned: the table's lock is held, so what the loader's reader gets next is what the
/// table has now.
#[inline(always)]
pub(crate) fn looked_up(table: u64) {
    /// `IS_ERR`, `include/linux/err.h`.
    const ERRORS_START: u64 = u64::MAX - 4094;

    // SAFETY: a static; volatile, because its value is known only when loaded.
    let reader = unsafe { core::ptr::read_volatile((&raw const READER).cast::<[u64; 2]>()) };
    let Ok(name) = bpf_get_current_comm() else {
        return;
    };
    // SAFETY: the same number of bytes, of which every pattern is a value.
    let name = unsafe { core::mem::transmute::<[u8; 16], [u64; 2]>(name) };
    if name != reader || table == 0 || table >= ERRORS_START {
        return;
    }
    let (Some(read), Ok(generation)) = (TABLE_READ.get_ptr_mut(0), of(table)) else {
        return;
    };
    // SAFETY: the map returned a valid, aligned pointer; there is one reader.
    let last = unsafe { *read };
    let again = last.table == table && last.generation == generation;
    // SAFETY: as above.
    unsafe {
        *read = TableRead {
            table,
            generation,
            lookups: last.lookups + 1,
            same: if again { last.same + 1 } else { 1 },
        }
    };
}
