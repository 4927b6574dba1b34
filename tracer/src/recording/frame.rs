//! Frames: entries, compressed together, with a checksum. A frame stands for itself, so that what is whole can be
//! read whatever comes before or after it.
//!
//! | bytes | what |
//! |---|---|
//! | 4 | [`SYNC`] |
//! | 4 | number of the frame, from 0 |
//! | 4 | bytes that follow the header |
//! | 4 | bytes that they decompress to |
//! | 4 | CRC-32 of the bytes that follow |
//! | 4 | CRC-32 of the header up to here |
//!
//! All numbers are little-endian. The bytes are one LZ4 block.

/// The first bytes of a frame, by which the next one is found behind a damaged one.
pub(super) const SYNC: [u8; 4] = *b"\xf5TRF";

/// Bytes of a frame's header.
pub(super) const HEADER_LEN: usize = 24;

/// LZ4 makes at most 255 bytes of one.
const EXPANSION_MAX: u64 = 255;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u32,
    pub(super) stored_len: u32,
    pub(super) len: u32,
    crc: u32,
}

impl Header {
    fn new(number: u32, stored: &[u8], len: usize) -> Option<Self> {
        Some(Self {
            number,
            stored_len: u32::try_from(stored.len()).ok()?,
            len: u32::try_from(len).ok()?,
            crc: crc32fast::hash(stored),
        })
    }

    fn bytes(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(&SYNC);
        for (place, word) in [self.number, self.stored_len, self.len, self.crc]
            .into_iter()
            .enumerate()
        {
            bytes[4 + 4 * place..8 + 4 * place].copy_from_slice(&word.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..HEADER_LEN - 4]);
        bytes[HEADER_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if these bytes are none.
    pub(super) fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Option<Self> {
        let word = |place: usize| {
            let at = 4 * place;
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let header = Self {
            number: word(1),
            stored_len: word(2),
            len: word(3),
            crc: word(4),
        };
        (bytes[..4] == SYNC && word(5) == crc32fast::hash(&bytes[..HEADER_LEN - 4])).then_some(header)
    }

    /// The entries of a frame, of its stored bytes; `None` where they are not what was written.
    pub(super) fn open(&self, stored: &[u8]) -> Option<Vec<u8>> {
        let expected = u64::from(self.len) <= EXPANSION_MAX * u64::from(self.stored_len);
        if !expected
            || u32::try_from(stored.len()) != Ok(self.stored_len)
            || crc32fast::hash(stored) != self.crc
        {
            return None;
        }
        let bytes = lz4_flex::block::decompress(stored, self.len as usize).ok()?;
        (bytes.len() == self.len as usize).then_some(bytes)
    }
}

/// Makes a frame of entries; `None` where they are more than a frame can have (4 GiB).
pub(super) fn make(number: u32, entries: &[u8]) -> Option<Vec<u8>> {
    let stored = lz4_flex::block::compress(entries);
    let header = Header::new(number, &stored, entries.len())?;
    let mut frame = Vec::with_capacity(HEADER_LEN + stored.len());
    frame.extend_from_slice(&header.bytes());
    frame.extend_from_slice(&stored);
    Some(frame)
}
