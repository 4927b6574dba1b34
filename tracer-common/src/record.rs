//! What the programs send: one record for each table traversal, one for the end of a packet, and what is needed to
//! know the rules that were in force.

/// What a record is: its first field.
pub mod kind {
    /// A [`Traversal`](super::Traversal).
    pub const TRAVERSAL: u64 = 1;
    /// An [`End`](super::End).
    pub const END: u64 = 2;
    /// A [`Witness`](super::super::Witness).
    pub const WITNESS: u64 = 4;
    /// A [`HeadersAfter`](super::HeadersAfter).
    pub const HEADERS_AFTER: u64 = 8;
}

/// Version of the layout of [`Traversal`] and of what its fields mean. Raise it with every change by which a recording
/// would be misunderstood, by this tracer or an earlier one: recordings of another layout are refused.
pub const RECORD_LAYOUT: u32 = 4;
/// `IFNAMSIZ`, `include/uapi/linux/if.h`.
pub const IFNAME_LEN: usize = 16;
/// `XT_TABLE_MAXNAMELEN`, `include/uapi/linux/netfilter/x_tables.h`.
pub const TABLE_NAME_LEN: usize = 32;
/// Bytes kept from the link-layer header; Ethernet has 14, IP over InfiniBand 24.
pub const LINK_HEADER_LEN_MAX: usize = 32;
/// Bytes kept from the network header on: IPv4 or IPv6 with extension headers, TCP with options, and the
/// packet quoted in an ICMP error.
pub const HEADERS_LEN_MAX: usize = 256;
/// `sizeof(struct nf_conntrack_tuple)`, `include/net/netfilter/nf_conntrack_tuple.h`.
pub const TUPLE_LEN: usize = 40;
/// Traversals that can be under way at once on the whole machine.
pub const FRAMES_MAX: u32 = 1024;
/// Packets that can be followed at once.
pub const PACKETS_MAX: u32 = 32_768;

/// Connections that are followed at once.
pub const CONNECTIONS_MAX: u32 = 32_768;

/// `NF_INET_PRE_ROUTING`, `include/uapi/linux/netfilter.h`.
pub const HOOK_PRE_ROUTING: u8 = 0;
/// `NF_INET_LOCAL_IN`.
pub const HOOK_LOCAL_IN: u8 = 1;
/// `NF_INET_FORWARD`.
pub const HOOK_FORWARD: u8 = 2;
/// `NF_INET_LOCAL_OUT`.
pub const HOOK_LOCAL_OUT: u8 = 3;
/// `NF_INET_POST_ROUTING`.
pub const HOOK_POST_ROUTING: u8 = 4;

/// Calls of match and target functions, or steps on nf_tables, that one record has room for.
pub const OBSERVED_MAX: usize = 32;

/// Bytes kept of the name of a base chain; the kernel's limit is 256.
pub const CHAIN_NAME_LEN: usize = 32;

/// [`Traversal::backend`]: legacy tables.
pub const BACKEND_LEGACY: u8 = 0;
/// [`Traversal::backend`]: nf_tables.
pub const BACKEND_NFTABLES: u8 = 1;

/// The rules that a table had: an `xt_table_info`, which the kernel makes anew for each replacement.
///
/// The address alone is no name, for the kernel uses it again; so the time at which the programs saw it made
/// goes with it, zero for one that is older than the trace.
///
/// All tables of nf_tables in a network namespace are replaced together, by a commit, which has no address: there
/// the time is when the last commit began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(C)]
pub struct Generation {
    /// Address of the `xt_table_info`; zero for nf_tables.
    pub table_info: u64,
    /// `CLOCK_MONOTONIC` when it was made.
    pub made_ns: u64,
}

/// What the loader's reader of rules got, as the kernel found it under the table's lock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct TableRead {
    /// Address of the `xt_table`.
    pub table: u64,
    /// The rules that it had.
    pub generation: Generation,
    /// How many tables the reader has looked up so far.
    pub lookups: u64,
    /// How many of them, the last one among them, were this table with these rules, without another in between.
    pub same: u64,
}

