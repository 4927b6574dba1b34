//! The `NodePort` cases: requests to a service of a node, from the node itself and from outside.

use std::net::IpAddr;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::account::{Seen, Selection, packets, published, same_as_published};
use crate::neighbours::Family;
use crate::node;
use crate::node::outside::outside;
use crate::trace_log::Line;
use crate::traffic::stay_on_processor;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("paths::nodeport::local", || local(Family::V4)),
        trial("paths::nodeport::local_v6", || local(Family::V6)),
        trial("paths::nodeport::from_outside", from_outside),
    ]
}

/// How many steps the case shows for the first packet of the connection, for the same when it had to be sent again,
/// and for each later one.
const FIRST: usize = 19;
const AGAIN: usize = 8;
const LATER: usize = 6;

/// The published case, packet by packet: the pod is slow, so the first packet is sent twice. What comes back is not
/// published, but it is compared with TRACE all the same.
fn local(family: Family) -> Result<()> {
    stay_on_processor(0)?;
    let node = node::nodeport_of(family)?;
    let selection = Selection {
        family,
        matches: "-p tcp",
        filter: "--proto tcp",
    };
    selection.log()?;
    let lines = selection.compare(|log| {
        node.silence()?;
        thread::scope(|scope| {
            let page = scope.spawn(|| node.get_page());
            log.wait_for("first packet", |line| {
                line.step() == "nat:KUBE-POSTROUTING:rule:1"
            })?;
            node.wake()?;
            page.join().ok().context("panic while getting the page")?
        })
    })?;

    let published = published("nodeport-local.log")?;
    let expected = packets(&published);
    let lens: Vec<usize> = expected.iter().map(Vec::len).collect();
    ensure!(
        lens == [FIRST, AGAIN, LATER, LATER, LATER, LATER, LATER],
        "the published case has packets of {lens:?} steps"
    );
    let (requests, replies): (Vec<Line>, Vec<Line>) =
        lines.into_iter().partition(|line| line.field("IN") == Some(""));
    is_changed_back(&replies, node.address().ip())?;
    let seen = packets(&requests);
    ensure!(seen.len() >= 5, "only {} packets: {seen:#?}", seen.len());
    for (index, packet) in seen.iter().enumerate() {
        // How many times it was sent again depends on how long the pod took.
        let expected = match index {
            0 | 1 => &expected[index],
            _ if *packet == expected[1] => continue,
            _ => &expected[2],
        };
        same_packet(packet, expected)?;
    }
    Ok(())
}

fn same_packet(seen: &[Seen], published: &[Seen]) -> Result<()> {
    ensure!(seen == published, "seen: {seen:#?}\npublished: {published:#?}");
    Ok(())
}

fn from_outside() -> Result<()> {
    stay_on_processor(0)?;
    let node = outside()?;
    let selection = Selection {
        family: Family::V4,
        matches: "-p tcp --dport 32741",
        filter: "--proto tcp --dport 32741 --no-connections",
    };
    selection.log()?;
    let lines = selection.compare(|_| node.get_page())?;
    // What is published ends with the first step of the second packet.
    let published = published("nodeport-from-outside.log")?;
    same_as_published(&published, &lines[..published.len().min(lines.len())])
}

/// What comes back has its addresses changed back without any rule that says so.
fn is_changed_back(reply: &[Line], node: IpAddr) -> Result<()> {
    let at = |step: &str| reply.iter().find(|line| line.step() == step);
    // When the addresses change is the kernel's business; that they do shows that this is a reply.
    let (before, after) = (
        at("raw:PREROUTING:policy:2").context("no reply came")?,
        at("filter:INPUT:policy:4").context("no reply was let in")?,
    );
    ensure!(
        before.field("DST") != after.field("DST") && addressed(after) == Some(node),
        "not changed back:\n{}\n{}",
        before.text,
        after.text
    );
    Ok(())
}

fn addressed(line: &Line) -> Option<IpAddr> {
    line.field("DST")?.parse().ok()
}
