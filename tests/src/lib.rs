//! What runs inside the test machines: scenarios (ruleset, traffic, expectation) and what they are made of.
//!
//! The pieces call the real tools (`ip`, `iptables-legacy-restore`, …), as those are what a node uses.
//! Nothing here sleeps for a guessed time: [`wait::until`] waits for a condition, within a limit.

pub mod account;
pub mod bench;
pub mod campaign;
pub mod command;
pub mod demo;
pub mod http;
pub mod job;
pub mod kernel_state;
pub mod kmsg;
pub mod neighbours;
pub mod netns;
pub mod node;
pub mod oracle;
pub mod processors;
pub mod queue;
pub mod ruleset;
pub mod scenarios;
pub mod terminal;
pub mod trace_log;
pub mod tracer;
pub mod traffic;
pub mod twin;
pub mod wait;
