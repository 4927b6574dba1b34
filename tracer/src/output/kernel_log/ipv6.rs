//! IPv6, its extension headers and ICMPv6.

use std::ops::ControlFlow::{self, Break, Continue};

use super::{
    Cut, Log,
    packet::{u16_at, u32_at},
};

const HEADER_LEN: u32 = 40;

const PROTOCOL_HOP_BY_HOP: u8 = 0;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ROUTING: u8 = 43;
const PROTOCOL_FRAGMENT: u8 = 44;
const PROTOCOL_ESP: u8 = 50;
const PROTOCOL_AH: u8 = 51;
const PROTOCOL_ICMPV6: u8 = 58;
const PROTOCOL_DESTINATION_OPTIONS: u8 = 60;
const PROTOCOL_UDPLITE: u8 = 136;

const FRAGMENT_OFFSET: u16 = 0xfff8;
const FRAGMENT_MORE: u16 = 0x0001;

const ICMPV6_DESTINATION_UNREACHABLE: u8 = 1;
const ICMPV6_PACKET_TOO_BIG: u8 = 2;
const ICMPV6_TIME_EXCEEDED: u8 = 3;
const ICMPV6_PARAMETER_PROBLEM: u8 = 4;
const ICMPV6_ECHO_REQUEST: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;

/// `nf_ip6_ext_hdr`, `include/linux/netfilter_ipv6.h`; "no next header" is left out, as the caller does.
fn is_extension(protocol: u8) -> bool {
    matches!(
        protocol,
        PROTOCOL_HOP_BY_HOP
            | PROTOCOL_ROUTING
            | PROTOCOL_FRAGMENT
            | PROTOCOL_ESP
            | PROTOCOL_AH
            | PROTOCOL_DESTINATION_OPTIONS
    )
}

/// Written out in full, as `%pI6` does.
struct Address<'a>(&'a [u8]);

