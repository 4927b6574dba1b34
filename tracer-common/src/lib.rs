//! What the eBPF programs and the loader of `tracer` agree on, and nothing else.
//!
//! Data goes both ways and each way has its type:
//!
//! | type | from | to | carried by |
//! |---|---|---|---|
//! | [`Offsets`] | loader (from the running kernel's BTF) | programs | read-only global |
//! | [`Filter`] | loader (from the command line) | programs | read-only global |
//! | [`Traversal`] | programs | loader | ring buffer, one record a table traversal (more for long ones on nf_tables) |
//! | [`End`] | programs | loader | ring buffer, one record a followed packet, if asked for |
//! | [`Sites`] | loader (from the running kernel's code) | programs | read-only global, for `--verify` |
//! | [`Witness`] | programs | loader | the same ring buffer, before its traversal, for `--verify` |
//! | [`HeadersAfter`] | programs | loader | ring buffer, before the record of its traversal |
//! | [`Replacement`] | programs | loader | a ring buffer of its own, which the loader looks at first |
//! | [`TableRead`] | programs | loader | array: which rules its reader got |
//! | [`Commit`] | programs | loader | map: the last commit of nf_tables in each network namespace |
//! | [`Guard`] | loader | programs | array |
//! | [`Counter`] | programs | loader | per-CPU array |
//!
//! Everything is plain old data in host byte order with explicit padding; sizes are asserted at
//! compile time, so that a change on one side cannot go unnoticed on the other.

#![no_std]

mod counter;
mod filter;
mod guard;
mod offsets;
mod record;
mod witness;

pub use counter::Counter;
pub use filter::{Filter, HOOKS_ALL, Prefix, TABLES_MAX, criteria, protocols};
pub use guard::Guard;
pub use offsets::{ABSENT, Offsets, functions};
pub use record::{
    ASKING_MAX, BACKEND_LEGACY, BACKEND_NFTABLES, CHAIN_NAME_LEN, COMMITTED_BYTES, CONNECTIONS_MAX, Commit,
    End, FRAMES_MAX, GENERATIONS_MAX, Generation, HEADERS_LEN_MAX, HOOK_FORWARD, HOOK_LOCAL_IN,
    HOOK_LOCAL_OUT, HOOK_POST_ROUTING, HOOK_PRE_ROUTING, HeadersAfter, IFNAME_LEN, LINK_HEADER_LEN_MAX,
    OBSERVED_MAX, Observed, PACKETS_MAX, RECORD_LAYOUT, REPLACEMENTS_BYTES, Replacement, TABLE_NAME_LEN,
    THREAD_NAME_LEN, TUPLE_LEN, TableRead, Traversal, ends, flags, kind, nft_step, observed,
};
pub use witness::{CODE_CHUNK_LEN, CodeChunk, NO_RULE, Registers, Sites, WITNESSED_MAX, Witness};
