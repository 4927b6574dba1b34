//! One packet's way through one table at one hook, as a domain value.
//!
//! [`Traversal::decode`] is the only place where the programs' raw record becomes something with meaning;
//! what the kernel may yet invent survives as `Other(n)`.

use std::{fmt, sync::Arc};

use crate::{
    changed::Changed,
    connection::Connection,
    nftables::{Event, Family as TableFamily, What},
    witness::Witness,
};

use serde::{Deserialize, Serialize};
use tracer_common::{BACKEND_NFTABLES, Traversal as Record, flags, nft_step};
pub use tracer_common::{Generation, Observed};

/// Whose rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Backend {
    /// `ip_tables` and `ip6_tables`: `iptables-legacy`.
    Legacy,
    /// `nf_tables`: `nft` and `iptables-nft`; the family of the table.
    Nftables(TableFamily),
}

impl Backend {
    /// What texts for people put before the name of a table, or of a rule that begins with it. Legacy tables, whose names say
    /// all, have nothing; of nf_tables it is as `nft` orders it: `nft inet `, `nft ip `.
    #[must_use]
    pub fn prefix(self) -> String {
        match self {
            Self::Legacy => String::new(),
            Self::Nftables(family) => format!("nft {family} "),
        }
    }

    /// The family of a table of nf_tables.
    #[must_use]
    pub fn table_family(self) -> Option<TableFamily> {
        match self {
            Self::Legacy => None,
            Self::Nftables(family) => Some(family),
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Legacy => "legacy",
            Self::Nftables(_) => "nf_tables",
        })
    }
}

/// A netfilter hook of the IP families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Hook {
    /// `NF_INET_PRE_ROUTING`
    PreRouting,
    /// `NF_INET_LOCAL_IN`
    LocalIn,
    /// `NF_INET_FORWARD`
    Forward,
    /// `NF_INET_LOCAL_OUT`
    LocalOut,
    /// `NF_INET_POST_ROUTING`
    PostRouting,
    /// A number that has no name here.
    Other(u8),
}

impl Hook {
    /// The hooks that have a name, in the kernel's order.
    pub const NAMED: [Self; 5] = [
        Self::PreRouting,
        Self::LocalIn,
        Self::Forward,
        Self::LocalOut,
        Self::PostRouting,
    ];

    /// The number of the hook, `NF_INET_*`.
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::PreRouting => tracer_common::HOOK_PRE_ROUTING,
            Self::LocalIn => tracer_common::HOOK_LOCAL_IN,
            Self::Forward => tracer_common::HOOK_FORWARD,
            Self::LocalOut => tracer_common::HOOK_LOCAL_OUT,
            Self::PostRouting => tracer_common::HOOK_POST_ROUTING,
            Self::Other(number) => number,
        }
    }
}

impl From<u8> for Hook {
    fn from(number: u8) -> Self {
        Self::NAMED
            .into_iter()
            .find(|hook| hook.number() == number)
            .unwrap_or(Self::Other(number))
    }
}

/// The name of the built-in chain that belongs to the hook.
impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::PreRouting => "PREROUTING",
            Self::LocalIn => "INPUT",
            Self::Forward => "FORWARD",
            Self::LocalOut => "OUTPUT",
            Self::PostRouting => "POSTROUTING",
            Self::Other(number) => return f.pad(&format!("hook-{number}")),
        })
    }
}

/// What the table said about the packet: the return value of `ipt_do_table`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// The packet is dropped.
    Drop,
    /// The packet goes on to the next hook function.
    Accept,
    /// A target took the packet away and will free it itself.
    Stolen,
    /// The packet goes to a user-space queue.
    Queue {
        /// Number of the queue.
        number: u16,
        /// Whether the packet is accepted when nobody listens on the queue.
        bypass: bool,
    },
    /// The hook function is to be called again.
    Repeat,
    /// Accepted without the remaining hook functions (obsolete).
    Stop,
    /// A value that has no name here.
    Other(u32),
}

