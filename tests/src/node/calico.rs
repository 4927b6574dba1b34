//! Two pods on one node with calico and kube-proxy.

use std::net::Ipv4Addr;

use anyhow::Result;

use super::{calico_pod, forward, prefix, ready_at_once};
use crate::command;
use crate::neighbours::Family;
use crate::netns::Namespace;
use crate::ruleset;
use crate::traffic::Place;
use crate::twin;

const RULES: &str = "calico-pod-to-pod-same-node.rules.v4";
const BUSYBOX: Ipv4Addr = Ipv4Addr::new(10, 200, 77, 209);
const NGINX: Ipv4Addr = Ipv4Addr::new(10, 200, 77, 216);
/// Bytes of an echo request without headers.
const PING_LEN: u32 = 56;

/// The node is the current network namespace.
#[derive(Debug)]
pub struct Calico {
    busybox: Namespace,
    _nginx: Namespace,
    family: Family,
}

/// Sets it up, or its IPv6 twin.
///
/// # Errors
///
/// When any of the tools does.
pub fn calico(family: Family) -> Result<Calico> {
    ready_at_once()?;
    let (version, kind) = match family {
        Family::V4 => ("40", "inet"),
        Family::V6 => ("60", "inet6"),
    };
    for pools in ["masq", "all"] {
        let set = format!("cali{version}{pools}-ipam-pools");
        command::run(&format!("ipset -exist create {set} hash:net family {kind}"))?;
        let pool = prefix(family, Ipv4Addr::new(10, 200, 0, 0), 16);
        command::run(&format!("ipset -exist add {set} {pool}"))?;
    }
    family.restore(&twin::rules(family, &ruleset::fixture(RULES)?))?;
    let busybox = calico_pod("busybox", "cali84b7d149337", "32:bb:37:fe:19:df", family, BUSYBOX)?;
    let nginx = calico_pod("nginx", "cali5cb173fd42f", "32:bb:37:fe:19:e0", family, NGINX)?;
    forward()?;
    Ok(Calico {
        busybox,
        _nginx: nginx,
        family,
    })
}

impl Calico {
    /// One pod pings the other.
    ///
    /// # Errors
    ///
    /// When there is no reply.
    pub fn ping(&self) -> Result<()> {
        Place::There(&self.busybox).ping(twin::address(self.family, NGINX), PING_LEN)
    }
}
