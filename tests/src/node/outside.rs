//! A request from another machine to a `NodePort` of a node whose pods are on its bridge.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::{PAGE, add_route, forward, get_page};
use crate::command;
use crate::http::Server;
use crate::neighbours::Family;
use crate::netns::{self, Namespace};
use crate::ruleset;

const RULES: &str = "nodeport-from-outside.rules.v4";
const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 199, 119);
const NODEPORT: u16 = 32741;
const POD: Ipv4Addr = Ipv4Addr::new(192, 168, 3, 4);

/// The node is the current network namespace. The pod's cable takes the place of the bridge.
#[derive(Debug)]
pub struct Outside {
    _server: Server,
    _pod: Namespace,
    client: Namespace,
}

/// Sets it up.
///
/// # Errors
///
/// When any of the tools does.
pub fn outside() -> Result<Outside> {
    netns::dummy("docker0", "172.17.0.1/16")?;
    let client = Namespace::new("client")?;
    client.veth("enp0s3", "eth0")?;
    command::run(&format!("ip address add {NODE}/24 dev enp0s3"))?;
    client.ip("address add 192.168.199.132/24 dev eth0")?;
    let pod = Namespace::new("pod")?;
    pod.veth("cni0", "eth0")?;
    command::run("ip address add 192.168.3.1/24 dev cni0")?;
    pod.ip(&format!("address add {POD}/24 dev eth0"))?;
    add_route(Some(&pod), Family::V4, "default via 192.168.3.1")?;
    forward()?;
    ruleset::restore_v4(&ruleset::fixture(RULES)?)?;
    let server = Server::start(&pod, SocketAddr::new(POD.into(), 80), PAGE)?;
    Ok(Outside {
        _server: server,
        _pod: pod,
        client,
    })
}

impl Outside {
    /// Gets the page from the other machine.
    ///
    /// # Errors
    ///
    /// When another page comes, or none.
    pub fn get_page(&self) -> Result<()> {
        self.client
            .enter(|| get_page(SocketAddr::new(NODE.into(), NODEPORT)))
    }
}
