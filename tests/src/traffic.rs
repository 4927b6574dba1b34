//! Packets to be seen: datagrams, connections, echo requests.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use nix::unistd::{Pid, SysconfVar, sysconf};

use crate::command;
use crate::netns::{self, Namespace};
use crate::wait;

/// How long to wait for an answer that is not to come.
const NO_ANSWER: Duration = Duration::from_millis(20);

/// A network namespace to send from: the current one, or a neighbour's.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The current one.
    Here,
    /// Another one.
    There(&'a Namespace),
}

impl Place<'_> {
    /// Makes something, a socket say, in this namespace. A socket stays in the namespace in which it was made.
    ///
    /// # Errors
    ///
    /// Those of `body`, and when the namespace cannot be entered.
    pub fn make<T: Send>(self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match self {
            Self::Here => body(),
            Self::There(namespace) => namespace.enter(body),
        }
    }

    /// A bound UDP socket. Port 0 is any free one.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn udp(self, address: IpAddr, port: u16) -> Result<UdpSocket> {
        let address = SocketAddr::new(address, port);
        let socket = self.make(|| {
            UdpSocket::bind(address).with_context(|| format!("failed to bind UDP socket: {address}"))
        })?;
        socket
            .set_read_timeout(Some(wait::LIMIT))
            .context("failed to set time limit of socket")?;
        Ok(socket)
    }

    /// A listening TCP socket.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn listen(self, address: SocketAddr) -> Result<TcpListener> {
        self.make(|| TcpListener::bind(address).with_context(|| format!("failed to listen: {address}")))
    }

    /// Sends an echo request of so many bytes and waits for the reply.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn ping(self, to: IpAddr, len: u32) -> Result<()> {
        let line = format!("busybox ping -c 1 -W 10 -s {len} {to}");
        match self {
            Self::Here => command::run(&line),
            Self::There(namespace) => namespace.run(&line),
        }
        .map(drop)
    }
}

/// Keeps this thread and those it will start on one processor, so that one packet follows another.
///
/// # Errors
///
/// When the kernel refuses.
pub fn stay_on_processor(number: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(number)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &set))
        .with_context(|| format!("failed to stay on processor: {number}"))
}

/// How many processors the machine has; the calling thread may be kept on one of them.
fn processors() -> Result<usize> {
    let count = sysconf(SysconfVar::_NPROCESSORS_ONLN).context("failed to count processors")?;
    Ok(count.and_then(|count| usize::try_from(count).ok()).unwrap_or(1))
}

/// Hops over a virtual device that a packet of these tests takes at most, each with a queue.
const HOPS_MAX: u32 = 4;

/// Waits until every packet that was sent has gone as far as it goes.
///
/// What a virtual device delivers goes through one queue for each processor, first in, first out. So a datagram
/// that has come through that queue has all others before it. It takes its way in a namespace without rules.
///
/// # Errors
///
/// When the namespace cannot be made, or a datagram does not come through.
pub fn settle() -> Result<()> {
    static SOCKETS: Mutex<Option<(UdpSocket, UdpSocket)>> = Mutex::new(None);

    let mut sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    let (sender, receiver) = match &mut *sockets {
        Some(sockets) => sockets,
        none => none.insert(netns::isolated(|| {
            let address = Ipv4Addr::LOCALHOST.into();
            Ok((Place::Here.udp(address, 0)?, Place::Here.udp(address, 0)?))
        })?),
    };
    let to = receiver.local_addr().context("failed to read address")?;
    thread::scope(|scope| {
        let everywhere = scope.spawn(|| -> Result<()> {
            for processor in 0..processors()? {
                stay_on_processor(processor)?;
                for _ in 0..HOPS_MAX {
                    send(sender, to, 1)?;
                    receiver.recv(&mut [0]).context("failed to wait for packets")?;
                }
            }
            Ok(())
        });
        match everywhere.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Sends a datagram of so many bytes. That a rule at OUTPUT drops it is no error.
///
/// # Errors
///
/// When it cannot be sent for another reason.
pub fn send(socket: &UdpSocket, to: SocketAddr, len: usize) -> Result<()> {
    match socket.send_to(&vec![0x2a; len], to) {
        Ok(_) => Ok(()),
        // EPERM: dropped. ECONNREFUSED: the answer to an earlier one.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("failed to send datagram: {to}")),
    }
}

/// Sends a datagram from a socket of its own.
///
/// # Errors
///
/// When it cannot be sent.
pub fn datagram(place: Place<'_>, from: IpAddr, to: SocketAddr, len: usize) -> Result<()> {
    send(&place.udp(from, 0)?, to, len)
}

/// A whole connection: handshake, some bytes each way, both ends closed.
///
/// `listener` is where the connection ends, `to` what the client believes it to be.
///
/// # Errors
///
/// When any of it fails.
pub fn connection(client: Place<'_>, to: SocketAddr, listener: &TcpListener) -> Result<()> {
    thread::scope(|scope| {
        let server = scope.spawn(|| -> Result<()> {
            let (mut stream, _) = listener.accept().context("failed to accept connection")?;
            limit(&stream)?;
            let mut request = Vec::new();
            stream
                .read_to_end(&mut request)
                .context("failed to read request")?;
            ensure!(request == b"request", "another request: {request:?}");
            stream.write_all(b"answer").context("failed to write answer")
        });
        let answer = client.make(|| {
            let failed = || format!("failed to connect: {to}");
            let mut stream = TcpStream::connect_timeout(&to, wait::LIMIT).with_context(failed)?;
            limit(&stream)?;
            stream.write_all(b"request").with_context(failed)?;
            stream.shutdown(Shutdown::Write).with_context(failed)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).with_context(failed)?;
            Ok(answer)
        })?;
        ensure!(answer == b"answer", "another answer: {answer:?}");
        match server.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn limit(stream: &TcpStream) -> Result<()> {
    stream
        .set_read_timeout(Some(wait::LIMIT))
        .context("failed to set time limit of socket")
}

/// Tries to connect where no connection will come about: refused, or nothing comes back.
///
/// # Errors
///
/// When there is a connection.
pub fn no_connection(client: Place<'_>, to: SocketAddr) -> Result<()> {
    client.make(|| {
        ensure!(
            TcpStream::connect_timeout(&to, NO_ANSWER).is_err(),
            "connected: {to}"
        );
        Ok(())
    })
}

/// Sends an IPv4 packet as it is from the node to itself; the kernel fills in the lengths and the checksum of the IP
/// header.
///
/// # Errors
///
/// When the kernel refuses.
pub fn raw_packet(packet: &[u8]) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Raw,
    )
    .context("failed to open: raw socket")?;
    let to = SockaddrIn::new(127, 0, 0, 1, 0);
    sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).context("failed to send: packet")?;
    Ok(())
}
