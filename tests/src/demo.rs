//! The cases of the articles, to be shown: each a node, traffic, and the packets to look at.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::command;
use crate::neighbours::Family;
use crate::node;
use crate::node::calico::calico;
use crate::node::docker_calico::{
    DockerCalico, MASTER, SLAVE, WEB0, WEB1, WEB2, WEB3, docker_calico, docker_calico_apart, ping,
    ping_in_vain,
};
use crate::node::outside::outside;
use crate::traffic::Place;

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its name: that of its page in `docs/cases` too.
    pub name: &'static str,
    /// What is set up.
    pub about: &'static str,
    /// What tracer is to look at.
    pub filter: &'static str,
    /// The network namespace of a second node, where each of two nodes is traced for itself.
    pub other_node: Option<&'static str>,
    /// Sets it up in the current network namespace.
    pub set_up: fn() -> Result<Traffic>,
}

/// Makes the traffic. The node is there as long as this is, and with it the names of its namespaces.
pub type Traffic = Box<dyn Fn() -> Result<()>>;

/// Where a service of the first case is reached from within the cluster.
const CLUSTER_IP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 106, 13, 14)), 80);

/// All cases.
pub const CASES: [Case; 11] = [
    Case {
        name: "nodeport-local",
        about: "a Kubernetes node (kube-proxy, flannel, docker) that asks for a page at a NodePort of its own",
        filter: "--proto tcp",
        other_node: None,
        set_up: || {
            let node = node::nodeport()?;
            Ok(Box::new(move || node.get_page()))
        },
    },
    Case {
        name: "nodeport-from-outside",
        about: "another machine that asks for a page at a NodePort, with the pod on this node's bridge",
        filter: "--proto tcp",
        other_node: None,
        set_up: || {
            let node = outside()?;
            Ok(Box::new(move || node.get_page()))
        },
    },
    Case {
        name: "clusterip",
        about: "a Kubernetes node that asks for a page at the address that a service has in the cluster",
        filter: "--proto tcp",
        other_node: None,
        set_up: || {
            let node = node::nodeport()?;
            command::run("ip route add default dev eth0")?;
            Ok(Box::new(move || node.get_page_at(CLUSTER_IP)))
        },
    },
    Case {
        name: "calico-pod-to-pod",
        about: "two pods of one node with calico, of which one pings the other",
        filter: "--proto icmp",
        other_node: None,
        set_up: || {
            let node = calico(Family::V4)?;
            Ok(Box::new(move || node.ping()))
        },
    },
    docker("docker-calico-1-host-to-container", || {
        docker_way(|_| ping(Place::Here, WEB0))
    }),
    docker("docker-calico-2-container-to-host", || {
        docker_way(|nodes| ping(Place::There(&nodes.web1), MASTER))
    }),
    docker("docker-calico-3-container-to-other-node", || {
        docker_way(|nodes| ping(Place::There(&nodes.web1), SLAVE))
    }),
    docker("docker-calico-4-other-node-to-container-dropped", || {
        docker_way(|nodes| ping_in_vain(&nodes.slave, WEB1))
    }),
    docker("docker-calico-5-container-to-container", || {
        docker_way(|nodes| ping(Place::There(&nodes.web1), WEB2))
    }),
    docker("docker-calico-6-container-to-container-of-other-node", || {
        docker_way(|nodes| ping(Place::There(&nodes.web1), WEB3))
    }),
    Case {
        name: "two-nodes",
        about: "two nodes with docker and calico, each traced for itself, of which a pod pings one of the other node",
        filter: "--proto icmp",
        other_node: Some("slave1"),
        set_up: || {
            let both = docker_calico_apart()?;
            Ok(Box::new(move || {
                // The whole of it: a closure would keep no more than it uses.
                let (nodes, _wire) = &both;
                ping(Place::There(&nodes.web1), WEB3)
            }))
        },
    },
];

impl Case {
    /// What `tracer trace` is to be told, and the recordings to be shown afterwards, where there are two nodes: each is
    /// recorded for itself.
    #[must_use]
    pub fn recordings(&self, directory: &Path) -> Option<[(String, PathBuf); 2]> {
        let recording = |netns: &str, name: &str| {
            let file = directory.join(name);
            let line = format!("{} --netns {netns} --write {}", self.filter, file.display());
            (line, file)
        };
        let other = self.other_node?;
        Some([recording("/proc/self/ns/net", "master"), recording(other, other)])
    }
}

