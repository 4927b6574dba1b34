//! The filter flags: which packets to follow, which of their traversals to show.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::anyhow;
use clap::Args;
use tracer_common::{Filter, HOOKS_ALL, IFNAME_LEN, Prefix, TABLE_NAME_LEN, TABLES_MAX, criteria, protocols};

use super::exit::{Exit, Failure};
use crate::{
    filter::{Contradiction, Wanted, expression},
    kernel::preflight::Families,
    netns::{Netns, NetnsError},
    traversal::{Family, Hook},
};

/// Which packets to follow. A packet is followed from the first table at which it satisfies all of these to the
/// last, also after NAT has changed what they look at. Without any, every packet is followed.
#[derive(Args, Clone, Debug, Default)]
#[command(
    next_help_heading = "Which packets (all that are given must hold; the packet is then followed to its end)"
)]
pub struct FilterArgs {
    /// Only IPv4 (iptables)
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Only IPv6 (ip6tables)
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Protocol: tcp, udp, udplite, icmp, icmpv6, sctp, dccp, esp, ah, gre or a number
    #[arg(short, long, value_name = "PROTOCOL")]
    proto: Option<Protocol>,
    /// Source address or prefix
    #[arg(short, long, value_name = "ADDRESS[/LEN]")]
    src: Option<Network>,
    /// Destination address or prefix
    #[arg(short, long, value_name = "ADDRESS[/LEN]")]
    dst: Option<Network>,
    /// Source port
    #[arg(long, value_name = "PORT[-PORT]")]
    sport: Option<Ports>,
    /// Destination port
    #[arg(long, value_name = "PORT[-PORT]")]
    dport: Option<Ports>,
    /// Port on either side
    #[arg(long, value_name = "PORT[-PORT]")]
    port: Option<Ports>,
    /// In device; a final + stands for any ending
    #[arg(short, long, value_name = "DEVICE[+]")]
    in_interface: Option<DeviceName>,
    /// Out device; a final + stands for any ending
    #[arg(short, long, value_name = "DEVICE[+]")]
    out_interface: Option<DeviceName>,
    /// Packet mark, as the mark match takes it
    #[arg(short, long, value_name = "VALUE[/MASK]")]
    mark: Option<Mark>,
    /// Network namespace: a name of `ip netns`, a process id, a path, or net:[INODE]
    #[arg(long, value_name = "NAMESPACE")]
    netns: Option<NetnsName>,
    /// Follow only packets that satisfy all of this themselves: not the rest of their connections, such as replies
    #[arg(long)]
    no_connections: bool,
    /// Show only this table (may be given several times)
    #[arg(
        short,
        long = "table",
        value_name = "TABLE",
        help_heading = "Which of their tables to show"
    )]
    tables: Vec<TableName>,
    /// Show only this hook: PREROUTING, INPUT, FORWARD, OUTPUT or POSTROUTING (may be given several times)
    #[arg(
        long = "hook",
        value_name = "HOOK",
        help_heading = "Which of their tables to show"
    )]
    hooks: Vec<HookName>,
}

/// Why the flags make no filter.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FilterError {
    /// Prefixes or flags of both families.
    #[error("{0} and {1} are of different address families: no packet has both")]
    Families(String, String),
    /// An expression and flags, or parts of the expression, of both families.
    #[error("{0} asks for IPv4 and IPv6 at once: no packet is both")]
    NoFamily(String),
    /// Too many tables.
    #[error("more than {TABLES_MAX} tables")]
    Tables,
    /// No such network namespace here.
    #[error("failed to find: --netns {0}: {1}")]
    Netns(String, String),
    /// A network namespace that only its machine can find.
    #[error("failed to find: --netns {0}: a recording knows network namespaces by their inode numbers")]
    NotRecorded(String),
}

/// What the filter is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// Packets of this machine.
    Machine,
    /// What was recorded, perhaps elsewhere.
    Recording,
}