/// `NF_VERDICT_FLAG_QUEUE_BYPASS`, `include/uapi/linux/netfilter.h`.
const QUEUE_BYPASS: u32 = 0x8000;

impl From<u32> for Verdict {
    /// Low byte the verdict, upper half the queue number, as `include/uapi/linux/netfilter.h` codes it.
    fn from(value: u32) -> Self {
        match value & 0xff {
            0 => Self::Drop,
            1 => Self::Accept,
            2 => Self::Stolen,
            3 => Self::Queue {
                number: (value >> 16) as u16,
                bypass: value & QUEUE_BYPASS != 0,
            },
            4 => Self::Repeat,
            5 => Self::Stop,
            _ => Self::Other(value),
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Drop => "DROP",
            Self::Accept => "ACCEPT",
            Self::Stolen => "STOLEN",
            Self::Queue { number, bypass } => {
                return f.pad(&format!(
                    "QUEUE({number}{})",
                    if *bypass { ",bypass" } else { "" }
                ));
            }
            Self::Repeat => "REPEAT",
            Self::Stop => "STOP",
            Self::Other(value) => return f.pad(&format!("verdict-{value:#x}")),
        })
    }
}

/// Address family of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// iptables
    Ipv4,
    /// ip6tables
    Ipv6,
}

/// What connection tracking knew about the packet at entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conntrack {
    /// No connection is attached: conntrack is not in use here, has not seen the packet yet, or found it
    /// invalid. These look the same from a table.
    None,
    /// Exempt from tracking (`CT --notrack`).
    Untracked,
    /// No connection, and yet related to one: an ICMP error about a packet that is exempt or has none
    /// (`nf_conntrack_attach`, `net/netfilter/nf_conntrack_core.c`). To rules it is invalid, and `CT` leaves it alone.
    Orphaned,
    /// Part of a connection.
    Tracked {
        /// Address of the `nf_conn`.
        address: u64,
        /// The packet's relation to the connection.
        state: ConntrackState,
        /// Whether the packet goes in the reply direction.
        reply: bool,
        /// `IPS_*` bits.
        status: u32,
        /// Connection mark.
        mark: u32,
    },
}

/// State of a packet's connection, with the names that rules use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConntrackState {
    /// First packet of a connection.
    New,
    /// Belongs to a connection that has seen packets both ways.
    Established,
    /// Belongs to a connection that another one announced, or is an ICMP error about one.
    Related,
    /// A value that has no name here.
    Other(u8),
}

impl fmt::Display for ConntrackState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::New => "NEW",
            Self::Established => "ESTABLISHED",
            Self::Related => "RELATED",
            Self::Other(number) => return f.pad(&format!("ctinfo-{number}")),
        })
    }
}

impl Conntrack {
    /// `enum ip_conntrack_info`, `include/uapi/linux/netfilter/nf_conntrack_common.h`.
    fn decode(record: &Record) -> Self {
        const IS_REPLY: u8 = 3;
        const UNTRACKED: u8 = 7;
        if record.conntrack == 0 {
            return match record.conntrack_info {
                0 => Self::None,
                UNTRACKED => Self::Untracked,
                _ => Self::Orphaned,
            };
        }
        let reply = record.conntrack_info >= IS_REPLY;
        let state = match record.conntrack_info % IS_REPLY {
            _ if record.conntrack_info > 5 => ConntrackState::Other(record.conntrack_info),
            0 => ConntrackState::Established,
            1 => ConntrackState::Related,
            _ => ConntrackState::New,
        };
        Self::Tracked {
            address: record.conntrack,
            state,
            reply,
            status: record.conntrack_status,
            mark: record.conntrack_mark,
        }
    }
}

/// A network device, as the hook saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its index in the network namespace.
    pub ifindex: u32,
    /// Who has its other end, where that is another network namespace and the machine was asked and knows.
    pub peer: Option<Arc<str>>,
}

