//! Everything that is sent to the loader goes through here.

use crate::maps::{RECORDS, WAKE_AT};

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP` and `BPF_RB_AVAIL_DATA`, `include/uapi/linux/bpf.h`.
const NO_WAKEUP: u64 = 1;
const FORCE_WAKEUP: u64 = 2;
const AVAILABLE: u64 = 0;

/// Sends a record. False where there is no room for it.
///
/// The loader looks into the buffer by itself a few times a second, so it is woken only when much has come: waking it
/// costs more than everything else here.
#[inline(always)]
pub(crate) fn emit(record: &[u8]) -> bool {
    // SAFETY: a static; volatile, because its value is known only when loaded.
    let wake_at = u64::from(unsafe { core::ptr::read_volatile(&raw const WAKE_AT) });
    let before = RECORDS.query(AVAILABLE);
    // Once: whoever is awake goes on until the buffer is empty.
    let crosses = before < wake_at && before + record.len() as u64 >= wake_at;
    let wakeup = if crosses { FORCE_WAKEUP } else { NO_WAKEUP };
    RECORDS.output::<[u8]>(record, wakeup).is_ok()
}
