//! A tracked connection as conntrack keeps it: two tuples and what NAT does between them.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tracer_common::TUPLE_LEN;

/// `IPS_SRC_NAT`, `include/uapi/linux/netfilter/nf_conntrack_common.h`.
const SRC_NAT: u32 = 1 << 4;
/// `IPS_DST_NAT`
const DST_NAT: u32 = 1 << 5;
/// `IPS_SRC_NAT_DONE`
const SRC_NAT_DONE: u32 = 1 << 7;
/// `IPS_DST_NAT_DONE`
const DST_NAT_DONE: u32 = 1 << 8;

/// `struct nf_conntrack_tuple`: addresses and ports (or an ICMP identifier) of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// IP protocol.
    pub protocol: u8,
    /// Source port; of ICMP the identifier; of protocols without either zero.
    pub source_port: u16,
    /// Destination port; of ICMP type and code.
    pub destination_port: u16,
}

impl Tuple {
    /// Whether its protocol has ports in the places of ports.
    #[must_use]
    pub fn has_ports(&self) -> bool {
        matches!(self.protocol, 6 | 17 | 33 | 132 | 136)
    }

    /// Source as people write it, with the port where there is one.
    #[must_use]
    pub fn source(&self) -> Endpoint {
        Endpoint {
            address: self.source,
            port: self.has_ports().then_some(self.source_port),
        }
    }

    /// Destination as people write it.
    #[must_use]
    pub fn destination(&self) -> Endpoint {
        Endpoint {
            address: self.destination,
            port: self.has_ports().then_some(self.destination_port),
        }
    }

    /// Reads the kernel's bytes: `src.u3` 0, `src.u` 16, `src.l3num` 18, `dst.u3` 20, `dst.u` 36,
    /// `dst.protonum` 38, `dst.dir` 39. `None` where family or direction are not what they have to be.
    fn decode(bytes: &[u8; TUPLE_LEN], direction: u8) -> Option<Self> {
        let family = u16::from_ne_bytes([bytes[18], bytes[19]]);
        let address = |at: usize| -> Option<IpAddr> {
            match family {
                2 => Some(Ipv4Addr::from(*bytes[at..].first_chunk::<4>()?).into()),
                10 => Some(Ipv6Addr::from(*bytes[at..].first_chunk::<16>()?).into()),
                _ => None,
            }
        };
        (bytes[39] == direction).then_some(())?;
        Some(Self {
            source: address(0)?,
            destination: address(20)?,
            protocol: bytes[38],
            source_port: u16::from_be_bytes([bytes[16], bytes[17]]),
            destination_port: u16::from_be_bytes([bytes[36], bytes[37]]),
        })
    }
}

/// An address, with a port where the protocol has ports. Displayed as `10.0.0.1:80`, `[fd00::1]:80`, `10.0.0.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port.
    pub port: Option<u16>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port)),
            None => write!(f, "{}", self.address),
        }
    }
}

/// What conntrack knew of the packet's connection when the table was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Address of the `nf_conn`: names the connection while it lives.
    pub address: u64,
    /// `IPS_*` bits.
    pub status: u32,
    /// The direction of the first packet, before NAT.
    pub original: Tuple,
    /// What a reply looks like when it comes, so the inverse of the first packet after NAT.
    pub reply: Tuple,
}

/// What NAT does to a connection's first packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Before.
    pub before: Endpoint,
    /// After.
    pub after: Endpoint,
}

impl Connection {
    /// Reads what a record has; `None` if that is no pair of tuples.
    pub(crate) fn decode(record: &tracer_common::Traversal) -> Option<Self> {
        if record.flags & tracer_common::flags::TUPLES == 0 {
            return None;
        }
        Some(Self {
            address: record.conntrack_after,
            status: record.conntrack_status_after,
            original: Tuple::decode(&record.original, 0)?,
            reply: Tuple::decode(&record.reply, 1)?,
        })
    }

    /// What happens to the destination of packets of the original direction (and, undone, to the source of
    /// replies). `None` where nothing does, or that is not decided yet.
    #[must_use]
    pub fn dnat(&self) -> Option<Translation> {
        self.has(DST_NAT | DST_NAT_DONE).then(|| Translation {
            before: self.original.destination(),
            after: self.reply.source(),
        })
    }

    /// What happens to the source of packets of the original direction (and, undone, to the destination of
    /// replies).
    #[must_use]
    pub fn snat(&self) -> Option<Translation> {
        self.has(SRC_NAT | SRC_NAT_DONE).then(|| Translation {
            before: self.original.source(),
            after: self.reply.destination(),
        })
    }

    fn has(&self, bits: u32) -> bool {
        self.status & bits == bits
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::{Traversal as Record, flags};

    use super::*;

    fn tuple(source: [u8; 4], port: u16, destination: [u8; 4], to: u16, direction: u8) -> [u8; TUPLE_LEN] {
        let mut bytes = [0; TUPLE_LEN];
        bytes[..4].copy_from_slice(&source);
        bytes[16..18].copy_from_slice(&port.to_be_bytes());
        bytes[18..20].copy_from_slice(&2_u16.to_ne_bytes());
        bytes[20..24].copy_from_slice(&destination);
        bytes[36..38].copy_from_slice(&to.to_be_bytes());
        bytes[38] = 6;
        bytes[39] = direction;
        bytes
    }

    fn record(status: u32) -> Record {
        Record {
            flags: flags::TUPLES,
            conntrack_after: 0x1000,
            conntrack_status_after: status,
            original: tuple([192, 168, 199, 34], 35318, [192, 168, 199, 34], 32275, 0),
            reply: tuple([10, 244, 3, 3], 8080, [10, 244, 0, 0], 4242, 1),
            ..Record::EMPTY
        }
    }

    #[test]
    fn what_nat_does_is_read_from_the_tuples_once_it_is_decided() {
        let both = Connection::decode(&record(0x1b0)).unwrap();
        let shown = |translation: Option<Translation>| {
            translation.map(|Translation { before, after }| format!("{before} > {after}"))
        };
        assert_eq!(
            shown(both.dnat()).unwrap(),
            "192.168.199.34:32275 > 10.244.3.3:8080"
        );
        assert_eq!(
            shown(both.snat()).unwrap(),
            "192.168.199.34:35318 > 10.244.0.0:4242"
        );
        let undecided = Connection::decode(&record(0x120)).unwrap();
        assert!(undecided.dnat().is_some());
        assert_eq!(undecided.snat(), None);
    }

    #[test]
    fn what_is_no_tuple_is_refused() {
        let mut odd = record(0);
        odd.reply[39] = 0;
        assert_eq!(Connection::decode(&odd), None);
        let mut odd = record(0);
        odd.original[18] = 99;
        assert_eq!(Connection::decode(&odd), None);
    }
}