/// Who a packet is. Two traversals with the same identity are the same packet's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PacketId {
    /// Number of the recording that it is from: addresses and times are those of one machine.
    recording: u32,
    skb: u64,
    born_ns: u64,
}

impl PacketId {
    /// The packet in the `sk_buff` at this address that was first seen at this time.
    #[must_use]
    pub(crate) fn new(skb: u64, born_ns: u64) -> Self {
        Self {
            recording: 0,
            skb,
            born_ns,
        }
    }

    /// The packet of the same address and time in a recording with this number.
    #[must_use]
    pub fn of_recording(self, recording: u32) -> Self {
        Self { recording, ..self }
    }

    /// Address of the `sk_buff`.
    #[must_use]
    pub(crate) fn skb(self) -> u64 {
        self.skb
    }

    /// Number of the recording that it is from.
    #[must_use]
    pub fn recording(self) -> u32 {
        self.recording
    }

    /// When it was first seen, `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn born_ns(self) -> u64 {
        self.born_ns
    }
}

/// Owner of the socket that sends or receives the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// `fsuid`
    pub uid: u32,
    /// `fsgid`
    pub gid: u32,
}

/// One packet's way through one table at one hook; of nf_tables, through one base chain. Unless a name says otherwise,
/// everything is as it was at entry.
#[derive(Clone, Debug)]
pub struct Traversal {
    /// Whose table it is.
    pub backend: Backend,
    /// Whose way it is.
    pub packet: PacketId,
    /// The machine, where there are several.
    pub node: Option<Arc<str>>,
    /// What the machine calls the network namespace, where it was asked and knows: a container, or a name.
    pub netns_name: Option<Arc<str>>,
    /// Whether it is the first traversal that was seen of this packet.
    pub first: bool,
    /// Which of the packet's traversals that were to be recorded it is, from 1: a gap is a record that was lost.
    pub pass: u32,
    /// `CLOCK_MONOTONIC` at entry.
    pub entered_ns: u64,
    /// `CLOCK_MONOTONIC` at return.
    pub left_ns: u64,
    /// CPU at entry.
    pub cpu: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Family of the table.
    pub family: Family,
    /// Name of the table.
    pub table: String,
    /// Address of the `xt_table` or `nft_table`: with the namespace it names the table while that lives.
    pub table_address: u64,
    /// Handle of the table of nf_tables; zero of a legacy table.
    pub table_handle: u64,
    /// Name of the built-in or base chain; of nf_tables the first 31 bytes.
    pub chain: String,
    /// Handle of the base chain of nf_tables; zero of a legacy table.
    pub chain_handle: u64,
    /// The rules in force.
    pub generation: Generation,
    /// Whether the rules may have been others: the table was replaced meanwhile, or there were too many tables
    /// to know them all.
    pub generation_unsure: bool,
    /// The hook.
    pub hook: Hook,
    /// In device; none at OUTPUT.
    pub in_device: Option<Device>,
    /// Out device; none before routing.
    pub out_device: Option<Device>,
    /// What the table said.
    pub verdict: Verdict,
    /// Packet mark.
    pub mark_before: u32,
    /// Packet mark at return; `None` where the packet was gone by then.
    pub mark_after: Option<u32>,
    /// Conntrack's view.
    pub conntrack: Conntrack,
    /// Its connection when the table was left, with both directions; `None` without one, and where the packet was
    /// gone by then.
    pub connection: Option<Connection>,
    /// Owner of the socket, where the packet has one.
    pub owner: Option<Owner>,
    /// Length from the network header to the end.
    pub packet_len: u32,
    /// `ARPHRD_*` type of `skb->dev`, zero without one: mostly the in device, but the out device at POSTROUTING.
    pub device_type: u16,
    /// Bytes that its link-layer headers have (`net_device.hard_header_len`).
    pub hard_header_len: u16,
    /// So many bytes of the link-layer header that the packet came with, or of what a tunnel left there, as far as
    /// they were recorded; empty where there is none.
    pub link_header: Vec<u8>,
    /// The bridge port that the packet came in by, where a bridge handed it to the IP tables. Kernels that keep
    /// only its index leave the name empty.
    pub port_in: Option<Device>,
    /// The bridge port that it leaves by.
    pub port_out: Option<Device>,
    /// The start of the packet from the network header on.
    pub headers: Vec<u8>,
    /// Whether more of the headers lies in memory that is not linear, and so was not copied.
    pub headers_cut: bool,
    /// Calls of observed match and target functions, in the order in which they returned.
    pub observed: Vec<Observed>,
    /// The headers as targets left them that changed them, on nf_tables as steps did, as far as they were sent.
    pub changed: Vec<Changed>,
    /// On nf_tables: how many of them were sent, where all were.
    pub changed_told: Option<u16>,
    /// What the kernel reported of nf_tables, in order.
    pub events: Vec<Event>,
    /// Whether some of them are missing.
    pub observed_cut: bool,
    /// Number of the record, from 0, and whether another one follows with the rest: see [`crate::parts`].
    pub part: (u8, bool),
    /// Whether some field is zero or empty that should not be: a read of kernel memory failed, or the kernel does
    /// not describe its connections.
    pub incomplete: bool,
    /// Whether there was no room to follow the packet beyond this traversal.
    pub not_followed: bool,
    /// Whether the kernel's log names the TCP flag AE. The commit that gave `struct tcphdr` a member for it (AccECN)
    /// had it logged; before, it is one of the reserved bits.
    pub names_ae: bool,
    /// The steps as the kernel took them, where they were witnessed.
    pub witness: Option<Witness>,
}

