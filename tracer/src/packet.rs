//! What a packet's headers say to a person: addresses, protocol, ports, flags.

use std::{
    borrow::Cow,
    fmt,
    net::{IpAddr, SocketAddr},
};

use etherparse::{IpNumber, LaxNetSlice, LaxSlicedPacket};

/// The fields of a packet that people know it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Transport protocol, for IPv6 the one after the extension headers.
    pub protocol: u8,
    /// What the transport header says.
    pub transport: Transport,
}

/// What the transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Not the first fragment: there is no transport header.
    LaterFragment {
        /// Where it belongs in the whole packet.
        offset_bytes: u32,
    },
    /// TCP.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// The flags, `FIN` the lowest bit.
        flags: u8,
    },
    /// A protocol that begins with its ports: UDP, UDP-Lite, SCTP, DCCP.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// ICMP and ICMPv6.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Another protocol, or a header that was cut short.
    Other,
}

impl Packet {
    /// Reads the headers, from the network header on. `None` where not even the IP header is whole.
    #[must_use]
    pub fn parse(headers: &[u8]) -> Option<Self> {
        let sliced = LaxSlicedPacket::from_ip(headers).ok()?;
        let (source, destination, payload, offset) = match sliced.net.as_ref()? {
            LaxNetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.payload(),
                ip.header().fragments_offset().byte_offset(),
            ),
            LaxNetSlice::Ipv6(ip) => {
                let offset = ip
                    .extensions()
                    .clone()
                    .into_iter()
                    .find_map(|extension| match extension {
                        etherparse::Ipv6ExtensionSlice::Fragment(fragment) => {
                            Some(fragment.fragment_offset().byte_offset())
                        }
                        _ => None,
                    });
                (
                    ip.header().source_addr().into(),
                    ip.header().destination_addr().into(),
                    ip.payload(),
                    offset.unwrap_or(0),
                )
            }
            LaxNetSlice::Arp(_) => return None,
        };
        Some(Self {
            source,
            destination,
            protocol: payload.ip_number.0,
            transport: Transport::parse(payload.ip_number, u32::from(offset), payload.payload),
        })
    }
}

impl Packet {
    /// Gives it another source, as NAT does; a port only where it has ports.
    pub fn set_source(&mut self, address: IpAddr, port: Option<u16>) {
        self.source = address;
        if let (Some(port), Transport::Tcp { source, .. } | Transport::Ports { source, .. }) =
            (port, &mut self.transport)
        {
            *source = port;
        }
    }

    /// Gives it another destination.
    pub fn set_destination(&mut self, address: IpAddr, port: Option<u16>) {
        self.destination = address;
        if let (Some(port), Transport::Tcp { destination, .. } | Transport::Ports { destination, .. }) =
            (port, &mut self.transport)
        {
            *destination = port;
        }
    }

    /// Name of the protocol: `TCP`, or `proto-89`.
    #[must_use]
    pub fn protocol_name(&self) -> Cow<'static, str> {
        match self.protocol {
            1 => "ICMP".into(),
            6 => "TCP".into(),
            17 => "UDP".into(),
            33 => "DCCP".into(),
            50 => "ESP".into(),
            51 => "AH".into(),
            58 => "ICMPv6".into(),
            132 => "SCTP".into(),
            136 => "UDP-Lite".into(),
            other => format!("proto-{other}").into(),
        }
    }
}

