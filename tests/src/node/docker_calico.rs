//! Two nodes with docker and calico: pods `web1`, `web2` and `web0` on the first, `web3` on the second.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

use super::{add_route, calico_pod, forward};
use crate::command;
use crate::neighbours::Family;
use crate::netns::{Namespace, Wire};
use crate::ruleset;
use crate::traffic::Place;

const MASTER_RULES: &str = "docker-calico.master.rules.v4";
const SLAVE_RULES: &str = "docker-calico.slave1.rules.v4";
const PING_LEN: u32 = 56;

/// The first node.
pub const MASTER: Ipv4Addr = Ipv4Addr::new(172, 16, 91, 225);
/// The second node.
pub const SLAVE: Ipv4Addr = Ipv4Addr::new(172, 16, 91, 226);
/// A pod of an earlier day on the first node.
pub const WEB0: Ipv4Addr = Ipv4Addr::new(172, 20, 219, 80);
/// A pod on the first node.
pub const WEB1: Ipv4Addr = Ipv4Addr::new(172, 20, 219, 81);
/// Another one.
pub const WEB2: Ipv4Addr = Ipv4Addr::new(172, 20, 219, 84);
/// A pod on the second node.
pub const WEB3: Ipv4Addr = Ipv4Addr::new(172, 20, 42, 129);

/// The first node is the current network namespace.
#[derive(Debug)]
pub struct DockerCalico {
    /// The pod that sends.
    pub web1: Namespace,
    _pods: Vec<Namespace>,
    /// The second node.
    pub slave: Namespace,
}

/// Sets both up.
///
/// # Errors
///
/// When any of the tools does.
pub fn docker_calico() -> Result<DockerCalico> {
    let slave = Namespace::new("slave1")?;
    slave.veth("ens33", "ens33")?;
    set_up(slave)
}

/// Sets both up with a wire between them: what comes out of it is another `sk_buff`, as on two machines.
///
/// # Errors
///
/// When any of the tools does.
pub fn docker_calico_apart() -> Result<(DockerCalico, Wire)> {
    let slave = Namespace::new("slave1")?;
    let wire = Wire::new(&slave, "ens33")?;
    Ok((set_up(slave)?, wire))
}

fn set_up(slave: Namespace) -> Result<DockerCalico> {
    command::run(&format!("ip address add {MASTER}/24 dev ens33"))?;
    slave.ip(&format!("address add {SLAVE}/24 dev ens33"))?;
    add_route(None, Family::V4, &format!("172.20.42.128/26 via {SLAVE}"))?;
    add_route(
        Some(&slave),
        Family::V4,
        &format!("172.20.219.64/26 via {MASTER}"),
    )?;

    node(MASTER_RULES)?;
    let pod = |name, device, mac, address| calico_pod(name, device, mac, Family::V4, address);
    let web1 = pod("web1", "cali282b0776936", "4a:0c:7a:74:5d:26", WEB1)?;
    let mut pods = vec![
        pod("web0", "calid55c454dfaa", "d6:c3:32:3b:a6:bb", WEB0)?,
        pod("web2", "cali51c0de84a1f", "4a:0c:7a:74:5d:27", WEB2)?,
    ];
    pods.push(slave.enter(|| {
        node(SLAVE_RULES)?;
        pod("web3", "cali7b3e4d92c60", "4a:0c:7a:74:5d:28", WEB3)
    })?);
    Ok(DockerCalico {
        web1,
        _pods: pods,
        slave,
    })
}

/// Sets up what both nodes have, in the current network namespace: address sets and rules.
fn node(rules: &str) -> Result<()> {
    for (set, members) in [
        ("cali4-masq-ipam-pools", &["172.20.0.0/16"][..]),
        ("cali4-all-ipam-pools", &["172.20.0.0/16"]),
        // Those with the tag of the network.
        (
            "cali4-net1",
            &["172.20.219.80", "172.20.219.81", "172.20.219.84", "172.20.42.129"],
        ),
    ] {
        command::run(&format!("ipset create {set} hash:net family inet"))?;
        for member in members {
            command::run(&format!("ipset add {set} {member}"))?;
        }
    }
    forward()?;
    ruleset::restore_v4(&ruleset::fixture(rules)?)
}

/// Sends an echo request and waits for the reply.
///
/// # Errors
///
/// When there is none.
pub fn ping(from: Place<'_>, to: Ipv4Addr) -> Result<()> {
    from.ping(to.into(), PING_LEN)
}

/// Sends an echo request that nobody is to answer.
///
/// # Errors
///
/// When there is a reply.
pub fn ping_in_vain(from: &Namespace, to: Ipv4Addr) -> Result<()> {
    let line = format!("busybox ping -c 1 -W 1 -s {PING_LEN} {to}");
    ensure!(from.run(&line).is_err(), "{to} answers");
    Ok(())
}
