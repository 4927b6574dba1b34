//! Nodes to send packets through, rebuilt from published cases.

pub mod calico;
pub mod docker_calico;
pub mod outside;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Result, ensure};

use crate::command;
use crate::http::{self, Server};
use crate::neighbours::Family;
use crate::netns::{self, Namespace};
use crate::ruleset;
use crate::twin;

/// The rules of the node, as `iptables-save` printed them.
const NODEPORT_RULES: &str = "nodeport-local.rules.v4";
/// Where the service is reached on the node.
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 199, 34);
const NODEPORT: u16 = 32275;
/// Where the pod behind the service listens.
const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 3, 3);
const POD_PORT: u16 = 8080;
const POD_MAC: &str = "32:bb:37:fe:19:df";
const FLANNEL_MAC: &str = "1a:20:6a:5c:e4:c1";
const PAGE: &str = "Hello from the pod\n";

/// A Kubernetes node (kube-proxy, flannel, docker) with a `NodePort` service whose only endpoint is a pod
/// on another node. The other node is left out: the pod is at the other end of `flannel.1`.
///
/// Dropping it removes the pod; devices and rules stay until their namespace goes.
#[derive(Debug)]
pub struct NodePort {
    // The order matters: the server ends before its namespace goes.
    _server: Server,
    pod: Namespace,
    family: Family,
}

/// Sets up the node in the current network namespace: devices, routes, pod, rules.
///
/// # Errors
///
/// When any of the tools does.
pub fn nodeport() -> Result<NodePort> {
    nodeport_of(Family::V4)
}

/// The same, or its IPv6 twin.
///
/// # Errors
///
/// As of [`nodeport`].
pub fn nodeport_of(family: Family) -> Result<NodePort> {
    nodeport_by(family, |rules| family.restore(rules))
}

/// The same with another tool that loads the rules.
///
/// # Errors
///
/// As of [`nodeport`].
pub fn nodeport_by(family: Family, restore: impl FnOnce(&str) -> Result<()>) -> Result<NodePort> {
    let at = |a, b, c, d, len| prefix(family, Ipv4Addr::new(a, b, c, d), len);
    let ip = family.ip();
    ready_at_once()?;
    for (device, address) in [
        ("eth0", prefix(family, NODE, 24)),
        ("cni0", at(10, 244, 0, 1, 24)),
        ("docker0", at(172, 17, 0, 1, 16)),
    ] {
        netns::dummy(device, &address)?;
    }
    let pod = Namespace::new("pod")?;
    pod.enter(ready_at_once)?;
    pod.veth("flannel.1", "eth0")?;
    command::run(&format!("ip address add {} dev flannel.1", at(10, 244, 0, 0, 32)))?;
    command::run(&format!("{ip} route add {} dev flannel.1", at(10, 244, 3, 0, 24)))?;
    pod.ip(&format!("address add {} dev eth0", prefix(family, POD, 24)))?;
    pod.ip(&format!("link set eth0 address {POD_MAC}"))?;
    command::run(&format!("ip link set flannel.1 address {FLANNEL_MAC}"))?;
    pod.run(&format!("{ip} route add default dev eth0"))?;
    // As flannel does: nobody has to ask for the other.
    command::run(&format!(
        "ip neigh add {} lladdr {POD_MAC} dev flannel.1 nud permanent",
        twin::address(family, POD)
    ))?;
    pod.run(&format!(
        "ip neigh add {} lladdr {FLANNEL_MAC} dev eth0 nud permanent",
        twin::address(family, Ipv4Addr::new(10, 244, 0, 0))
    ))?;

    forward()?;
    restore(&twin::rules(family, &ruleset::fixture(NODEPORT_RULES)?))?;
    let listener = SocketAddr::new(twin::address(family, POD), POD_PORT);
    let server = Server::start(&pod, listener, PAGE)?;
    Ok(NodePort {
        _server: server,
        pod,
        family,
    })
}

