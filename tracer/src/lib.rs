//! Shows which iptables tables, chains and rules a packet passes, without touching the node.
//!
//! Data flows one way: kernel record → [`traversal`] → [`output`]. The kernel's side is in [`kernel`], what the
//! user typed in [`cli`]. `ARCHITECTURE.md` has the map.

pub mod changed;
pub mod cli;
pub mod connection;
pub mod event;
pub mod explain;
pub mod filter;
pub mod journey;
pub mod kernel;
pub mod names;
pub mod netns;
pub mod nftables;
pub mod output;
pub mod packet;
pub mod parts;
pub mod passage;
mod recent;
pub mod recording;
pub mod replay;
pub mod ruleset;
pub mod traversal;
pub mod witness;
