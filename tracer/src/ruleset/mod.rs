//! The rules that packets meet: read from the kernel, decoded, named.

mod model;

pub use model::{BuiltIn, Extension, HeaderMatch, Offset, Rule, Standard, Table, Target};
