//! What the engine itself asks of a packet: addresses, devices, protocol, fragments.

use super::ipv6;
use super::path::Gap;
use super::view::{View, be16, be32};
use crate::ruleset::HeaderMatch;
use crate::traversal::{Device, Family, Traversal};

/// `IPT_INV_*` and `IP6T_INV_*`, `include/uapi/linux/netfilter_ipv4/ip_tables.h` and the IPv6 one.
mod inverted {
    pub(super) const VIA_IN: u8 = 0x01;
    pub(super) const VIA_OUT: u8 = 0x02;
    pub(super) const SOURCE: u8 = 0x08;
    pub(super) const DESTINATION: u8 = 0x10;
    pub(super) const FRAGMENT: u8 = 0x20;
    pub(super) const PROTOCOL: u8 = 0x40;
}

/// `IPT_F_FRAG`
const IPV4_FRAGMENT: u8 = 0x01;
/// `IP6T_F_PROTO`
const IPV6_PROTOCOL: u8 = 0x01;

/// `IFNAMSIZ`
const NAME_LEN: usize = 16;

/// What the engine hands from rule to rule and to every match: parts of `struct xt_action_param`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Parameters {
    /// `thoff`: where the transport header begins.
    pub(super) transport: u32,
    /// `fragoff`: not zero in later fragments. IPv4 counts units of eight bytes, IPv6 bytes.
    pub(super) fragment_offset: u16,
    /// `hotdrop`: the packet is to be dropped on the spot.
    pub(super) hotdrop: bool,
}

impl Parameters {
    /// As the engine sets them once, at entry. For IPv4 they stay so, whatever targets do to the packet.
    pub(super) fn at_entry(family: Family, view: &View) -> Result<Self, Gap> {
        match family {
            Family::Ipv4 => {
                let ip = view.ipv4()?;
                Ok(Self {
                    transport: u32::from(ip[0] & 0xf) * 4,
                    fragment_offset: be16(ip, 6) & 0x1fff,
                    hotdrop: false,
                })
            }
            Family::Ipv6 => view.ipv6().map(|_| Self::default()),
        }
    }
}

/// The names of a traversal's devices, as the engine compares them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Devices {
    input: Name,
    output: Name,
}

/// A device's name, NUL padded; `None` where it is not known exactly.
type Name = Option<[u8; NAME_LEN]>;

impl Devices {
    pub(super) fn of(traversal: &Traversal) -> Self {
        Self {
            input: padded(traversal.in_device.as_ref()),
            output: padded(traversal.out_device.as_ref()),
        }
    }
}

