//! What of a packet stays as it is through NAT, routers and tunnels, so that it is known again on another node.
//!
//! Addresses, ports, checksums and the time to live change on the way; the identification and the length of the IP
//! packet, the sequence numbers of TCP, the identifier of an ICMP echo, and what the packet carries do not. Of a packet
//! in a tunnel it is the inner one that counts.

use crate::{connection::Endpoint, packet::Packet};

use super::changes::endpoints;

/// Tunnels within tunnels that are looked into.
const DEPTH_MAX: u8 = 4;
/// Bytes that two packets must both carry to be taken for one where their headers say little.
const TELLING_LEN: usize = 8;

/// `IPPROTO_*`
mod protocol {
    pub(super) const ICMP: u8 = 1;
    pub(super) const IPV4: u8 = 4;
    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;
    pub(super) const DCCP: u8 = 33;
    pub(super) const IPV6: u8 = 41;
    pub(super) const FRAGMENT: u8 = 44;
    pub(super) const GRE: u8 = 47;
    pub(super) const ICMPV6: u8 = 58;
    pub(super) const SCTP: u8 = 132;
    pub(super) const UDP_LITE: u8 = 136;
}

/// What stays as it is. Two packets with different ones are two packets; with equal ones they may be the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    version: u8,
    protocol: u8,
    /// Identification, and the field with flags and place of a fragment; zero where IPv6 has no fragment header.
    identification: u32,
    fragment: u16,
    /// Bytes after the IP header.
    payload_len: u32,
    transport: Transport,
}

/// What the transport header has that no router changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Transport {
    Tcp {
        sequence: u32,
        acknowledgement: u32,
        /// Without those of ECN, which routers set.
        flags: u8,
        /// The option, both values.
        timestamps: Option<[u8; 8]>,
    },
    /// Type and code; identifier and sequence number, or what an error has in their place.
    Icmp([u8; 2], [u8; 4]),
    Other,
}

/// A packet as it was at one place.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    pub(super) identity: Identity,
    /// What it carries, as far as it was recorded.
    carried: Vec<u8>,
    /// Of the innermost packet.
    pub(super) source: Endpoint,
    /// Of the innermost packet.
    pub(super) destination: Endpoint,
    /// Of the innermost packet.
    pub(super) ttl: u8,
    /// How many tunnels it is in.
    pub(super) depth: u8,
}

impl Sight {
    /// Of headers, from the network header on. `None` where they are cut too short to tell.
    pub(super) fn of(headers: &[u8]) -> Option<Self> {
        let mut depth = 0;
        let mut packet = headers;
        while depth < DEPTH_MAX
            && let Some(inner) = inner(packet)
        {
            packet = inner;
            depth += 1;
        }
        let ip = Ip::of(packet)?;
        let (transport, carried) = Transport::of(&ip)?;
        let (source, destination) = endpoints(&Packet::parse(packet)?);
        Some(Self {
            identity: Identity {
                version: ip.version,
                protocol: ip.protocol,
                identification: ip.identification,
                fragment: ip.fragment,
                payload_len: ip.payload_len,
                transport,
            },
            carried: carried.to_vec(),
            source,
            destination,
            ttl: ip.ttl,
            depth,
        })
    }

    /// Whether it is the same packet as one with an equal identity, and how far that can be told.
    pub(super) fn likeness(&self, other: &Self) -> Likeness {
        let one_end = self.source == other.source || self.destination == other.destination;
        let both_ends = (self.source, self.destination) == (other.source, other.destination);
        let carried = self.carried.len().min(other.carried.len());
        let identified = self.identity.identification != 0;
        if self.carried[..carried] != other.carried[..carried] {
            return Likeness::Different;
        }
        match self.identity.transport {
            _ if both_ends && identified => Likeness::Same,
            Transport::Tcp { .. } | Transport::Icmp(..) if both_ends => Likeness::Same,
            Transport::Other if both_ends && carried >= TELLING_LEN => Likeness::Same,
            Transport::Tcp { .. } => Likeness::BehindNat,
            Transport::Icmp(..) if one_end && identified => Likeness::BehindNat,
            Transport::Other if one_end && identified && carried >= TELLING_LEN => Likeness::BehindNat,
            Transport::Icmp(..) | Transport::Other => Likeness::Unknown,
        }
    }
}