/// Bytes that are no record.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The length is not a record's.
    #[error("no record has {0} bytes and this content")]
    Length(usize),
    /// Neither IPv4 nor IPv6.
    #[error("record has the unknown address family {0}")]
    Family(u8),
}

impl Traversal {
    /// Makes a domain value of the record of a traversal, without what came before it.
    ///
    /// # Errors
    /// Bytes that the programs of this build cannot have sent.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let record = Record::from_bytes(bytes).ok_or(DecodeError::Length(bytes.len()))?;
        let has = |flag| record.flags & flag != 0;
        let family = match record.family {
            2 => Family::Ipv4,
            10 => Family::Ipv6,
            other => return Err(DecodeError::Family(other)),
        };
        let hook = Hook::from(record.hook);
        let observed = &record.observed[..record.observed_len as usize];
        let of_nftables = record.backend == BACKEND_NFTABLES;
        let prefix = |bytes: &[u8], len: u16| bytes[..usize::from(len).min(bytes.len())].to_vec();
        Ok(Self {
            backend: if of_nftables {
                Backend::Nftables(record.table_family.into())
            } else {
                Backend::Legacy
            },
            packet: PacketId::new(record.skb, record.born_ns),
            node: None,
            netns_name: None,
            first: has(flags::FIRST),
            pass: record.pass,
            entered_ns: record.entered_ns,
            left_ns: record.left_ns,
            cpu: record.cpu,
            netns: record.netns,
            family,
            table: name(&record.table_name),
            table_address: record.table,
            table_handle: record.table_handle,
            chain: if of_nftables {
                name(&record.chain_name)
            } else {
                hook.to_string()
            },
            chain_handle: record.chain_handle,
            generation: record.generation,
            generation_unsure: has(flags::GENERATION_UNSURE),
            hook,
            in_device: device(&record.in_device, record.in_ifindex),
            out_device: device(&record.out_device, record.out_ifindex),
            verdict: if of_nftables && is_dropped_within(record.verdict) {
                Verdict::Drop
            } else {
                record.verdict.into()
            },
            mark_before: record.mark_before,
            mark_after: (!has(flags::GONE_AT_EXIT)).then_some(record.mark_after),
            conntrack: Conntrack::decode(&record),
            connection: Connection::decode(&record),
            owner: has(flags::OWNER).then_some(Owner {
                uid: record.uid,
                gid: record.gid,
            }),
            packet_len: record.packet_len,
            device_type: record.device_type,
            hard_header_len: record.hard_header_len,
            link_header: prefix(&record.link_header, record.link_header_len),
            port_in: device(&record.port_in, record.port_in_ifindex),
            port_out: device(&record.port_out, record.port_out_ifindex),
            headers: prefix(&record.headers, record.headers_len),
            headers_cut: has(flags::HEADERS_NOT_LINEAR),
            observed: if of_nftables {
                Vec::new()
            } else {
                observed.to_vec()
            },
            events: if of_nftables {
                observed.iter().map(event).collect()
            } else {
                Vec::new()
            },
            changed: Vec::new(),
            changed_told: has(flags::HEADERS_TOLD).then_some(record.changed),
            observed_cut: has(flags::OBSERVED_CUT),
            part: (record.part, has(flags::CONTINUES)),
            incomplete: has(flags::READ_FAILED) || (record.conntrack != 0 && !has(flags::CONNTRACK)),
            not_followed: has(flags::NOT_FOLLOWED),
            names_ae: has(flags::NAMES_AE),
            witness: None,
        })
    }
}