/// Without a device the kernel compares with `nulldevname`, sixteen zero bytes.
fn padded(device: Option<&Device>) -> Name {
    let mut padded = [0; NAME_LEN];
    if let Some(Device { name, .. }) = device {
        if name.contains(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        padded.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
    }
    Some(padded)
}

/// Whether the packet satisfies the rule's own part: `ip_packet_match` or `ip6_packet_match`.
pub(super) fn matches(
    family: Family,
    asked: &HeaderMatch,
    view: &View,
    devices: &Devices,
    parameters: &mut Parameters,
) -> Result<bool, Gap> {
    match family {
        Family::Ipv4 => ipv4_matches(asked, view, devices, parameters),
        Family::Ipv6 => {
            parameters.transport = 0;
            ipv6_matches(asked, view, devices, parameters)
        }
    }
}

/// `ip_packet_match`, `net/ipv4/netfilter/ip_tables.c`.
fn ipv4_matches(
    asked: &HeaderMatch,
    view: &View,
    devices: &Devices,
    parameters: &Parameters,
) -> Result<bool, Gap> {
    /// `IPT_F_FRAG` asks for a later fragment. Inverted without being asked for, no packet satisfies it.
    fn no_fragment(asked: &HeaderMatch, fragment_offset: u16) -> bool {
        asked.flags & IPV4_FRAGMENT != 0 && fragment_offset == 0
    }

    let ip = view.ipv4()?;
    let invert = Invert(asked.inverted);
    if invert.of(inverted::SOURCE, ipv4_differs(&asked.source, ip, 12))
        || invert.of(inverted::DESTINATION, ipv4_differs(&asked.destination, ip, 16))
        || invert.of(inverted::VIA_IN, name_differs(&asked.in_device, devices.input)?)
        || invert.of(
            inverted::VIA_OUT,
            name_differs(&asked.out_device, devices.output)?,
        )
    {
        return Ok(false);
    }
    let other_protocol = u16::from(ip[9]) != asked.protocol;
    if asked.protocol != 0 && invert.of(inverted::PROTOCOL, other_protocol) {
        return Ok(false);
    }
    Ok(!invert.of(inverted::FRAGMENT, no_fragment(asked, parameters.fragment_offset)))
}

/// `ip6_packet_match`, `net/ipv6/netfilter/ip6_tables.c`. A rule with a protocol looks for the transport header
/// anew; the fragment offset it finds stays for the rules after it, the place of the header does not.
///
/// At entry the fragment offset is zero. Kernels before that was made sure (5.10 and 5.15 until a stable update)
/// began with whatever was on the stack.
fn ipv6_matches(
    asked: &HeaderMatch,
    view: &View,
    devices: &Devices,
    parameters: &mut Parameters,
) -> Result<bool, Gap> {
    let ip = view.ipv6()?;
    let invert = Invert(asked.inverted);
    if invert.of(inverted::SOURCE, ipv6_differs(&asked.source, ip, 8))
        || invert.of(inverted::DESTINATION, ipv6_differs(&asked.destination, ip, 24))
        || invert.of(inverted::VIA_IN, name_differs(&asked.in_device, devices.input)?)
        || invert.of(
            inverted::VIA_OUT,
            name_differs(&asked.out_device, devices.output)?,
        )
    {
        return Ok(false);
    }
    if asked.flags & IPV6_PROTOCOL == 0 {
        return Ok(true);
    }
    let Ok(transport) = ipv6::find_transport(view)? else {
        // The kernel asks whether `_frag_off` is zero; whenever nothing is found, it is.
        parameters.hotdrop = true;
        return Ok(false);
    };
    parameters.transport = transport.offset.unwrap_or(0);
    parameters.fragment_offset = transport.fragment_offset;
    let not = asked.inverted & inverted::PROTOCOL != 0;
    if asked.protocol == u16::from(transport.protocol) {
        return Ok(!not);
    }
    Ok(asked.protocol == 0 || not)
}

/// `NF_INVF`, `include/linux/netfilter/x_tables.h`.
#[derive(Clone, Copy)]
struct Invert(u8);

impl Invert {
    fn of(self, bit: u8, value: bool) -> bool {
        value ^ (self.0 & bit != 0)
    }
}

/// `(ip->saddr & smsk) != src`: an address with bits outside of its mask is never satisfied.
fn ipv4_differs((asked, mask): &([u8; 16], [u8; 16]), ip: &[u8; 20], at: usize) -> bool {
    be32(ip, at) & be32(mask, 0) != be32(asked, 0)
}

/// `ipv6_masked_addr_cmp`: bits outside of the mask do not count, on either side.
fn ipv6_differs(asked: &([u8; 16], [u8; 16]), ip: &[u8; 40], at: usize) -> bool {
    let mut address = [0; 16];
    address.copy_from_slice(&ip[at..at + 16]);
    bytes_differ(asked, address)
}

/// `ifname_compare_aligned`, `include/linux/netfilter/x_tables.h`, over all sixteen bytes.
fn name_differs(asked: &([u8; 16], [u8; 16]), name: Name) -> Result<bool, Gap> {
    if asked.1 == [0; NAME_LEN] {
        return Ok(false);
    }
    Ok(bytes_differ(asked, name.ok_or(Gap::DeviceName)?))
}

/// All bytes at once: this is asked four times of each rule that a packet passes.
fn bytes_differ((asked, mask): &([u8; 16], [u8; 16]), bytes: [u8; 16]) -> bool {
    let number = u128::from_ne_bytes;
    (number(bytes) ^ number(*asked)) & number(*mask) != 0
}
