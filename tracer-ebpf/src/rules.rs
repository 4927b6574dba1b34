//! Which rules a table had: each replacement is an `xt_table_info` of its own.

use aya_ebpf::helpers::{bpf_get_current_comm, bpf_ktime_get_ns};
use tracer_common::{Counter, Generation, TableRead};

use crate::{
    kernel::{Gap, read},
    maps::{GENERATIONS, GENERATIONS_LOST, READER, TABLE_READ, count},
    offset,
};

/// `xt_alloc_table_info` returned, or `xt_replace_table` is called with it: whatever lay at this address before is
/// another generation, and no packet has met this one.
#[inline(always)]
pub(crate) fn made(table_info: u64) {
    if table_info == 0 {
        return;
    }
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if GENERATIONS.insert(table_info, now_ns, 0).is_err() {
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
    let _ = GENERATIONS.remove(table_info);
}

/// The generation that a table has now.
#[inline(always)]
pub(crate) fn of(table: u64) -> Result<Generation, Gap> {
    let table_info: u64 = read(table, offset!(table_private))?;
    let made_ns = GENERATIONS.get_ptr(table_info).map_or(0, |made_ns| {
        // SAFETY: the map returned a valid, aligned pointer.
        unsafe { *made_ns }
    });
    Ok(Generation { table_info, made_ns })
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