impl Traversal {
    /// Its table, for people: `filter`, or of nf_tables with its family, `nft inet filter`.
    #[must_use]
    pub fn table_in_words(&self) -> String {
        format!("{}{}", self.backend.prefix(), self.table)
    }

    /// Says where it is from: the number of the recording, the machine where there are several, and the
    /// nanoseconds from that machine's clock to the one that times are told by.
    pub fn place(&mut self, recording: u32, node: Option<Arc<str>>, shift_ns: i64) {
        self.packet = self.packet.of_recording(recording);
        self.node = node;
        self.entered_ns = self.entered_ns.saturating_add_signed(shift_ns);
        self.left_ns = self.left_ns.saturating_add_signed(shift_ns);
    }
}

/// Since 6.12 `nft_do_chain` frees what it drops, and returns `NF_STOLEN` with the error in the upper half
/// (`NF_DROP_REASON`, `include/linux/netfilter.h`).
fn is_dropped_within(verdict: u32) -> bool {
    verdict & 0xff == 2 && verdict >> 16 != 0
}

fn event(observed: &Observed) -> Event {
    let handle = u64::from(observed.flags >> nft_step::HANDLE_SHIFT) << 32 | u64::from(observed.data);
    let code = observed.returned.cast_signed();
    let what = if observed.flags & nft_step::POLICY != 0 {
        What::Policy
    } else if observed.flags & nft_step::CHAIN_END != 0 {
        What::ChainEnd { handle }
    } else {
        What::Rule { handle, code }
    };
    let stolen = matches!(what, What::Rule { .. }) && code & 0xff == 2;
    Event {
        what,
        mark: (!stolen).then_some(observed.mark),
    }
}

fn device(bytes: &[u8], ifindex: u32) -> Option<Device> {
    (ifindex != 0).then(|| Device {
        name: name(bytes),
        ifindex,
        peer: None,
    })
}