/// A table is being given other rules. Sent before they are in force, under the table's lock, so that whoever asks for
/// the rules then gets these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Replacement {
    /// The new rules.
    pub generation: Generation,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// `AF_INET` 2 or `AF_INET6` 10.
    pub family: u32,
    /// Name of the table, NUL padded.
    pub table_name: [u8; TABLE_NAME_LEN],
}

impl Replacement {
    /// Reads what a program sent; `None` unless the length is exactly right.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut replacement = Self::default();
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the same length, the regions are apart, and every bit pattern is a value.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut replacement).cast::<u8>(), bytes.len());
        }
        Some(replacement)
    }
}

/// Replacements on their way to the loader. One that finds no room is no loss: the loader reads the rules when the
/// first packet has met them.
pub const REPLACEMENTS_BYTES: u32 = 65_536;

/// The same for commits of nf_tables.
pub const COMMITTED_BYTES: u32 = 4096;

/// Threads that are about to replace a table, or have just read one.
pub const ASKING_MAX: u32 = 1024;

/// Length of a thread's name with its NUL: `TASK_COMM_LEN`, `include/linux/sched.h`.
pub const THREAD_NAME_LEN: usize = 16;

/// Generations known at once. Each table of each network namespace has one.
pub const GENERATIONS_MAX: u32 = 32_768;

/// The last commit of nf_tables in a network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Commit {
    /// `CLOCK_MONOTONIC` when the kernel began it.
    pub begun_ns: u64,
    /// `begun_ns` of the last one that was seen to be over, with [`Self::FAILED`] where the rules stayed as they were.
    pub over_ns: u64,
    /// `begun_ns` of the one whose rules were in force when it began.
    pub before_ns: u64,
    /// Which of the two sets of rules packets met then (`netns_nftables.gencursor`): once it is the other one, the
    /// commit's own rules are in force.
    pub cursor: u64,
}

impl Commit {
    /// Bit of [`Self::over_ns`].
    pub const FAILED: u64 = 1 << 63;

    /// `begun_ns` of the commit whose rules are in force; `None` while one is under way.
    #[must_use]
    pub const fn in_force(&self) -> Option<u64> {
        if self.over_ns == self.begun_ns {
            Some(self.begun_ns)
        } else if self.over_ns == self.begun_ns | Self::FAILED {
            Some(self.before_ns)
        } else {
            None
        }
    }
}

/// One call of a match or target function during a traversal; of nf_tables one call of `__nft_trace_packet`: see
/// [`nft_step`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Observed {
    /// Where the rule's data lies: `par->matchinfo` or `par->targinfo` from the first entry of the table.
    pub data: u32,
    /// What the function returned: of a match 0 or 1, of a target its verdict.
    pub returned: u32,
    /// Packet mark when it returned.
    pub mark: u32,
    /// Bits of [`observed`].
    pub flags: u32,
}

/// Bits of [`Observed::flags`].
pub mod observed {
    /// A target function, else a match function.
    pub const TARGET: u32 = 1 << 0;
    /// The function asked for the packet to be dropped at once (`par->hotdrop`).
    pub const HOTDROP: u32 = 1 << 1;
    /// The packet was gone when the function returned, so its mark was not read.
    pub const GONE: u32 = 1 << 2;
}

/// What [`Observed`] holds of a step on nf_tables: `data` and the upper half of `flags` the handle of the rule, or of
/// the chain where it is the end of one; `returned` the code of the verdict (`NFT_CONTINUE` -1, `NFT_JUMP` -3, …,
/// `NF_DROP` 0, …); `mark` the packet mark after the rule.
pub mod nft_step {
    /// The end of a chain; the handle is the chain's.
    pub const CHAIN_END: u32 = 1 << 3;
    /// The policy of the base chain; there is no handle, and `returned` means nothing.
    pub const POLICY: u32 = 1 << 4;
    /// Where the upper bits of the handle, which has 42, begin in `flags`.
    pub const HANDLE_SHIFT: u32 = 16;
}

