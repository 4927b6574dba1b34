//! How results are shown, one file for each format.

pub mod kernel_log;
mod line;

use std::io;

use crate::traversal::Traversal;

/// A format that results are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One readable line for each traversal of a table
    Line,
}

/// Writes results, one after another.
pub trait Output {
    /// Writes one traversal.
    ///
    /// # Errors
    /// What the writer says.
    fn traversal(&mut self, traversal: &Traversal) -> io::Result<()>;

    /// Hands what was written to the operating system.
    ///
    /// # Errors
    /// What the writer says.
    fn flush(&mut self) -> io::Result<()>;
}

/// Makes the output that writes `format` to `writer`. `own_netns` is the inode number of the network namespace
/// that needs no mention.
pub fn new(format: Format, writer: Box<dyn io::Write>, own_netns: Option<u32>) -> Box<dyn Output> {
    match format {
        Format::Line => Box::new(line::Line::new(writer, own_netns)),
    }
}