/// What two packets with equal identities are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Likeness {
    /// One and the same, with the same addresses and ports.
    Same,
    /// One and the same, to which somebody between them gave other addresses: what they have in common hardly comes
    /// together by chance.
    BehindNat,
    /// Too little is known to tell.
    Unknown,
    /// Two: they carry different bytes.
    Different,
}

/// What an IP header says.
struct Ip<'a> {
    version: u8,
    protocol: u8,
    identification: u32,
    fragment: u16,
    ttl: u8,
    payload_len: u32,
    /// As far as it was recorded.
    payload: &'a [u8],
}

impl<'a> Ip<'a> {
    /// `DF` is left out: routers may clear it.
    const PLACE: u16 = 0x3fff;

    fn of(bytes: &'a [u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = bytes.first_chunk()?;
                let len = usize::from(header[0] & 0xf) * 4;
                let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
                let payload = bytes.get(len..).filter(|_| len >= 20)?;
                let payload_len = total.checked_sub(u32::try_from(len).ok()?)?;
                Some(Self {
                    version: 4,
                    protocol: header[9],
                    identification: u32::from(u16::from_be_bytes([header[4], header[5]])),
                    fragment: u16::from_be_bytes([header[6], header[7]]) & Self::PLACE,
                    ttl: header[8],
                    payload_len,
                    payload: within(payload, payload_len),
                })
            }
            6 => {
                let header: &[u8; 40] = bytes.first_chunk()?;
                let payload_len = u32::from(u16::from_be_bytes([header[4], header[5]]));
                let mut ip = Self {
                    version: 6,
                    protocol: header[6],
                    identification: 0,
                    fragment: 0,
                    ttl: header[7],
                    payload_len,
                    payload: within(&bytes[40..], payload_len),
                };
                if ip.protocol == protocol::FRAGMENT {
                    let header: &[u8; 8] = ip.payload.first_chunk()?;
                    ip.protocol = header[0];
                    ip.fragment = u16::from_be_bytes([header[2], header[3]]);
                    ip.identification = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                    ip.payload_len = payload_len.checked_sub(8)?;
                    ip.payload = &ip.payload[8..];
                }
                Some(ip)
            }
            _ => None,
        }
    }

    fn is_fragment(&self) -> bool {
        self.fragment != 0
    }

    /// Whether it begins with the transport header.
    fn has_transport(&self) -> bool {
        /// The lowest bits of IPv6 are flags.
        const V6_OFFSET: u16 = 0xfff8;
        const V4_OFFSET: u16 = 0x1fff;
        self.fragment & if self.version == 4 { V4_OFFSET } else { V6_OFFSET } == 0
    }
}

/// So much of the bytes as belongs to the packet.
fn within(bytes: &[u8], len: u32) -> &[u8] {
    &bytes[..bytes.len().min(len as usize)]
}

impl Transport {
    /// With what the packet carries behind it.
    fn of<'a>(ip: &Ip<'a>) -> Option<(Self, &'a [u8])> {
        let bytes = ip.payload;
        if !ip.has_transport() {
            return Some((Self::Other, bytes));
        }
        Some(match ip.protocol {
            protocol::TCP => {
                let header: &[u8; 20] = bytes.first_chunk()?;
                let len = usize::from(header[12] >> 4) * 4;
                // The options are needed whole: with or without their values it is not the same identity.
                let options = bytes.get(20..len)?;
                let word = |at: usize| {
                    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
                };
                let tcp = Self::Tcp {
                    sequence: word(4),
                    acknowledgement: word(8),
                    flags: header[13] & 0x3f,
                    timestamps: timestamps(options),
                };
                (tcp, &bytes[len..])
            }
            protocol::ICMP | protocol::ICMPV6 => {
                let header: &[u8; 8] = bytes.first_chunk()?;
                let [kind, code, _, _, rest @ ..] = *header;
                (Self::Icmp([kind, code], rest), &bytes[8..])
            }
            // Ports and checksum come first: those of SCTP and DCCP with something between that is not missed.
            protocol::UDP | protocol::UDP_LITE => (Self::Other, bytes.get(8..)?),
            protocol::SCTP | protocol::DCCP => (Self::Other, bytes.get(12..)?),
            _ => (Self::Other, bytes),
        })
    }
}

/// The values of the TCP option (RFC 7323).
fn timestamps(mut options: &[u8]) -> Option<[u8; 8]> {
    loop {
        match *options.first()? {
            0 => return None,
            1 => options = &options[1..],
            kind => {
                let len = usize::from(*options.get(1)?);
                if kind == 8 {
                    return options.get(2..len)?.try_into().ok();
                }
                options = options.get(len.max(2)..)?;
            }
        }
    }
}

