//! Reads a recording: every entry that is whole, and what was damaged between them.

use std::{
    collections::BTreeMap,
    io::{self, Read},
};

use super::{
    MAGIC, VERSION,
    entry::{self, Entry, EntryError, Host, RecordLayout},
    frame::{HEADER_LEN, Header},
};

/// Why a file cannot be read as a recording at all.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is nothing in it.
    #[error("empty")]
    Empty,
    /// Something else.
    #[error("not a recording of tracer")]
    NoRecording,
    /// It was made by another version.
    #[error("a recording of format version {0}; this tracer reads version {VERSION}")]
    Version(u32),
    /// Its first frame, which says where it was made, is not whole.
    #[error("damaged at its beginning: where and how it was made is not known")]
    NoHost,
    /// Its records are laid out differently.
    #[error(
        "made by tracer {tracer} with record layout {} of {} bytes; this tracer reads layout {} of {} bytes",
        .theirs.version, .theirs.len, RecordLayout::OWN.version, RecordLayout::OWN.len
    )]
    Layout {
        /// Version of the tracer that made it.
        tracer: String,
        /// How it laid records out.
        theirs: RecordLayout,
    },
    /// Its numbers are in another byte order, or of another size.
    #[error("made on {0}; this tracer reads recordings of {own}", own = std::env::consts::ARCH)]
    Machine(String),
}

/// Damage that was found between entries.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends within a frame: the writer was cut off while it wrote.
    #[error("cut off within the frame at byte {at}")]
    Cut {
        /// Where the frame begins.
        at: u64,
    },
    /// A frame's bytes are not those that were written.
    #[error("the frame at byte {at} is damaged, its entries are lost")]
    Frame {
        /// Where it begins.
        at: u64,
    },
    /// Bytes that are no frame.
    #[error("{len} bytes at byte {at} are no frame")]
    Gap {
        /// Where they begin.
        at: u64,
        /// How many there are.
        len: u64,
    },
    /// Frames are not there.
    #[error("{count} frames are missing before the one at byte {at}")]
    Missing {
        /// Where the next one begins.
        at: u64,
        /// How many.
        count: u32,
    },
    /// A frame is whole, but an entry in it is not what it should be.
    #[error("an entry of the frame at byte {at} cannot be read: {why}")]
    Entry {
        /// Where the frame begins.
        at: u64,
        /// What is wrong.
        why: EntryError,
    },
    /// A frame is whole, but its entries are not.
    #[error("the entries of the frame at byte {at} do not add up")]
    Entries {
        /// Where the frame begins.
        at: u64,
    },
    /// A second recording was appended to the first.
    #[error("another recording begins in the frame at byte {at}; it is not read")]
    Another {
        /// Where the frame begins.
        at: u64,
    },
    /// The file could not be read any further.
    #[error("not read beyond byte {at}: {why}")]
    Unreadable {
        /// Where.
        at: u64,
        /// What the operating system says.
        why: String,
    },
}

/// Bytes before the first frame.
const START_LEN: usize = MAGIC.len() + 4;

/// What comes next in a recording.
#[derive(Debug)]
pub enum Item {
    /// An entry.
    Entry(Entry),
    /// Damage. What comes after it is whole again.
    Damage(Damage),
}

/// Reads a recording from its beginning to its end.
#[derive(Debug)]
pub struct Reader<R> {
    bytes: Bytes<R>,
    host: Host,
    /// The header of the frame behind the host's, where there is one.
    second: Option<Header>,
    /// The entries of the frame that is being read, and how many bytes of them were taken.
    entries: Vec<u8>,
    taken: usize,
    frame_at: u64,
    frame_next: u32,
    /// Entries that were skipped because this build does not know them, by tag.
    unknown: BTreeMap<u32, u64>,
    ended: bool,
    /// Whether the entry was there behind which nothing comes.
    complete: bool,
}

