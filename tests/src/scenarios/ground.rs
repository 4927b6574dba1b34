//! The ground that the other tests stand on: the kernel, the tools, the oracle.

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::command::run;
use crate::netns::Namespace;
use crate::ruleset;
use crate::trace_log::{self, TraceLog};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("ground::kernel_is_the_one_asked_for", kernel_is_the_one_asked_for),
        trial("ground::iptables_legacy_works", iptables_legacy_works),
        trial("ground::iptables_nft_works", iptables_nft_works),
        trial("ground::nft_works", nft_works),
        trial("ground::ipset_works", ipset_works),
        trial("ground::conntrack_works", conntrack_works),
        trial("ground::namespaces_are_connected", namespaces_are_connected),
        trial("ground::trace_lines_are_logged", trace_lines_are_logged),
        trial("ground::trace_lines_are_logged_v6", trace_lines_are_logged_v6),
    ]
}

fn kernel_is_the_one_asked_for() -> Result<()> {
    let asked = std::env::var("TRACER_TEST_KERNEL").context("failed to read: TRACER_TEST_KERNEL")?;
    let release = run("uname -r")?;
    ensure!(
        release.trim() == asked,
        "{} runs, {asked} was asked for",
        release.trim()
    );
    Ok(())
}

fn iptables_legacy_works() -> Result<()> {
    run("modprobe ip_tables")?;
    for tool in ["iptables-legacy", "ip6tables-legacy"] {
        run(&format!("{tool} -w -N SEEN"))?;
        run(&format!("{tool} -w -A INPUT -m comment --comment seen -j SEEN"))?;
        let rules = run(&format!("{tool} -S INPUT"))?;
        ensure!(
            rules.contains("-A INPUT -m comment --comment seen -j SEEN"),
            "{tool} shows: {rules}"
        );
    }
    Ok(())
}

fn iptables_nft_works() -> Result<()> {
    run("iptables-nft -A INPUT -p tcp --dport 80 -j DROP")?;
    let rules = run("iptables-nft -S INPUT")?;
    ensure!(
        rules.contains("--dport 80 -j DROP"),
        "iptables-nft shows: {rules}"
    );
    Ok(())
}

fn nft_works() -> Result<()> {
    run("nft add table inet seen")?;
    let tables = run("nft list tables")?;
    ensure!(tables.contains("table inet seen"), "nft shows: {tables}");
    Ok(())
}

fn ipset_works() -> Result<()> {
    run("ipset create seen hash:ip")?;
    run("ipset add seen 192.0.2.1")?;
    run("ipset test seen 192.0.2.1").map(drop)
}

fn conntrack_works() -> Result<()> {
    ruleset::restore_v4("*filter\n-A OUTPUT -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n")?;
    let (sender, receiver) = (UdpSocket::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
    sender.send_to(b"seen", receiver.local_addr()?)?;
    let port = receiver.local_addr()?.port();
    let flows = run("conntrack -L -p udp")?;
    ensure!(
        flows.contains(&format!("dport={port}")),
        "conntrack shows: {flows}"
    );
    Ok(())
}

fn namespaces_are_connected() -> Result<()> {
    let pod = Namespace::new("ground")?;
    pod.veth("to-pod", "eth0")?;
    run("ip address add 192.0.2.1/24 dev to-pod")?;
    pod.ip("address add 192.0.2.2/24 dev eth0")?;
    run("ping -c 1 -W 10 192.0.2.2").map(drop)
}

/// The steps that the kernel logs for one datagram over loopback to a port that a rule accepts.
fn logged_steps(address: &str) -> Result<Vec<String>> {
    let (sender, receiver) = (UdpSocket::bind((address, 0))?, UdpSocket::bind((address, 5353))?);
    trace_log::enable()?;
    let mut log = TraceLog::from_now()?;
    sender.send_to(b"seen", receiver.local_addr()?)?;
    let last = |line: &trace_log::Line| line.step().starts_with("filter:INPUT:policy");
    let lines = log.wait_for("TRACE line of filter INPUT", last)?;
    ensure!(
        lines.iter().all(|line| line.field("DPT") == Some("5353")),
        "other packets: {lines:?}"
    );
    Ok(lines.iter().map(trace_log::Line::step).collect())
}

const TRACED: &str = "*raw\n-A OUTPUT -p udp --dport 5353 -j TRACE\nCOMMIT\n\
     *filter\n:SEEN -\n-A INPUT -p udp -j SEEN\n-A SEEN -p tcp -j DROP\nCOMMIT\n";

/// `-j TRACE` is not logged itself; the end of a chain is a `return`, that of a built-in one the policy.
const STEPS: [&str; 6] = [
    "raw:OUTPUT:policy:2",
    "filter:OUTPUT:policy:1",
    "raw:PREROUTING:policy:1",
    "filter:INPUT:rule:1",
    "filter:SEEN:return:2",
    "filter:INPUT:policy:2",
];

fn trace_lines_are_logged() -> Result<()> {
    ruleset::restore_v4(TRACED)?;
    let steps = logged_steps("127.0.0.1")?;
    ensure!(steps == STEPS, "logged: {steps:?}");
    Ok(())
}

fn trace_lines_are_logged_v6() -> Result<()> {
    ruleset::restore_v6(TRACED)?;
    let steps = logged_steps("::1")?;
    ensure!(steps == STEPS, "logged: {steps:?}");
    Ok(())
}
