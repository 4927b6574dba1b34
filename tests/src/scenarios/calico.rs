//! The calico cases: pods of one node and of two, with policies.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::account::{Selection, packets, published, same_as_published};
use crate::neighbours::Family;
use crate::node::calico::calico;
use crate::node::docker_calico::{MASTER, SLAVE, WEB0, WEB1, WEB2, WEB3, docker_calico, ping, ping_in_vain};
use crate::trace_log::Line;
use crate::traffic::{Place, stay_on_processor};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("paths::calico::pod_to_pod", || pod_to_pod(Family::V4)),
        trial("paths::calico::pod_to_pod_v6", || pod_to_pod(Family::V6)),
        trial("paths::calico::docker_six_ways", docker_six_ways),
    ]
}

fn echo(family: Family) -> Selection {
    match family {
        Family::V4 => Selection {
            family,
            matches: "-p icmp",
            filter: "--proto icmp",
        },
        // Not what devices say to all neighbours, whenever they like.
        Family::V6 => Selection {
            family,
            matches: "-p ipv6-icmp -s fd00::/96 -d fd00::/96",
            filter: "--proto icmpv6 --src fd00::/96 --dst fd00::/96",
        },
    }
}

fn pod_to_pod(family: Family) -> Result<()> {
    stay_on_processor(0)?;
    let node = calico(family)?;
    let selection = echo(family);
    selection.log()?;
    let lines = selection.compare(|_| node.ping())?;
    let published = published("calico-pod-to-pod-same-node.log")?;
    same_as_published(&published, &lines[..published.len().min(lines.len())])?;
    // The reply: as the request, but without nat.
    let reply = &packets(&lines)[1..];
    ensure!(
        reply.len() == 1 && reply[0].iter().all(|seen| !seen.step.starts_with("nat:")),
        "reply: {reply:#?}"
    );
    Ok(())
}

/// Of the tables that are published.
fn published_tables(line: &&Line) -> bool {
    matches!(line.table.as_str(), "nat" | "filter")
}

/// The six ways of a packet that are told of, four of them with logs.
fn docker_six_ways() -> Result<()> {
    stay_on_processor(0)?;
    let nodes = docker_calico()?;
    let selection = echo(Family::V4);
    selection.log()?;
    selection.log_in(&nodes.slave)?;
    let (here, web1) = (Place::Here, Place::There(&nodes.web1));
    let compare = |logs: &[&str], way: &dyn Fn() -> Result<()>| -> Result<Vec<Line>> {
        let lines = selection.compare(|_| way())?;
        let mut expected = Vec::new();
        for log in logs {
            expected.extend(published(log)?);
        }
        if !logs.is_empty() {
            let seen: Vec<Line> = lines.iter().filter(published_tables).cloned().collect();
            same_as_published(&expected, &seen)?;
        }
        Ok(lines)
    };
    compare(&["docker-calico-1-host-to-container.log"], &|| ping(here, WEB0))?;
    compare(&["docker-calico-2-container-to-host.log"], &|| ping(web1, MASTER))?;
    // The two nodes' logs are published apart: the request through the first, at the second, the reply.
    let lines = compare(&[], &|| ping(web1, SLAVE))?;
    let seen: Vec<Line> = lines.into_iter().filter(|line| published_tables(&line)).collect();
    let (slave, master): (Vec<Line>, Vec<Line>) = seen.into_iter().partition(is_at_second_node);
    let log = |name| published(&format!("docker-calico-3-container-to-other-node.{name}.log"));
    same_as_published(&log("master")?, &master)?;
    same_as_published(&log("slave1")?, &slave)?;
    let dropped = selection.compare(|_| ping_in_vain(&nodes.slave, WEB1))?;
    let master: Vec<Line> = dropped
        .into_iter()
        .filter(|line| published_tables(&line) && !is_at_second_node(line))
        .collect();
    same_as_published(
        &published("docker-calico-4-other-node-to-container-dropped.log")?,
        &master,
    )?;
    compare(&[], &|| ping(web1, WEB2))?;
    compare(&[], &|| ping(web1, WEB3))?;
    Ok(())
}

/// Whether the line is the second node's: what it gets over the cable between them, and what it sends.
fn is_at_second_node(line: &Line) -> bool {
    let node = SLAVE.to_string();
    match (line.field("IN"), line.field("OUT")) {
        (Some("ens33"), Some("")) => line.field("DST") == Some(&node),
        (Some(""), Some("ens33")) => line.field("SRC") == Some(&node),
        _ => false,
    }
}
