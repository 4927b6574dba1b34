//! IPv6 extension headers, read as the kernel reads them.

use super::path::Gap;
use super::view::{View, be16};

pub(super) const HOP: u8 = 0;
pub(super) const ROUTING: u8 = 43;
pub(super) const FRAGMENT: u8 = 44;
pub(super) const ESP: u8 = 50;
pub(super) const AUTH: u8 = 51;
pub(super) const NONE: u8 = 59;
pub(super) const DEST: u8 = 60;

/// Why `ipv6_find_hdr` found nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotFound {
    /// `-ENOENT`: there is no such header.
    Absent,
    /// `-EBADMSG`: the packet ends within a header.
    Malformed,
}

/// The transport header, as `ipv6_find_hdr` with target -1 finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transport {
    /// What it returns.
    pub(super) protocol: u8,
    /// `*offset`; `None` where it is left as it was, because this is a later fragment.
    pub(super) offset: Option<u32>,
    /// `*fragoff`, in bytes.
    pub(super) fragment_offset: u16,
}

/// `ipv6_find_hdr(skb, &thoff, -1, &frag_off, NULL)` with `thoff` zero, `net/ipv6/exthdrs_core.c`.
pub(super) fn find_transport(view: &View) -> Result<Result<Transport, NotFound>, Gap> {
    let mut next = view.ipv6()?[6];
    let mut start = 40;
    while is_extension(next) && next != NONE {
        let Some(&[following, len]) = view.array(start)? else {
            return Ok(Err(NotFound::Malformed));
        };
        if next == FRAGMENT {
            let Some(offset) = view.array(start + 2)? else {
                return Ok(Err(NotFound::Malformed));
            };
            let fragment_offset = be16::<2>(offset, 0) & !7;
            if fragment_offset != 0 {
                if is_extension(following) && following != NONE {
                    return Ok(Err(NotFound::Absent));
                }
                return Ok(Ok(Transport {
                    protocol: following,
                    offset: None,
                    fragment_offset,
                }));
            }
        }
        if next == ROUTING && view.bytes(start, 4)?.is_none() {
            return Ok(Err(NotFound::Malformed));
        }
        let len = extension_len(next, len);
        if !view.goes_on_behind(start, len)? {
            return Ok(Err(NotFound::Malformed));
        }
        start += len;
        next = following;
    }
    Ok(Ok(Transport {
        protocol: next,
        offset: Some(start),
        fragment_offset: 0,
    }))
}

/// `ipv6_find_hdr(skb, &ptr, target, NULL, NULL)` with `ptr` zero: where the first header `target` begins.
pub(super) fn find_extension(view: &View, target: u8) -> Result<Result<u32, NotFound>, Gap> {
    let mut next = view.ipv6()?[6];
    let mut start = 40;
    loop {
        let found = next == target;
        if !is_extension(next) || next == NONE {
            return Ok(if found { Ok(start) } else { Err(NotFound::Absent) });
        }
        let Some(&[following, len]) = view.array(start)? else {
            return Ok(Err(NotFound::Malformed));
        };
        if next == ROUTING && view.bytes(start, 4)?.is_none() {
            return Ok(Err(NotFound::Malformed));
        }
        if next == FRAGMENT {
            let Some(offset) = view.array(start + 2)? else {
                return Ok(Err(NotFound::Malformed));
            };
            if be16::<2>(offset, 0) & !7 != 0 && !found {
                return Ok(Err(NotFound::Absent));
            }
        }
        if found {
            return Ok(Ok(start));
        }
        let len = extension_len(next, len);
        if !view.goes_on_behind(start, len)? {
            return Ok(Err(NotFound::Malformed));
        }
        start += len;
        next = following;
    }
}

/// `ipv6_ext_hdr`, `net/ipv6/exthdrs_core.c`. ESP is none.
fn is_extension(next: u8) -> bool {
    matches!(next, HOP | ROUTING | FRAGMENT | AUTH | NONE | DEST)
}

/// `ipv6_authlen` and `ipv6_optlen`, `include/net/ipv6.h`. Never zero, so that every walk ends.
pub(super) fn extension_len(kind: u8, len: u8) -> u32 {
    match kind {
        FRAGMENT => 8,
        AUTH => (u32::from(len) + 2) << 2,
        _ => (u32::from(len) + 1) << 3,
    }
}