impl FilterArgs {
    /// The families that the filter leaves.
    ///
    /// # Errors
    /// Flags that no packet can satisfy together.
    pub fn families(&self) -> Result<Families, FilterError> {
        let said = [
            self.ipv4.then(|| ("--ipv4".to_owned(), Family::Ipv4)),
            self.ipv6.then(|| ("--ipv6".to_owned(), Family::Ipv6)),
            self.src
                .as_ref()
                .map(|network| (format!("--src {network}"), network.family())),
            self.dst
                .as_ref()
                .map(|network| (format!("--dst {network}"), network.family())),
        ];
        let mut said = said.into_iter().flatten();
        let Some((first, family)) = said.next() else {
            return Ok(Families::ALL);
        };
        if let Some((other, _)) = said.find(|(_, other)| *other != family) {
            return Err(FilterError::Families(first, other));
        }
        Ok(Families {
            ipv4: family == Family::Ipv4,
            ipv6: family == Family::Ipv6,
        })
    }

    /// The flags and an expression, whose words are joined with spaces; no words are no expression. Both have to
    /// hold.
    ///
    /// # Errors
    /// An expression that is none, or with which no packet can satisfy the flags; flags that make no filter.
    pub fn wanted(&self, words: &[String], subject: Subject) -> Result<Wanted, Failure> {
        let families = self.families().map_err(Failure::usage)?;
        let filter = self.filter(subject).map_err(|error| match error {
            FilterError::NotRecorded(_) => Failure::usage(error)
                .or_hint("`--netns net:[4026531840]`; `--format json` tells each packet's `netns`"),
            error => Failure::usage(error),
        })?;
        let connections = !self.no_connections;
        let text = words.join(" ");
        let mut wanted = Wanted {
            families,
            filter,
            rest: None,
            connections,
        };
        if !text.trim().is_empty() {
            let expression =
                expression::parse(&text).map_err(|error| match error.hint().map(str::to_owned) {
                    Some(hint) => Failure::hinted(Exit::Usage, error, hint),
                    None => Failure::usage(error),
                })?;
            wanted = Wanted {
                connections,
                ..expression::lower(expression, families, filter)
            };
        }
        if !wanted.families.ipv4 && !wanted.families.ipv6 {
            return Err(Failure::usage(FilterError::NoFamily(text)));
        }
        match Contradiction::of(&wanted) {
            None => Ok(wanted),
            Some(contradiction) => {
                let hint = contradiction.hint();
                let error = anyhow!("failed to read the filter: {contradiction}");
                Err(Failure::hinted(Exit::Usage, error, hint))
            }
        }
    }

    /// The filter for the programs.
    ///
    /// # Errors
    /// Flags that no packet can satisfy together, more of one kind than the programs can take, or a network namespace
    /// that is not there.
    pub fn filter(&self, subject: Subject) -> Result<Filter, FilterError> {
        self.families()?;
        let mut filter = Filter::EVERYTHING;
        if let Some(Protocol(protocol)) = self.proto {
            filter.criteria |= criteria::PROTOCOL;
            filter.protocol = protocol;
        }
        if let Some(network) = &self.src {
            filter.criteria |= criteria::SOURCE;
            filter.source = network.prefix();
        }
        if let Some(network) = &self.dst {
            filter.criteria |= criteria::DESTINATION;
            filter.destination = network.prefix();
        }
        if let Some(ports) = self.sport {
            filter.criteria |= criteria::SOURCE_PORT;
            (filter.source_port_min, filter.source_port_max) = (ports.min, ports.max);
        }
        if let Some(ports) = self.dport {
            filter.criteria |= criteria::DESTINATION_PORT;
            (filter.destination_port_min, filter.destination_port_max) = (ports.min, ports.max);
        }
        if let Some(ports) = self.port {
            filter.criteria |= criteria::EITHER_PORT;
            (filter.either_port_min, filter.either_port_max) = (ports.min, ports.max);
        }
        if let Some(device) = &self.in_interface {
            filter.criteria |= criteria::IN_DEVICE;
            (filter.in_device, filter.in_device_mask) = (device.name, device.mask);
        }
        if let Some(device) = &self.out_interface {
            filter.criteria |= criteria::OUT_DEVICE;
            (filter.out_device, filter.out_device_mask) = (device.name, device.mask);
        }
        if let Some(mark) = self.mark {
            filter.criteria |= criteria::MARK;
            (filter.mark, filter.mark_mask) = (mark.value, mark.mask);
        }
        if let Some(netns) = &self.netns {
            filter.criteria |= criteria::NETNS;
            filter.netns = netns.inode(subject)?;
        }
        if !self.hooks.is_empty() {
            filter.hooks = self
                .hooks
                .iter()
                .fold(0, |bits, HookName(hook)| bits | 1 << hook.number());
        }
        debug_assert!(filter.hooks & !HOOKS_ALL == 0);
        if self.tables.len() > TABLES_MAX {
            return Err(FilterError::Tables);
        }
        for (slot, TableName(name)) in filter.tables.iter_mut().zip(&self.tables) {
            *slot = *name;
            filter.tables_len += 1;
        }
        Ok(filter)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Protocol(u8);

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(match text.to_ascii_lowercase().as_str() {
            "icmp" => 1,
            "tcp" => protocols::TCP,
            "udp" => protocols::UDP,
            "dccp" => protocols::DCCP,
            "gre" => 47,
            "esp" => 50,
            "ah" => protocols::AUTHENTICATION,
            "icmpv6" | "icmp6" | "ipv6-icmp" => 58,
            "sctp" => protocols::SCTP,
            "udplite" => protocols::UDP_LITE,
            number => number
                .parse()
                .map_err(|_| "not a protocol name or a number up to 255".to_owned())?,
        }))
    }
}

