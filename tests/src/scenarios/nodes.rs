//! Recordings of two nodes, network namespaces here, each recorded by itself: `show` makes one way of both.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::trial;
use crate::command::run;
use crate::neighbours::Family;
use crate::netns::{Namespace, Wire};
use crate::node::docker_calico::{SLAVE, WEB1, WEB3, docker_calico_apart, ping};
use crate::tracer::{THIS_NETNS, Tracer, exit, show};
use crate::traffic::{Place, settle};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("nodes::one_way_over_both", one_way_over_both),
        trial("nodes::through_nat", through_nat),
        trial("nodes::through_a_tunnel", through_a_tunnel),
    ]
}

/// Traces each node for itself, and both at once, while something is sent: the recordings' files, and what was seen
/// of both at once, which are two packets for each that was sent.
fn recorded(
    directory: &Path,
    other: &Namespace,
    filter: &str,
    traffic: impl FnOnce() -> Result<()>,
) -> Result<(String, Vec<Value>)> {
    let file = |name: &str| directory.join(name).display().to_string();
    let (near, far) = (file("near.rec"), file("far.rec"));
    let arguments = [
        format!("{filter} {THIS_NETNS} --write {near}"),
        format!("{filter} --netns {} --write {far}", other.name()),
        format!("{filter} --format json"),
    ];
    let mut tracers = Tracer::start_all(&arguments)?;
    traffic()?;
    settle()?;
    let whole = tracers.pop().context("no tracer of both")?.stop_as_text()?;
    for tracer in tracers {
        tracer.stop_as_text()?;
    }
    // The order of the files makes no difference.
    Ok((format!("{far} {near}"), journeys(&whole.shown)?))
}

fn journeys(lines: &str) -> Result<Vec<Value>> {
    lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("failed to read: {line}")))
        .collect()
}

fn shown(arguments: &str) -> Result<Vec<Value>> {
    let (code, text) = show(&format!("{arguments} --format json"))?;
    ensure!(code == Some(exit::DONE), "{}", text.said);
    journeys(&text.shown)
}

/// Every step in order, with the table and the mark behind it; and what became of the packet in the end.
fn way<'a>(parts: impl IntoIterator<Item = &'a Value>) -> String {
    let mut way = Vec::new();
    let mut fate = String::new();
    for part in parts {
        for table in part["tables"].as_array().into_iter().flatten() {
            for step in table["steps"].as_array().into_iter().flatten() {
                way.push(format!(
                    "{}:{} {}",
                    table["table"], step["rule"], step["mark_after"]
                ));
            }
        }
        fate = part["outcome"]["fate"].to_string();
    }
    format!("{} {fate}", way.join(", "))
}

/// Holds two packets that were joined against the four parts of them that a tracer of both nodes has seen.
fn compare(joined: &[Value], parts: &[Value]) -> Result<()> {
    ensure!(
        joined.len() == 2 && parts.len() == 4,
        "{} of {}",
        joined.len(),
        parts.len()
    );
    for (joined, parts) in joined.iter().zip(parts.chunks(2)) {
        ensure!(
            joints(joined) == ["sent"] && joined["complete"] == true,
            "{joined:#}"
        );
        let (joined, seen) = (way([joined]), way(parts));
        ensure!(joined == seen, "joined:\n{joined}\nseen:\n{seen}");
    }
    Ok(())
}

/// Where the journey goes on, and how.
fn joints(journey: &Value) -> Vec<&str> {
    let joints = journey["joints"].as_array();
    joints
        .into_iter()
        .flatten()
        .filter_map(|joint| joint["how"].as_str())
        .collect()
}