/// The packet in a tunnel's packet: IP in IP, GRE, VXLAN, Geneve.
fn inner(packet: &[u8]) -> Option<&[u8]> {
    let ip = Ip::of(packet)?;
    if ip.is_fragment() {
        return None;
    }
    let found = match ip.protocol {
        protocol::IPV4 | protocol::IPV6 => ip.payload,
        protocol::GRE => of_gre(ip.payload)?,
        protocol::UDP => of_udp(ip.payload)?,
        _ => return None,
    };
    // Where it is what it was taken for, it ends where the outer packet does.
    let header_len = ip.payload.len() - found.len();
    let len = u32::try_from(header_len).ok()?;
    let expected = ip.payload_len.checked_sub(len)?;
    let inside = Ip::of(found)?;
    let own_len = match inside.version {
        4 => u32::from(u16::from_be_bytes([*found.get(2)?, *found.get(3)?])),
        _ => 40 + u32::from(u16::from_be_bytes([*found.get(4)?, *found.get(5)?])),
    };
    (own_len == expected).then_some(found)
}

/// RFC 2784, RFC 2890.
fn of_gre(bytes: &[u8]) -> Option<&[u8]> {
    const CHECKSUM: u8 = 0x80;
    const KEY: u8 = 0x20;
    const SEQUENCE: u8 = 0x10;

    let header: &[u8; 4] = bytes.first_chunk()?;
    let optional = [CHECKSUM, KEY, SEQUENCE];
    if header[0] & !(CHECKSUM | KEY | SEQUENCE) != 0 || header[1] != 0 {
        return None;
    }
    let options = optional.iter().filter(|bit| header[0] & **bit != 0).count();
    let rest = bytes.get(4 + 4 * options..)?;
    carried_as(u16::from_be_bytes([header[2], header[3]]), rest)
}

/// VXLAN (RFC 7348), at its own port and at the one that Linux has by default, and Geneve (RFC 8926).
fn of_udp(bytes: &[u8]) -> Option<&[u8]> {
    let header: &[u8; 16] = bytes.first_chunk()?;
    let tunnel = &header[8..];
    match u16::from_be_bytes([header[2], header[3]]) {
        4789 | 8472 => {
            let is_vxlan = tunnel[0] == 0x08 && tunnel[1..4] == [0; 3] && tunnel[7] == 0;
            carried_as(ETHERNET, bytes.get(16..).filter(|_| is_vxlan)?)
        }
        6081 => {
            let options = usize::from(tunnel[0] & 0x3f) * 4;
            let is_geneve = tunnel[0] >> 6 == 0;
            let kind = u16::from_be_bytes([tunnel[2], tunnel[3]]);
            carried_as(kind, bytes.get(16 + options..).filter(|_| is_geneve)?)
        }
        _ => None,
    }
}

/// Transparent Ethernet bridging.
const ETHERNET: u16 = 0x6558;