impl<R: Read> Reader<R> {
    /// Begins to read.
    ///
    /// # Errors
    /// What is no recording, or one that this build cannot read.
    pub fn open(from: R) -> Result<Self, OpenError> {
        let mut bytes = Bytes::new(from);
        let start = bytes.take(START_LEN as u64)?;
        let version = start.strip_prefix(&MAGIC).and_then(|rest| rest.first_chunk());
        match version.map(|version| u32::from_le_bytes(*version)) {
            None if start.is_empty() => return Err(OpenError::Empty),
            None if start.len() < START_LEN && (start.starts_with(&MAGIC) || MAGIC.starts_with(&start)) => {
                return Err(OpenError::NoHost);
            }
            None => return Err(OpenError::NoRecording),
            Some(VERSION) => {}
            Some(other) => return Err(OpenError::Version(other)),
        }
        let header = bytes.header()?.filter(|header| header.number == 0);
        let header = header.ok_or(OpenError::NoHost)?;
        bytes.consume(HEADER_LEN);
        let stored = bytes.take(u64::from(header.stored_len))?;
        let entries = header.open(&stored).ok_or(OpenError::NoHost)?;
        let (tag, body, rest) = entry::split(&entries).ok_or(OpenError::NoHost)?;
        let Ok(Entry::Host(host)) = Entry::decode(tag, body) else {
            return Err(OpenError::NoHost);
        };
        if host.machine != std::env::consts::ARCH {
            return Err(OpenError::Machine(host.machine));
        }
        if host.record != RecordLayout::OWN {
            return Err(OpenError::Layout {
                tracer: host.tracer,
                theirs: host.record,
            });
        }
        Ok(Self {
            taken: entries.len() - rest.len(),
            // What cannot be read now is told when it is come to.
            second: bytes.header().ok().flatten(),
            bytes,
            host: *host,
            entries,
            frame_at: START_LEN as u64,
            frame_next: 1,
            unknown: BTreeMap::new(),
            ended: false,
            complete: false,
        })
    }

    /// Where and how it was made.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Whether both are of one recording, whole or cut off: they were made at the same time on the same machine by the
    /// same command, and begin with the same entries as far as both have them.
    #[must_use]
    pub fn is_same<S>(&self, other: &Reader<S>) -> bool {
        let begin_same = match (self.second, other.second) {
            (Some(own), Some(theirs)) if own.number == theirs.number => own == theirs,
            _ => true,
        };
        self.host == other.host && begin_same
    }

    /// Entries that were skipped because this build does not know them, by tag.
    #[must_use]
    pub fn unknown(&self) -> &BTreeMap<u32, u64> {
        &self.unknown
    }

    /// The next entry that this build knows, or what is damaged before it.
    fn read(&mut self) -> Option<Item> {
        loop {
            let Some(rest) = self.entries.get(self.taken..).filter(|rest| !rest.is_empty()) else {
                match self.next_frame() {
                    Some(Ok(())) => continue,
                    Some(Err(damage)) => return Some(Item::Damage(damage)),
                    None => return None,
                }
            };
            let at = self.frame_at;
            let Some((tag, body, after)) = entry::split(rest) else {
                self.entries.clear();
                return Some(Item::Damage(Damage::Entries { at }));
            };
            self.taken = self.entries.len() - after.len();
            return Some(match Entry::decode(tag, body) {
                Ok(Entry::Unknown(tag)) => {
                    *self.unknown.entry(tag).or_default() += 1;
                    continue;
                }
                Ok(Entry::Host(_)) => {
                    self.entries.clear();
                    self.ended = true;
                    Item::Damage(Damage::Another { at })
                }
                Ok(entry) => {
                    self.complete |= matches!(entry, Entry::End(_));
                    Item::Entry(entry)
                }
                Err(why) => Item::Damage(Damage::Entry { at, why }),
            });
        }
    }

    /// Opens the next frame. `None` at the end.
    fn next_frame(&mut self) -> Option<Result<(), Damage>> {
        if self.ended {
            return None;
        }
        let result = self.try_next_frame();
        let at = self.bytes.at;
        let result = result.unwrap_or_else(|error| {
            self.ended = true;
            Some(Err(Damage::Unreadable {
                at,
                why: error.to_string(),
            }))
        });
        self.ended |= result.is_none();
        result
    }

