//! The kernel's trace messages, grouped into runs of a base chain.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::net::if_::if_nameindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt::RcvBufForce,
};
use tracer::nftables::netlink::{Attributes, Message, kind, message};

/// `NFNLGRP_NFTRACE` as a bit of the groups to join (`include/uapi/linux/netfilter/nfnetlink.h`).
const GROUPS: u32 = 1 << 8;
/// More than all messages of most rulesets. A message takes about 1 KiB.
const BUFFER_LEN: usize = 192 << 20;

// Attributes: enum nft_trace_attributes, include/uapi/linux/netfilter/nf_tables.h.
const TABLE: u16 = 1;
const CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const TYPE: u16 = 4;
const VERDICT: u16 = 5;
const ID: u16 = 6;
const NETWORK_HEADER: u16 = 8;
const TRANSPORT_HEADER: u16 = 9;
const IIF: u16 = 10;
const OIF: u16 = 12;
const MARK: u16 = 14;
const POLICY: u16 = 16;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
/// `NFT_TRACETYPE_POLICY`
const TYPE_POLICY: u32 = 1;

/// One message.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) chain: String,
    pub(super) what: What,
    pub(super) verdict: Verdict,
    /// The packet's mark after the step; `None` where the packet was gone.
    pub(super) mark: Option<u32>,
}

/// What a rule or policy said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Continue,
    Return,
    Jump(String),
    Goto(String),
    /// A verdict of netfilter's, as tracer says it.
    Final(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Rule {
        handle: u64,
    },
    /// The end of a chain. Up to 6.6 its type is `RETURN`. From 6.7 on (commit 4d26ab0086aa) it is `RULE`, for
    /// `__nft_trace_verdict` (`net/netfilter/nf_tables_core.c`) compares `code & NF_VERDICT_MASK` with
    /// `NFT_CONTINUE` and `NFT_RETURN`, which are negative and so never equal. It has no handle in either.
    ChainEnd,
    Policy,
}

/// A packet's run through a base chain.
#[derive(Clone, Debug)]
pub(super) struct Run {
    /// `NFPROTO_*` of the table.
    pub(super) family: u8,
    pub(super) table: String,
    pub(super) steps: Vec<Step>,
    /// In and out, empty for none.
    pub(super) devices: [String; 2],
    pub(super) packet: Option<Packet>,
}

impl Run {
    /// Whether its first step stole the packet, of which nothing is reported then.
    pub(super) fn is_stolen_at_once(&self) -> bool {
        matches!(&self.steps[..], [only] if only.verdict == Verdict::Final("STOLEN".to_owned()))
    }
}

/// What the first message of a run says of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) is_udp: bool,
    /// The first two words of the transport header: ports, where it has some.
    pub(super) ports: Option<(u16, u16)>,
}

/// Listens in the namespace that it was opened in.
pub(super) struct Monitor {
    fd: OwnedFd,
    devices: HashMap<u32, String>,
    buffer: Vec<u8>,
    /// By trace id, which is made of the packet's address among other things.
    open: HashMap<u32, Run>,
    /// In the order in which they ended.
    done: Vec<Run>,
}

