//! The rules that packets meet: read from the kernel, decoded, named.

pub mod blob;
#[cfg(test)]
pub(crate) mod builder;
mod label;
mod model;

pub use blob::BlobError;
pub use label::{Kind, Label, Labels};
pub use model::{BuiltIn, Extension, HeaderMatch, Offset, Rule, Standard, Table, Target};
