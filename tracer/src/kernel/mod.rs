//! What the running kernel is and has.

pub mod btf;
