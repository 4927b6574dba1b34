//! The packet as the walk sees it: as it was at entry, with what targets have changed since.

use std::cell::Cell;
use std::sync::Arc;

use super::path::Gap;
use crate::traversal::{Conntrack, ConntrackState, Traversal};

/// The packet at one moment of the walk.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// From the network header on, as much as was captured.
    pub(super) headers: Arc<[u8]>,
    /// `skb->len`
    pub(super) len: u32,
    /// `skb->mark`
    pub(super) mark: u32,
    /// `skb->_nfct`
    pub(super) connection: Connection,
    /// From here on a target may have changed the headers unseen, and with them the length.
    pub(super) doubtful_from: Option<u32>,
    /// What the kernel does with an IPv6 extension header that claims to be longer than the packet.
    pub(super) overlong: Overlong,
    /// Whether it had to do something.
    pub(super) met_overlong: Cell<bool>,
}

/// What `ipv6_find_hdr` does with an extension header that claims to be longer than the packet. Recent stable kernels
/// refuse it; no number or type tells which kernel does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlong {
    /// It goes on to the next header's number, which is the transport protocol unless it stands for a header itself.
    Skipped,
    /// It returns `-EBADMSG`.
    Refused,
}

/// What conntrack knows of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connection {
    /// `_nfct` is zero.
    None,
    /// `IP_CT_UNTRACKED`
    Untracked,
    /// `_nfct` is not zero, but has no connection either.
    Orphaned,
    /// An `nf_conn`, or the template that the `CT` target attaches.
    Tracked {
        /// `ctinfo % IP_CT_IS_REPLY`
        state: ConntrackState,
        /// `CTINFO2DIR(ctinfo) == IP_CT_DIR_REPLY`
        reply: bool,
        /// `ct->status`, where it is known.
        status: Option<u32>,
        /// `ct->mark`, where it is known.
        mark: Option<u32>,
    },
    /// A target may have changed anything.
    Unknown,
}

impl View {
    pub(super) fn of(traversal: &Traversal, overlong: Overlong) -> Self {
        Self {
            overlong,
            met_overlong: Cell::new(false),
            headers: traversal.headers.as_slice().into(),
            len: traversal.packet_len,
            mark: traversal.mark_before,
            doubtful_from: None,
            connection: match traversal.conntrack {
                Conntrack::None => Connection::None,
                Conntrack::Untracked => Connection::Untracked,
                Conntrack::Orphaned => Connection::Orphaned,
                Conntrack::Tracked {
                    state,
                    reply,
                    status,
                    mark,
                    ..
                } => Connection::Tracked {
                    state,
                    reply,
                    status: Some(status),
                    mark: Some(mark),
                },
            },
        }
    }

    /// `skb_header_pointer` (`include/linux/skbuff.h`): these bytes of the packet, counted from the network
    /// header, where `skb->data` is while a table is walked. `None` is its NULL: the packet ends before them.
    pub(super) fn bytes(&self, at: u32, len: u32) -> Result<Option<&[u8]>, Gap> {
        let end = u64::from(at) + u64::from(len);
        if self.doubtful_from.is_some_and(|from| end > u64::from(from)) {
            return Err(Gap::Changed);
        }
        if end > u64::from(self.len) {
            return Ok(None);
        }
        let range = at as usize..at as usize + len as usize;
        self.headers.get(range).map(Some).ok_or(Gap::BeyondCapture)
    }

    /// A header of known length, as [`Self::bytes`] finds it.
    pub(super) fn array<const LEN: usize>(&self, at: u32) -> Result<Option<&[u8; LEN]>, Gap> {
        let len = u32::try_from(LEN).map_err(|_| Gap::BeyondCapture)?;
        Ok(self.bytes(at, len)?.and_then(<[u8]>::first_chunk))
    }

    /// Whether the kernel goes on behind an extension header of this length at `start`.
    pub(super) fn goes_on_behind(&self, start: u32, len: u32) -> Result<bool, Gap> {
        if self.packet_len()?.wrapping_sub(start) >= len {
            return Ok(true);
        }
        self.met_overlong.set(true);
        Ok(self.overlong == Overlong::Skipped)
    }

    /// `skb->len`
    pub(super) fn packet_len(&self) -> Result<u32, Gap> {
        match self.doubtful_from {
            None => Ok(self.len),
            Some(_) => Err(Gap::Changed),
        }
    }

    /// `ip_hdr(skb)`, without options. The kernel has checked that it is whole before any table is called.
    pub(super) fn ipv4(&self) -> Result<&[u8; 20], Gap> {
        self.headers.first_chunk().ok_or(Gap::BeyondCapture)
    }

    /// `ipv6_hdr(skb)`
    pub(super) fn ipv6(&self) -> Result<&[u8; 40], Gap> {
        self.headers.first_chunk().ok_or(Gap::BeyondCapture)
    }

    /// The IPv4 header, to be changed. Lines already logged keep the bytes they had.
    pub(super) fn ipv4_mut(&mut self) -> Result<&mut [u8; 20], Gap> {
        Arc::make_mut(&mut self.headers)
            .first_chunk_mut()
            .ok_or(Gap::BeyondCapture)
    }

    /// The IPv6 header, to be changed.
    pub(super) fn ipv6_mut(&mut self) -> Result<&mut [u8; 40], Gap> {
        Arc::make_mut(&mut self.headers)
            .first_chunk_mut()
            .ok_or(Gap::BeyondCapture)
    }
}

/// The big-endian `u16` at `at`; the arrays are headers of known length, and the offsets constants within them.
pub(super) fn be16<const LEN: usize>(header: &[u8; LEN], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The big-endian `u32` at `at`.
pub(super) fn be32<const LEN: usize>(header: &[u8; LEN], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}
