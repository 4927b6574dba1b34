//! Nodes to send packets through, rebuilt from published cases.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Result, ensure};

use crate::command;
use crate::http::{self, Server};
use crate::netns::{self, Namespace};
use crate::ruleset;

/// The rules of the node, as `iptables-save` printed them.
const NODEPORT_RULES: &str = "nodeport-local.rules.v4";
/// Where the service is reached on the node.
const NODEPORT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 199, 34), 32275);
/// Where the pod behind the service listens.
const POD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 244, 3, 3), 8080);
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
}

/// Sets up the node in the current network namespace: devices, routes, pod, rules.
///
/// # Errors
///
/// When any of the tools does.
pub fn nodeport() -> Result<NodePort> {
    netns::dummy("eth0", "192.168.199.34/24")?;
    netns::dummy("cni0", "10.244.0.1/24")?;
    netns::dummy("docker0", "172.17.0.1/16")?;

    let pod = Namespace::new("pod")?;
    pod.veth("flannel.1", "eth0")?;
    command::run("ip address add 10.244.0.0/32 dev flannel.1")?;
    command::run("ip route add 10.244.3.0/24 dev flannel.1")?;
    pod.ip("address add 10.244.3.3/24 dev eth0")?;
    pod.ip("route add default dev eth0")?;

    command::run("sysctl -q -w net.ipv4.ip_forward=1")?;
    ruleset::restore_v4(&ruleset::fixture(NODEPORT_RULES)?)?;
    let server = Server::start(&pod, SocketAddr::V4(POD), PAGE)?;
    Ok(NodePort { _server: server, pod })
}

impl NodePort {
    /// Where the service is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddrV4 {
        NODEPORT
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
        let page = http::get(SocketAddr::V4(NODEPORT))?;
        ensure!(
            page == PAGE,
            "failed to get page: {NODEPORT}: not the pod's: {page}"
        );
        Ok(())
    }
}
