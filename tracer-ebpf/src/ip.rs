//! The few fields of the IP header that following and filter look at.

use core::mem::MaybeUninit;

use tracer_common::{ABSENT, criteria, protocols};

use crate::{
    kernel::{Gap, copy_words, read},
    offset,
};

/// Extension headers looked through to find the transport header. The kernel has no limit
/// (`ipv6_skip_exthdr`, `net/ipv6/exthdrs_core.c`); a packet with more does not satisfy a filter that asks
/// for its protocol or ports.
const EXTENSION_HEADERS_MAX: u32 = 8;

/// What stays the same while a packet is on its way, also through NAT: tells two packets apart that had the
/// same `sk_buff` one after the other, should its end have been missed.
#[inline(always)]
pub(crate) fn fingerprint(header: u64, family: u8) -> Result<u64, Gap> {
    if family == crate::AF_INET {
        let start: [u16; 5] = read(header, 0)?;
        let protocol = start[4] >> 8;
        // Segmentation offload may change the length of a TCP packet on its way.
        let len = if protocol == u16::from(protocols::TCP) {
            0
        } else {
            start[1]
        };
        let fragment = if u16::from_be(start[3]) & FRAGMENT_FIELD == 0 {
            0
        } else {
            FRAGMENT
        };
        Ok(fragment | u64::from(protocol) << 32 | u64::from(start[2]) << 16 | u64::from(len))
    } else {
        let start: [u32; 2] = read(header, 0)?;
        let flow_label = u32::from_be(start[0]) & 0x000f_ffff;
        let next_header = (start[1] >> 16) & 0xff;
        let len = if next_header == u32::from(protocols::TCP) {
            0
        } else {
            start[1] & 0xffff
        };
        let fragment = if next_header == NEXTHDR_FRAGMENT {
            FRAGMENT
        } else {
            0
        };
        Ok(IPV6 | fragment | u64::from(flow_label) << 32 | u64::from(next_header) << 16 | u64::from(len))
    }
}

/// In a fingerprint: of IPv6.
const IPV6: u64 = 1 << 63;
/// In a fingerprint: of a fragment. Of IPv6 where its header is the first one behind the IP header.
const FRAGMENT: u64 = 1 << 62;
/// `IP_MF | IP_OFFSET`, `include/net/ip.h`.
const FRAGMENT_FIELD: u16 = 0x3fff;
/// `NEXTHDR_FRAGMENT`, `include/net/ipv6.h`.
const NEXTHDR_FRAGMENT: u32 = 44;

/// Whether one of them is a fragment of the other. The `sk_buff` of the last fragment that comes becomes the packet that
/// is put together (`inet_frag_reasm_prepare`, `net/ipv4/inet_fragment.c`), and that of a packet which was put together
/// becomes the first fragment again when it leaves (`ip_do_fragment`, `net/ipv4/ip_output.c`): nothing is freed.
#[inline(always)]
pub(crate) fn is_fragment_of(one: u64, other: u64) -> bool {
    // All but the length, of IPv6 also but what comes next.
    let kept = if one & IPV6 == 0 {
        u64::MAX << 16
    } else {
        u64::MAX << 32
    };
    (one ^ other) & kept == FRAGMENT
}

/// A packet from its network header on, as far as most filters look: without options or extension headers, that is
/// up to the ports.
pub(crate) struct Start {
    words: MaybeUninit<[u32; START_LEN / 4]>,
    family: u8,
    parts: u32,
}

/// IPv6 header and ports.
const START_LEN: usize = 40 + 4;
/// IPv4 header without options, and ports.
const START_LEN_IPV4: u32 = 20 + 4;

/// The transport protocol and, in the first fragment, where its header starts and its first four bytes, if they have
/// been read.
pub(crate) struct Transport {
    pub(crate) protocol: u8,
    pub(crate) header: Option<u64>,
    ports: Option<u32>,
}

impl Start {
    /// `parts` are bits of [`criteria`]: what will be asked for.
    #[inline(always)]
    pub(crate) fn read(header: u64, family: u8, parts: u32) -> Result<Self, Gap> {
        // Not zeroed first, which would be a call of a function that goes byte by byte.
        let mut start = Self {
            words: MaybeUninit::uninit(),
            family,
            parts,
        };
        if offset!(type_words) != ABSENT {
            start.load(header)?;
            return Ok(start);
        }
        // In one go, for a call costs as much as everything else.
        let len = if family == crate::AF_INET {
            START_LEN_IPV4
        } else {
            START_LEN as u32
        };
        copy_words(header, len, &mut start.words)?;
        Ok(start)
    }

