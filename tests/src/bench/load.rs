//! Datagrams that are sent, pass the tables, and are read, one after the other; and how long that takes.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use nix::errno::Errno;
use nix::libc;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket,
};
use nix::unistd::Pid;

use crate::command;
use crate::processors::schedule;
use crate::wait;

/// How many packets.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Packets of a round.
    pub packets: u16,
    /// Rounds; the middle one counts.
    pub rounds: u16,
}

impl Effort {
    /// How many rounds are begun at most: in some of them others run.
    fn tries(self) -> u64 {
        60 + 2 * u64::from(self.rounds)
    }
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measured {
    /// For each packet: the middle of all rounds.
    pub(super) instructions: u64,
    /// All that were sent, those of rounds that do not count as well.
    pub(super) packets: u64,
}

/// Which connections the datagrams belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connections {
    /// All to one.
    One,
    /// Each to its own, so that each passes the nat table.
    Each,
}

/// Where datagrams go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) connections: Connections,
    pub(super) from: Ipv4Addr,
    /// Where they are sent to.
    pub(super) to: SocketAddrV4,
    /// Where they arrive.
    pub(super) arrives: SocketAddrV4,
}

/// Bytes of a datagram.
const PAYLOAD: [u8; 10] = *b"0123456789";
/// Bytes of an IPv4 header without options, and of a UDP header.
const HEADERS_LEN: usize = 20 + 8;
/// Ports that connections of their own come from.
const FIRST_PORT: u16 = 20_000;

impl Load {
    /// The same once a fresh machine has settled: two measurements in a row that differ by less than a hundredth.
    pub(super) fn measure_settled(&self, effort: Effort) -> Result<u64> {
        /// A machine that takes longer is not fit to be measured in.
        const TRIES: usize = 20;

        let mut before = self.measure(effort)?.instructions;
        for _ in 0..TRIES {
            let now = self.measure(effort)?.instructions;
            if now.abs_diff(before) * 100 < before {
                return Ok(now);
            }
            before = now;
        }
        bail!("failed to measure: the machine does not settle");
    }

    /// Sends so many rounds in which nobody else runs. A process that has stepped aside still gets the processor now and
    /// then, for as long as many packets take; so where others keep running in the rounds these become shorter.
    pub(super) fn measure(&self, effort: Effort) -> Result<Measured> {
        /// Disturbed rounds until they are made shorter.
        const PATIENCE: u32 = 5;

        let receiver = UdpSocket::bind(self.arrives).context("failed to bind receiver")?;
        receiver
            .set_read_timeout(Some(wait::LIMIT))
            .context("failed to set up receiver")?;
        let mut sender = Sender::new(self)?;
        come_first()?;
        let mut rounds = Vec::new();
        let mut of_round = effort.packets;
        let mut disturbed = 0;
        let mut packets = 0;
        for begun in 0..effort.tries() {
            if self.connections == Connections::Each {
                command::run("conntrack -F")?;
            }
            sender.port = FIRST_PORT;
            let before = switches()?;
            let start = Instant::now();
            for _ in 0..of_round {
                sender.send()?;
                let len = receiver
                    .recv(&mut [0; PAYLOAD.len()])
                    .context("failed to receive datagram")?;
                ensure!(len == PAYLOAD.len(), "another datagram came, of {len} bytes");
            }
            let took = start.elapsed();
            packets += u64::from(of_round);
            if switches()? != before {
                disturbed += 1;
                if disturbed % PATIENCE == 0 {
                    of_round = (of_round / 2).max(1);
                }
            } else if begun > 0 {
                // What happens for the first time takes longer.
                rounds.push(u64::try_from(took.as_nanos())? / u64::from(of_round));
            }
            if rounds.len() == usize::from(effort.rounds) {
                break;
            }
        }
        ensure!(
            rounds.len() == usize::from(effort.rounds),
            "failed to measure: others ran in all but {} of {} rounds",
            rounds.len(),
            effort.tries()
        );
        rounds.sort_unstable();
        let middle = rounds.get(rounds.len() / 2).copied();
        Ok(Measured {
            instructions: middle.context("failed to measure: no round")?,
            packets,
        })
    }
}

/// The end that sends.
struct Sender {
    kind: Kind,
    port: u16,
    packet: [u8; HEADERS_LEN + PAYLOAD.len()],
}

enum Kind {
    Udp(UdpSocket, SocketAddrV4),
    /// Headers and all, so that a connection costs no socket.
    Raw(OwnedFd, SockaddrIn),
}

impl Sender {
    fn new(load: &Load) -> Result<Self> {
        let kind = match load.connections {
            Connections::One => Kind::Udp(
                UdpSocket::bind((load.from, 0)).context("failed to bind sender")?,
                load.to,
            ),
            Connections::Each => Kind::Raw(
                socket(
                    AddressFamily::Inet,
                    SockType::Raw,
                    SockFlag::SOCK_CLOEXEC,
                    SockProtocol::Raw,
                )
                .context("failed to open raw socket")?,
                load.to.into(),
            ),
        };
        let mut packet = [0; HEADERS_LEN + PAYLOAD.len()];
        let len = u8::try_from(packet.len())?;
        // The kernel fills in the checksum of the header; a UDP checksum of zero is none.
        packet[..10].copy_from_slice(&[0x45, 0, 0, len, 0, 1, 0x40, 0, 64, 17]);
        packet[12..16].copy_from_slice(&load.from.octets());
        packet[16..20].copy_from_slice(&load.to.ip().octets());
        packet[22..24].copy_from_slice(&load.to.port().to_be_bytes());
        packet[25] = len - 20;
        packet[HEADERS_LEN..].copy_from_slice(&PAYLOAD);
        Ok(Self {
            kind,
            port: FIRST_PORT,
            packet,
        })
    }

    fn send(&mut self) -> Result<()> {
        match &self.kind {
            Kind::Udp(socket, to) => {
                socket.send_to(&PAYLOAD, to).context("failed to send datagram")?;
            }
            Kind::Raw(socket, to) => {
                self.packet[20..22].copy_from_slice(&self.port.to_be_bytes());
                self.port += 1;
                sendto(socket.as_raw_fd(), &self.packet, to, MsgFlags::empty())
                    .context("failed to send datagram")?;
            }
        }
        Ok(())
    }
}

/// Lets a process run only while nobody else wants to, so that what it does is not measured as the packet's.
///
/// Real-time priority for the measuring process would do as well, but before 6.4 the kernel leaves packets to
/// `ksoftirqd` while that has anything to do, which then never comes to an end.
pub(super) fn step_aside(process: Pid) -> Result<()> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).context("failed to read threads")?;
    for thread in threads {
        let name = thread.context("failed to read threads")?.file_name();
        let id = name.to_str().and_then(|name| name.parse().ok());
        let id: libc::pid_t = id.context("failed to read threads")?;
        match schedule(id, libc::SCHED_IDLE, 0) {
            // The thread has ended.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error).context("failed to set scheduling"),
        }
    }
    Ok(())
}

/// How often the processor was given to somebody else than this thread.
fn switches() -> Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).context("failed to read context switches")?;
    Ok(usage.voluntary_context_switches() + usage.involuntary_context_switches())
}

/// Takes the largest share that there is against whoever stepped aside.
fn come_first() -> Result<()> {
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    Errno::result(result).map(drop).context("failed to set priority")
}