/// Bits of [`Traversal::flags`].
pub mod flags {
    /// `uid` and `gid` are those of the socket's owner.
    pub const OWNER: u32 = 1 << 0;
    /// A read of kernel memory failed, so some field is zero that should not be.
    pub const READ_FAILED: u32 = 1 << 1;
    /// The packet's headers go on beyond what `headers` holds, in memory that is not linear.
    pub const HEADERS_NOT_LINEAR: u32 = 1 << 2;
    /// First traversal of this packet that was seen.
    pub const FIRST: u32 = 1 << 3;
    /// The packet was gone at exit (a target kept or freed it), so `mark_after` was not read.
    pub const GONE_AT_EXIT: u32 = 1 << 4;
    /// Conntrack's `status` and `mark` were read.
    pub const CONNTRACK: u32 = 1 << 5;
    /// There is no room to follow this packet: its later traversals are not recorded as its own.
    pub const NOT_FOLLOWED: u32 = 1 << 6;
    /// More functions were called than the record has room for.
    pub const OBSERVED_CUT: u32 = 1 << 7;
    /// `generation` may not be what the kernel used: the table was replaced meanwhile, or there were too many
    /// to know them all.
    pub const GENERATION_UNSURE: u32 = 1 << 8;
    /// `original`, `reply` and `conntrack_status_after` were read.
    pub const TUPLES: u32 = 1 << 9;
    /// The traversal goes on: `observed` is full and a record with the next `part` follows. What is only known at
    /// return is zero.
    pub const CONTINUES: u32 = 1 << 10;
    /// The kernel's log names the TCP flag AE, which older kernels count among the reserved bits.
    pub const NAMES_AE: u32 = 1 << 11;
    /// On nf_tables: from the first step on that changed headers, they were sent with each ([`Traversal::changed`]).
    pub const HEADERS_TOLD: u32 = 1 << 12;
}

