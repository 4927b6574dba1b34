//! The rules that packets meet: read from the kernel, decoded, named.

pub mod blob;
#[cfg(test)]
pub(crate) mod builder;
mod chains;
mod label;
mod model;
pub mod source;
pub mod text;

pub use blob::BlobError;
pub use chains::{Chain, End};
pub use label::{Kind, Label, Labels};
pub use model::{BuiltIn, Extension, HeaderMatch, Offset, Rule, Standard, Table, Target};
