//! Where the packets go: a node between two peers, each in a network namespace of its own.
//!
//! ```text
//! left eth0 ---- left  node  right ---- eth0 right
//! 10.1.0.2       10.1.0.1    10.2.0.1   10.2.0.2
//! fd00:1::2      fd00:1::1   fd00:2::1  fd00:2::2
//! ```
//!
//! The node's device `right` may be a bridge with the link as its port; then bridged packets pass the tables too.
//!
//! Neighbours are known to each other from the start, so that no rule can keep them from meeting.

use std::fs;

use anyhow::{Context as _, Result};

use super::loops::{self, Endless, Watch};
use crate::command;
use crate::netns::Namespace;
use crate::trace_log;

/// The name of the node's namespace.
pub const NODE: &str = "oracle-node";

/// Link-layer addresses: the node's, the peer's.
pub const LEFT_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];
/// The same on the other side.
pub const RIGHT_MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 2, 1], [2, 0, 0, 0, 2, 2]];

/// The port of the node's bridge.
const PORT: &str = "port";

/// What the node's device `right` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// The end of the link itself.
    Link,
    /// A bridge with the link as its port.
    Bridge,
}

/// The three namespaces.
#[derive(Debug)]
pub struct Network {
    /// Goes before the namespaces.
    watch: Watch,
    /// In the middle, with the rules.
    pub node: Namespace,
    /// A peer.
    pub left: Namespace,
    /// The other one.
    pub right: Namespace,
}

/// Settings of the node. Its peers forward nothing: a copy that TEE sends them would come back, to be copied again.
const NODE_SETTINGS: [(&str, &str); 2] = [("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")];

/// Settings of every namespace, before it has devices. Reports of multicast listeners stay out of it: they loop back, and
/// where a rule copies what comes in and another makes its hop limit larger, the kernel never ends.
const SETTINGS: [(&str, &str); 8] = [
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/icmp_ratelimit", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
    ("ipv6/icmp/ratelimit", "0"),
    ("ipv6/conf/default/mldv1_unsolicited_report_interval", "100000000"),
    ("ipv6/conf/default/mldv2_unsolicited_report_interval", "100000000"),
];

impl Network {
    /// Builds it, with the kernel's loggers set in the node.
    ///
    /// # Errors
    ///
    /// When the tools or the kernel refuse.
    pub fn new(right: Right) -> Result<Self> {
        let bridged = right == Right::Bridge;
        if bridged {
            command::run("modprobe -a bridge br_netfilter")?;
        }
        let [node, left, right] = [NODE, "oracle-left", "oracle-right"].map(Namespace::new);
        let node = node?;
        let network = Self {
            watch: Watch::start(&node)?,
            node,
            left: left?,
            right: right?,
        };
        for (namespace, more) in [
            (&network.node, &NODE_SETTINGS[..]),
            (&network.left, &[]),
            (&network.right, &[]),
        ] {
            namespace.enter(|| {
                for (name, value) in SETTINGS.iter().chain(more) {
                    let path = format!("/proc/sys/net/{name}");
                    fs::write(&path, value).with_context(|| format!("failed to write: {path}"))?;
                }
                Ok(())
            })?;
        }
        let mut links = String::new();
        let right_link = if bridged { PORT } else { "right" };
        for (side, peer, [near, far]) in [
            ("left", network.left.name(), LEFT_MACS),
            (right_link, network.right.name(), RIGHT_MACS),
        ] {
            links += &format!(
                "link add {side} netns {NODE} address {} type veth peer name eth0 netns {peer} address {}\n",
                mac(near),
                mac(far)
            );
        }
        if bridged {
            links += &format!(
                "link add right netns {NODE} address {} type bridge mcast_snooping 0\n",
                mac(RIGHT_MACS[0])
            );
        }
        command::run_with("ip -batch -", &links)?;
        if bridged {
            let enslave = format!("link set {PORT} master right\nlink set {PORT} up\n");
            command::run_with(&format!("ip -n {NODE} -batch -"), &enslave)?;
        }
        batch(
            &network.node,
            &[("left", 1, 1, LEFT_MACS[1]), ("right", 2, 1, RIGHT_MACS[1])],
            "",
        )?;
        batch(
            &network.left,
            &[("eth0", 1, 2, LEFT_MACS[0])],
            "10.1.0.1 fd00:1::1",
        )?;
        batch(
            &network.right,
            &[("eth0", 2, 2, RIGHT_MACS[0])],
            "10.2.0.1 fd00:2::1",
        )?;
        network.node.enter(trace_log::set_loggers)?;
        Ok(network)
    }

    /// Sets the node's devices down: nothing is sent any more, whatever waits is dropped.
    pub(super) fn silence(&self) -> Result<()> {
        self.node.enter(|| {
            loops::cut();
            Ok(())
        })
    }

    /// An error once packets went round without end; then its devices are down.
    pub(super) fn check(&self) -> Result<(), Endless> {
        self.watch.check()
    }
}

/// Devices up, with addresses, and the neighbour behind each of them.
fn batch(namespace: &Namespace, devices: &[(&str, u8, u8, [u8; 6])], gateways: &str) -> Result<()> {
    let mut lines = String::new();
    for (device, net, host, neighbour) in devices {
        let (other, neighbour) = (3 - host, mac(*neighbour));
        lines += &format!(
            "address add 10.{net}.0.{host}/24 dev {device}\n\
             address add fd00:{net}::{host}/64 dev {device} nodad\n\
             link set {device} up\n\
             neighbour replace 10.{net}.0.{other} lladdr {neighbour} dev {device} nud permanent\n\
             neighbour replace fd00:{net}::{other} lladdr {neighbour} dev {device} nud permanent\n"
        );
    }
    for gateway in gateways.split_whitespace() {
        lines += &format!("route add default via {gateway}\n");
    }
    command::run_with(&format!("ip -n {} -batch -", namespace.name()), &lines).map(drop)
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
