//! How results are shown, one file for each format.

mod clock;
pub mod kernel_log;
mod line;
mod log;
mod tree;
mod words;

pub use clock::Clock;

use std::io;

use crate::{explain::Explanation, traversal::Traversal};

/// A format that results are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Every packet with its tables, and in each table the rules that it met, chain by chain
    Tree,
    /// One readable line for each traversal of a table
    Line,
    /// The lines that the kernel's TRACE target would have logged, from `TRACE: ` on
    Log,
}

impl Format {
    /// Whether it shows rules.
    #[must_use]
    pub fn shows_rules(self) -> bool {
        match self {
            Self::Tree | Self::Log => true,
            Self::Line => false,
        }
    }

    /// Whether it shows the rules' texts.
    #[must_use]
    pub fn shows_texts(self) -> bool {
        self == Self::Tree
    }
}

/// Writes results, one after another.
pub trait Output {
    /// Writes one traversal, with its path where that was asked for.
    ///
    /// # Errors
    /// What the writer says.
    fn traversal(&mut self, traversal: &Traversal, explanation: Option<&Explanation>) -> io::Result<()>;

    /// Hands what was written to the operating system.
    ///
    /// # Errors
    /// What the writer says.
    fn flush(&mut self) -> io::Result<()>;
}

/// Makes the output that writes `format` to `writer`. `own_netns` is the inode number of the network namespace
/// that needs no mention, `clock` that of the machine where it happened.
pub fn new(
    format: Format,
    writer: Box<dyn io::Write>,
    own_netns: Option<u32>,
    clock: Clock,
) -> Box<dyn Output> {
    match format {
        Format::Tree => Box::new(tree::Tree::new(writer, own_netns, clock)),
        Format::Line => Box::new(line::Line::new(writer, own_netns, clock)),
        Format::Log => Box::new(log::Log::new(writer)),
    }
}
