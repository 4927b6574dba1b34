//! Random packets: from either side, from the node, to itself and through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;

use super::network::{LEFT_MACS, Network, RIGHT_MACS};
use super::sockets::{self, Identity, Kind, Servers};
use super::wire::{self, V4, V6};
use crate::netns::Namespace;

/// What is sent for one ruleset.
const PACKETS: usize = 26;
/// Connections and exchanges of datagrams for one ruleset.
const EXCHANGES: usize = 8;
/// Looks at what has come, after each packet.
const ROUNDS: usize = 6;

/// IPv6 packets with an extension header that claims to be longer than they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overlong {
    /// They are sent as well.
    Sent,
    /// They are left out.
    LeftOut,
}

/// Sends everything; `meanwhile` is called often.
pub(super) fn send(
    rng: &mut Rng,
    network: &Network,
    overlong: Overlong,
    mut meanwhile: impl FnMut() -> Result<()>,
) -> Result<()> {
    let mut servers = [Servers::start(&network.node)?, Servers::start(&network.right)?];
    let senders = Senders::new(rng, network, overlong)?;
    let mut clients = Vec::new();
    for number in 0..EXCHANGES {
        clients.push(exchange(rng, network, number)?);
        servers.iter_mut().for_each(Servers::answer);
    }
    for number in 0..PACKETS {
        senders.packet(rng, number);
        servers.iter_mut().for_each(Servers::answer);
        more(rng, &clients);
        meanwhile()?;
    }
    for _ in 0..ROUNDS {
        servers.iter_mut().for_each(Servers::answer);
        more(rng, &clients);
        meanwhile()?;
        thread::sleep(Duration::from_millis(2));
    }
    // Else some would send for minutes what is not answered.
    clients.into_iter().for_each(sockets::abort);
    Ok(())
}

/// An address, by network (0 is the loopback) and host.
fn address(v6: bool, net: u8, host: u8) -> IpAddr {
    match (v6, net) {
        (false, 0) => Ipv4Addr::LOCALHOST.into(),
        (true, 0) => Ipv6Addr::LOCALHOST.into(),
        (false, net) => Ipv4Addr::new(10, net, 0, host).into(),
        (true, net) => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host.into()).into(),
    }
}

/// A connection or a socket with datagrams, from the left or the node.
fn exchange(rng: &mut Rng, network: &Network, number: usize) -> Result<OwnedFd> {
    let v6 = rng.bool();
    let (from, to): (&Namespace, IpAddr) = match rng.u8(..5) {
        0 | 1 => (&network.left, address(v6, 2, 2)),
        2 => (&network.left, address(v6, 1, 1)),
        3 => (&network.node, address(v6, 2, 2)),
        _ => (&network.node, address(v6, 0, 0)),
    };
    let identity = Identity {
        uid: [0, 1000, 1500][rng.usize(..3)],
        mark: [0, 0, 1, 0x4001, 0x10][rng.usize(..5)],
    };
    let (kind, ports) = if rng.bool() {
        (Kind::Stream, sockets::TCP_PORTS)
    } else {
        (Kind::Datagram, sockets::UDP_PORTS)
    };
    // One port in three has no server: a reset or an ICMP error comes back.
    let port = [ports[0], ports[1], 5002][rng.usize(..3)];
    let socket = sockets::open(from, v6, kind, identity)?;
    let own = 50_000 + u16::try_from(number).unwrap_or(0) * 10 + rng.u16(..10);
    sockets::begin(&socket, own, SocketAddr::new(to, port), b"a needle in it")?;
    Ok(socket)
}

/// More data for some, and what came for all.
fn more(rng: &mut Rng, clients: &[OwnedFd]) {
    let mut buffer = [0; 4096];
    for client in clients {
        while let Ok(1..) = nix::unistd::read(client, &mut buffer) {}
        if rng.u8(..12) == 0 {
            let len = rng.usize(1..300);
            let _ = nix::unistd::write(client, &vec![b'x'; len]);
        }
    }
}

/// Sockets for packets made by hand.
struct Senders {
    left: OwnedFd,
    right: OwnedFd,
    node: [OwnedFd; 2],
    overlong: Overlong,
}