    fn try_next_frame(&mut self) -> io::Result<Option<Result<(), Damage>>> {
        self.entries.clear();
        self.taken = 0;
        let at = self.bytes.at;
        let skipped = self.bytes.skip_to_frame()?;
        if skipped.len > 0 {
            return Ok(Some(Err(if skipped.cut && !self.complete {
                Damage::Cut { at }
            } else {
                Damage::Gap { at, len: skipped.len }
            })));
        }
        let Some(header) = self.bytes.header()? else {
            return Ok(None);
        };
        let expected = self.frame_next;
        let missing = header.number.wrapping_sub(expected);
        if missing != 0 && header.number > expected {
            self.frame_next = header.number;
            return Ok(Some(Err(Damage::Missing { at, count: missing })));
        }
        self.bytes.consume(HEADER_LEN);
        self.frame_next = header.number.wrapping_add(1);
        self.frame_at = at;
        let stored = self.bytes.take(u64::from(header.stored_len))?;
        if stored.len() as u64 != u64::from(header.stored_len) {
            return Ok(Some(Err(Damage::Cut { at })));
        }
        Ok(Some(match header.open(&stored) {
            Some(entries) => {
                self.entries = entries;
                Ok(())
            }
            None => Err(Damage::Frame { at }),
        }))
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Item;

    fn next(&mut self) -> Option<Item> {
        self.read()
    }
}

/// Bytes that can be looked at before they are taken.
#[derive(Debug)]
struct Bytes<R> {
    from: R,
    /// What was read; everything before `taken` was taken.
    ahead: Vec<u8>,
    taken: usize,
    /// Where in the file the next byte lies.
    at: u64,
}

/// Bytes that were no frame.
struct SkippedBytes {
    len: u64,
    /// Whether they are so few that they are the beginning of a frame's header, at the end of the file.
    cut: bool,
}

impl<R: Read> Bytes<R> {
    /// Bytes asked for at a time: a file that promises more than it has takes no memory for it.
    const STEP_LEN: u64 = 1 << 20;

    fn new(from: R) -> Self {
        Self {
            from,
            ahead: Vec::new(),
            taken: 0,
            at: 0,
        }
    }

    /// The next `len` bytes; fewer at the end of the file.
    fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.ahead.len() - self.taken < len {
            self.ahead.drain(..self.taken);
            self.taken = 0;
            (&mut self.from)
                .take(Self::STEP_LEN)
                .read_to_end(&mut self.ahead)?;
        }
        let rest = &self.ahead[self.taken..];
        Ok(&rest[..len.min(rest.len())])
    }

    fn consume(&mut self, len: usize) {
        let len = len.min(self.ahead.len() - self.taken);
        self.taken += len;
        self.at += len as u64;
    }

    /// Takes `len` bytes; fewer at the end of the file.
    fn take(&mut self, len: u64) -> io::Result<Vec<u8>> {
        let mut taken = Vec::new();
        while (taken.len() as u64) < len {
            let wanted = (len - taken.len() as u64).min(Self::STEP_LEN);
            let Ok(wanted) = usize::try_from(wanted) else {
                break;
            };
            let next = self.peek(wanted)?;
            let next_len = next.len();
            if next_len == 0 {
                break;
            }
            taken.extend_from_slice(next);
            self.consume(next_len);
        }
        Ok(taken)
    }

    /// The frame's header that comes next, if one does.
    fn header(&mut self) -> io::Result<Option<Header>> {
        let bytes = self.peek(HEADER_LEN)?;
        Ok(bytes.first_chunk().and_then(Header::from_bytes))
    }

    /// Goes on to the next frame, or to the end.
    fn skip_to_frame(&mut self) -> io::Result<SkippedBytes> {
        let from = self.at;
        while self.header()?.is_none() && !self.peek(1)?.is_empty() {
            self.consume(1);
        }
        let len = self.at - from;
        let at_end = self.peek(1)?.is_empty();
        Ok(SkippedBytes {
            len,
            cut: at_end && len < HEADER_LEN as u64,
        })
    }
}
