//! The packet as the kernel's `skb_header_pointer` hands it out, from a record that may end before it.

use super::Cut;

/// Offsets are from the outermost network header, and counted as the kernel does, in 32 bits.
pub(super) struct Packet<'a> {
    /// The first bytes of the packet.
    pub(super) recorded: &'a [u8],
    /// `sk_buff.len`: the bytes that the packet has.
    pub(super) len: u32,
    /// Whether `len` is known.
    pub(super) len_is_certain: bool,
}

impl<'a> Packet<'a> {
    /// The header of `N` bytes at `offset`, or `None` where the packet ends before its end
    /// (`skb_header_pointer`, `include/linux/skbuff.h`).
    pub(super) fn header<const N: usize>(&self, offset: u32) -> Result<Option<&'a [u8; N]>, Cut> {
        Ok(self.bytes(offset, N)?.and_then(<[u8]>::first_chunk))
    }

    /// The same with a length that the packet itself tells.
    pub(super) fn bytes(&self, offset: u32, len: usize) -> Result<Option<&'a [u8]>, Cut> {
        let start = offset as usize;
        let end = start + len;
        if end > self.len as usize {
            return if self.len_is_certain {
                Ok(None)
            } else {
                Err(Cut::Headers)
            };
        }
        match self.recorded.get(start..end) {
            Some(bytes) => Ok(Some(bytes)),
            None => Err(Cut::Headers),
        }
    }

    /// Bytes that the packet has from `offset` on, as the kernel prints them in `INCOMPLETE [… bytes]`:
    /// wrapped around where there are less than none.
    pub(super) fn len_from(&self, offset: u32) -> u32 {
        self.len.wrapping_sub(offset)
    }
}

/// The big-endian number at `at`, which must be within the header.
pub(super) fn u16_at(header: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The same for four bytes.
pub(super) fn u32_at(header: &[u8], at: usize) -> u32 {
    u32::from(u16_at(header, at)) << 16 | u32::from(u16_at(header, at + 2))
}