impl Monitor {
    pub(super) fn open() -> Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )
        .context("failed to open: netlink socket")?;
        setsockopt(&fd, RcvBufForce, &BUFFER_LEN).context("failed to set: receive buffer")?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS)).context("failed to join: trace group")?;
        let devices = if_nameindex().context("failed to list devices")?;
        let devices = devices
            .iter()
            .map(|device| (device.index(), device.name().to_string_lossy().into_owned()))
            .collect();
        Ok(Self {
            fd,
            devices,
            buffer: vec![0; 1 << 16],
            open: HashMap::new(),
            done: Vec::new(),
        })
    }

    /// The runs that have ended, in this order.
    pub(super) fn runs(&self) -> &[Run] {
        &self.done
    }

    /// Takes what has come.
    pub(super) fn read(&mut self) -> Result<()> {
        loop {
            let len = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(len) => len,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error).context("failed to read: trace messages"),
            };
            let bytes = std::mem::take(&mut self.buffer);
            let taken = Message::all(&bytes[..len])
                .filter(|answer| answer.kind == kind(message::TRACE))
                .try_for_each(|answer| self.take(&answer));
            self.buffer = bytes;
            taken.context("failed to decode: trace message")?;
        }
    }

    fn take(&mut self, answer: &Message<'_>) -> Result<()> {
        let attributes = answer.attributes();
        let id = attributes.be32(ID).context("no id")?;
        let table = attributes.string(TABLE).context("no table")?;
        let kind = attributes.be32(TYPE).context("no type")?;
        let verdict = match attributes.be32(POLICY) {
            Some(policy) => Verdict::Final(final_verdict(policy)),
            None => verdict(attributes.nested(VERDICT)).context("no verdict")?,
        };
        let what = match (kind, attributes.be64(RULE_HANDLE)) {
            (TYPE_POLICY, _) => What::Policy,
            (_, Some(handle)) => What::Rule { handle },
            (_, None) => What::ChainEnd,
        };
        let run = self.open.entry(id).or_insert_with(|| Run {
            family: answer.family().unwrap_or_default(),
            table: table.clone(),
            steps: Vec::new(),
            // The first message has them.
            devices: [IIF, OIF].map(|kind| {
                let name = attributes.be32(kind).and_then(|index| self.devices.get(&index));
                name.cloned().unwrap_or_default()
            }),
            packet: None,
        });
        if run.table != table {
            bail!("a run in table {} goes on in {table}", run.table);
        }
        if run.packet.is_none()
            && let Some(header) = attributes.get(NETWORK_HEADER)
        {
            // One that is cut before the addresses says nothing.
            run.packet = network(header).map(|packet| Packet {
                ports: attributes.get(TRANSPORT_HEADER).and_then(ports),
                ..packet
            });
        }
        run.steps.push(Step {
            chain: attributes.string(CHAIN).context("no chain")?,
            what,
            // Zero is left out, and so is that of a packet that is gone.
            mark: match (attributes.be32(MARK), &verdict) {
                (None, Verdict::Final(verdict)) if verdict == "STOLEN" => None,
                (mark, _) => Some(mark.unwrap_or_default()),
            },
            verdict: verdict.clone(),
        });
        if matches!(verdict, Verdict::Final(_))
            && let Some(run) = self.open.remove(&id)
        {
            self.done.push(run);
        }
        Ok(())
    }
}

/// `struct nft_verdict`: codes of nf_tables are below zero, netfilter's are not.
fn verdict(attributes: Attributes<'_>) -> Option<Verdict> {
    let code = attributes.be32(VERDICT_CODE)?;
    let chain = attributes.string(VERDICT_CHAIN);
    Some(match (code.cast_signed(), chain) {
        (-1, _) => Verdict::Continue,
        (-3, Some(chain)) => Verdict::Jump(chain),
        (-4, Some(chain)) => Verdict::Goto(chain),
        (-5, _) => Verdict::Return,
        (0.., _) => Verdict::Final(final_verdict(code)),
        _ => return None,
    })
}

fn final_verdict(code: u32) -> String {
    match code & 0xff {
        0 => "DROP".to_owned(),
        1 => "ACCEPT".to_owned(),
        2 => "STOLEN".to_owned(),
        3 => {
            let bypass = if code & 0x8000 == 0 { "" } else { ",bypass" };
            format!("QUEUE({}{bypass})", code >> 16)
        }
        _ => format!("verdict-{code:#x}"),
    }
}

fn ports(header: &[u8]) -> Option<(u16, u16)> {
    let word = |at: usize| Some(u16::from_be_bytes(*header.get(at..)?.first_chunk()?));
    Some((word(0)?, word(2)?))
}

fn network(header: &[u8]) -> Option<Packet> {
    let packet = |source, destination, protocol| Packet {
        source,
        destination,
        is_udp: protocol == 17,
        ports: None,
    };
    let v4 = |at: usize| {
        Some(IpAddr::from(Ipv4Addr::from(
            *header.get(at..)?.first_chunk::<4>()?,
        )))
    };
    let v6 = |at: usize| {
        Some(IpAddr::from(Ipv6Addr::from(
            *header.get(at..)?.first_chunk::<16>()?,
        )))
    };
    match header.first()? >> 4 {
        4 => Some(packet(v4(12)?, v4(16)?, *header.get(9)?)),
        6 => Some(packet(v6(8)?, v6(24)?, *header.get(6)?)),
        _ => None,
    }
}
