//! Targets that send a packet of their own: its way lies within the other's, and is not mixed with it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::command::run;
use crate::neighbours::{Family, LEFT, NODE, Neighbours};
use crate::tracer::{Line, THIS_NETNS, Tracer};
use crate::traffic::{Place, datagram, no_connection};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("nested::reject_with_icmp_v4", || reject_with_icmp(Family::V4)),
        trial("nested::reject_with_icmp_v6", || reject_with_icmp(Family::V6)),
        trial("nested::reject_with_tcp_reset_v4", || {
            reject_with_tcp_reset(Family::V4)
        }),
        trial("nested::reject_with_tcp_reset_v6", || {
            reject_with_tcp_reset(Family::V6)
        }),
        trial("nested::tee_v4", || tee(Family::V4)),
        trial("nested::tee_v6", || tee(Family::V6)),
        trial("nested::every_return_is_seen", every_return_is_seen),
    ]
}

/// No table is left to a return probe, which the kernel may have too few calls for.
fn every_return_is_seen() -> Result<()> {
    run("modprobe -a ip_tables ip6_tables")?;
    let report = run("tracer doctor")?;
    let kprobes = report.contains("kprobe, return  ipt_do_table");
    let seen = report.contains("where the code of these functions returns: ipt_do_table, ip6t_do_table");
    ensure!(
        kprobes == seen && !report.contains("by return probes"),
        "{report}"
    );
    Ok(())
}

/// The lines of one packet, and the step at which another packet's way lies within.
struct Nest<'a> {
    inner: Vec<&'a Line>,
    outer_step: &'a Line,
}

/// Finds the packet that passed OUTPUT while another one was in `outer_step`.
fn nest<'a>(
    lines: &'a [Line],
    is_outer: impl Fn(&Line) -> bool,
    is_inner: impl Fn(&Line) -> bool,
) -> Result<Nest<'a>> {
    let at = lines
        .iter()
        .position(is_outer)
        .with_context(|| format!("no line of the outer packet: {}", all(lines)))?;
    let outer_step = &lines[at];
    // The inner record ends, and so is written, before the outer one; and it begins later.
    let number = lines[..at]
        .iter()
        .find(|line| is_inner(line) && line.time >= outer_step.time)
        .with_context(|| format!("nothing within {}: {}", outer_step.text, all(lines)))?
        .packet;
    ensure!(
        number != outer_step.packet,
        "both packets are #{number}: {}",
        all(lines)
    );
    Ok(Nest {
        inner: lines.iter().filter(|line| line.packet == number).collect(),
        outer_step,
    })
}

fn all(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("\n{}", line.text)).collect()
}

fn steps(lines: &[&Line]) -> Vec<String> {
    lines.iter().map(|line| line.step()).collect()
}

/// What the packet that REJECT sends over loopback passes.
const OVER_LOOPBACK: [&str; 6] = [
    "mangle:OUTPUT ACCEPT",
    "filter:OUTPUT ACCEPT",
    "mangle:POSTROUTING ACCEPT",
    "mangle:PREROUTING ACCEPT",
    "mangle:INPUT ACCEPT",
    "filter:INPUT ACCEPT",
];

fn reject_with_icmp(family: Family) -> Result<()> {
    family.restore(
        "*mangle\n-A INPUT -p udp --dport 6000 -j MARK --set-mark 0x5\n\
         -A OUTPUT ! -p udp -j MARK --set-mark 0x9\nCOMMIT\n\
         *filter\n-A INPUT -p udp --dport 6000 -j REJECT\n-A OUTPUT -p udp --dport 6001 -j REJECT\nCOMMIT\n",
    )?;
    let tracer = Tracer::start(&format!("{} {THIS_NETNS}", family.flag()))?;
    let loopback = family.loopback();
    datagram(Place::Here, loopback, (loopback, 6000).into(), 10)?;
    datagram(Place::Here, loopback, (loopback, 6001).into(), 11)?;
    let lines = tracer.stop()?.whole()?;
    let icmp = |line: &Line| line.protocol.starts_with("ICMP") && line.chain == "OUTPUT";

    let at_input = nest(
        &lines,
        |line| line.has_port(6000) && line.table == "filter" && line.chain == "INPUT",
        icmp,
    )?;
    let outer = at_input.outer_step;
    ensure!(
        outer.verdict == "DROP"
            && outer.mark == (5, 5)
            && outer.in_device == "lo"
            && outer.out_device.is_empty(),
        "the rejected packet: {}",
        outer.text
    );
    ensure!(
        steps(&at_input.inner) == OVER_LOOPBACK,
        "the error's way: {:#?}",
        steps(&at_input.inner)
    );
    for line in &at_input.inner {
        let marks = if line.step() == "mangle:OUTPUT ACCEPT" {
            (0, 9)
        } else {
            (9, 9)
        };
        ensure!(
            line.mark == marks && line.protocol.starts_with("ICMP"),
            "the error: {}",
            line.text
        );
        let output = line.chain == "OUTPUT" || line.chain == "POSTROUTING";
        ensure!(
            (line.out_device == "lo") == output && (line.in_device == "lo") != output,
            "devices of the error: {}",
            line.text
        );
    }

    let at_output = nest(
        &lines,
        |line| line.has_port(6001) && line.table == "filter" && line.chain == "OUTPUT",
        icmp,
    )?;
    ensure!(
        at_output.outer_step.verdict == "DROP" && at_output.outer_step.mark == (0, 0),
        "the rejected packet: {}",
        at_output.outer_step.text
    );
    ensure!(
        steps(&at_output.inner) == OVER_LOOPBACK,
        "the error's way: {:#?}",
        steps(&at_output.inner)
    );
    Ok(())
}