/// One packet's way through one table at one hook: from entry into `ipt_do_table` or `ip6t_do_table` to
/// its return. On nf_tables, through one base chain: from entry into `nft_do_chain` to its return.
///
/// Unless the name says otherwise a field is as it was at entry.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Traversal {
    /// [`kind::TRAVERSAL`].
    pub kind: u64,
    /// `CLOCK_MONOTONIC` at entry.
    pub entered_ns: u64,
    /// `CLOCK_MONOTONIC` at return.
    pub left_ns: u64,
    /// `CLOCK_MONOTONIC` when the packet was first seen. Together with `skb` this is the packet's identity:
    /// the same at each of its traversals, and of no other packet.
    pub born_ns: u64,
    /// Address of the `sk_buff`.
    pub skb: u64,
    /// Address of the `xt_table` or `nft_table`.
    pub table: u64,
    /// Handle of the table, zero for legacy tables.
    pub table_handle: u64,
    /// Handle of the base chain, zero for legacy tables.
    pub chain_handle: u64,
    /// The rules in force.
    pub generation: Generation,
    /// Address of the `nf_conn`, zero without one.
    pub conntrack: u64,
    /// Address of the `nf_conn` at return, zero without one and where the packet was gone.
    pub conntrack_after: u64,
    /// Bits of [`flags`].
    pub flags: u32,
    /// What the function returned: `NF_DROP` 0, `NF_ACCEPT` 1, …, a queue number in the upper half.
    pub verdict: u32,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// CPU at entry.
    pub cpu: u32,
    /// Packet mark.
    pub mark_before: u32,
    /// Packet mark at return.
    pub mark_after: u32,
    /// `sk_buff.len`: from the network header to the end.
    pub packet_len: u32,
    /// Interface index of the in device, zero without one.
    pub in_ifindex: u32,
    /// Interface index of the out device.
    pub out_ifindex: u32,
    /// Interface index of the bridge port that the packet came in by, zero without one.
    pub port_in_ifindex: u32,
    /// Interface index of the bridge port that it leaves by.
    pub port_out_ifindex: u32,
    /// `fsuid` of the owner of the socket, in the initial user namespace.
    pub uid: u32,
    /// `fsgid` of the owner of the socket.
    pub gid: u32,
    /// `nf_conn.status`, low 32 bits: `IPS_*`.
    pub conntrack_status: u32,
    /// `nf_conn.mark`.
    pub conntrack_mark: u32,
    /// `nf_conn.status` at return.
    pub conntrack_status_after: u32,
    /// Which of the packet's recorded traversals this is, from 1: a gap is a record that was lost.
    pub pass: u32,
    /// `ARPHRD_*` type of `skb->dev`, zero without one: mostly the in device, but the out device at POSTROUTING.
    pub device_type: u16,
    /// `net_device.hard_header_len` of `skb->dev`.
    pub hard_header_len: u16,
    /// Entries used in `observed`. The record is sent without the others.
    pub observed_len: u32,
    /// Bytes used in `headers`.
    pub headers_len: u16,
    /// Bytes used in `link_header`: `hard_header_len` where the packet has a link-layer header, as far as there is
    /// room.
    pub link_header_len: u16,
    /// `AF_INET` 2 or `AF_INET6` 10.
    pub family: u8,
    /// `NF_INET_*` hook number.
    pub hook: u8,
    /// `enum ip_conntrack_info`, the low bits of `sk_buff._nfct`; meaningful with `conntrack`, except 7
    /// for untracked.
    pub conntrack_info: u8,
    /// [`BACKEND_LEGACY`] or [`BACKEND_NFTABLES`].
    pub backend: u8,
    /// Family of a table of nf_tables, `NFPROTO_*`: 1 for inet, whose chains see packets of both families; zero for
    /// legacy tables.
    pub table_family: u8,
    /// Number of the record, from 0, among those of this traversal.
    pub part: u8,
    /// On nf_tables: how many [`HeadersAfter`] were sent of this traversal so far. From the first step on that changed
    /// headers it is one for each but the policy, and but a rule that stole the packet.
    pub changed: u16,
    /// Name of the table, NUL padded; the start of a name that is longer.
    pub table_name: [u8; TABLE_NAME_LEN],
    /// Name of the base chain, in the same form; empty for legacy tables.
    pub chain_name: [u8; CHAIN_NAME_LEN],
    /// Name of the in device.
    pub in_device: [u8; IFNAME_LEN],
    /// Name of the out device.
    pub out_device: [u8; IFNAME_LEN],
    /// Name of the bridge port that the packet came in by; empty on kernels that keep only its index.
    pub port_in: [u8; IFNAME_LEN],
    /// Name of the bridge port that it leaves by.
    pub port_out: [u8; IFNAME_LEN],
    /// `nf_conn.tuplehash[IP_CT_DIR_ORIGINAL].tuple` at return: the connection as its first packet had it.
    pub original: [u8; TUPLE_LEN],
    /// `nf_conn.tuplehash[IP_CT_DIR_REPLY].tuple` at return: as its replies have it, with what NAT makes of it.
    pub reply: [u8; TUPLE_LEN],
    /// What lies at `sk_buff.mac_header`, where that is set and is not the network header: the link-layer header
    /// that the packet came with, or whatever a tunnel left there.
    pub link_header: [u8; LINK_HEADER_LEN_MAX],
    /// The packet from its network header on.
    pub headers: [u8; HEADERS_LEN_MAX],
    /// Calls of match and target functions, in the order in which they returned.
    pub observed: [Observed; OBSERVED_MAX],
}

impl Traversal {
    /// A record with nothing in it.
    pub const EMPTY: Self = Self {
        kind: kind::TRAVERSAL,
        // SAFETY: every field is an integer or an array of integers, for which all zeros is a value.
        ..unsafe { core::mem::zeroed() }
    };

    /// Bytes of a record in which `observed` has `observed_len` entries.
    #[must_use]
    pub const fn len_with(observed_len: usize) -> usize {
        size_of::<Self>() - (OBSERVED_MAX - observed_len) * size_of::<Observed>()
    }

    /// The bytes to send: without the entries of `observed` that are not used.
    #[must_use]
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        let observed_len = (self.observed_len as usize).min(OBSERVED_MAX);
        // SAFETY: at most the whole record, which is plain old data without hidden padding.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast(), Self::len_with(observed_len)) }
    }

    /// Reads a record from the bytes that a program sent; `None` unless the length is exactly right.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = Self::EMPTY;
        if bytes.len() < Self::len_with(0) || bytes.len() > size_of::<Self>() {
            return None;
        }
        // SAFETY: the record is that long at least, the regions are apart, and every bit pattern is a value.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut record).cast::<u8>(), bytes.len());
        }
        let observed_len = usize::try_from(record.observed_len).ok()?;
        let whole = observed_len <= OBSERVED_MAX && bytes.len() == Self::len_with(observed_len);
        (whole && record.kind == kind::TRAVERSAL).then_some(record)
    }
}

