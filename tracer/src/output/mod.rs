//! How results are shown, one file for each format.
//!
//! Some formats show each traversal of a table as it comes, the others a [`Journey`] once it is over
//! ([`Format::shows`]).

mod clock;
mod diagram;
mod drops;
mod json;
pub mod kernel_log;
mod layout;
mod line;
mod log;
mod mermaid;
mod pcapng;
mod stats;
mod tables;
#[cfg(test)]
mod tests;
mod tree;
mod way;
mod words;

use std::io;

pub use clock::Clock;
pub(crate) use clock::monotonic_ns;
pub(crate) use words::printable;

use crate::{explain::Explanation, journey::Journey, traversal::Traversal};

/// A format that results are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Every packet's whole way: its tables, in each the rules that it met, what changed it, and how it ended
    Tree,
    /// One line for each packet: its way, what changed it, who decided
    Line,
    /// One line for each packet that netfilter dropped or rejected: the rule, and the chains that led to it
    Drops,
    /// A table of the rules that drop or reject packets, with how many
    Stats,
    /// One line for each table that a packet passed; reads no rules and costs least
    Tables,
    /// The lines that the kernel's TRACE target would have logged, from `TRACE: ` on
    Log,
    /// One JSON object for each packet; docs/json.md says what is in it
    Json,
    /// A drawing of each packet's way from chain to chain
    Diagram,
    /// The same for Mermaid, which draws it in Markdown
    Mermaid,
    /// The packets with their path as comment, for Wireshark and tshark
    Pcapng,
}

/// What a format shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Traversals of a table, one after another as they come.
    Traversal,
    /// Journeys, each once it is over.
    Journey,
}

impl Format {
    /// What it shows.
    #[must_use]
    pub fn shows(self) -> Unit {
        match self {
            Self::Tables | Self::Log => Unit::Traversal,
            Self::Tree
            | Self::Line
            | Self::Drops
            | Self::Stats
            | Self::Json
            | Self::Diagram
            | Self::Mermaid
            | Self::Pcapng => Unit::Journey,
        }
    }

    /// Whether it shows rules.
    #[must_use]
    pub fn shows_rules(self) -> bool {
        self != Self::Tables
    }

    /// Whether it is not text.
    #[must_use]
    pub fn is_binary(self) -> bool {
        self == Self::Pcapng
    }

    /// Whether it shows the rules' texts.
    #[must_use]
    pub fn shows_texts(self) -> bool {
        !matches!(self, Self::Tables | Self::Log)
    }
}

/// Writes results, one after another: those that its format shows.
pub trait Output {
    /// Takes one traversal, with its path where that was asked for.
    ///
    /// # Errors
    /// What the writer says.
    fn traversal(&mut self, _: &Traversal, _: Option<&Explanation>) -> io::Result<()> {
        Ok(())
    }

    /// Takes a journey that is over.
    ///
    /// # Errors
    /// What the writer says.
    fn journey(&mut self, _: &Journey) -> io::Result<()> {
        Ok(())
    }

    /// Hands what was written to the operating system.
    ///
    /// # Errors
    /// What the writer says.
    fn flush(&mut self) -> io::Result<()>;

    /// Writes what can be written only when nothing comes any more, and hands it on.
    ///
    /// # Errors
    /// What the writer says.
    fn finish(&mut self) -> io::Result<()> {
        self.flush()
    }
}

/// What results are shown on.
#[derive(Clone, Copy, Debug)]
pub enum Screen {
    /// No terminal: nothing is shortened, and nothing written is changed again.
    None,
    /// A terminal, which tells how large it is now.
    Terminal(fn() -> Size),
    /// One of this size.
    Fixed(Size),
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub rows: usize,
}

impl Screen {
    /// How large it is now; `None` where it is no terminal.
    #[must_use]
    pub fn size(&self) -> Option<Size> {
        match self {
            Self::None => None,
            Self::Terminal(ask) => Some(ask()),
            Self::Fixed(size) => Some(*size),
        }
    }

    /// Its columns.
    #[must_use]
    pub fn columns(&self) -> Option<usize> {
        self.size().map(|size| size.columns)
    }
}

/// Network namespaces that need no mention: the one that tracer ran in, of each recording.
#[derive(Clone, Debug, Default)]
pub struct Homes(Vec<Option<u32>>);

impl Homes {
    /// By inode number, in the order of the recordings.
    #[must_use]
    pub fn of(homes: impl IntoIterator<Item = Option<u32>>) -> Self {
        Self(homes.into_iter().collect())
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn has(&self, recording: u32, netns: u32) -> bool {
        let home = usize::try_from(recording)
            .ok()
            .and_then(|place| self.0.get(place));
        home == Some(&Some(netns))
    }
}

/// What is the same for all formats.
#[derive(Clone, Debug)]
pub struct Context {
    /// Network namespaces that need no mention.
    pub homes: Homes,
    /// What times mean.
    pub clock: Clock,
    /// What it is shown on: rules' texts are shortened to it.
    pub screen: Screen,
}

/// Makes the output that writes `format` to `writer`.
///
/// # Errors
/// What the writer says: a format may begin with a header.
pub fn new(format: Format, writer: Box<dyn io::Write>, context: Context) -> io::Result<Box<dyn Output>> {
    Ok(match format {
        Format::Tree => Box::new(tree::Tree::new(writer, context)),
        Format::Line => Box::new(line::Line::new(writer, context)),
        Format::Stats => Box::new(stats::Stats::new(writer, &context)),
        Format::Drops => Box::new(drops::Drops::new(writer, context)),
        Format::Tables => Box::new(tables::Tables::new(writer, context.homes, context.clock)),
        Format::Log => Box::new(log::Log::new(writer)),
        Format::Json => Box::new(json::Json::new(writer, context)),
        Format::Diagram => Box::new(diagram::Diagram::new(writer, context)),
        Format::Mermaid => Box::new(mermaid::Mermaid::new(writer)),
        Format::Pcapng => Box::new(pcapng::Pcapng::new(writer, context)?),
    })
}
