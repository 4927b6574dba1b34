//! IPv4 and ICMP.

use std::net::Ipv4Addr;

use super::{
    Cut, Log,
    packet::{u16_at, u32_at},
};

const HEADER_LEN: u32 = 20;

const FRAGMENT_CE: u16 = 0x8000;
const FRAGMENT_DF: u16 = 0x4000;
const FRAGMENT_MF: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_TCP: u8 = 6;
const PROTOCOL_UDP: u8 = 17;
const PROTOCOL_ESP: u8 = 50;
const PROTOCOL_AH: u8 = 51;
const PROTOCOL_UDPLITE: u8 = 136;

const ICMP_ECHO_REPLY: u8 = 0;
const ICMP_DESTINATION_UNREACHABLE: u8 = 3;
const ICMP_SOURCE_QUENCH: u8 = 4;
const ICMP_REDIRECT: u8 = 5;
const ICMP_ECHO: u8 = 8;
const ICMP_TIME_EXCEEDED: u8 = 11;
const ICMP_PARAMETER_PROBLEM: u8 = 12;
const ICMP_FRAGMENTATION_NEEDED: u8 = 4;

/// Bytes that an ICMP message must have for more than type and code to be logged.
fn icmp_len_min(kind: u8) -> u32 {
    match kind {
        ICMP_ECHO_REPLY | ICMP_ECHO => 4,
        ICMP_DESTINATION_UNREACHABLE
        | ICMP_SOURCE_QUENCH
        | ICMP_REDIRECT
        | ICMP_TIME_EXCEEDED
        | ICMP_PARAMETER_PROBLEM => 8 + HEADER_LEN,
        // Timestamp and address mask, with their replies.
        13 | 14 => 20,
        17 | 18 => 12,
        _ => 0,
    }
}

fn address(header: &[u8; HEADER_LEN as usize], at: usize) -> Ipv4Addr {
    u32_at(header, at).into()
}

impl Log<'_> {
    /// `dump_ipv4_packet`. A `start` other than 0 is that of a packet quoted in an ICMP error.
    pub(super) fn ipv4(&mut self, start: u32) -> Result<(), Cut> {
        let is_quoted = start != 0;
        let Some(header) = self.packet.header::<{ HEADER_LEN as usize }>(start)? else {
            self.add(format_args!("TRUNCATED"));
            return Ok(());
        };
        let header_len = u32::from(header[0] & 0xf) * 4;
        let tos = header[1];
        let fragment = u16_at(header, 6);
        self.add(format_args!(
            "SRC={} DST={} LEN={} TOS=0x{:02X} PREC=0x{:02X} TTL={} ID={} ",
            address(header, 12),
            address(header, 16),
            self.ipv4_len(u16_at(header, 2)),
            tos & 0x1e,
            tos & 0xe0,
            header[8],
            u16_at(header, 4),
        ));
        for (flag, name) in [(FRAGMENT_CE, "CE "), (FRAGMENT_DF, "DF "), (FRAGMENT_MF, "MF ")] {
            if fragment & flag != 0 {
                self.add(format_args!("{name}"));
            }
        }
        let fragment_offset = fragment & FRAGMENT_OFFSET;
        let is_later_fragment = fragment_offset != 0;
        if is_later_fragment {
            self.add(format_args!("FRAG:{fragment_offset} "));
        }
        if header_len > HEADER_LEN {
            let options_len = (header_len - HEADER_LEN) as usize;
            let Some(options) = self.packet.bytes(start + HEADER_LEN, options_len)? else {
                self.add(format_args!("TRUNCATED"));
                return Ok(());
            };
            self.add(format_args!("OPT ("));
            self.add_hex(options);
            self.add(format_args!(") "));
        }
        let payload = start + header_len;
        match header[9] {
            PROTOCOL_TCP => {
                if self.tcp(payload, is_later_fragment)?.is_break() {
                    return Ok(());
                }
            }
            protocol @ (PROTOCOL_UDP | PROTOCOL_UDPLITE) => {
                if self.udp(protocol, payload, is_later_fragment)?.is_break() {
                    return Ok(());
                }
            }
            PROTOCOL_ICMP => {
                self.add(format_args!("PROTO=ICMP "));
                if !is_later_fragment {
                    self.icmp(payload, is_quoted)?;
                }
            }
            // Unlike with every other protocol, a later fragment's is not even named.
            PROTOCOL_AH if is_later_fragment => {}
            PROTOCOL_AH => {
                self.add(format_args!("PROTO=AH "));
                match self.packet.header::<12>(payload)? {
                    Some(header) => self.add(format_args!("SPI=0x{:x} ", u32_at(header, 4))),
                    None => self.add_incomplete(payload),
                }
            }
            PROTOCOL_ESP => {
                self.add(format_args!("PROTO=ESP "));
                if !is_later_fragment {
                    match self.packet.header::<8>(payload)? {
                        Some(header) => self.add(format_args!("SPI=0x{:x} ", u32_at(header, 0))),
                        None => self.add_incomplete(payload),
                    }
                }
            }
            protocol => self.add(format_args!("PROTO={protocol} ")),
        }
        if !is_quoted {
            self.owner_and_mark();
        }
        Ok(())
    }

    /// `iph_totlen`, `include/linux/ip.h`: the field is 0 in a packet that is too long for it. Such a packet is
    /// one of TCP segments that are not yet cut apart, and no kernel that has them logs the 0.
    fn ipv4_len(&self, field: u16) -> u32 {
        if field == 0 && self.packet.len > u32::from(u16::MAX) {
            self.packet.len
        } else {
            u32::from(field)
        }
    }

    fn icmp(&mut self, start: u32, is_quoted: bool) -> Result<(), Cut> {
        const HEADER_LEN: u32 = 8;
        let Some(header) = self.packet.header::<{ HEADER_LEN as usize }>(start)? else {
            self.add_incomplete(start);
            return Ok(());
        };
        let [kind, code, ..] = *header;
        self.add(format_args!("TYPE={kind} CODE={code} "));
        if self.packet.len_from(start) < icmp_len_min(kind) {
            self.add_incomplete(start);
            return Ok(());
        }
        match kind {
            ICMP_ECHO_REPLY | ICMP_ECHO => {
                self.add(format_args!(
                    "ID={} SEQ={} ",
                    u16_at(header, 4),
                    u16_at(header, 6)
                ));
            }
            ICMP_PARAMETER_PROBLEM => self.add(format_args!("PARAMETER={} ", header[4])),
            ICMP_REDIRECT | ICMP_DESTINATION_UNREACHABLE | ICMP_SOURCE_QUENCH | ICMP_TIME_EXCEEDED => {
                if kind == ICMP_REDIRECT {
                    let gateway = Ipv4Addr::from(u32_at(header, 4));
                    self.add(format_args!("GATEWAY={gateway} "));
                }
                // Within a quoted packet another one is not shown.
                if !is_quoted {
                    self.add(format_args!("["));
                    self.ipv4(start + HEADER_LEN)?;
                    self.add(format_args!("] "));
                }
                if kind == ICMP_DESTINATION_UNREACHABLE && code == ICMP_FRAGMENTATION_NEEDED {
                    self.add(format_args!("MTU={} ", u16_at(header, 6)));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