/// The IP packet in what a tunnel carries as this type of protocol.
fn carried_as(kind: u16, bytes: &[u8]) -> Option<&[u8]> {
    const IPV4: u16 = 0x0800;
    const IPV6: u16 = 0x86dd;

    match kind {
        IPV4 | IPV6 => Some(bytes),
        ETHERNET => {
            let header: &[u8; 14] = bytes.first_chunk()?;
            let kind = u16::from_be_bytes([header[12], header[13]]);
            matches!(kind, IPV4 | IPV6).then(|| &bytes[14..])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    fn udp(source: [u8; 4], destination: [u8; 4], to: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(source, destination, 64)
            .udp(5555, to)
            .write(&mut bytes, payload)
            .unwrap();
        bytes
    }

    fn ping(source: [u8; 4], destination: [u8; 4], ttl: u8, sequence: u16) -> Vec<u8> {
        let mut bytes = Vec::new();
        PacketBuilder::ipv4(source, destination, ttl)
            .icmpv4_echo_request(77, sequence)
            .write(&mut bytes, b"0123456789")
            .unwrap();
        bytes[4..6].copy_from_slice(&[9, 9]);
        bytes
    }

    /// As Linux sends it for flannel: VXLAN at port 8472.
    fn in_vxlan(inner: &[u8]) -> Vec<u8> {
        let mut frame = vec![8, 0, 0, 0, 0, 0, 1, 0];
        frame.extend([2; 12]);
        frame.extend([8, 0]);
        frame.extend(inner);
        udp([172, 16, 0, 1], [172, 16, 0, 2], 8472, &frame)
    }

    #[test]
    fn nat_and_routers_leave_the_identity() {
        let before = Sight::of(&ping([10, 0, 1, 2], [10, 0, 2, 2], 64, 1)).unwrap();
        let after = Sight::of(&ping([172, 16, 0, 1], [10, 0, 2, 2], 61, 1)).unwrap();
        assert_eq!(before.identity, after.identity);
        assert_eq!(before.likeness(&after), Likeness::BehindNat);
        assert_eq!((before.ttl, after.ttl), (64, 61));
        let next = Sight::of(&ping([10, 0, 1, 2], [10, 0, 2, 2], 64, 2)).unwrap();
        assert_ne!(before.identity, next.identity);
    }

    #[test]
    fn what_is_carried_tells_datagrams_apart() {
        let sight = |payload| Sight::of(&udp([10, 0, 0, 1], [10, 0, 0, 2], 53, payload)).unwrap();
        let (one, other) = (sight(b"question one"), sight(b"question two"));
        assert_eq!(one.identity, other.identity);
        assert_eq!(one.likeness(&other), Likeness::Different);
        assert_eq!(one.likeness(&one), Likeness::Same);
        // Without an identification there is too little to see through NAT.
        let translated = Sight::of(&udp([10, 0, 0, 9], [10, 0, 0, 2], 53, b"question one")).unwrap();
        assert_eq!(one.likeness(&translated), Likeness::Unknown);
    }

    #[test]
    fn a_tunnel_has_the_identity_of_what_is_in_it() {
        let inner = ping([10, 244, 1, 2], [10, 244, 2, 2], 63, 1);
        let alone = Sight::of(&inner).unwrap();
        let wrapped = Sight::of(&in_vxlan(&inner)).unwrap();
        assert_eq!(wrapped.identity, alone.identity);
        assert_eq!((wrapped.depth, alone.depth), (1, 0));
        assert_eq!(wrapped.likeness(&alone), Likeness::Same);

        let mut ipip = Vec::new();
        PacketBuilder::ipv4([172, 16, 0, 1], [172, 16, 0, 2], 64)
            .write(&mut ipip, etherparse::IpNumber::IPV4, &inner)
            .unwrap();
        assert_eq!(Sight::of(&ipip).unwrap().identity, alone.identity);
        let mut gre = Vec::new();
        PacketBuilder::ipv4([172, 16, 0, 1], [172, 16, 0, 2], 64)
            .write(
                &mut gre,
                etherparse::IpNumber::GRE,
                &[&[0, 0, 8, 0][..], &inner].concat(),
            )
            .unwrap();
        assert_eq!(Sight::of(&gre).unwrap().identity, alone.identity);
    }

    #[test]
    fn what_only_looks_like_a_tunnel_is_none() {
        let inner = ping([10, 244, 1, 2], [10, 244, 2, 2], 63, 1);
        let mut longer = in_vxlan(&inner);
        // A tunnel's packet does not go on behind the inner one.
        longer[20 + 8 + 8 + 14 + 3] -= 1;
        assert_eq!(Sight::of(&longer).unwrap().depth, 0);
        assert_eq!(
            Sight::of(&udp([1; 4], [2; 4], 8472, b"no vxlan at all, really"))
                .unwrap()
                .depth,
            0
        );
    }

    #[test]
    fn retransmissions_differ_by_their_timestamps() {
        let syn = |value: u32| {
            let mut bytes = Vec::new();
            let options = [etherparse::TcpOptionElement::Timestamp(value, 0)];
            PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
                .tcp(1, 2, 7, 1024)
                .syn()
                .options(&options)
                .unwrap()
                .write(&mut bytes, &[])
                .unwrap();
            Sight::of(&bytes).unwrap().identity
        };
        assert_eq!(syn(5), syn(5));
        assert_ne!(syn(5), syn(1005));
    }

    #[test]
    fn any_bytes_have_an_identity_or_none() {
        bolero::check!().for_each(|bytes: &[u8]| {
            if let Some(sight) = Sight::of(bytes) {
                assert_ne!(sight.likeness(&sight), Likeness::Different);
            }
        });
    }
}
