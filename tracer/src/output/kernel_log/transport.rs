//! TCP and UDP, the same over both families.

use std::ops::ControlFlow::{self, Break, Continue};

use super::{
    Cut, Log,
    packet::{u16_at, u32_at},
};

const PROTOCOL_UDP: u8 = 17;

/// `TCP_RESERVED_BITS`, `include/uapi/linux/tcp.h`, since `struct tcphdr` has the member `ae`, and before.
const TCP_RESERVED: u32 = 0x0e00_0000;
const TCP_RESERVED_WITH_AE: u32 = 0x0f00_0000;
const TCP_AE: u16 = 0x100;

/// In the order in which the kernel names them; the bits are those of the header's bytes 12 and 13.
const TCP_FLAGS: [(u16, &str); 9] = [
    (TCP_AE, "AE "),
    (0x080, "CWR "),
    (0x040, "ECE "),
    (0x020, "URG "),
    (0x010, "ACK "),
    (0x008, "PSH "),
    (0x004, "RST "),
    (0x002, "SYN "),
    (0x001, "FIN "),
];

impl Log<'_> {
    /// `nf_log_dump_tcp_header`. `Break` where the line ends with it.
    pub(super) fn tcp(&mut self, start: u32, is_later_fragment: bool) -> Result<ControlFlow<()>, Cut> {
        const HEADER_LEN: u32 = 20;
        self.add(format_args!("PROTO=TCP "));
        if is_later_fragment {
            return Ok(Continue(()));
        }
        let Some(header) = self.packet.header::<{ HEADER_LEN as usize }>(start)? else {
            self.add_incomplete(start);
            return Ok(Break(()));
        };
        let names_ae = self.traversal.names_ae;
        let reserved = if names_ae {
            TCP_RESERVED
        } else {
            TCP_RESERVED_WITH_AE
        };
        self.add(format_args!(
            "SPT={} DPT={} SEQ={} ACK={} WINDOW={} RES=0x{:02x} ",
            u16_at(header, 0),
            u16_at(header, 2),
            u32_at(header, 4),
            u32_at(header, 8),
            u16_at(header, 14),
            (u32_at(header, 12) & reserved) >> 22
        ));
        for (flag, name) in TCP_FLAGS {
            if u16_at(header, 12) & flag != 0 && (names_ae || flag != TCP_AE) {
                self.add(format_args!("{name}"));
            }
        }
        self.add(format_args!("URGP={} ", u16_at(header, 18)));
        let options_len = (usize::from(header[12] >> 4) * 4).saturating_sub(HEADER_LEN as usize);
        if options_len != 0 {
            let Some(options) = self.packet.bytes(start + HEADER_LEN, options_len)? else {
                self.add(format_args!("OPT (TRUNCATED)"));
                return Ok(Break(()));
            };
            self.add(format_args!("OPT ("));
            self.add_hex(options);
            self.add(format_args!(") "));
        }
        Ok(Continue(()))
    }

    /// `nf_log_dump_udp_header`, also for UDP-Lite. `Break` where the line ends with it.
    pub(super) fn udp(
        &mut self,
        protocol: u8,
        start: u32,
        is_later_fragment: bool,
    ) -> Result<ControlFlow<()>, Cut> {
        self.add(format_args!(
            "PROTO={} ",
            if protocol == PROTOCOL_UDP {
                "UDP"
            } else {
                "UDPLITE"
            }
        ));
        if is_later_fragment {
            return Ok(Continue(()));
        }
        let Some(header) = self.packet.header::<8>(start)? else {
            self.add_incomplete(start);
            return Ok(Break(()));
        };
        self.add(format_args!(
            "SPT={} DPT={} LEN={} ",
            u16_at(header, 0),
            u16_at(header, 2),
            u16_at(header, 4)
        ));
        Ok(Continue(()))
    }

    /// Says that the packet is too short for the header at `start`.
    pub(super) fn add_incomplete(&mut self, start: u32) {
        let len = self.packet.len_from(start);
        self.add(format_args!("INCOMPLETE [{len} bytes] "));
    }
}
