//! What a filter looks at in the headers that were recorded: the same fields as `tracer-ebpf/src/ip.rs`.

use std::net::IpAddr;

use tracer_common::protocols;

use crate::{
    connection::Tuple,
    traversal::{Family, Traversal},
};

/// `IPPROTO_ICMP`
const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`
const ICMPV6: u8 = 58;

/// As many extension headers as the programs look through.
const EXTENSION_HEADERS_MAX: u32 = 8;

/// A packet's headers, as far as they were recorded.
#[derive(Clone, Copy, Debug)]
pub struct Headers<'a> {
    /// Family of the table that saw them.
    pub family: Family,
    /// The packet from its network header on, as far as it was recorded.
    pub bytes: &'a [u8],
    /// Bytes that the packet has.
    pub packet_len: u32,
}

/// Where the transport header is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// At this offset from the network header.
    At(usize),
    /// Nowhere: a later fragment, or more extension headers than are looked through.
    Nowhere,
}

impl<'a> Headers<'a> {
    /// Those of a traversal, at its entry.
    #[must_use]
    pub fn of(traversal: &'a Traversal) -> Self {
        Self {
            family: traversal.family,
            bytes: &traversal.headers,
            packet_len: traversal.packet_len,
        }
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    /// Source and destination, IPv4 in the first four bytes; `None` where they were not recorded.
    #[must_use]
    pub fn addresses(&self) -> Option<([u8; 16], [u8; 16])> {
        match self.family {
            Family::Ipv4 => {
                let wide = |address: [u8; 4]| {
                    let mut wide = [0; 16];
                    wide[..4].copy_from_slice(&address);
                    wide
                };
                Some((wide(self.array(12)?), wide(self.array(16)?)))
            }
            Family::Ipv6 => Some((self.array(8)?, self.array(24)?)),
        }
    }

    /// The transport protocol, for IPv6 the one after the extension headers, and where its header is; `None` where
    /// the headers before it were not recorded.
    #[must_use]
    pub fn transport(&self) -> Option<(u8, Transport)> {
        match self.family {
            Family::Ipv4 => {
                let first = u16::from_be_bytes(self.array(6)?) & 0x1fff == 0;
                let header_len = usize::from(self.byte(0)? & 0x0f) * 4;
                let at = if first {
                    Transport::At(header_len)
                } else {
                    Transport::Nowhere
                };
                Some((self.byte(9)?, at))
            }
            Family::Ipv6 => self.transport6(),
        }
    }

    fn transport6(&self) -> Option<(u8, Transport)> {
        let mut protocol = self.byte(6)?;
        let mut at = 40;
        for _ in 0..EXTENSION_HEADERS_MAX {
            match protocol {
                protocols::HOP_BY_HOP | protocols::ROUTING | protocols::DESTINATION_OPTIONS => {
                    let [next, len] = self.array(at)?;
                    protocol = next;
                    at += (usize::from(len) + 1) * 8;
                }
                protocols::AUTHENTICATION => {
                    let [next, len] = self.array(at)?;
                    protocol = next;
                    at += (usize::from(len) + 2) * 4;
                }
                protocols::FRAGMENT => {
                    let [next, _, high, low] = self.array(at)?;
                    protocol = next;
                    if u16::from_be_bytes([high, low]) & !0x7 != 0 {
                        return Some((protocol, Transport::Nowhere));
                    }
                    at += 8;
                }
                _ => return Some((protocol, Transport::At(at))),
            }
        }
        Some((protocol, Transport::Nowhere))
    }

    /// The tuple that conntrack makes of the packet (`nf_ct_get_tuple`, `net/netfilter/nf_conntrack_core.c`);
    /// `None` where it has no transport header, or that was not recorded.
    #[must_use]
    pub fn tuple(&self) -> Option<Tuple> {
        let (protocol, Transport::At(at)) = self.transport()? else {
            return None;
        };
        let (source, destination) = self.addresses()?;
        let (source_port, destination_port) = match protocol {
            _ if has_ports(protocol) => self.ports()??,
            ICMP | ICMPV6 => {
                let [kind, code, _, _, high, low] = self.array(at)?;
                (u16::from_be_bytes([high, low]), u16::from_be_bytes([kind, code]))
            }
            _ => (0, 0),
        };
        let address = |bytes: [u8; 16]| -> IpAddr {
            match self.family {
                Family::Ipv4 => [bytes[0], bytes[1], bytes[2], bytes[3]].into(),
                Family::Ipv6 => bytes.into(),
            }
        };
        Some(Tuple {
            source: address(source),
            destination: address(destination),
            protocol,
            source_port,
            destination_port,
        })
    }

    /// Source and destination port. The inner `None`: the packet has none.
    #[must_use]
    pub fn ports(&self) -> Option<Option<(u16, u16)>> {
        let (protocol, transport) = self.transport()?;
        let Transport::At(at) = transport else {
            return Some(None);
        };
        if !has_ports(protocol) {
            return Some(None);
        }
        let [a, b, c, d] = self.array(at)?;
        Some(Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))))
    }
}

/// Whether a protocol begins with its ports.
#[must_use]
pub(super) fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        protocols::TCP | protocols::UDP | protocols::UDP_LITE | protocols::SCTP | protocols::DCCP
    )
}
