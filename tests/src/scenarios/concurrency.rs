//! Packets on all processors at once: entries and returns of different packets are never mixed.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::neighbours::{Family, Neighbours};
use crate::tracer::{Line, THIS_NETNS, Tracer};
use crate::traffic::{Place, send};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "concurrency::records_are_of_one_packet_each",
        records_are_of_one_packet_each,
    )]
}

/// Each port has its own mark and length, and odd ones are dropped at OUTPUT or FORWARD.
const PORTS: std::ops::Range<u16> = 7400..7408;
/// Rounds of each sender over all ports.
const ROUNDS: usize = 200;
/// Senders over loopback.
const SENDERS: usize = 3;

fn rules() -> String {
    let mut rules = "*raw\nCOMMIT\n*mangle\n".to_owned();
    for port in PORTS {
        rules += &format!(
            "-A OUTPUT -p udp --dport {port} -j MARK --set-mark {port}\n\
             -A PREROUTING -i left -p udp --dport {port} -j MARK --set-mark {port}\n"
        );
    }
    rules += "COMMIT\n*filter\n";
    for port in PORTS.filter(|port| port % 2 == 1) {
        rules +=
            &format!("-A OUTPUT -p udp --dport {port} -j DROP\n-A FORWARD -p udp --dport {port} -j DROP\n");
    }
    rules += "COMMIT\n";
    rules
}

fn records_are_of_one_packet_each() -> Result<()> {
    let neighbours = Neighbours::new()?;
    let families = [Family::V4, Family::V6];
    for family in families {
        family.restore(&rules())?;
    }
    let mut senders = Vec::new();
    for number in 0..SENDERS {
        let family = families[number % 2];
        let loopback = family.loopback();
        senders.push((Place::Here.udp(loopback, 0)?, loopback));
    }
    for family in families {
        let left = Place::There(&neighbours.left).udp(Neighbours::left(family), 0)?;
        senders.push((left, Neighbours::right(family)));
    }
    // Nobody reads, but somebody listens: nothing answers.
    let _receivers = PORTS
        .flat_map(|port| families.map(|family| (family, port)))
        .map(|(family, port)| {
            let right = Place::There(&neighbours.right).udp(Neighbours::right(family), port)?;
            Ok((Place::Here.udp(family.loopback(), port)?, right))
        })
        .collect::<Result<Vec<_>>>()?;

    let tracer = Tracer::start(&format!("-p udp {THIS_NETNS} --ring-kib 65536"))?;
    thread::scope(|scope| {
        let threads: Vec<_> = senders
            .iter()
            .map(|(socket, to)| {
                scope.spawn(move || -> Result<()> {
                    for _ in 0..ROUNDS {
                        for port in PORTS {
                            send(socket, (*to, port).into(), usize::from(port - PORTS.start) + 100)?;
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    let lines = tracer.stop()?.whole()?;

    let mut ways: BTreeMap<u64, Vec<&Line>> = BTreeMap::new();
    for line in &lines {
        let port = line.destination.port.context("no port")?;
        ensure!(PORTS.contains(&port), "another packet: {}", line.text);
        let headers_len = if line.source.address.is_ipv4() { 28 } else { 48 };
        ensure!(
            line.len == u32::from(port - PORTS.start) + 100 + headers_len,
            "length of another packet: {}",
            line.text
        );
        ways.entry(line.packet).or_default().push(line);
    }
    let packets = (SENDERS + 2) * ROUNDS * PORTS.len();
    ensure!(
        ways.len() == packets,
        "{} packets instead of {packets}",
        ways.len()
    );
    for (number, way) in ways {
        let steps: Vec<(String, (u32, u32))> = way.iter().map(|line| (line.step(), line.mark)).collect();
        ensure!(
            steps == expected(way[0]),
            "#{number}: {steps:?} instead of {:?}",
            expected(way[0])
        );
    }
    Ok(())
}

/// What a packet must pass that is seen first in this line, with marks before and after.
fn expected(first: &Line) -> Vec<(String, (u32, u32))> {
    let port = u32::from(first.destination.port.unwrap_or_default());
    let dropped = port % 2 == 1;
    let (set, kept) = ((0, port), (port, port));
    let step = |text: &str, mark| (text.to_owned(), mark);
    if first.in_device == "left" {
        let mut steps = vec![
            step("raw:PREROUTING ACCEPT", (0, 0)),
            step("mangle:PREROUTING ACCEPT", set),
            step("mangle:FORWARD ACCEPT", kept),
        ];
        if dropped {
            steps.push(step("filter:FORWARD DROP", kept));
        } else {
            steps.push(step("filter:FORWARD ACCEPT", kept));
            steps.push(step("mangle:POSTROUTING ACCEPT", kept));
        }
        return steps;
    }
    let mut steps = vec![
        step("raw:OUTPUT ACCEPT", (0, 0)),
        step("mangle:OUTPUT ACCEPT", set),
    ];
    if dropped {
        steps.push(step("filter:OUTPUT DROP", kept));
        return steps;
    }
    steps.extend(
        [
            "filter:OUTPUT ACCEPT",
            "mangle:POSTROUTING ACCEPT",
            "raw:PREROUTING ACCEPT",
            "mangle:PREROUTING ACCEPT",
            "mangle:INPUT ACCEPT",
            "filter:INPUT ACCEPT",
        ]
        .map(|text| step(text, kept)),
    );
    steps
}
