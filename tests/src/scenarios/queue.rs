//! Packets that a rule hands to a program (`-j NFQUEUE`): what is before and behind the queue is one journey.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::trial;
use crate::command::run;
use crate::neighbours::Family;
use crate::queue::{Queue, Verdict};
use crate::tracer::{THIS_NETNS, Tracer};
use crate::traffic::{Place, send};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("queue::legacy", || {
            one_journey("iptables-legacy", "mangle:OUTPUT:rule:")
        }),
        trial("queue::nf_tables", || {
            one_journey("iptables-nft", "nft ip mangle:OUTPUT:rule:")
        }),
    ]
}

/// The queue that a program listens at.
const QUEUE: u16 = 7;
/// One that nobody listens at.
const NOBODY: u16 = 8;
/// The mark of packets that do not go to the queue again.
const DONE: u32 = 0x1;

/// A packet before the queue and the same behind it, for every verdict that a program can give. `rule` is what the rule
/// that sends it there is called.
fn one_journey(tool: &str, rule: &str) -> Result<()> {
    let to_queue = |port: u16, queue: u16| {
        format!(
            "mangle -A OUTPUT -p udp --dport {port} -m mark ! --mark {DONE:#x} -j NFQUEUE --queue-num {queue}"
        )
    };
    for rule in [
        "raw -A OUTPUT -m comment --comment before".to_owned(),
        to_queue(53, QUEUE),
        to_queue(54, NOBODY),
        "filter -A OUTPUT -m comment --comment behind".to_owned(),
        "filter -A INPUT -m comment --comment there".to_owned(),
    ] {
        run(&format!("{tool} -t {rule}"))?;
    }
    let loopback = Family::V4.loopback();
    let receiver = Place::Here.udp(loopback, 53)?;
    let sender = Place::Here.udp(loopback, 0)?;
    let mut program = Queue::listen(QUEUE)?;
    let trace = |format: &str| format!("udp {THIS_NETNS} --no-connections --format {format}");
    let mut tracers = Tracer::start_all(&[trace("json"), trace("drops")])?;

    for verdict in [Verdict::Accept, Verdict::Repeat(DONE), Verdict::Drop] {
        send(&sender, (loopback, 53).into(), 10)?;
        program.decide(verdict)?;
        if verdict != Verdict::Drop {
            receiver.recv(&mut [0; 10]).context("failed to receive")?;
        }
    }
    send(&sender, (loopback, 54).into(), 10)?;

    let drops = tracers.pop().context("no tracer of drops")?.stop_as_text()?.shown;
    let shown = tracers.pop().context("no tracer")?.stop_as_text()?.shown;
    let journeys: Vec<Value> = shown
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("failed to read: {line}")))
        .collect::<Result<_>>()?;
    let expected = [
        "raw:OUTPUT ACCEPT, mangle:OUTPUT QUEUE(7), filter:OUTPUT ACCEPT, filter:INPUT ACCEPT = delivered",
        "raw:OUTPUT ACCEPT, mangle:OUTPUT QUEUE(7), mangle:OUTPUT ACCEPT mark 1, filter:OUTPUT ACCEPT mark 1, \
         filter:INPUT ACCEPT mark 1 = delivered",
        "raw:OUTPUT ACCEPT, mangle:OUTPUT QUEUE(7) = dropped in queue 7",
        "raw:OUTPUT ACCEPT, mangle:OUTPUT QUEUE(8) = dropped at queue 8",
    ];
    ensure!(journeys.len() == expected.len(), "not one journey each: {shown}");
    for (journey, expected) in journeys.iter().zip(expected) {
        let way = way(journey)?;
        ensure!(
            way.starts_with(expected) && journey["complete"] == true,
            "expected {expected}\nnot {way}\nin {journey:#}"
        );
    }
    let by_whom = [("in", 53, QUEUE), ("at", 54, NOBODY)];
    ensure!(
        drops.lines().count() == by_whom.len(),
        "not one line each: {drops}"
    );
    for (line, (place, port, queue)) in drops.lines().zip(by_whom) {
        let dropped = format!("dropped {place} queue {queue}");
        ensure!(
            line.contains(&dropped)
                && line.contains(&format!(", sent there by {rule}"))
                && line.contains(&format!("--dport {port} "))
                && line.contains(&format!("-j NFQUEUE --queue-num {queue}")),
            "{line}"
        );
    }
    Ok(())
}

/// The tables that have rules here, with their verdicts, and what became of the packet.
fn way(journey: &Value) -> Result<String> {
    let mut way = Vec::new();
    for table in journey["tables"].as_array().context("no tables")? {
        let text = |key: &str| table[key].as_str().unwrap_or_default();
        let place = format!("{}:{}", text("table"), text("hook"));
        if !["raw:OUTPUT", "mangle:OUTPUT", "filter:OUTPUT", "filter:INPUT"].contains(&place.as_str()) {
            continue;
        }
        let mark = match table["mark"].as_u64() {
            None | Some(0) => String::new(),
            Some(mark) => format!(" mark {mark}"),
        };
        way.push(format!("{place} {}{mark}", text("verdict")));
    }
    let fate = journey["outcome"]["text"].as_str().unwrap_or_default();
    Ok(format!("{} = {fate}", way.join(", ")))
}
