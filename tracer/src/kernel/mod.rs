//! The running kernel: its layout, what it can do, and the probes in it.

mod link;
pub mod probes;