/// An address prefix; the address has no bits beyond its length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    len: u8,
}

impl Network {
    fn family(&self) -> Family {
        if self.address.is_ipv4() {
            Family::Ipv4
        } else {
            Family::Ipv6
        }
    }

    fn prefix(&self) -> Prefix {
        let ones = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
        let mask = ones.to_be_bytes();
        let address = match self.address {
            IpAddr::V4(address) => {
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&address.octets());
                bytes
            }
            IpAddr::V6(address) => address.octets(),
        };
        Prefix { address, mask }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, len) = text
            .split_once('/')
            .map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address
            .parse()
            .map_err(|_| "not an address or prefix (10.0.0.0/8, fd00::/8)".to_owned())?;
        let len_max = if address.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => len_max,
            Some(len) => len
                .parse()
                .ok()
                .filter(|len| *len <= len_max)
                .ok_or_else(|| format!("the prefix length is not a number from 0 to {len_max}"))?,
        };
        let network = Self { address, len };
        let Prefix { address, mask } = network.prefix();
        let within: Vec<u8> = address.iter().zip(mask).map(|(byte, mask)| byte & mask).collect();
        if within != address {
            return Err(format!("the address has bits beyond the prefix length {len}"));
        }
        Ok(network)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ports {
    min: u16,
    max: u16,
}

impl FromStr for Ports {
    type Err = String;

    /// `80`, `30000-32767`, also with the colon of iptables.
    fn from_str(text: &str) -> Result<Self, String> {
        let port = |text: &str| {
            text.parse()
                .map_err(|_| "not a port from 0 to 65535, or a range 1000-2000".to_owned())
        };
        let (min, max) = text.split_once(['-', ':']).unwrap_or((text, text));
        let (min, max) = (port(min)?, port(max)?);
        if min > max {
            return Err(format!("the range is empty: {min} is greater than {max}"));
        }
        Ok(Self { min, max })
    }
}

/// A device name as iptables compares it: over the name and its NUL, or with a final `+` over what precedes it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DeviceName {
    name: [u8; IFNAME_LEN],
    mask: [u8; IFNAME_LEN],
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (stem, compared_len) = match text.strip_suffix('+') {
            Some(stem) => (stem, stem.len()),
            None => (text, text.len() + 1),
        };
        if text.is_empty() || stem.len() >= IFNAME_LEN {
            return Err(format!("a device name has 1 to {} bytes", IFNAME_LEN - 1));
        }
        let mut device = Self {
            name: [0; IFNAME_LEN],
            mask: [0; IFNAME_LEN],
        };
        device.name[..stem.len()].copy_from_slice(stem.as_bytes());
        device.mask[..compared_len].fill(0xff);
        Ok(device)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    value: u32,
    mask: u32,
}

impl FromStr for Mark {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let parsed = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => text.parse(),
            };
            parsed.map_err(|_| "not a mark (0x4000, 0x4000/0xc000, 7)".to_owned())
        };
        let (value, mask) = match text.split_once('/') {
            Some((value, mask)) => (number(value)?, number(mask)?),
            None => (number(text)?, u32::MAX),
        };
        if value & !mask != 0 {
            return Err(format!(
                "no packet can have it: {value:#x} has bits outside of the mask {mask:#x}"
            ));
        }
        Ok(Self { value, mask })
    }
}