/// A pod pings one of the other node: both packets go over both nodes, with the very steps that a tracer of both has seen.
fn one_way_over_both() -> Result<()> {
    let directory = tempfile::tempdir().context("failed to create directory")?;
    let (nodes, _wire) = docker_calico_apart()?;
    let (files, parts) = recorded(directory.path(), &nodes.slave, "-p icmp", || {
        ping(Place::There(&nodes.web1), WEB3)
    })?;
    let joined = shown(&files)?;
    compare(&joined, &parts)?;
    for joined in &joined {
        let names: Vec<&Value> = joined["tables"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|table| &table["node"])
            .collect();
        // Both recordings are of one machine, so they have the names of their files.
        let (first, last) = (
            names.first().context("no tables")?,
            names.last().context("no tables")?,
        );
        ensure!(
            first != last && names.iter().all(|name| name == first || name == last),
            "{names:?}"
        );
    }
    let (_, text) = show(&format!("{files} --format tree"))?;
    ensure!(text.shown.contains("  --> on to "), "{}", text.shown);
    ensure!(
        text.said.contains("joined over nodes or tunnels: 2\n"),
        "{}",
        text.said
    );
    let (_, text) = show(&format!("{files} --format line"))?;
    ensure!(
        text.shown.lines().count() == 2 && text.shown.contains(" node="),
        "{}",
        text.shown
    );
    Ok(())
}

/// The first node gives the packet another source. Who asks for the old one gets the second node's part as well.
fn through_nat() -> Result<()> {
    let directory = tempfile::tempdir().context("failed to create directory")?;
    let (nodes, _wire) = docker_calico_apart()?;
    let (files, parts) = recorded(directory.path(), &nodes.slave, "-p icmp", || {
        ping(Place::There(&nodes.web1), SLAVE)
    })?;
    compare(&shown(&files)?, &parts)?;
    compare(&shown(&format!("{files} src host {WEB1}"))?, &parts)
}

/// Two nodes of an overlay network: the inner packet is known again on the other side, with or without the outer ones.
fn through_a_tunnel() -> Result<()> {
    const RULES: &str = "*raw\n-A PREROUTING -m comment --comment in\n-A OUTPUT -m comment --comment out\nCOMMIT\n\
        *filter\n-A INPUT -m comment --comment here\nCOMMIT\n";
    const UNDERLAY: [&str; 2] = ["172.16.0.1", "172.16.0.2"];

    let directory = tempfile::tempdir().context("failed to create directory")?;
    let far = Namespace::new("far")?;
    let _wire = Wire::new(&far, "under")?;
    run(&format!("ip address add {}/24 dev under", UNDERLAY[0]))?;
    far.ip(&format!("address add {}/24 dev under", UNDERLAY[1]))?;
    let tunnel = |remote| format!("link add overlay type vxlan id 1 dstport 8472 remote {remote} dev under");
    run(&format!("ip {}", tunnel(UNDERLAY[1])))?;
    far.ip(&tunnel(UNDERLAY[0]))?;
    run("ip address add 10.244.1.1/16 dev overlay")?;
    far.ip("address add 10.244.2.1/16 dev overlay")?;
    run("ip link set overlay up")?;
    far.ip("link set overlay up")?;
    Family::V4.restore(RULES)?;
    far.enter(|| Family::V4.restore(RULES))?;
    let overlay = "10.244.2.1".parse().context("failed to read address")?;
    // Once without being seen, for the neighbours to be known.
    Place::Here.ping(overlay, 20)?;
    let (files, _) = recorded(directory.path(), &far, "-4", || Place::Here.ping(overlay, 20))?;
    // Neighbours may be asked for through the tunnel meanwhile.
    let mut joined = shown(&files)?;
    joined.retain(|journey| journey["packet"]["protocol"] == "ICMP");
    ensure!(joined.len() == 2, "{} packets: {joined:#?}", joined.len());
    for journey in &joined {
        ensure!(joints(journey) == ["wrapped", "sent", "unwrapped"], "{journey:#}");
    }
    let inner = shown(&format!("{files} icmp"))?;
    ensure!(inner.len() == 2, "{} packets", inner.len());
    let directory = tempfile::tempdir().context("failed to create directory")?;
    let (files, _) = recorded(directory.path(), &far, "-p icmp", || {
        Place::Here.ping(overlay, 20)
    })?;
    for journey in shown(&files)? {
        ensure!(joints(&journey) == ["sent"], "{journey:#}");
        ensure!(journey["outcome"]["verdict"] == "ACCEPT", "{journey:#}");
    }
    Ok(())
}
