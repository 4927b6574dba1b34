//! Shows which iptables tables, chains and rules a packet passes, without touching the node.

pub mod cli;
pub mod kernel;
