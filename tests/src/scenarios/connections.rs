//! Following a packet's connection: the replies, before and after NAT, and nobody else's packets.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::neighbours::{FAMILIES, Family};
use crate::node;
use crate::tracer::{Line, Report, THIS_NETNS, Tracer, exit, show};
use crate::traffic::{Place, send, settle};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("connections::of_a_node_port", of_a_node_port),
        trial("connections::replies_and_nobody_else", replies_and_nobody_else),
    ]
}

/// A line without what differs from one tracer to the other: time and number of the packet.
fn what(line: &Line) -> String {
    let Line {
        source,
        destination,
        detail,
        len,
        ..
    } = line;
    format!("{} {source:?} > {destination:?} {detail} {len}", line.step())
}

fn all(lines: &[Line]) -> Vec<String> {
    let mut all: Vec<String> = lines.iter().map(what).collect();
    all.sort();
    all
}

/// Who asks for the port of the service gets every packet of the connection at every table: after DNAT to the pod,
/// and the replies from raw on, before conntrack has seen them. In the kernel, in user space, and from a recording.
fn of_a_node_port() -> Result<()> {
    let directory = tempfile::tempdir().context("failed to create directory")?;
    let file = directory.path().join("all").display().to_string();
    let node = node::nodeport()?;
    let port = node.address().port();
    let arguments = [
        format!("tcp {THIS_NETNS} --format tables --write {file}"),
        format!("dst port {port} --format tables"),
        format!("dst port {port} and not udp --format tables"),
        format!("dst port {port} --format tables --no-connections"),
    ];
    let tracers = Tracer::start_all(&arguments)?;
    node.get_page()?;
    settle()?;
    let mut lines = Vec::new();
    for report in Tracer::stop_all(tracers)? {
        lines.push(report.whole()?);
    }
    let is_reply = |line: &Line| line.source.port == Some(port) || line.source.port == Some(8080);
    let everything = all(&lines[0]);
    ensure!(
        lines[0].iter().filter(|line| is_reply(line)).count() > 4,
        "no replies: {everything:#?}"
    );
    for (which, how) in [(1, "kernel"), (2, "user space")] {
        let seen = all(&lines[which]);
        ensure!(seen == everything, "{how}: {seen:#?} instead of {everything:#?}");
    }
    ensure!(
        !lines[3].is_empty() && !lines[3].iter().any(is_reply),
        "replies are shown: {:#?}",
        lines[3]
    );
    let (code, text) = show(&format!("{file} dst port {port} --format tables"))?;
    ensure!(code == Some(exit::DONE), "{}", text.said);
    let shown: Vec<Line> = text.shown.lines().map(Line::parse).collect::<Result<_>>()?;
    ensure!(
        all(&shown) == everything,
        "recording: {shown:#?} instead of {everything:#?}"
    );
    Ok(())
}

/// Two connections between the same places; one of them is asked for. Also of ICMP, which has no ports.
fn replies_and_nobody_else() -> Result<()> {
    for family in FAMILIES {
        family.restore(
            "*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\n-A INPUT -m conntrack --ctstate ESTABLISHED\nCOMMIT\n",
        )?;
    }
    let arguments = [
        format!("src port 1111 {THIS_NETNS} --format tables"),
        format!("src port 1111 and not tcp {THIS_NETNS} --format tables"),
        format!("icmp[icmptype] = icmp-echo {THIS_NETNS} --format tables"),
        format!("src port 1111 --table filter {THIS_NETNS} --format tables"),
    ];
    let tracers = Tracer::start_all(&arguments)?;
    for family in FAMILIES {
        ask_and_answer(family.loopback())?;
    }
    Place::Here.ping(Family::V4.loopback(), 33)?;
    let reports = Tracer::stop_all(tracers)?;
    for (report, arguments) in reports.into_iter().zip(&arguments) {
        check(report, arguments)?;
    }
    Ok(())
}

fn check(report: Report, arguments: &str) -> Result<()> {
    let lines = report.whole()?;
    let steps = |is: &dyn Fn(&Line) -> bool| -> Vec<String> {
        lines.iter().filter(|line| is(line)).map(Line::step).collect()
    };
    if arguments.starts_with("icmp") {
        let (asked, answered) = (
            steps(&|line| line.detail.starts_with("type 8")),
            steps(&|line| line.detail.starts_with("type 0")),
        );
        ensure!(
            !asked.is_empty() && asked == answered,
            "{arguments}: {asked:?} and {answered:?}"
        );
        return Ok(());
    }
    for family in FAMILIES {
        let from = |line: &Line, port| {
            line.source.address.is_ipv4() == (family == Family::V4) && line.source.port == Some(port)
        };
        let (asked, answered) = (steps(&|line| from(line, 1111)), steps(&|line| from(line, 2222)));
        ensure!(
            !asked.is_empty() && asked == answered,
            "{arguments}: {asked:?} and {answered:?}: {lines:#?}"
        );
    }
    let other = lines.iter().find(|line| line.has_port(3333));
    ensure!(other.is_none(), "{arguments}: another connection: {other:?}");
    Ok(())
}

/// From ports 1111 and 3333 to port 2222, and back.
fn ask_and_answer(loopback: IpAddr) -> Result<()> {
    let server = Place::Here.udp(loopback, 2222)?;
    for port in [1111, 3333] {
        let client = Place::Here.udp(loopback, port)?;
        send(&client, (loopback, 2222).into(), 10)?;
        send(&server, (loopback, port).into(), 20)?;
    }
    Ok(())
}
