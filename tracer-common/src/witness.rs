//! Steps as the kernel itself took them, which `--verify` holds a replay against.

use crate::kind;

/// Steps that one witness has room for.
pub const WITNESSED_MAX: usize = 512;

/// An entry that does not lie in the table's first 4 GiB, so none of its rules.
pub const NO_RULE: u32 = u32::MAX;

/// Where the functions that walk the rules ask whether they have to log (`skb->nf_trace`), what they have in which
/// register there. The loader finds it in the running kernel's code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Sites {
    /// Not zero when steps are to be witnessed.
    pub witnessing: u32,
    /// In `ipt_do_table`.
    pub ipv4: Registers,
    /// In `ip6t_do_table`.
    pub ipv6: Registers,
}

/// Registers, as offsets in `struct pt_regs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Registers {
    /// The one that holds the `struct sk_buff *`.
    pub skb: u32,
    /// The one that holds the `struct ipt_entry *` or `struct ip6t_entry *`: the rule whose matches all held.
    pub entry: u32,
}

impl Sites {
    /// Nothing is witnessed.
    pub const NONE: Self = Self {
        witnessing: 0,
        ipv4: Registers { skb: 0, entry: 0 },
        ipv6: Registers { skb: 0, entry: 0 },
    };
}

/// The steps of one traversal. It is sent just before its [`crate::Traversal`], through the same buffer.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Witness {
    /// [`kind::WITNESS`].
    pub kind: u64,
    /// Address of the `sk_buff`.
    pub skb: u64,
    /// `CLOCK_MONOTONIC` at entry. With `skb` this names the traversal.
    pub entered_ns: u64,
    /// Address of the table's first entry.
    pub entries: u64,
    /// Not zero when there were more steps than there is room for.
    pub cut: u32,
    /// Entries used in `steps`. The record is sent without the others.
    pub steps_len: u32,
    /// Where each rule begins, from the table's first entry, or [`NO_RULE`].
    pub steps: [u32; WITNESSED_MAX],
}

impl Witness {
    /// A witness that has seen nothing.
    pub const EMPTY: Self = Self {
        kind: kind::WITNESS,
        skb: 0,
        entered_ns: 0,
        entries: 0,
        cut: 0,
        steps_len: 0,
        steps: [0; WITNESSED_MAX],
    };

    /// Bytes of a witness of `steps_len` steps.
    #[must_use]
    pub const fn len_with(steps_len: usize) -> usize {
        size_of::<Self>() - (WITNESSED_MAX - steps_len) * 4
    }

    /// The bytes to send: without the entries of `steps` that are not used.
    #[must_use]
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        let steps_len = (self.steps_len as usize).min(WITNESSED_MAX);
        // SAFETY: at most the whole record, which is plain old data without hidden padding.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast(), Self::len_with(steps_len)) }
    }

    /// Reads a witness from the bytes that a program sent; `None` unless the length is exactly right.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < Self::len_with(0) || bytes.len() > size_of::<Self>() {
            return None;
        }
        let mut witness = Self::EMPTY;
        // SAFETY: the record is that long at least, the regions are apart, and every bit pattern is a value.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut witness).cast::<u8>(), bytes.len());
        }
        let steps_len = usize::try_from(witness.steps_len).ok()?;
        let whole = steps_len <= WITNESSED_MAX && bytes.len() == Self::len_with(steps_len);
        (whole && witness.kind == kind::WITNESS).then_some(witness)
    }
}

/// Bytes of code that one run of the program that reads them copies.
pub const CODE_CHUNK_LEN: usize = 512;

/// A piece of the kernel's code.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct CodeChunk {
    /// How many bytes could be read: all that were asked for, or none.
    pub len: u64,
    /// The bytes.
    pub bytes: [u8; CODE_CHUNK_LEN],
}

// The fields fill the records without hidden padding, so their bytes never carry stale memory.
const _: () = assert!(size_of::<Witness>() == 4 * 8 + 2 * 4 + WITNESSED_MAX * 4);
const _: () = assert!(size_of::<Witness>().is_multiple_of(8));
const _: () = assert!(size_of::<Sites>() == 5 * 4);
