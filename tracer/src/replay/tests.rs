//! The replay, held against what the kernel is known to do.

mod engine;
mod fuzz;
mod golden;
mod matches;
mod observations;
mod support;
mod targets;