impl Transport {
    fn parse(protocol: IpNumber, offset_bytes: u32, header: &[u8]) -> Self {
        if offset_bytes != 0 {
            return Self::LaterFragment { offset_bytes };
        }
        let (source, destination) = match *header {
            [a, b, c, d, ..] => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
            _ => return Self::Other,
        };
        match protocol {
            IpNumber::TCP => match header.get(13) {
                Some(&flags) => Self::Tcp {
                    source,
                    destination,
                    flags,
                },
                None => Self::Ports { source, destination },
            },
            IpNumber::UDP | IpNumber::UDP_LITE | IpNumber::SCTP | IpNumber::DCCP => {
                Self::Ports { source, destination }
            }
            IpNumber::ICMP | IpNumber::IPV6_ICMP => Self::Icmp {
                kind: header[0],
                code: header[1],
            },
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Packet {
    /// `TCP 10.0.0.1:44522 > 10.0.0.2:80 SYN`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.protocol_name())?;
        match self.transport {
            Transport::Tcp {
                source,
                destination,
                flags,
            } => {
                let (source, destination) = self.sockets(source, destination);
                write!(f, " {source} > {destination}{}", TcpFlags(flags))
            }
            Transport::Ports { source, destination } => {
                let (source, destination) = self.sockets(source, destination);
                write!(f, " {source} > {destination}")
            }
            Transport::Icmp { kind, code } => {
                write!(
                    f,
                    " {} > {} type {kind} code {code}",
                    self.source, self.destination
                )
            }
            Transport::LaterFragment { offset_bytes } => {
                write!(
                    f,
                    " {} > {} fragment at {offset_bytes}",
                    self.source, self.destination
                )
            }
            Transport::Other => write!(f, " {} > {}", self.source, self.destination),
        }
    }
}

impl Packet {
    fn sockets(&self, source: u16, destination: u16) -> (SocketAddr, SocketAddr) {
        (
            SocketAddr::new(self.source, source),
            SocketAddr::new(self.destination, destination),
        )
    }
}

/// TCP flags in the order in which the kernel's log prints them, each with a space before it.
struct TcpFlags(u8);

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        tcp_flag_names(self.0).try_for_each(|name| write!(f, " {name}"))
    }
}

/// Names of the TCP flags that are set, in the order in which the kernel's log prints them.
pub(crate) fn tcp_flag_names(flags: u8) -> impl Iterator<Item = &'static str> {
    const NAMES: [(u8, &str); 8] = [
        (0x80, "CWR"),
        (0x40, "ECE"),
        (0x20, "URG"),
        (0x10, "ACK"),
        (0x08, "PSH"),
        (0x04, "RST"),
        (0x02, "SYN"),
        (0x01, "FIN"),
    ];
    NAMES
        .into_iter()
        .filter(move |(bit, _)| flags & bit != 0)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn shown(headers: &[u8]) -> String {
        Packet::parse(headers).unwrap().to_string()
    }

    #[test]
    fn tcp_shows_ports_and_flags() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(44522, 80, 1, 1024)
            .syn()
            .ack(7)
            .write(&mut bytes, &[])
            .unwrap();
        assert_eq!(shown(&bytes), "TCP 10.0.0.1:44522 > 10.0.0.2:80 ACK SYN");
    }

    #[test]
    fn ipv6_udp_shows_brackets() {
        let mut bytes = Vec::new();
        let (source, destination) = (
            "fd00::1".parse::<std::net::Ipv6Addr>(),
            "fd00::2".parse::<std::net::Ipv6Addr>(),
        );
        PacketBuilder::ipv6(source.unwrap().octets(), destination.unwrap().octets(), 64)
            .udp(5353, 53)
            .write(&mut bytes, b"payload")
            .unwrap();
        assert_eq!(shown(&bytes), "UDP [fd00::1]:5353 > [fd00::2]:53");
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut bytes, &[0; 32])
            .unwrap();
        bytes[7] = 3;
        assert_eq!(shown(&bytes), "UDP 10.0.0.1 > 10.0.0.2 fragment at 24");
    }

    #[test]
    fn a_first_fragment_has_ports() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut bytes, &[0; 32])
            .unwrap();
        bytes[6] = 0x20;
        assert_eq!(shown(&bytes), "UDP 10.0.0.1:1 > 10.0.0.2:2");
    }

    #[test]
    fn cut_headers_show_what_is_there() {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(1, 2, 0, 0)
            .write(&mut bytes, &[])
            .unwrap();
        assert_eq!(shown(&bytes[..30]), "TCP 10.0.0.1:1 > 10.0.0.2:2");
        assert_eq!(shown(&bytes[..22]), "TCP 10.0.0.1 > 10.0.0.2");
        assert_eq!(Packet::parse(&bytes[..19]), None);
        assert_eq!(Packet::parse(&[]), None);
    }

    #[test]
    fn no_bytes_panic() {
        for first in 0..=u8::MAX {
            for len in 0..64 {
                if let Some(packet) = Packet::parse(&vec![first; len]) {
                    let _ = packet.to_string();
                }
            }
        }
    }
}
