//! The few fields of the IP header that following and filter look at.

use core::{mem::MaybeUninit, ptr::read_volatile};

use tracer_common::protocols;

use crate::kernel::{Gap, copy_words, load, read};

/// Extension headers looked through to find the transport header. The kernel has no limit
/// (`ipv6_skip_exthdr`, `net/ipv6/exthdrs_core.c`); a packet with more does not satisfy a filter that asks
/// for its protocol or ports.
const EXTENSION_HEADERS_MAX: u32 = 8;

/// What stays the same while a packet is on its way, also through NAT: tells two packets apart that had the
/// same `sk_buff` one after the other, should its end have been missed.
#[inline(always)]
pub(crate) fn fingerprint(header: u64, family: u8) -> Result<u64, Gap> {
    if family == crate::AF_INET {
        let start: [u32; 3] = read(header, 0)?;
        let (len, id, protocol) = (start[0] >> 16, start[1] & 0xffff, (start[2] >> 8) & 0xff);
        // Segmentation offload may change the length of a TCP packet on its way.
        let len = if protocol == u32::from(protocols::TCP) {
            0
        } else {
            len
        };
        let fragment = if u32::from_be(start[1]) & FRAGMENT_FIELD == 0 {
            0
        } else {
            FRAGMENT
        };
        Ok(fragment | u64::from(protocol) << 32 | u64::from(id) << 16 | u64::from(len))
    } else {
        let start: [u32; 2] = read(header, 0)?;
        let flow_label = u32::from_be(start[0]) & 0x000f_ffff;
        let next_header = (start[1] >> 16) & 0xff;
        let len = if next_header == u32::from(protocols::TCP) {
            0
        } else {
            start[1] & 0xffff
        };
        let fragment = if next_header == u32::from(protocols::FRAGMENT) {
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
const FRAGMENT_FIELD: u32 = 0x3fff;

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
pub(crate) trait Start {
    fn family(&self) -> u8;

    /// Address of the network header.
    fn header(&self) -> u64;

    /// Some of its words, from the one of that number on.
    fn words<const N: usize>(&self, first: usize) -> [u32; N];

    #[inline(always)]
    fn source(&self) -> [u32; 4] {
        if self.family() == crate::AF_INET {
            let [address] = self.words(3);
            [address, 0, 0, 0]
        } else {
            self.words(2)
        }
    }

    #[inline(always)]
    fn destination(&self) -> [u32; 4] {
        if self.family() == crate::AF_INET {
            let [address] = self.words(4);
            [address, 0, 0, 0]
        } else {
            self.words(6)
        }
    }

    #[inline(always)]
    fn transport(&self) -> Result<Transport, Gap> {
        if self.family() == crate::AF_INET {
            Ok(transport4(self))
        } else {
            transport6(self)
        }
    }

    /// Source and destination port, for the protocols that begin with them.
    #[inline(always)]
    fn ports(&self, transport: &Transport) -> Result<Option<(u16, u16)>, Gap> {
        let Some(header) = transport.header else {
            return Ok(None);
        };
        match transport.protocol {
            protocols::TCP | protocols::UDP | protocols::UDP_LITE | protocols::SCTP | protocols::DCCP => {
                let [ports] = if !transport.follows {
                    read(header, 0)?
                } else if self.family() == crate::AF_INET {
                    self.words(5)
                } else {
                    self.words(10)
                };
                let [a, b, c, d] = ports.to_ne_bytes();
                Ok(Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))))
            }
            _ => Ok(None),
        }
    }
}

/// Where loads are no calls, each word is loaded when it is asked for.
pub(crate) struct Loaded {
    pub(crate) header: u64,
    pub(crate) family: u8,
}

impl Start for Loaded {
    #[inline(always)]
    fn family(&self) -> u8 {
        self.family
    }

    #[inline(always)]
    fn header(&self) -> u64 {
        self.header
    }

    #[inline(always)]
    fn words<const N: usize>(&self, first: usize) -> [u32; N] {
        load(self.header + 4 * first as u64)
    }
}

/// Elsewhere all are read in one go, for a call costs as much as everything else.
pub(crate) struct Copied<'a> {
    words: &'a Words,
    header: u64,
    family: u8,
}

/// Room for them. Not zeroed first, which would be a call of a function that goes byte by byte.
pub(crate) type Words = MaybeUninit<[u32; START_LEN / 4]>;

/// IPv6 header and ports.
const START_LEN: usize = 40 + 4;
/// IPv4 header without options, and ports.
const START_LEN_IPV4: u32 = 20 + 4;

impl<'a> Copied<'a> {
    #[inline(always)]
    pub(crate) fn read(words: &'a mut Words, header: u64, family: u8) -> Result<Self, Gap> {
        let len = if family == crate::AF_INET {
            START_LEN_IPV4
        } else {
            START_LEN as u32
        };
        copy_words(header, len, words)?;
        Ok(Self {
            words,
            header,
            family,
        })
    }
}

impl Start for Copied<'_> {
    #[inline(always)]
    fn family(&self) -> u8 {
        self.family
    }

    #[inline(always)]
    fn header(&self) -> u64 {
        self.header
    }

    #[inline(always)]
    fn words<const N: usize>(&self, first: usize) -> [u32; N] {
        let start = self.words.as_ptr().cast::<u32>();
        // SAFETY: within the array; whoever asks knows the family, of which so many words were read. Volatile, as the
        // compiler would else load all of them to have them ready.
        unsafe { read_volatile(start.add(first).cast::<[u32; N]>()) }
    }
}

/// The transport protocol and, in the first fragment, where its header starts.
pub(crate) struct Transport {
    pub(crate) protocol: u8,
    pub(crate) header: Option<u64>,
    /// Whether it comes right after an IP header without options or extension headers.
    follows: bool,
}

#[inline(always)]
fn transport4(start: &(impl Start + ?Sized)) -> Transport {
    let [version_and_len, .., fragment_low, fragment_high] = bytes_of(start.words(0));
    let [protocol] = start.words::<1>(2).map(|word| word.to_ne_bytes()[1]);
    let header_len = u64::from(version_and_len & 0x0f) * 4;
    let first = u16::from_be_bytes([fragment_low, fragment_high]) & 0x1fff == 0;
    Transport {
        protocol,
        header: first.then_some(start.header() + header_len),
        follows: header_len == 20,
    }
}

#[inline(always)]
fn transport6(start: &(impl Start + ?Sized)) -> Result<Transport, Gap> {
    let [mut protocol] = start.words::<1>(1).map(|word| word.to_ne_bytes()[2]);
    let behind = start.header() + 40;
    let mut at = behind;
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
                        follows: false,
                    });
                }
                at += 8;
            }
            _ => {
                return Ok(Transport {
                    protocol,
                    header: Some(at),
                    follows: at == behind,
                });
            }
        }
    }
    Ok(Transport {
        protocol,
        header: None,
        follows: false,
    })
}

#[inline(always)]
fn bytes_of([first, second]: [u32; 2]) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    [a, b, c, d, e, f, g, h]
}
