//! The line that the kernel logs for a packet that a TRACE rule marked, without such a rule:
//!
//! ```text
//! TRACE: nat:KUBE-SERVICES:rule:9 IN=eth0 OUT= MAC=… SRC=10.0.0.1 DST=10.0.0.2 LEN=60 TOS=0x00 … PROTO=TCP …
//! ```
//!
//! The kernel writes it in `net/netfilter/nf_log_syslog.c`; before 5.13 the same code was spread over
//! `nf_log_common.c`, `nf_log_ipv4.c` and `nf_log_ipv6.c`. `ipt_do_table` asks for `NF_LOG_DEFAULT_MASK`: TCP
//! sequence numbers and options, IP options and the owner, but no decoded MAC addresses. The text is that of
//! 7.x, as `/dev/kmsg` shows it. Older kernels differ in one point that a packet can show: in 6.12 and before,
//! the TCP bit AE is part of `RES=` (0x04) and is not named; which kernel it was the record says.
//!
//! Where a bridge hands its packets to the IP tables the kernel adds its ports, `PHYSIN=` and `PHYSOUT=`
//! (`nf_log_dump_packet_common`).

mod ipv4;
mod ipv6;
mod packet;
#[cfg(test)]
mod tests;
mod transport;

use std::fmt::{self, Write as _};

use self::packet::Packet;
use crate::traversal::{Device, Family, Traversal};

/// Bytes of text that the kernel's buffer takes, without level and line end: `S_SIZE` less the terminating NUL
/// and `KERN_SOH "4"` (`nf_log_buf_add`, `net/netfilter/nf_log.c`). What goes beyond is not logged. In older
/// kernels `printk` itself takes still less, 989 in 5.10 and 6.1 (`LOG_LINE_MAX`).
const TEXT_LEN_MAX: usize = 1024 - (size_of::<u32>() + 1) - 1 - 2;

/// `ARPHRD_SIT`, `include/uapi/linux/if_arp.h`.
const DEVICE_TYPE_SIT: u16 = 776;

/// The kernel's line goes on after what was written, with something that was not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// The line stops after `OUT=`.
    #[error("the bridge port that the packet came in by, which the kernel logs, is gone")]
    Bridge,
    /// The line stops after `MAC=`.
    #[error("the link-layer header that the kernel logs was not recorded")]
    LinkHeader,
    /// The line stops before a header that the packet has.
    #[error("the packet's headers were not recorded as far as the kernel logs them")]
    Headers,
}

/// Appends the kernel's line, from `TRACE: ` to before the line end: the trailing space is the kernel's.
///
/// `prefix` is table, chain, kind and number of the rule. `headers`, `packet_len` (bytes from the network header to
/// the end) and `mark` are the packet's when it met this rule, where rules before it changed them; `headers` may also be fewer bytes than the packet has.
///
/// # Errors
/// The record ends before what the kernel logs. What was appended is then the beginning of the kernel's line,
/// never a false `INCOMPLETE` or `TRUNCATED`: the kernel writes those for packets that are too short themselves.
pub fn line(
    to: &mut String,
    prefix: &str,
    traversal: &Traversal,
    headers: &[u8],
    packet_len: u32,
    mark: u32,
) -> Result<(), Cut> {
    let start = to.len();
    let mut log = Log {
        to,
        packet: Packet {
            recorded: headers,
            len: packet_len,
            len_is_certain: !traversal.incomplete,
        },
        traversal,
        mark,
    };
    let written = log.packet_line(prefix);
    let len = to.len() - start;
    if len > TEXT_LEN_MAX {
        to.truncate(to.floor_char_boundary(start + TEXT_LEN_MAX));
    }
    escape(to, start);
    // What is missing beyond the end of the kernel's buffer is not missing.
    written.or_else(|cut| if len < TEXT_LEN_MAX { Err(cut) } else { Ok(()) })
}

/// Names may hold any byte but blanks, colons and slashes; `/dev/kmsg` escapes them (`append_char`,
/// `kernel/printk/printk.c`).
fn escape(text: &mut String, start: usize) {
    let plain = |byte: u8| (b' '..0x7f).contains(&byte) && byte != b'\\';
    if text.as_bytes()[start..].iter().all(|&byte| plain(byte)) {
        return;
    }
    for byte in text.split_off(start).into_bytes() {
        if plain(byte) {
            text.push(char::from(byte));
        } else {
            put(text, format_args!("\\x{byte:02x}"));
        }
    }
}

fn put(to: &mut String, text: fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = to.write_fmt(text);
}

/// A line in the making.
struct Log<'a> {
    to: &'a mut String,
    packet: Packet<'a>,
    traversal: &'a Traversal,
    mark: u32,
}

impl Log<'_> {
    fn add(&mut self, text: fmt::Arguments<'_>) {
        put(self.to, text);
    }

    fn add_hex(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.add(format_args!("{byte:02X}"));
        }
    }

    /// `nf_log_dump_packet_common`, then `nf_log_ip_packet` or `nf_log_ip6_packet`.
    fn packet_line(&mut self, prefix: &str) -> Result<(), Cut> {
        fn name(device: Option<&Device>) -> &str {
            device.map_or("", |device| &device.name)
        }
        let traversal = self.traversal;
        self.add(format_args!(
            "TRACE: {prefix} IN={} OUT={} ",
            name(traversal.in_device.as_ref()),
            name(traversal.out_device.as_ref())
        ));
        self.port("PHYSIN", traversal.port_in.as_ref(), traversal.in_device.as_ref())?;
        self.port(
            "PHYSOUT",
            traversal.port_out.as_ref(),
            traversal.out_device.as_ref(),
        )?;
        if traversal.in_device.is_some() {
            self.link_header()?;
        }
        match traversal.family {
            Family::Ipv4 => self.ipv4(0),
            Family::Ipv6 => self.ipv6(0),
        }
    }

    /// A port of the bridge that handed the packet to the IP tables, where it is not the device itself.
    fn port(&mut self, field: &str, port: Option<&Device>, device: Option<&Device>) -> Result<(), Cut> {
        match port {
            Some(port) if device.is_none_or(|device| device.ifindex != port.ifindex) => {
                if port.name.is_empty() {
                    return Err(Cut::Bridge);
                }
                self.add(format_args!("{field}={} ", port.name));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// `dump_mac_header` without `NF_LOG_MACDECODE`: as many bytes as the link-layer headers of `skb->dev` have,
    /// from where the packet's link-layer header is or was.
    fn link_header(&mut self) -> Result<(), Cut> {
        let traversal = self.traversal;
        self.add(format_args!("MAC="));
        if !traversal.link_header.is_empty() {
            let recorded = traversal.link_header.len() == usize::from(traversal.hard_header_len);
            // For a SIT tunnel the kernel starts before the header, with bytes that are not in the record.
            if traversal.device_type == DEVICE_TYPE_SIT || !recorded {
                return Err(Cut::LinkHeader);
            }
            for (at, byte) in traversal.link_header.iter().enumerate() {
                let colon = if at == 0 { "" } else { ":" };
                put(self.to, format_args!("{colon}{byte:02x}"));
            }
        }
        self.add(format_args!(" "));
        Ok(())
    }

    /// The end of `dump_ipv4_packet` and `dump_ipv6_packet` for a packet that is not itself quoted.
    fn owner_and_mark(&mut self) {
        if let Some(owner) = self.traversal.owner {
            self.add(format_args!("UID={} GID={} ", owner.uid, owner.gid));
        }
        let mark = self.mark;
        if mark != 0 {
            self.add(format_args!("MARK=0x{mark:x} "));
        }
    }
}