/// The end of a followed packet: its `sk_buff` was given back. Sent where [`crate::Filter::ends`] asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct End {
    /// [`kind::END`].
    pub kind: u64,
    /// `CLOCK_MONOTONIC`.
    pub ended_ns: u64,
    /// As [`Traversal::born_ns`].
    pub born_ns: u64,
    /// As [`Traversal::skb`].
    pub skb: u64,
    /// Of a packet that was dropped: the address in the function that dropped it.
    pub location: u64,
    /// One of [`ends`].
    pub how: u32,
    /// How many of the packet's traversals were to be recorded: the last [`Traversal::pass`].
    pub passes: u32,
}

/// Values of [`End::how`].
pub mod ends {
    /// `consume_skb`: it was delivered or sent.
    pub const CONSUMED: u32 = 1;
    /// `kfree_skb`: it was dropped.
    pub const DROPPED: u32 = 2;
    /// Its memory was given back on a way that does not say why.
    pub const FREED: u32 = 3;
}

impl End {
    /// The bytes to send.
    #[must_use]
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the whole record, which is plain old data without hidden padding.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }

    /// Reads a record from the bytes that a program sent; `None` unless it is one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; size_of::<Self>()] = bytes.try_into().ok()?;
        // SAFETY: the same size, and every bit pattern is a value.
        let record = unsafe { core::mem::transmute::<[u8; size_of::<Self>()], Self>(*bytes) };
        (record.kind == kind::END).then_some(record)
    }
}

const _: () = assert!(size_of::<End>() == 5 * 8 + 2 * 4);

/// The packet's headers when a target function returned that changes them and lets the walk go on, on nf_tables from such
/// a step on: sent at once, before the record of its traversal.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct HeadersAfter {
    /// [`kind::HEADERS_AFTER`].
    pub kind: u64,
    /// [`Traversal::skb`]
    pub skb: u64,
    /// [`Traversal::entered_ns`]
    pub entered_ns: u64,
    /// `sk_buff.len`
    pub packet_len: u32,
    /// Which of [`Traversal::observed`] the function or the step is, counted through all parts.
    pub index: u16,
    /// Bytes used in `headers`.
    pub headers_len: u16,
    /// The packet from its network header on.
    pub headers: [u8; HEADERS_LEN_MAX],
}

impl HeadersAfter {
    /// A record with nothing in it.
    pub const EMPTY: Self = Self {
        kind: kind::HEADERS_AFTER,
        // SAFETY: every field is an integer or an array of integers, for which all zeros is a value.
        ..unsafe { core::mem::zeroed() }
    };

    /// The bytes to send.
    #[must_use]
    #[inline(always)]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the whole record, which is plain old data without hidden padding.
        unsafe { core::slice::from_raw_parts((&raw const *self).cast(), size_of::<Self>()) }
    }

    /// Reads what a program sent; `None` unless it is one.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut record = Self::EMPTY;
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the same length, the regions are apart, and every bit pattern is a value.
        unsafe {
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), (&raw mut record).cast::<u8>(), bytes.len());
        }
        (record.kind == kind::HEADERS_AFTER).then_some(record)
    }
}

const _: () = assert!(size_of::<HeadersAfter>() == 32 + HEADERS_LEN_MAX);
const _: () = assert!(size_of::<Replacement>() == 24 + TABLE_NAME_LEN);

const _: () = assert!(size_of::<Observed>() == 16);

// The fields fill the record without hidden padding, so its bytes never carry stale memory.
const _: () = assert!(
    size_of::<Traversal>()
        == 12 * 8
            + 18 * 4
            + 4 * 2
            + 8
            + TABLE_NAME_LEN
            + CHAIN_NAME_LEN
            + 4 * IFNAME_LEN
            + 2 * TUPLE_LEN
            + LINK_HEADER_LEN_MAX
            + HEADERS_LEN_MAX
            + OBSERVED_MAX * size_of::<Observed>()
);
const _: () = assert!(size_of::<Traversal>().is_multiple_of(8));
