//! A node between two neighbours, for packets that come in, go out and pass.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Result;

use crate::command::run;
use crate::netns::Namespace;

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// Both.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

impl Family {
    /// The loopback address.
    #[must_use]
    pub fn loopback(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// Host `host` in network `network`.
    #[must_use]
    pub fn address(self, network: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 77, network, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd77, 0, 0, network.into(), 0, 0, 0, host.into()).into(),
        }
    }

    /// `iptables-legacy` or `ip6tables-legacy`.
    #[must_use]
    pub fn tool(self) -> &'static str {
        match self {
            Self::V4 => "iptables-legacy",
            Self::V6 => "ip6tables-legacy",
        }
    }

    /// The flag of `tracer trace`.
    #[must_use]
    pub fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// Replaces the rules of the tables that the text names.
    ///
    /// # Errors
    ///
    /// When the tool refuses.
    pub fn restore(self, rules: &str) -> Result<()> {
        match self {
            Self::V4 => crate::ruleset::restore_v4(rules),
            Self::V6 => crate::ruleset::restore_v6(rules),
        }
    }
}

/// The node is the current network namespace; `left` and `right` are its neighbours, and its devices towards
/// them. Dropping it removes the neighbours.
#[derive(Debug)]
pub struct Neighbours {
    /// Hosts `10.77.1.2` and `fd77:0:0:1::2`.
    pub left: Namespace,
    /// Hosts `10.77.2.2` and `fd77:0:0:2::2`.
    pub right: Namespace,
}

/// Number of the network between the node and the left neighbour.
pub const LEFT: u8 = 1;
/// Number of the network between the node and the right neighbour.
pub const RIGHT: u8 = 2;
/// Number of the node in both.
pub const NODE: u8 = 1;
/// Number of the neighbour in both.
pub const NEIGHBOUR: u8 = 2;

impl Neighbours {
    /// Sets up the node in the current network namespace.
    ///
    /// # Errors
    ///
    /// When any of the tools refuses.
    pub fn new() -> Result<Self> {
        let neighbours = Self {
            left: Namespace::new("left")?,
            right: Namespace::new("right")?,
        };
        for (namespace, network) in [(&neighbours.left, LEFT), (&neighbours.right, RIGHT)] {
            let device = namespace.name();
            namespace.veth(device, "eth0")?;
            for (family, len, nodad) in [(Family::V4, 24, ""), (Family::V6, 64, " nodad")] {
                let (node, neighbour) = (family.address(network, NODE), family.address(network, NEIGHBOUR));
                run(&format!("ip address add {node}/{len} dev {device}{nodad}"))?;
                namespace.ip(&format!("address add {neighbour}/{len} dev eth0{nodad}"))?;
                let version = if family == Family::V4 { "-4" } else { "-6" };
                namespace.ip(&format!("{version} route add default via {node}"))?;
            }
        }
        run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
        Ok(neighbours)
    }

    /// The address of the left neighbour.
    #[must_use]
    pub fn left(family: Family) -> IpAddr {
        family.address(LEFT, NEIGHBOUR)
    }

    /// The address of the right neighbour.
    #[must_use]
    pub fn right(family: Family) -> IpAddr {
        family.address(RIGHT, NEIGHBOUR)
    }
}
