//! The few fields of the IP header that following and filter look at.

use tracer_common::protocols;

use crate::kernel::{Gap, read};

/// Extension headers looked through to find the transport header. The kernel has no limit
/// (`ipv6_skip_exthdr`, `net/ipv6/exthdrs_core.c`); a packet with more does not satisfy a filter that asks
/// for its protocol or ports.
const EXTENSION_HEADERS_MAX: u32 = 8;

#[derive(Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

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
        Ok(u64::from(protocol) << 32 | u64::from(start[2]) << 16 | u64::from(len))
    } else {
        let start: [u32; 2] = read(header, 0)?;
        let flow_label = u32::from_be(start[0]) & 0x000f_ffff;
        let next_header = (start[1] >> 16) & 0xff;
        let len = if next_header == u32::from(protocols::TCP) {
            0
        } else {
            start[1] & 0xffff
        };
        Ok(1 << 63 | u64::from(flow_label) << 32 | u64::from(next_header) << 16 | u64::from(len))
    }
}

#[inline(always)]
pub(crate) fn addresses(header: u64, family: u8) -> Result<Addresses, Gap> {
    if family == crate::AF_INET {
        let [source, destination]: [u32; 2] = read(header, 12)?;
        Ok(Addresses {
            source: [source, 0, 0, 0],
            destination: [destination, 0, 0, 0],
        })
    } else {
        Ok(Addresses {
            source: read(header, 8)?,
            destination: read(header, 24)?,
        })
    }
}

/// The transport protocol and, in the first fragment, where its header starts.
pub(crate) struct Transport {
    pub(crate) protocol: u8,
    pub(crate) header: Option<u64>,
}

#[inline(always)]
pub(crate) fn transport(header: u64, family: u8) -> Result<Transport, Gap> {
    if family == crate::AF_INET {
        transport4(header)
    } else {
        transport6(header)
    }
}

#[inline(always)]
fn transport4(header: u64) -> Result<Transport, Gap> {
    let start: [u16; 5] = read(header, 0)?;
    let header_len = u64::from(start[0] & 0x0f) * 4;
    let first = u16::from_be(start[3]) & 0x1fff == 0;
    Ok(Transport {
        protocol: (start[4] >> 8) as u8,
        header: if first { Some(header + header_len) } else { None },
    })
}

#[inline(always)]
fn transport6(header: u64) -> Result<Transport, Gap> {
    let mut protocol: u8 = read(header, 6)?;
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
                    });
                }
                at += 8;
            }
            _ => {
                return Ok(Transport {
                    protocol,
                    header: Some(at),
                });
            }
        }
    }
    Ok(Transport {
        protocol,
        header: None,
    })
}

/// Source and destination port, for the protocols that begin with them.
#[inline(always)]
pub(crate) fn ports(transport: &Transport) -> Result<Option<(u16, u16)>, Gap> {
    let Some(header) = transport.header else {
        return Ok(None);
    };
    match transport.protocol {
        protocols::TCP | protocols::UDP | protocols::UDP_LITE | protocols::SCTP | protocols::DCCP => {
            let [source, destination]: [u16; 2] = read(header, 0)?;
            Ok(Some((u16::from_be(source), u16::from_be(destination))))
        }
        _ => Ok(None),
    }
}