fn reject_with_tcp_reset(family: Family) -> Result<()> {
    family.restore(
        "*mangle\n-A OUTPUT -p tcp --tcp-flags RST RST -j MARK --set-mark 0x9\nCOMMIT\n\
         *filter\n-A INPUT -p tcp --dport 6002 -j REJECT --reject-with tcp-reset\nCOMMIT\n",
    )?;
    let tracer = Tracer::start(&format!("{} {THIS_NETNS}", family.flag()))?;
    no_connection(Place::Here, (family.loopback(), 6002).into())?;
    let lines = tracer.stop()?.whole()?;
    let nest = nest(
        &lines,
        |line| line.detail == "SYN" && line.table == "filter" && line.chain == "INPUT",
        |line| line.detail == "ACK RST" && line.chain == "OUTPUT",
    )?;
    ensure!(
        nest.outer_step.verdict == "DROP" && nest.outer_step.mark == (0, 0),
        "the rejected packet: {}",
        nest.outer_step.text
    );
    ensure!(
        steps(&nest.inner) == OVER_LOOPBACK,
        "the reset's way: {:#?}",
        steps(&nest.inner)
    );
    ensure!(
        nest.inner
            .iter()
            .all(|line| line.detail == "ACK RST" && line.mark.1 == 9),
        "the reset: {}",
        all(&lines)
    );
    Ok(())
}

/// A copy leaves while the original is still in the table that copies it.
fn tee(family: Family) -> Result<()> {
    let neighbours = Neighbours::new()?;
    let gateway = Neighbours::right(family);
    family.restore(&format!(
        "*mangle\n-A PREROUTING -p udp --dport 6003 -j MARK --set-mark 0x1\n\
         -A PREROUTING -p udp --dport 6003 -j TEE --gateway {gateway}\n\
         -A PREROUTING -p udp --dport 6003 -j MARK --set-mark 0x2\n\
         -A POSTROUTING -p udp -j MARK --or-mark 0x10\nCOMMIT\n\
         *filter\n-A INPUT -p udp --dport 6003 -j DROP\nCOMMIT\n"
    ))?;
    let tracer = Tracer::start(&format!(
        "{} --dport 6003 {THIS_NETNS} --no-connections",
        family.flag()
    ))?;
    let node = family.address(LEFT, NODE);
    datagram(
        Place::There(&neighbours.left),
        Neighbours::left(family),
        (node, 6003).into(),
        10,
    )?;
    let lines = tracer.stop()?.whole()?;
    let nest = nest(
        &lines,
        |line| line.table == "mangle" && line.chain == "PREROUTING",
        |line| line.chain == "OUTPUT",
    )?;
    let outer: Vec<&Line> = lines
        .iter()
        .filter(|line| line.packet == nest.outer_step.packet)
        .collect();
    ensure!(
        steps(&outer)
            == [
                "mangle:PREROUTING ACCEPT",
                "mangle:INPUT ACCEPT",
                "filter:INPUT DROP"
            ],
        "the original's way: {}",
        all(&lines)
    );
    ensure!(
        outer[0].mark == (0, 2) && outer[1..].iter().all(|line| line.mark == (2, 2)),
        "marks of the original: {}",
        all(&lines)
    );
    ensure!(
        steps(&nest.inner)
            == [
                "mangle:OUTPUT ACCEPT",
                "filter:OUTPUT ACCEPT",
                "mangle:POSTROUTING ACCEPT"
            ],
        "the copy's way: {}",
        all(&lines)
    );
    let marks: Vec<_> = nest.inner.iter().map(|line| line.mark).collect();
    ensure!(
        marks == [(1, 1), (1, 1), (1, 0x11)] && nest.inner.iter().all(|line| line.out_device == "right"),
        "the copy: {}",
        all(&lines)
    );
    let numbers: BTreeSet<u64> = lines.iter().map(|line| line.packet).collect();
    ensure!(numbers.len() == 2, "more than two packets: {}", all(&lines));
    Ok(())
}
