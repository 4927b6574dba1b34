//! The record of one table traversal.

/// `IFNAMSIZ`, `include/uapi/linux/if.h`.
pub const IFNAME_LEN: usize = 16;
/// `XT_TABLE_MAXNAMELEN`, `include/uapi/linux/netfilter/x_tables.h`.
pub const TABLE_NAME_LEN: usize = 32;
/// Bytes kept from the link-layer header; Ethernet has 14, IP over InfiniBand 24.
pub const LINK_HEADER_LEN_MAX: usize = 32;
/// Bytes kept from the network header on: IPv4 or IPv6 with extension headers, TCP with options, and the
/// packet quoted in an ICMP error.
pub const HEADERS_LEN_MAX: usize = 256;
/// Traversals that can be under way at once on the whole machine.
pub const FRAMES_MAX: u32 = 1024;
/// Packets that can be followed at once.
pub const PACKETS_MAX: u32 = 32_768;

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
}

/// One packet's way through one table at one hook: from entry into `ipt_do_table` or `ip6t_do_table` to
/// its return.
///
/// Unless the name says otherwise a field is as it was at entry.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Traversal {
    /// `CLOCK_MONOTONIC` at entry.
    pub entered_ns: u64,
    /// `CLOCK_MONOTONIC` at return.
    pub left_ns: u64,
    /// `CLOCK_MONOTONIC` when the packet was first seen. Together with `skb` this is the packet's identity:
    /// the same at each of its traversals, and of no other packet.
    pub born_ns: u64,
    /// Address of the `sk_buff`.
    pub skb: u64,
    /// Address of the `xt_table`.
    pub table: u64,
    /// Address of the `xt_table_info` in force: changes with each replacement of the table.
    pub table_info: u64,
    /// Address of the `nf_conn`, zero without one.
    pub conntrack: u64,
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
    /// `fsuid` of the owner of the socket, in the initial user namespace.
    pub uid: u32,
    /// `fsgid` of the owner of the socket.
    pub gid: u32,
    /// `nf_conn.status`, low 32 bits: `IPS_*`.
    pub conntrack_status: u32,
    /// `nf_conn.mark`.
    pub conntrack_mark: u32,
    /// `ARPHRD_*` type of the in device.
    pub in_device_type: u16,
    /// `net_device.hard_header_len` of the in device.
    pub in_hard_header_len: u16,
    /// Bytes used in `headers`.
    pub headers_len: u16,
    /// Bytes used in `link_header`: from `sk_buff.mac_header` to the network header.
    pub link_header_len: u16,
    /// `AF_INET` 2 or `AF_INET6` 10.
    pub family: u8,
    /// `NF_INET_*` hook number.
    pub hook: u8,
    /// `enum ip_conntrack_info`, the low bits of `sk_buff._nfct`; meaningful with `conntrack`, except 7
    /// for untracked.
    pub conntrack_info: u8,
    /// Padding, zero.
    pub padding: u8,
    /// Name of the table, NUL padded.
    pub table_name: [u8; TABLE_NAME_LEN],
    /// Name of the in device.
    pub in_device: [u8; IFNAME_LEN],
    /// Name of the out device.
    pub out_device: [u8; IFNAME_LEN],
    /// The link-layer header the packet came with.
    pub link_header: [u8; LINK_HEADER_LEN_MAX],
    /// The packet from its network header on.
    pub headers: [u8; HEADERS_LEN_MAX],
}

impl Traversal {
    /// A record with nothing in it.
    // SAFETY: every field is an integer or an array of integers, for which all zeros is a value.
    pub const EMPTY: Self = unsafe { core::mem::zeroed() };

    /// Reads a record from the bytes that a program sent; `None` unless the length is exactly right.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, the read is unaligned, and every bit pattern is a value.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

// The fields fill the record without hidden padding, so its bytes never carry stale memory.
const _: () = assert!(
    size_of::<Traversal>()
        == 7 * 8
            + 13 * 4
            + 4 * 2
            + 4
            + TABLE_NAME_LEN
            + 2 * IFNAME_LEN
            + LINK_HEADER_LEN_MAX
            + HEADERS_LEN_MAX
);
const _: () = assert!(size_of::<Traversal>().is_multiple_of(8));
