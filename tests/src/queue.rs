//! The program at the end of a queue of packets (`-j NFQUEUE`): takes them one by one and gives verdicts.
//! Messages: `include/uapi/linux/netfilter/nfnetlink_queue.h`.

use std::io;

use anyhow::{Context as _, Result};
use tracer::nftables::netlink::{ACK, ERROR, Message, REQUEST, Writer};
use tracer::nftables::source::Socket;

/// `NFNL_SUBSYS_QUEUE`
const SUBSYSTEM: u16 = 3;

// enum nfqnl_msg_types
const PACKET: u16 = SUBSYSTEM << 8;
const VERDICT: u16 = SUBSYSTEM << 8 | 1;
const CONFIG: u16 = SUBSYSTEM << 8 | 2;

// enum nfqnl_attr_config
const CONFIG_COMMAND: u16 = 1;
const CONFIG_PARAMETERS: u16 = 2;
/// `NFQNL_CFG_CMD_BIND`, and padding up to the end of `struct nfqnl_msg_config_cmd`.
const BIND: [u8; 4] = [1, 0, 0, 0];
/// `struct nfqnl_msg_config_params`: no bytes of the packet, `NFQNL_COPY_META`.
const NO_BYTES: [u8; 5] = [0, 0, 0, 0, 1];

// enum nfqnl_attr_type
const PACKET_HEADER: u16 = 1;
const VERDICT_HEADER: u16 = 2;
const MARK: u16 = 3;

/// What becomes of a packet (`include/uapi/linux/netfilter.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing more.
    Drop,
    /// It goes on behind the rule that put it here.
    Accept,
    /// It comes to the same hook once more, with this mark.
    Repeat(u32),
}

/// Takes the packets of a queue in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Queue {
    socket: Socket,
    number: u16,
}

impl Queue {
    /// Packets of this queue wait for a verdict from now on.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn listen(number: u16) -> Result<Self> {
        let socket = Socket::open().context("failed to open: netlink socket")?;
        let mut queue = Self { socket, number };
        queue
            .configure(CONFIG_COMMAND, &BIND)
            .and_then(|()| queue.configure(CONFIG_PARAMETERS, &NO_BYTES))
            .with_context(|| format!("failed to listen: queue {number}"))?;
        Ok(queue)
    }

    fn configure(&mut self, attribute: u16, value: &[u8]) -> io::Result<()> {
        let mut request = Writer::default();
        request.message(CONFIG, REQUEST | ACK, 1, 0, self.number, |body| {
            body.attribute(attribute, value);
        });
        self.socket.send(request.bytes())?;
        self.socket.receive(|bytes| {
            let answer = Message::all(bytes).find(|message| message.kind == ERROR);
            match answer.and_then(|answer| answer.error()) {
                Some(0) => Ok(()),
                Some(errno) => Err(io::Error::from_raw_os_error(errno)),
                None => Err(io::Error::other("no answer to a request")),
            }
        })
    }

    /// Waits for the next packet and says what becomes of it.
    ///
    /// # Errors
    ///
    /// When none comes.
    pub fn decide(&mut self, verdict: Verdict) -> Result<()> {
        let failed = || format!("failed to decide: queue {}", self.number);
        let id = self
            .socket
            .receive(|bytes| {
                let packet = Message::all(bytes).find(|message| message.kind == PACKET);
                let header = packet.and_then(|packet| {
                    let mut attributes = packet.attributes().iter();
                    attributes.find(|(kind, _)| *kind == PACKET_HEADER)
                });
                let id = header.and_then(|(_, header)| header.first_chunk::<4>().copied());
                id.ok_or_else(|| io::Error::other("no packet"))
            })
            .with_context(failed)?;
        let (code, mark) = match verdict {
            Verdict::Drop => (0_u32, None),
            Verdict::Accept => (1, None),
            Verdict::Repeat(mark) => (4, Some(mark)),
        };
        let mut answer = Writer::default();
        answer.message(VERDICT, REQUEST, 2, 0, self.number, |body| {
            body.attribute(VERDICT_HEADER, &[code.to_be_bytes(), id].concat());
            if let Some(mark) = mark {
                body.attribute(MARK, &mark.to_be_bytes());
            }
        });
        self.socket.send(answer.bytes()).with_context(failed)
    }
}