impl NodePort {
    /// Where the service is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(twin::address(self.family, NODE), NODEPORT)
    }

    /// Gets the page at another address of the service.
    ///
    /// # Errors
    ///
    /// When another page comes, or none.
    pub fn get_page_at(&self, address: SocketAddr) -> Result<()> {
        get_page(address)
    }

    /// The namespace of the pod.
    #[must_use]
    pub fn pod(&self) -> &Namespace {
        &self.pod
    }

    /// Gets the page through the service, from the node itself, and checks that it is the pod's.
    ///
    /// # Errors
    ///
    /// When another page comes, or none.
    pub fn get_page(&self) -> Result<()> {
        get_page(self.address())
    }

    /// Takes the pod's way back to the node away: it does not answer any more.
    ///
    /// # Errors
    ///
    /// When `ip` does.
    pub fn silence(&self) -> Result<()> {
        let ip = self.family.ip();
        self.pod.run(&format!("{ip} route del default")).map(drop)
    }

    /// Gives it back.
    ///
    /// # Errors
    ///
    /// When `ip` does.
    pub fn wake(&self) -> Result<()> {
        let ip = self.family.ip();
        self.pod
            .run(&format!("{ip} route replace default dev eth0"))
            .map(drop)
    }
}

fn get_page(address: SocketAddr) -> Result<()> {
    let page = http::get(address)?;
    ensure!(
        page == PAGE,
        "failed to get page: {address}: not the pod's: {page}"
    );
    Ok(())
}

/// `10.0.0.1/8`, or its twin.
fn prefix(family: Family, address: Ipv4Addr, len: u8) -> String {
    format!(
        "{}/{}",
        twin::address(family, address),
        twin::prefix_len(family, len)
    )
}

/// Makes IPv6 addresses of devices to come usable at once, without asking around whether others have them.
fn ready_at_once() -> Result<()> {
    command::run("sysctl -q -w net.ipv6.conf.default.dad_transmits=0 net.ipv6.conf.default.accept_dad=0")
        .map(drop)
}

fn forward() -> Result<()> {
    command::run("sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1").map(drop)
}

/// Adds a route in the current namespace, or in another one.
fn add_route(namespace: Option<&Namespace>, family: Family, route: &str) -> Result<()> {
    let line = format!("{} route add {route}", family.ip());
    match namespace {
        None => command::run(&line),
        Some(namespace) => namespace.run(&line),
    }
    .map(drop)
}

/// The hardware address that calico gives to its end of the cable to a pod.
const CALICO_MAC: &str = "ee:ee:ee:ee:ee:ee";

/// A pod as calico connects it: a cable, one address, and a gateway that does not exist; whoever is at the other
/// end answers for it. The current namespace is the node.
///
/// Both ends know each other's hardware address from the start, so that nobody has to ask.
fn calico_pod(name: &str, device: &str, mac: &str, family: Family, address: Ipv4Addr) -> Result<Namespace> {
    let gateway = match family {
        Family::V4 => "169.254.1.1",
        Family::V6 => "fe80::ecee:eeff:feee:eeee",
    };
    let (host, ip) = (twin::address(family, address), family.ip());
    let pod = Namespace::new(name)?;
    pod.enter(ready_at_once)?;
    pod.veth(device, "eth0")?;
    command::run(&format!("ip link set {device} address {CALICO_MAC}"))?;
    pod.ip(&format!("link set eth0 address {mac}"))?;
    pod.ip(&format!("address add {} dev eth0", prefix(family, address, 32)))?;
    pod.run(&format!(
        "ip neigh add {gateway} lladdr {CALICO_MAC} dev eth0 nud permanent"
    ))?;
    if family == Family::V4 {
        pod.ip(&format!("route add {gateway} dev eth0 scope link"))?;
    }
    pod.run(&format!("{ip} route add default via {gateway} dev eth0"))?;
    add_route(
        None,
        family,
        &format!("{} dev {device}", prefix(family, address, 32)),
    )?;
    command::run(&format!(
        "ip neigh add {host} lladdr {mac} dev {device} nud permanent"
    ))?;
    Ok(pod)
}