impl Senders {
    fn new(rng: &mut Rng, network: &Network, overlong: Overlong) -> Result<Self> {
        let identity = Identity {
            uid: [0, 1000][rng.usize(..2)],
            mark: [0, 2][rng.usize(..2)],
        };
        Ok(Self {
            left: sockets::frames(&network.left)?,
            right: sockets::frames(&network.right)?,
            node: [
                sockets::open(&network.node, false, Kind::Raw, identity)?,
                sockets::open(&network.node, true, Kind::Raw, identity)?,
            ],
            overlong,
        })
    }

    /// One packet, or all fragments of one.
    fn packet(&self, rng: &mut Rng, number: usize) {
        let v6 = rng.bool();
        let side = rng.u8(..5);
        let (from, to) = match side {
            0 | 1 => ((1, 2), [(2, 2), (1, 1)][rng.usize(..2)]),
            2 => ((2, 2), [(1, 2), (2, 1)][rng.usize(..2)]),
            _ => [((1, 1), (1, 2)), ((2, 1), (2, 2)), ((0, 1), (0, 1))][rng.usize(..3)],
        };
        let (from, to) = (address(v6, from.0, from.1), address(v6, to.0, to.1));
        let packets = match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => v4(rng, number, from, to),
            (IpAddr::V6(from), IpAddr::V6(to)) => self::v6(rng, number, from, to, self.overlong),
            _ => Vec::new(),
        };
        for packet in packets {
            match side {
                0 | 1 => sockets::send_frame(&self.left, LEFT_MACS, &packet),
                2 => sockets::send_frame(&self.right, RIGHT_MACS, &packet),
                _ => sockets::send_packet(&self.node[usize::from(v6)], SocketAddr::new(to, 0), &packet),
            }
        }
    }
}

fn ports(rng: &mut Rng) -> [u16; 2] {
    [
        rng.u16(1024..),
        [80, 81, 5000, 5001, 5002, 6001, 9][rng.usize(..7)],
    ]
}