impl std::fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, pair) in self.0.chunks(2).enumerate() {
            if at != 0 {
                f.write_str(":")?;
            }
            for byte in pair {
                write!(f, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Where the walk along the extension headers stands.
struct Walk {
    protocol: u8,
    offset: u32,
    is_later_fragment: bool,
}

impl Log<'_> {
    /// `dump_ipv6_packet`. A `start` other than 0 is that of a packet quoted in an ICMPv6 error.
    pub(super) fn ipv6(&mut self, start: u32) -> Result<(), Cut> {
        let is_quoted = start != 0;
        let Some(header) = self.packet.header::<{ HEADER_LEN as usize }>(start)? else {
            self.add(format_args!("TRUNCATED"));
            return Ok(());
        };
        let word = u32_at(header, 0);
        self.add(format_args!(
            "SRC={} DST={} LEN={} TC={} HOPLIMIT={} FLOWLBL={} ",
            Address(&header[8..24]),
            Address(&header[24..40]),
            self.ipv6_len(header),
            (word & 0x0ff0_0000) >> 20,
            header[7],
            word & 0x000f_ffff,
        ));
        let mut walk = Walk {
            protocol: header[6],
            offset: start + HEADER_LEN,
            is_later_fragment: false,
        };
        while is_extension(walk.protocol) {
            if self.extension(&mut walk)?.is_break() {
                return Ok(());
            }
        }
        let payload = walk.offset;
        match walk.protocol {
            PROTOCOL_TCP => {
                if self.tcp(payload, walk.is_later_fragment)?.is_break() {
                    return Ok(());
                }
            }
            protocol @ (PROTOCOL_UDP | PROTOCOL_UDPLITE) => {
                if self.udp(protocol, payload, walk.is_later_fragment)?.is_break() {
                    return Ok(());
                }
            }
            PROTOCOL_ICMPV6 => {
                self.add(format_args!("PROTO=ICMPv6 "));
                if !walk.is_later_fragment && self.icmpv6(payload, is_quoted)?.is_break() {
                    return Ok(());
                }
            }
            protocol => self.add(format_args!("PROTO={protocol} ")),
        }
        if !is_quoted {
            self.owner_and_mark();
        }
        Ok(())
    }

    /// `ipv6_payload_len`, `include/linux/ipv6.h`, and the header: the field is 0 in a packet of TCP segments,
    /// not yet cut apart, that is too long for it. Kernels that put the length in a hop-by-hop header instead log
    /// the bare 0, and so does every kernel for a packet that came with such a header.
    fn ipv6_len(&self, header: &[u8; HEADER_LEN as usize]) -> u32 {
        let field = u16_at(header, 4);
        let len = HEADER_LEN + u32::from(field);
        let len_max = HEADER_LEN + u32::from(u16::MAX);
        if field == 0 && header[6] != PROTOCOL_HOP_BY_HOP && self.packet.len > len_max {
            self.packet.len
        } else {
            len
        }
    }

    /// One round of the loop in `dump_ipv6_packet`. `Break` where the line ends with it.
    fn extension(&mut self, walk: &mut Walk) -> Result<ControlFlow<()>, Cut> {
        let start = walk.offset;
        let Some(&[next, len]) = self.packet.header::<2>(start)? else {
            self.add(format_args!("TRUNCATED"));
            return Ok(Break(()));
        };
        self.add(format_args!("OPT ( "));
        let len = u32::from(len);
        let header_len = match walk.protocol {
            PROTOCOL_FRAGMENT => {
                self.add(format_args!("FRAG:"));
                let Some(header) = self.packet.header::<8>(start)? else {
                    self.add(format_args!("TRUNCATED "));
                    return Ok(Break(()));
                };
                let offset = u16_at(header, 2) & FRAGMENT_OFFSET;
                self.add(format_args!("{offset} "));
                if u16_at(header, 2) & FRAGMENT_MORE != 0 {
                    self.add(format_args!("INCOMPLETE "));
                }
                self.add(format_args!("ID:{:08x} ", u32_at(header, 4)));
                walk.is_later_fragment |= offset != 0;
                8
            }
            PROTOCOL_AH => {
                self.add(format_args!("AH "));
                if self.security_parameters::<12>(start, 4, walk)?.is_break() {
                    return Ok(Break(()));
                }
                self.add(format_args!(" "));
                (len + 2) * 4
            }
            PROTOCOL_ESP => {
                self.add(format_args!("ESP "));
                if self.security_parameters::<8>(start, 0, walk)?.is_continue() {
                    self.add(format_args!(" )"));
                }
                return Ok(Break(()));
            }
            // Hop-by-hop and destination options, routing.
            _ => {
                if walk.is_later_fragment {
                    self.add(format_args!(")"));
                    return Ok(Break(()));
                }
                (len + 1) * 8
            }
        };
        self.add(format_args!(") "));
        walk.protocol = next;
        walk.offset += header_len;
        Ok(Continue(()))
    }

    /// The SPI of an AH or ESP header of `N` bytes, at `at` in it. `Break` where there is none.
    fn security_parameters<const N: usize>(
        &mut self,
        start: u32,
        at: usize,
        walk: &Walk,
    ) -> Result<ControlFlow<()>, Cut> {
        if walk.is_later_fragment {
            self.add(format_args!(")"));
            return Ok(Break(()));
        }
        let Some(header) = self.packet.header::<N>(start)? else {
            self.add_incomplete(start);
            self.add(format_args!(")"));
            return Ok(Break(()));
        };
        self.add(format_args!("SPI=0x{:x}", u32_at(header, at)));
        Ok(Continue(()))
    }

    /// `Break` where the line ends with it.
    fn icmpv6(&mut self, start: u32, is_quoted: bool) -> Result<ControlFlow<()>, Cut> {
        const HEADER_LEN: u32 = 8;
        let Some(header) = self.packet.header::<{ HEADER_LEN as usize }>(start)? else {
            self.add_incomplete(start);
            return Ok(Break(()));
        };
        let [kind, code, ..] = *header;
        self.add(format_args!("TYPE={kind} CODE={code} "));
        match kind {
            ICMPV6_ECHO_REQUEST | ICMPV6_ECHO_REPLY => {
                self.add(format_args!(
                    "ID={} SEQ={} ",
                    u16_at(header, 4),
                    u16_at(header, 6)
                ));
            }
            ICMPV6_PARAMETER_PROBLEM
            | ICMPV6_DESTINATION_UNREACHABLE
            | ICMPV6_PACKET_TOO_BIG
            | ICMPV6_TIME_EXCEEDED => {
                if kind == ICMPV6_PARAMETER_PROBLEM {
                    self.add(format_args!("POINTER={:08x} ", u32_at(header, 4)));
                }
                // Within a quoted packet another one is not shown.
                if !is_quoted {
                    self.add(format_args!("["));
                    self.ipv6(start + HEADER_LEN)?;
                    self.add(format_args!("] "));
                }
                if kind == ICMPV6_PACKET_TOO_BIG {
                    self.add(format_args!("MTU={} ", u32_at(header, 4)));
                }
            }
            _ => {}
        }
        Ok(Continue(()))
    }
}
