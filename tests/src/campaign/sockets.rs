//! Real sockets in the namespaces: connections with data, datagrams both ways, several owners and marks.

use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, setsockopt, socket,
    sockopt,
};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::netns::Namespace;

/// Ports with servers behind them, on the node and on the right.
pub(super) const TCP_PORTS: [u16; 2] = [80, 81];
/// The same for UDP.
pub(super) const UDP_PORTS: [u16; 2] = [5000, 5001];

/// Datagrams that a server answers at a time.
const ANSWERS_MAX: usize = 2;

/// Servers that send everything back.
pub(super) struct Servers {
    datagrams: Vec<UdpSocket>,
    listeners: Vec<TcpListener>,
    streams: Vec<TcpStream>,
}

impl Servers {
    /// Starts them in a namespace, for both families.
    pub(super) fn start(namespace: &Namespace) -> Result<Self> {
        namespace.enter(|| {
            let any = Ipv6Addr::UNSPECIFIED;
            let mut servers = Self {
                datagrams: Vec::new(),
                listeners: Vec::new(),
                streams: Vec::new(),
            };
            for port in UDP_PORTS {
                let socket = UdpSocket::bind((any, port)).context("failed to bind: UDP")?;
                socket.set_nonblocking(true)?;
                servers.datagrams.push(socket);
            }
            for port in TCP_PORTS {
                let socket = TcpListener::bind((any, port)).context("failed to bind: TCP")?;
                socket.set_nonblocking(true)?;
                servers.listeners.push(socket);
            }
            Ok(servers)
        })
    }

    /// Answers what has come. Rules may keep any of it from getting through.
    pub(super) fn answer(&mut self) {
        let mut buffer = [0; 4096];
        for socket in &self.datagrams {
            // Not until there is no more: rules can make a server its own client.
            for _ in 0..ANSWERS_MAX {
                let Ok((count, from)) = socket.recv_from(&mut buffer) else {
                    break;
                };
                drop(socket.send_to(&buffer[..count], from));
            }
        }
        for listener in &self.listeners {
            while let Ok((stream, _)) = listener.accept() {
                drop(stream.set_nonblocking(true));
                self.streams.push(stream);
            }
        }
        for stream in &mut self.streams {
            if let Ok(count @ 1..) = stream.read(&mut buffer) {
                drop(stream.write(&buffer[..count]));
            }
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.streams.drain(..).for_each(abort);
    }
}

/// Who a socket belongs to, and the mark of its packets.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity {
    pub(super) uid: u32,
    pub(super) mark: u32,
}

/// What is to be created in a namespace.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Stream,
    Datagram,
    /// Whole packets with their IP header.
    Raw,
}

/// A socket with an owner and a mark; it does not block.
pub(super) fn open(namespace: &Namespace, v6: bool, kind: Kind, identity: Identity) -> Result<OwnedFd> {
    let family = if v6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    };
    let (kind, protocol) = match kind {
        Kind::Stream => (SockType::Stream, None),
        Kind::Datagram => (SockType::Datagram, None),
        Kind::Raw => (SockType::Raw, Some(SockProtocol::Raw)),
    };
    namespace.enter(|| {
        // These are the thread's, which ends here.
        setfsgid(Gid::from_raw(identity.uid / 10));
        setfsuid(Uid::from_raw(identity.uid));
        let socket = socket(
            family,
            kind,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            protocol,
        );
        setfsuid(Uid::from_raw(0));
        let socket = socket.context("failed to open socket")?;
        setsockopt(&socket, sockopt::Mark, &identity.mark).context("failed to set mark")?;
        Ok(socket)
    })
}

/// Binds to a port, connects, and sends the first bytes where that is possible at once.
pub(super) fn begin(socket: &OwnedFd, from: u16, to: SocketAddr, data: &[u8]) -> Result<()> {
    let any = if to.is_ipv6() {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, from))
    } else {
        ([0; 4], from).into()
    };
    bind(socket.as_raw_fd(), &SockaddrStorage::from(any)).context("failed to bind")?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        // Rules may forbid it.
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(_) => return Ok(()),
    }
    let _ = nix::unistd::write(socket.as_fd(), data);
    Ok(())
}

/// Closes a socket at once, with a reset where it is connected: the kernel sends nothing of its own for it any more.
pub(super) fn abort(socket: impl AsFd) {
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(&socket, sockopt::Linger, &at_once);
}

/// Sends a whole packet from a [`Kind::Raw`] socket.
pub(super) fn send_packet(socket: &OwnedFd, to: SocketAddr, packet: &[u8]) {
    let flags = nix::sys::socket::MsgFlags::empty();
    // Rules may drop it, and the kernel refuses packets that are too odd.
    let _ = nix::sys::socket::sendto(socket.as_raw_fd(), packet, &SockaddrStorage::from(to), flags);
}

/// A socket that sends frames from `eth0` of a peer.
pub(super) fn frames(namespace: &Namespace) -> Result<OwnedFd> {
    namespace.enter(|| {
        let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)
            .context("failed to open packet socket")?;
        let index = nix::net::if_::if_nametoindex("eth0").context("failed to find: eth0")?;
        // SAFETY: all zeros is a valid value of this plain struct.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_ifindex = i32::try_from(index).context("failed to read index of eth0")?;
        let size = libc::socklen_t::try_from(size_of_val(&address))?;
        // SAFETY: the pointer is to a live sockaddr_ll, and the size is its own.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
        Errno::result(bound).context("failed to bind packet socket")?;
        Ok(socket)
    })
}

/// Sends a frame.
pub(super) fn send_frame(socket: &OwnedFd, [to, from]: [[u8; 6]; 2], packet: &[u8]) {
    let kind: u16 = if packet.first().is_some_and(|byte| byte >> 4 == 6) {
        0x86dd
    } else {
        0x0800
    };
    let frame = [&to[..], &from, &kind.to_be_bytes(), packet].concat();
    let _ = nix::unistd::write(socket, &frame);
}