/// One of the six ways of docker and calico.
const fn docker(name: &'static str, set_up: fn() -> Result<Traffic>) -> Case {
    Case {
        name,
        about: "two nodes with docker and calico, of which one pod or node pings another",
        filter: "--proto icmp",
        other_node: None,
        set_up,
    }
}

fn docker_way(traffic: fn(&DockerCalico) -> Result<()>) -> Result<Traffic> {
    let nodes = docker_calico()?;
    Ok(Box::new(move || traffic(&nodes)))
}

/// The case of this name.
///
/// # Errors
///
/// When there is none; the error lists those that there are.
pub fn case(name: &str) -> Result<Case> {
    CASES.into_iter().find(|case| case.name == name).with_context(|| {
        let names: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        format!("failed to find case: {name}\nhint: one of {}", names.join(", "))
    })
}

/// The packets of a tree that a page shows: the first of each direction, by their numbers.
const SHOWN: [&str; 2] = ["#1 ", "#2 "];

/// What a page shows of a tree, with names for what is another each time: times and how long something took,
/// namespaces, the client's port.
#[must_use]
pub fn page(tree: &str) -> String {
    let mut packets: Vec<String> = Vec::new();
    for line in tree.lines() {
        if line.starts_with('#') {
            packets.push(String::new());
        }
        if let Some(packet) = packets.last_mut() {
            packet.push_str(&without_accidents(line));
            packet.push('\n');
        }
    }
    let shown = |start: &&str| packets.iter().find(|packet| packet.starts_with(*start));
    SHOWN.iter().filter_map(shown).cloned().collect()
}

/// What a page shows of `tracer drops`: the lines without their times.
#[must_use]
pub fn page_of_drops(lines: &str) -> String {
    let rest = |line: &str| line.split_once(' ').map(|(_, rest)| format!("TIME {rest}\n"));
    lines.lines().filter_map(rest).collect()
}

/// What a page shows of `--format diagram`: the drawing of the first packet.
#[must_use]
pub fn page_of_diagram(drawings: &str) -> String {
    let mut packets = 0;
    let first = drawings.lines().take_while(|line| {
        packets += u32::from(line.starts_with('#'));
        packets < 2
    });
    let lines: Vec<String> = first.map(without_numbers).collect();
    format!("{}\n", lines.join("\n").trim_end())
}

fn without_accidents(line: &str) -> String {
    /// `11:49:28.577233`
    const TIME_LEN: usize = 15;

    let table = line
        .strip_prefix("  ")
        .filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let mut text = match table {
        Some(rest) => format!("  TIME{}", rest.get(TIME_LEN..).unwrap_or_default()),
        None => line.to_owned(),
    };
    if (table.is_some() || line.starts_with("  = "))
        && let Some((rest, _)) = text.rsplit_once(' ')
    {
        // Newer kernels ask in another function whether anybody waits for a reply.
        text = format!("{rest} TOOK").replace(" in ping_rcv ", " in icmp_rcv ");
    }
    without_numbers(&text)
}

/// Names for clients' ports and for namespaces.
fn without_numbers(text: &str) -> String {
    /// Where ports of clients begin: `net.ipv4.ip_local_port_range`.
    const CLIENTS: u32 = 32_768;

    let mut named = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[at..].bytes().take_while(u8::is_ascii_digit).count();
        let number = &rest[at..at + digits];
        named.push_str(&rest[..at]);
        let is_port = named.ends_with(':') && number.parse().is_ok_and(|port: u32| port >= CLIENTS);
        named.push_str(match () {
            () if is_port => "PORT",
            () if named.ends_with("netns=") => "OTHER",
            () => number,
        });
        rest = &rest[at + digits..];
    }
    named.push_str(rest);
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_no_accidents() {
        let tree = "#1 TCP 10.0.0.1:56910 > 10.0.0.1:32275 SYN len=60\n  15:42:47.047079 raw:OUTPUT ACCEPT out=lo \
            netns=4026532173 2.23ms\n    OUTPUT:policy:1  -P OUTPUT ACCEPT\n  = sent by eth0 after 1s\n#3 other\n";
        assert_eq!(
            page(tree),
            "#1 TCP 10.0.0.1:PORT > 10.0.0.1:32275 SYN len=60\n  TIME raw:OUTPUT ACCEPT out=lo netns=OTHER TOOK\n    \
             OUTPUT:policy:1  -P OUTPUT ACCEPT\n  = sent by eth0 after TOOK\n"
        );
    }
}