/// A network namespace as it was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NetnsName {
    /// The inode number of its nsfs file.
    Inode(u32),
    /// Where it is on this machine, and what was typed for it.
    Path(PathBuf, String),
}

impl NetnsName {
    fn inode(&self, subject: Subject) -> Result<u32, FilterError> {
        match (self, subject) {
            (Self::Inode(inode), _) => Ok(*inode),
            (Self::Path(path, _), Subject::Machine) => {
                netns_inode(path).map_err(|why| FilterError::Netns(path.display().to_string(), why))
            }
            (Self::Path(_, typed), Subject::Recording) => Err(FilterError::NotRecorded(typed.clone())),
        }
    }
}

impl FromStr for NetnsName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(inode) = text.strip_prefix("net:[").and_then(|text| text.strip_suffix(']')) {
            return inode
                .parse()
                .map(Self::Inode)
                .map_err(|_| "not an inode number in net:[…]".to_owned());
        }
        let path = if text.contains('/') {
            PathBuf::from(text)
        } else if text.bytes().all(|byte| byte.is_ascii_digit()) {
            Path::new("/proc").join(text).join("ns/net")
        } else {
            Path::new("/run/netns").join(text)
        };
        Ok(Self::Path(path, text.to_owned()))
    }
}

/// The inode number of the network namespace that a path stands for.
///
/// # Errors
/// A sentence: the path is not there, or is no network namespace.
pub(super) fn netns_inode(path: &Path) -> Result<u32, String> {
    match Netns::from_path(path) {
        Ok(netns) => Ok(netns.inode()),
        Err(NetnsError::Open { cause, .. }) => Err(cause.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TableName([u8; TABLE_NAME_LEN]);

impl FromStr for TableName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() >= TABLE_NAME_LEN {
            return Err(format!("a table name has 1 to {} bytes", TABLE_NAME_LEN - 1));
        }
        let mut name = [0; TABLE_NAME_LEN];
        name[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self(name))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct HookName(Hook);

impl FromStr for HookName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Hook::NAMED
            .into_iter()
            .find(|hook| hook.to_string().eq_ignore_ascii_case(text))
            .map(Self)
            .ok_or_else(|| "not one of PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING".to_owned())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use clap::Parser;

    use super::*;

    /// A command line of filters alone.
    #[derive(Parser)]
    pub(in super::super) struct Cli {
        #[command(flatten)]
        pub(in super::super) filter: FilterArgs,
    }

    fn filter(flags: &[&str]) -> Result<Filter, String> {
        let cli = Cli::try_parse_from(["tracer"].iter().chain(flags)).map_err(|error| error.to_string())?;
        cli.filter
            .filter(Subject::Machine)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn without_flags_everything_is_followed() {
        assert_eq!(filter(&[]), Ok(Filter::EVERYTHING));
    }

    #[test]
    fn each_flag_sets_its_criterion() {
        for (flags, criterion) in [
            (["--proto", "tcp"], criteria::PROTOCOL),
            (["--src", "10.0.0.0/8"], criteria::SOURCE),
            (["--dst", "fd00::1"], criteria::DESTINATION),
            (["--sport", "1"], criteria::SOURCE_PORT),
            (["--dport", "30000-32767"], criteria::DESTINATION_PORT),
            (["--port", "80:90"], criteria::EITHER_PORT),
            (["--in-interface", "eth+"], criteria::IN_DEVICE),
            (["--out-interface", "lo"], criteria::OUT_DEVICE),
            (["--mark", "0x4000/0x4000"], criteria::MARK),
            (["--netns", "net:[4026531840]"], criteria::NETNS),
        ] {
            assert_eq!(
                filter(&flags).map(|filter| filter.criteria),
                Ok(criterion),
                "{flags:?}"
            );
        }
    }

    #[test]
    fn prefixes_are_masks_in_network_order() {
        let prefix = filter(&["--src", "10.244.0.0/16"]).unwrap().source;
        assert_eq!(
            (&prefix.address[..4], &prefix.mask[..4]),
            (&[10, 244, 0, 0][..], &[255, 255, 0, 0][..])
        );
        let prefix = filter(&["--dst", "::/0"]).unwrap().destination;
        assert_eq!(prefix.mask, [0; 16]);
        let prefix = filter(&["--dst", "fd00::1"]).unwrap().destination;
        assert_eq!(prefix.mask, [255; 16]);
    }

    #[test]
    fn a_whole_ipv4_address_leaves_no_mask_beyond_it() {
        let prefix = filter(&["--src", "10.0.0.1"]).unwrap().source;
        assert_eq!(
            prefix.mask,
            [255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn device_names_compare_their_nul_and_patterns_do_not() {
        let filter = filter(&["--in-interface", "eth0", "--out-interface", "cali+"]).unwrap();
        assert_eq!(
            filter.in_device_mask.iter().filter(|byte| **byte == 0xff).count(),
            5
        );
        assert_eq!(
            filter
                .out_device_mask
                .iter()
                .filter(|byte| **byte == 0xff)
                .count(),
            4
        );
    }

    #[test]
    fn hooks_and_tables_only_choose_what_is_shown() {
        let filter = filter(&["--hook", "input", "--hook", "POSTROUTING", "-t", "nat"]).unwrap();
        assert_eq!(
            (filter.criteria, filter.hooks, filter.tables_len),
            (0, 0b1_0010, 1)
        );
        assert_eq!(&filter.tables[0][..4], b"nat\0");
    }

    #[test]
    fn wrong_values_say_what_is_wrong() {
        for (flags, said) in [
            (&["--proto", "tpc"][..], "not a protocol"),
            (&["--src", "10.0.0.1/8"], "bits beyond"),
            (&["--src", "10.0.0.0/33"], "0 to 32"),
            (&["--src", "host"], "not an address"),
            (&["--port", "70000"], "not a port"),
            (&["--port", "90-80"], "empty"),
            (
                &["--in-interface", "a-name-too-long-for-a-device"],
                "1 to 15 bytes",
            ),
            (&["--in-interface", ""], "1 to 15 bytes"),
            (&["--mark", "0x5/0x4"], "no packet can have it"),
            (&["--mark", "green"], "not a mark"),
            (&["--netns", "/proc/self/status"], "not a network namespace"),
            (&["--netns", "no-such-namespace"], "No such file"),
            (&["--hook", "NOWHERE"], "PREROUTING"),
            (&["--table", ""], "1 to 31 bytes"),
            (&["-4", "-6"], "cannot be used with"),
            (&["-4", "--src", "::1"], "different address families"),
            (
                &["--src", "10.0.0.1", "--dst", "::1"],
                "different address families",
            ),
        ] {
            let error = filter(flags).unwrap_err();
            assert!(error.contains(said), "{flags:?}: {error}");
        }
    }

    #[test]
    fn of_a_recording_only_the_number_of_a_namespace_is_taken() {
        let filter = |netns| {
            let cli = Cli::try_parse_from(["tracer", "--netns", netns]).unwrap();
            cli.filter.filter(Subject::Recording)
        };
        assert_eq!(filter("net:[7]").unwrap().netns, 7);
        for netns in ["1", "pod", "/proc/self/ns/net"] {
            assert_eq!(filter(netns), Err(FilterError::NotRecorded(netns.to_owned())));
        }
    }

    #[test]
    fn a_port_of_a_protocol_without_ports_is_refused() {
        let wanted = |flags: &[&str], expression: &str| {
            let cli = Cli::try_parse_from(["tracer"].iter().chain(flags)).unwrap();
            let wanted = cli.filter.wanted(&[expression.to_owned()], Subject::Machine);
            wanted.map_err(|failure| failure.to_string())
        };
        for (flags, expression) in [
            (&["-p", "icmp", "--port", "80"][..], ""),
            (&["-p", "icmp"][..], "port 80 or port 443"),
            (&["--dport", "80"][..], "icmp"),
        ] {
            let said = wanted(flags, expression).unwrap_err();
            assert!(
                said.contains("no packet can match: icmp has no ports\nhint: "),
                "{said}"
            );
        }
        wanted(&["-p", "udp", "--port", "80"], "").unwrap();
    }

    #[test]
    fn the_namespace_of_a_process_is_found() {
        let own = netns_inode(Path::new("/proc/self/ns/net")).unwrap();
        let pid = std::process::id().to_string();
        assert_eq!(filter(&["--netns", &pid]).unwrap().netns, own);
    }
}