/// A NUL-terminated name. The kernel does not promise UTF-8.
fn name(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(record: &Record) -> Vec<u8> {
        record.bytes().to_vec()
    }

    fn record() -> Record {
        let mut record = Record {
            family: 2,
            hook: 3,
            verdict: 1,
            ..Record::EMPTY
        };
        record.table_name[..6].copy_from_slice(b"filter");
        record
    }

    #[test]
    fn a_record_becomes_a_traversal() {
        let mut raw = record();
        raw.out_ifindex = 1;
        raw.out_device[..2].copy_from_slice(b"lo");
        raw.mark_before = 1;
        raw.mark_after = 0x4001;
        raw.headers_len = 20;
        let traversal = Traversal::decode(&bytes_of(&raw)).unwrap();
        assert_eq!(traversal.table, "filter");
        assert_eq!(traversal.hook, Hook::LocalOut);
        assert_eq!(traversal.verdict, Verdict::Accept);
        assert_eq!(traversal.in_device, None);
        assert_eq!(
            traversal.out_device,
            Some(Device {
                name: "lo".into(),
                ifindex: 1,
                peer: None,
            })
        );
        assert_eq!(traversal.mark_after, Some(0x4001));
        assert_eq!(traversal.headers.len(), 20);
        assert_eq!(traversal.conntrack, Conntrack::None);
        assert_eq!(traversal.owner, None);
    }

    #[test]
    fn bytes_of_any_other_length_are_refused() {
        let bytes = bytes_of(&record());
        assert_eq!(
            Traversal::decode(&bytes[1..]).unwrap_err(),
            DecodeError::Length(Record::len_with(0) - 1)
        );
    }

    #[test]
    fn lengths_beyond_the_record_are_cut() {
        let raw = Record {
            headers_len: u16::MAX,
            link_header_len: u16::MAX,
            ..record()
        };
        let traversal = Traversal::decode(&bytes_of(&raw)).unwrap();
        assert_eq!(traversal.headers.len(), tracer_common::HEADERS_LEN_MAX);
        assert_eq!(traversal.link_header.len(), tracer_common::LINK_HEADER_LEN_MAX);
    }

    #[test]
    fn verdicts_are_decoded_as_netfilter_codes_them() {
        assert_eq!(Verdict::from(0), Verdict::Drop);
        assert_eq!(Verdict::from(1), Verdict::Accept);
        assert_eq!(Verdict::from(2), Verdict::Stolen);
        assert_eq!(
            Verdict::from(0x0007_0003),
            Verdict::Queue {
                number: 7,
                bypass: false
            }
        );
        assert_eq!(
            Verdict::from(0x0007_8003),
            Verdict::Queue {
                number: 7,
                bypass: true
            }
        );
        assert_eq!(Verdict::from(9), Verdict::Other(9));
    }

    #[test]
    fn conntrack_states_have_the_names_that_rules_use() {
        let state = |info| {
            let raw = Record {
                conntrack: 0x1000,
                conntrack_info: info,
                ..record()
            };
            match Traversal::decode(&bytes_of(&raw)).unwrap().conntrack {
                Conntrack::Tracked { state, reply, .. } => (state.to_string(), reply),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(state(0), ("ESTABLISHED".into(), false));
        assert_eq!(state(1), ("RELATED".into(), false));
        assert_eq!(state(2), ("NEW".into(), false));
        assert_eq!(state(3), ("ESTABLISHED".into(), true));
        assert_eq!(state(4), ("RELATED".into(), true));
        let raw = Record {
            conntrack_info: 7,
            ..record()
        };
        assert_eq!(
            Traversal::decode(&bytes_of(&raw)).unwrap().conntrack,
            Conntrack::Untracked
        );
    }

    #[test]
    fn only_the_calls_that_were_observed_are_sent() {
        let mut raw = Record {
            observed_len: 2,
            ..record()
        };
        raw.observed[1].data = 600;
        let bytes = bytes_of(&raw);
        assert_eq!(bytes.len(), Record::len_with(2));
        let traversal = Traversal::decode(&bytes).unwrap();
        assert_eq!(traversal.observed.len(), 2);
        assert_eq!(traversal.observed[1].data, 600);
        assert!(Traversal::decode(&bytes[..bytes.len() - 16]).is_err());
    }

    #[test]
    fn any_bytes_decode_or_are_refused() {
        for fill in 0..=u8::MAX {
            let _ = Traversal::decode(&vec![fill; size_of::<Record>()]);
        }
    }
}
