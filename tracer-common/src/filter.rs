//! The filter that the programs apply before anything is copied.

use crate::{IFNAME_LEN, TABLE_NAME_LEN};

/// How many tables [`Filter::tables`] can name.
pub const TABLES_MAX: usize = 8;

/// [`Filter::hooks`] with every hook allowed.
pub const HOOKS_ALL: u8 = 0x1f;

/// An address prefix. Host bits of `address` are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Prefix {
    /// Address in network byte order; IPv4 uses the first four bytes.
    pub address: [u8; 16],
    /// The netmask, in the same form.
    pub mask: [u8; 16],
}

/// Bits of [`Filter::criteria`]: which parts of the filter are to be looked at.
pub mod criteria {
    /// [`super::Filter::protocol`].
    pub const PROTOCOL: u32 = 1 << 0;
    /// [`super::Filter::source`]; implies a family.
    pub const SOURCE: u32 = 1 << 1;
    /// [`super::Filter::destination`]; implies a family.
    pub const DESTINATION: u32 = 1 << 2;
    /// [`super::Filter::source_port_min`] to [`super::Filter::source_port_max`].
    pub const SOURCE_PORT: u32 = 1 << 3;
    /// [`super::Filter::destination_port_min`] to [`super::Filter::destination_port_max`].
    pub const DESTINATION_PORT: u32 = 1 << 4;
    /// [`super::Filter::either_port_min`] to [`super::Filter::either_port_max`].
    pub const EITHER_PORT: u32 = 1 << 5;
    /// [`super::Filter::in_device`].
    pub const IN_DEVICE: u32 = 1 << 6;
    /// [`super::Filter::out_device`].
    pub const OUT_DEVICE: u32 = 1 << 7;
    /// [`super::Filter::mark`] under [`super::Filter::mark_mask`].
    pub const MARK: u32 = 1 << 8;
    /// [`super::Filter::netns`].
    pub const NETNS: u32 = 1 << 9;
    /// [`super::Filter::either`]; implies a family.
    pub const EITHER: u32 = 1 << 10;
    /// Everything that is not in the packet's headers.
    pub const OUTSIDE: u32 = NETNS | MARK | IN_DEVICE | OUT_DEVICE;
    /// Everything that needs the packet's addresses.
    pub const ADDRESSES: u32 = SOURCE | DESTINATION | EITHER;
    /// Everything that needs the packet's headers.
    pub const HEADERS: u32 = ADDRESSES | PROTOCOL | PORTS;
    /// Everything that needs the transport header's ports.
    pub const PORTS: u32 = SOURCE_PORT | DESTINATION_PORT | EITHER_PORT;
}

/// IP protocol numbers that the programs know.
pub mod protocols {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// Which packets to follow, and which of their traversals to record.
///
/// A packet is followed from the first traversal at which it satisfies every criterion set in
/// `criteria` (and `families`). `tables` and `hooks` then only choose which traversals of a followed
/// packet are recorded: `--table nat` still follows a packet that never enters nat.
///
/// The loader puts it into read-only memory, so the verifier removes the tests that are not asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Filter {
    /// Bits of [`criteria`].
    pub criteria: u32,
    /// Network namespace, by inode number of its nsfs file.
    pub netns: u32,
    /// Packet mark.
    pub mark: u32,
    /// Bits of the packet mark to compare.
    pub mark_mask: u32,
    /// Source address.
    pub source: Prefix,
    /// Destination address.
    pub destination: Prefix,
    /// An address that either side may have.
    pub either: Prefix,
    /// Lowest source port, host byte order.
    pub source_port_min: u16,
    /// Highest source port.
    pub source_port_max: u16,
    /// Lowest destination port.
    pub destination_port_min: u16,
    /// Highest destination port.
    pub destination_port_max: u16,
    /// Lowest port that either side may have.
    pub either_port_min: u16,
    /// Highest port that either side may have.
    pub either_port_max: u16,
    /// IP protocol, for IPv6 the one after the extension headers.
    pub protocol: u8,
    /// Hooks to record, a bit for each `NF_INET_*` number.
    pub hooks: u8,
    /// How many entries of `tables` are used; zero records every table.
    pub tables_len: u8,
    /// Not zero: send an [`End`](crate::End) for each followed packet.
    pub ends: u8,
    /// Not zero: a packet of a followed packet's connection is followed too, whatever it looks like.
    pub connections: u8,
    /// Padding, zero.
    pub padding: [u8; 3],
    /// In device name, NUL padded.
    pub in_device: [u8; IFNAME_LEN],
    /// Which bytes of the name to compare: `eth+` compares three, `eth0` five with its NUL.
    pub in_device_mask: [u8; IFNAME_LEN],
    /// Out device name, NUL padded.
    pub out_device: [u8; IFNAME_LEN],
    /// Which bytes of the out device name to compare.
    pub out_device_mask: [u8; IFNAME_LEN],
    /// Table names, NUL padded.
    pub tables: [[u8; TABLE_NAME_LEN]; TABLES_MAX],
}

impl Filter {
    /// Follows every packet and records every traversal.
    pub const EVERYTHING: Self = Self {
        criteria: 0,
        netns: 0,
        mark: 0,
        mark_mask: 0,
        source: Prefix {
            address: [0; 16],
            mask: [0; 16],
        },
        destination: Prefix {
            address: [0; 16],
            mask: [0; 16],
        },
        either: Prefix {
            address: [0; 16],
            mask: [0; 16],
        },
        source_port_min: 0,
        source_port_max: 0,
        destination_port_min: 0,
        destination_port_max: 0,
        either_port_min: 0,
        either_port_max: 0,
        protocol: 0,
        hooks: HOOKS_ALL,
        tables_len: 0,
        ends: 0,
        connections: 0,
        padding: [0; 3],
        in_device: [0; IFNAME_LEN],
        in_device_mask: [0; IFNAME_LEN],
        out_device: [0; IFNAME_LEN],
        out_device_mask: [0; IFNAME_LEN],
        tables: [[0; TABLE_NAME_LEN]; TABLES_MAX],
    };
}

const _: () = assert!(size_of::<Filter>() == 16 + 3 * 32 + 20 + 4 * IFNAME_LEN + TABLES_MAX * TABLE_NAME_LEN);

// The programs compare names and addresses in words.
const _: () = {
    assert!(align_of::<Filter>() == 4);
    assert!(core::mem::offset_of!(Filter, source).is_multiple_of(4));
    assert!(core::mem::offset_of!(Filter, destination).is_multiple_of(4));
    assert!(core::mem::offset_of!(Filter, either).is_multiple_of(4));
    assert!(core::mem::offset_of!(Filter, in_device).is_multiple_of(4));
    assert!(core::mem::offset_of!(Filter, out_device).is_multiple_of(4));
    assert!(core::mem::offset_of!(Filter, tables).is_multiple_of(4));
};