/// A payload of a protocol, with the sum of the pseudo header from `pseudo`.
fn payload(rng: &mut Rng, v6: bool, pseudo: &dyn Fn(usize) -> u32, protocol: u8) -> Vec<u8> {
    let data = vec![b'd'; rng.usize(..120)];
    match protocol {
        6 => {
            let options: &[u8] = match rng.u8(..6) {
                0 => &[2, 4, 2, 0xb4],
                1 => &[4, 2, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
                // An option that goes beyond the end, and one of no length.
                2 => &[1, 1, 3, 40],
                3 => &[8, 0, 1, 1],
                _ => &[],
            };
            let options = &options[..options.len() / 4 * 4];
            let flags = [0x02, 0x10, 0x12, 0x04, 0x29, 0, 0xff, 0x03, 0xc2][rng.usize(..9)];
            let data = if flags & 2 != 0 { &[][..] } else { &data };
            let mut segment = wire::tcp(ports(rng), flags, rng.u32(..), options, data, pseudo);
            match rng.u8(..12) {
                // Shorter than its header, and a header that claims to be shorter or longer than it is.
                0 => segment.truncate(rng.usize(..20)),
                1 => segment[12] = 0x40,
                2 => segment[12] = 0xf0,
                3 => segment[12] |= 0x0f,
                _ => {}
            }
            segment
        }
        17 | 136 => {
            let mut datagram = wire::udp(ports(rng), &data, pseudo);
            if rng.u8(..8) == 0 {
                datagram.truncate(rng.usize(..8));
            }
            datagram
        }
        1 | 58 => {
            let kinds: [[u8; 2]; 7] = if v6 {
                [[128, 0], [129, 0], [1, 4], [3, 0], [2, 0], [4, 1], [200, 0]]
            } else {
                [[8, 0], [0, 0], [3, 3], [11, 0], [3, 4], [5, 1], [13, 0]]
            };
            let mut rest = vec![0, 7, 0, 1];
            rest.extend(data);
            let mut message = wire::icmp(kinds[rng.usize(..7)], &rest, if v6 { pseudo } else { &|_| 0 });
            if rng.u8(..8) == 0 {
                message.truncate(rng.usize(..8));
            }
            message
        }
        _ => data,
    }
}

fn v4(rng: &mut Rng, number: usize, from: Ipv4Addr, to: Ipv4Addr) -> Vec<Vec<u8>> {
    let protocol = [6, 6, 6, 17, 17, 1, 1, 47, 50, 51, 132, 33, 136, 2][rng.usize(..14)];
    let options: &[u8] = match rng.u8(..8) {
        // No operation, router alert, record route.
        0 => &[1, 1, 1, 1],
        1 => &[148, 4, 0, 0],
        2 => &[7, 7, 4, 0, 0, 0, 0, 0],
        _ => &[],
    };
    let mut header = V4 {
        from: from.octets(),
        to: to.octets(),
        protocol,
        id: 0x1000 + u16::try_from(number).unwrap_or(0),
        ttl: [64, 64, 64, 255, 40, 2, 1][rng.usize(..7)],
        tos: [0, 0, 0x10, 0x68, 0xb8, 0x02, 0x03, 0x20][rng.usize(..8)],
        fragment: [0, 0x4000][rng.usize(..2)],
        options: options.to_vec(),
    };
    let whole = {
        let header = header.clone();
        payload(rng, false, &|len| header.pseudo(len), protocol)
    };
    match rng.u8(..10) {
        // A later fragment of which there is no other, at odd offsets: 1 is what port matches fear.
        0 => {
            header.fragment = [1, 2, 5, 0x2001, 0x2000][rng.usize(..5)];
            vec![header.packet(&whole)]
        }
        1 => {
            let cut = (whole.len() / 2) & !7;
            let mut first = header.clone();
            first.fragment = 0x2000;
            header.fragment = u16::try_from(cut / 8).unwrap_or(0);
            vec![first.packet(&whole[..cut]), header.packet(&whole[cut..])]
        }
        _ => vec![header.packet(&whole)],
    }
}

fn v6(rng: &mut Rng, number: usize, from: Ipv6Addr, to: Ipv6Addr, overlong: Overlong) -> Vec<Vec<u8>> {
    let protocol = [6, 6, 6, 17, 17, 58, 58, 47, 50, 132, 59, 136, 51][rng.usize(..13)];
    let mut extensions: Vec<(u8, Vec<u8>)> = Vec::new();
    // Each is without its first byte: length, then options or routing fields.
    let pad = || vec![0, 1, 4, 0, 0, 0, 0];
    if rng.u8(..5) == 0 {
        extensions.push((0, pad()));
    }
    if rng.u8(..5) == 0 {
        extensions.push((60, pad()));
    }
    if rng.u8(..8) == 0 {
        let left = rng.u8(..2);
        let mut routing = vec![2, [0, 2, 4][rng.usize(..3)], left, 0, 0, 0, 0];
        routing.extend(to.octets());
        extensions.push((43, routing));
    }
    if rng.u8(..10) == 0 && overlong == Overlong::Sent {
        extensions.push((60, vec![200, 1, 4, 0, 0, 0, 0]));
    }
    let header = V6 {
        from: from.octets(),
        to: to.octets(),
        hop_limit: [64, 64, 64, 255, 40, 2, 1][rng.usize(..7)],
        class: [0, 0, 0x10, 0x68, 0xb8, 0x02][rng.usize(..6)],
        flow: u16::try_from(number).unwrap_or(0),
        extensions,
        protocol,
    };
    let whole = payload(rng, true, &|len| header.pseudo(len), protocol);
    let fragment = |offset: usize, more: bool| {
        let field = u16::try_from(offset & !7).unwrap_or(0) | u16::from(more);
        let mut bytes = vec![0];
        bytes.extend(field.to_be_bytes());
        bytes.extend([0, 0, 1, u8::try_from(number & 0xff).unwrap_or(0)]);
        let mut header = header.clone();
        header.extensions.push((44, bytes));
        header
    };
    match rng.u8(..10) {
        0 => {
            let offset = [0, 8, 16, 40][rng.usize(..4)];
            vec![fragment(offset, rng.bool()).packet(&whole)]
        }
        1 => {
            let cut = (whole.len() / 2) & !7;
            vec![
                fragment(0, true).packet(&whole[..cut]),
                fragment(cut, false).packet(&whole[cut..]),
            ]
        }
        _ => vec![header.packet(&whole)],
    }
}
