//! A trace on disk: what the programs sent, byte for byte, and the rules that were read meanwhile, so that
//! everything after the kernel can be done again on any machine. `docs/recording.md` specifies the format.
//!
//! | file | what it does |
//! |---|---|
//! | `entry.rs` | what a recording holds, each thing under a tag |
//! | `frame.rs` | compressed and checked pieces of the file: what is whole can be read, whatever comes after |
//! | `writer.rs` | entries → frames |
//! | `reader.rs` | frames → entries, and what was damaged |
//! | `file.rs` | the file being written: what a full disk cut off is taken back |
//! | `source.rs` | rules: noted while they are read, and taken from the recording again |

mod entry;
mod file;
mod frame;
mod reader;
mod source;
#[cfg(test)]
mod tests;
mod writer;

pub use entry::{
    Counted, DeviceName, End, Entry, FunctionName, Host, PlaceName, RecordLayout, RecordedNftables,
    RecordedTable, Skips, TableId, Unread,
};
pub use file::{CreateError, File};
pub use reader::{Damage, Item, OpenError, Reader};
pub use source::{Noting, Recorded};
pub use writer::Writer;

/// The first bytes of every recording. Not text, so that nobody takes it for text.
const MAGIC: [u8; 8] = *b"\x89TRACER\n";

/// Version of the format. Another one is refused; a new kind of entry is no new version, for readers skip tags
/// that they do not know.
const VERSION: u32 = 1;