    /// Where loads are no calls, what is needed is all that is read.
    #[inline(always)]
    fn load(&mut self, header: u64) -> Result<(), Gap> {
        let has_addresses = self.parts & criteria::ADDRESSES != 0;
        self.set(0, read::<[u32; 3]>(header, 0)?);
        if self.family == crate::AF_INET {
            if has_addresses {
                self.set(3, read::<[u32; 2]>(header, 12)?);
            }
            if self.has_ports() {
                self.set(5, read::<[u32; 1]>(header, 20)?);
            }
        } else {
            if has_addresses {
                self.set(2, read::<[u32; 4]>(header, 8)?);
                self.set(6, read::<[u32; 4]>(header, 24)?);
            }
            if self.has_ports() {
                self.set(10, read::<[u32; 1]>(header, 40)?);
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn has_ports(&self) -> bool {
        self.parts & criteria::PORTS != 0
    }

    #[inline(always)]
    fn set<const N: usize>(&mut self, first: usize, words: [u32; N]) {
        let to = self.words.as_mut_ptr().cast::<u32>();
        for (word, value) in words.into_iter().enumerate() {
            // SAFETY: within the array.
            unsafe { to.add(first + word).write(value) };
        }
    }

    #[inline(always)]
    fn word(&self, word: usize) -> u32 {
        // SAFETY: within the array; whoever read the start said that the word is needed.
        unsafe { self.words.as_ptr().cast::<u32>().add(word).read() }
    }

    #[inline(always)]
    pub(crate) fn source(&self) -> [u32; 4] {
        if self.family == crate::AF_INET {
            [self.word(3), 0, 0, 0]
        } else {
            [self.word(2), self.word(3), self.word(4), self.word(5)]
        }
    }

    #[inline(always)]
    pub(crate) fn destination(&self) -> [u32; 4] {
        if self.family == crate::AF_INET {
            [self.word(4), 0, 0, 0]
        } else {
            [self.word(6), self.word(7), self.word(8), self.word(9)]
        }
    }

    #[inline(always)]
    pub(crate) fn transport(&self, header: u64) -> Result<Transport, Gap> {
        if self.family == crate::AF_INET {
            Ok(self.transport4(header))
        } else {
            self.transport6(header)
        }
    }

    #[inline(always)]
    fn transport4(&self, header: u64) -> Transport {
        let [version_and_len, .., fragment_low, fragment_high] = bytes_of([self.word(0), self.word(1)]);
        let protocol = bytes_of([self.word(2), 0])[1];
        let header_len = u64::from(version_and_len & 0x0f) * 4;
        let first = u16::from_be_bytes([fragment_low, fragment_high]) & 0x1fff == 0;
        Transport {
            protocol,
            header: first.then_some(header + header_len),
            ports: (header_len == 20 && self.has_ports()).then(|| self.word(5)),
        }
    }

    #[inline(always)]
    fn transport6(&self, header: u64) -> Result<Transport, Gap> {
        let mut protocol = bytes_of([self.word(1), 0])[2];
        let mut at = header + 40;
        for _ in 0..EXTENSION_HEADERS_MAX {
            match protocol {
                protocols::HOP_BY_HOP | protocols::ROUTING | protocols::DESTINATION_OPTIONS => {
                    let [next, len]: [u8; 2] = read(at, 0)?;
                    protocol = next;
                    at += (u64::from(len) + 1) * 8;
                }
                protocols::AUTHENTICATION => {
                    let [next, len]: [u8; 2] = read(at, 0)?;
                    protocol = next;
                    at += (u64::from(len) + 2) * 4;
                }
                protocols::FRAGMENT => {
                    let fragment: [u16; 2] = read(at, 0)?;
                    protocol = fragment[0] as u8;
                    if u16::from_be(fragment[1]) & !0x7 != 0 {
                        return Ok(Transport {
                            protocol,
                            header: None,
                            ports: None,
                        });
                    }
                    at += 8;
                }
                _ => {
                    return Ok(Transport {
                        protocol,
                        header: Some(at),
                        ports: (at == header + 40 && self.has_ports()).then(|| self.word(10)),
                    });
                }
            }
        }
        Ok(Transport {
            protocol,
            header: None,
            ports: None,
        })
    }
}

#[inline(always)]
fn bytes_of([first, second]: [u32; 2]) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}

/// Source and destination port, for the protocols that begin with them.
#[inline(always)]
pub(crate) fn ports(transport: &Transport) -> Result<Option<(u16, u16)>, Gap> {
    let Some(header) = transport.header else {
        return Ok(None);
    };
    match transport.protocol {
        protocols::TCP | protocols::UDP | protocols::UDP_LITE | protocols::SCTP | protocols::DCCP => {
            let ports = match transport.ports {
                Some(ports) => ports,
                None => read(header, 0)?,
            };
            let [a, b, c, d] = ports.to_ne_bytes();
            Ok(Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))))
        }
        _ => Ok(None),
    }
}
