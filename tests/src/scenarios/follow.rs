//! A packet that satisfied the filter once is followed to its end, and no other packet is taken for it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::command::run;
use crate::neighbours::{Family, LEFT, NODE, Neighbours, RIGHT};
use crate::tracer::{Line, THIS_NETNS, Tracer};
use crate::traffic::{Place, connection, datagram, no_connection, send, stay_on_processor};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("follow::through_dnat_v4", || through_dnat(Family::V4)),
        trial("follow::through_dnat_v6", || through_dnat(Family::V6)),
        trial("follow::replies_through_snat", replies_through_snat),
        trial("follow::over_loopback", over_loopback),
        trial("follow::from_the_mark_on", from_the_mark_on),
        trial(
            "follow::only_what_matches_over_loopback",
            only_what_matches_over_loopback,
        ),
        trial(
            "follow::only_what_matches_when_dropped_early",
            only_what_matches_when_dropped_early,
        ),
        trial("follow::only_what_matches_of_tcp", only_what_matches_of_tcp),
    ]
}

/// The lines of each packet.
fn by_packet(lines: &[Line]) -> BTreeMap<u64, Vec<&Line>> {
    let mut packets: BTreeMap<u64, Vec<&Line>> = BTreeMap::new();
    for line in lines {
        packets.entry(line.packet).or_default().push(line);
    }
    packets
}

fn steps(lines: &[&Line]) -> Vec<String> {
    lines.iter().map(|line| line.step()).collect()
}

const DNAT: &str = "*raw\nCOMMIT\n*nat\n-A PREROUTING -p tcp --dport 8081 -j DNAT --to-destination {to}:8080\n\
                    -A POSTROUTING -o right -j MASQUERADE\nCOMMIT\n*filter\nCOMMIT\n*mangle\nCOMMIT\n";

fn through_dnat(family: Family) -> Result<()> {
    let neighbours = Neighbours::new()?;
    let (node, right) = (family.address(LEFT, NODE), Neighbours::right(family));
    let to = match family {
        Family::V4 => right.to_string(),
        Family::V6 => format!("[{right}]"),
    };
    family.restore(&DNAT.replace("{to}", &to))?;
    let listener = Place::There(&neighbours.right).listen((right, 8080).into())?;
    let tracer = Tracer::start(&format!(
        "{} --dport 8081 {THIS_NETNS} --no-connections",
        family.flag()
    ))?;
    connection(Place::There(&neighbours.left), (node, 8081).into(), &listener)?;
    let lines = tracer.stop()?.whole()?;
    let packets = by_packet(&lines);
    let first = packets.values().next().context("no packet")?;
    ensure!(
        steps(first)
            == [
                "raw:PREROUTING ACCEPT",
                "mangle:PREROUTING ACCEPT",
                "nat:PREROUTING ACCEPT",
                "mangle:FORWARD ACCEPT",
                "filter:FORWARD ACCEPT",
                "mangle:POSTROUTING ACCEPT",
                "nat:POSTROUTING ACCEPT"
            ],
        "the first packet's way: {:#?}",
        steps(first)
    );
    ensure!(packets.len() >= 3, "few packets: {packets:#?}");
    for packet in packets.values() {
        for line in packet {
            let before = line.chain == "PREROUTING";
            let (address, port) = if before { (node, 8081) } else { (right, 8080) };
            ensure!(
                line.destination.address == address && line.destination.port == Some(port),
                "{}",
                line.text
            );
        }
        let last = packet.last().context("no line")?;
        ensure!(
            last.chain == "POSTROUTING",
            "not followed to its end: {}",
            last.text
        );
    }
    Ok(())
}

/// An answer comes in for the node and goes on to whom it is really for.
fn replies_through_snat() -> Result<()> {
    let neighbours = Neighbours::new()?;
    let (node, left, right) = (
        Family::V4.address(RIGHT, NODE),
        Neighbours::left(Family::V4),
        Neighbours::right(Family::V4),
    );
    Family::V4.restore(
        "*nat\n-A POSTROUTING -o right -j MASQUERADE\nCOMMIT\n*filter\nCOMMIT\n*mangle\nCOMMIT\n*raw\nCOMMIT\n",
    )?;
    let (asking, answering) = (
        Place::There(&neighbours.left).udp(left, 7000)?,
        Place::There(&neighbours.right).udp(right, 7001)?,
    );
    let tracer = Tracer::start(&format!("-4 --dst {node} {THIS_NETNS} --no-connections"))?;
    send(&asking, (right, 7001).into(), 10)?;
    let (_, from) = answering.recv_from(&mut [0; 100]).context("no question")?;
    ensure!(from.ip() == node, "not masqueraded: {from}");
    send(&answering, from, 11)?;
    asking.recv_from(&mut [0; 100]).context("no answer")?;
    let lines = tracer.stop()?.whole()?;
    let lines: Vec<&Line> = lines.iter().collect();
    ensure!(
        steps(&lines)
            == [
                "raw:PREROUTING ACCEPT",
                "mangle:PREROUTING ACCEPT",
                "mangle:FORWARD ACCEPT",
                "filter:FORWARD ACCEPT",
                "mangle:POSTROUTING ACCEPT"
            ],
        "the answer's way: {lines:#?}"
    );
    for line in lines {
        let to = if line.chain == "PREROUTING" { node } else { left };
        ensure!(
            line.packet == 1 && line.destination.address == to,
            "{}",
            line.text
        );
    }
    Ok(())
}

fn over_loopback() -> Result<()> {
    Family::V4.restore("*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\nCOMMIT\n")?;
    let loopback = Family::V4.loopback();
    let tracer = Tracer::start(&format!("-4 -o lo --dport 7000 {THIS_NETNS} --no-connections"))?;
    datagram(Place::Here, loopback, (loopback, 7000).into(), 10)?;
    datagram(Place::Here, loopback, (loopback, 7001).into(), 10)?;
    let lines = tracer.stop()?.whole()?;
    let packets = by_packet(&lines);
    ensure!(
        packets.len() == 1
            && steps(&packets[&1])
                == [
                    "raw:OUTPUT ACCEPT",
                    "mangle:OUTPUT ACCEPT",
                    "filter:OUTPUT ACCEPT",
                    "mangle:POSTROUTING ACCEPT",
                    "raw:PREROUTING ACCEPT",
                    "mangle:PREROUTING ACCEPT",
                    "mangle:INPUT ACCEPT",
                    "filter:INPUT ACCEPT"
                ],
        "{lines:#?}"
    );
    Ok(())
}

/// Followed from the first table that the packet enters with the mark, also when the mark is gone again.
fn from_the_mark_on() -> Result<()> {
    Family::V4.restore(
        "*mangle\n-A OUTPUT -p udp --dport 7000 -j MARK --set-mark 0x45\n\
         -A POSTROUTING -j MARK --set-mark 0\nCOMMIT\n*filter\nCOMMIT\n",
    )?;
    let loopback = Family::V4.loopback();
    let tracer = Tracer::start(&format!("-4 --mark 0x40/0xf0 {THIS_NETNS} --no-connections"))?;
    datagram(Place::Here, loopback, (loopback, 7001).into(), 10)?;
    datagram(Place::Here, loopback, (loopback, 7000).into(), 10)?;
    let lines = tracer.stop()?.whole()?;
    let lines: Vec<&Line> = lines.iter().collect();
    ensure!(
        steps(&lines)
            == [
                "filter:OUTPUT ACCEPT",
                "mangle:POSTROUTING ACCEPT",
                "mangle:PREROUTING ACCEPT",
                "mangle:INPUT ACCEPT",
                "filter:INPUT ACCEPT"
            ],
        "{lines:#?}"
    );
    let marks: Vec<_> = lines.iter().map(|line| line.mark).collect();
    ensure!(
        marks == [(0x45, 0x45), (0x45, 0), (0, 0), (0, 0), (0, 0)],
        "{marks:?}"
    );
    Ok(())
}

/// The port of packets that the filter asks for, and of those that it does not.
const WANTED: u16 = 7001;
const UNWANTED: u16 = 7002;

/// Every line is of a wanted packet, and a number stands for one packet: source port and length are unique.
/// Returns how many packets there are.
fn only_wanted(lines: &[Line]) -> Result<usize> {
    for line in lines {
        ensure!(
            line.destination.port == Some(WANTED),
            "not asked for: {}",
            line.text
        );
    }
    let mut numbers = BTreeMap::new();
    for (number, lines) in by_packet(lines) {
        let who: BTreeSet<_> = lines.iter().map(|line| (line.source, line.len)).collect();
        ensure!(who.len() == 1, "#{number} stands for {who:?}");
        for who in who {
            let other = numbers.insert(who, number);
            ensure!(other.is_none(), "{who:?} is #{number} and #{other:?}");
        }
    }
    Ok(numbers.len())
}

/// Packets of each kind.
const ROUNDS: usize = 600;

fn only_what_matches_over_loopback() -> Result<()> {
    Family::V4.restore(
        "*nat\n-A OUTPUT -p tcp --dport 1 -j REDIRECT --to-ports 2\nCOMMIT\n\
         *filter\n-A OUTPUT -p udp --sport 7100:7199 -m length --length 100:200 -j DROP\nCOMMIT\n",
    )?;
    let loopback = Family::V4.loopback();
    let sender = Place::Here.udp(loopback, 7100)?;
    // One that is read at once, one whose buffer runs full.
    let (read, unread) = (
        Place::Here.udp(loopback, WANTED)?,
        Place::Here.udp(loopback, UNWANTED)?,
    );
    read.set_nonblocking(true).context("failed to set up socket")?;
    let tracer = Tracer::start(&format!("-4 --dport {WANTED} {THIS_NETNS} --no-connections"))?;
    stay_on_processor(0)?;
    for len in 0..ROUNDS {
        send(&sender, (loopback, WANTED).into(), len)?;
        send(&sender, (loopback, UNWANTED).into(), len)?;
        while read.recv(&mut [0; 8]).is_ok() {}
    }
    drop(unread);
    let lines = tracer.stop()?.whole()?;
    let packets = only_wanted(&lines)?;
    ensure!(packets == ROUNDS, "{packets} packets instead of {ROUNDS}");
    // Of each, all tables that have it: nat once, as all are one connection.
    let dropped = lines.iter().filter(|line| line.verdict == "DROP").count();
    let passed = lines
        .iter()
        .filter(|line| line.step() == "filter:INPUT ACCEPT")
        .count();
    ensure!(
        dropped > 50 && dropped + passed == ROUNDS,
        "{dropped} dropped, {passed} passed"
    );
    Ok(())
}

/// Packets whose life ends right after PREROUTING, by the kernel itself or by a rule, and from whom it is nat's
/// first and last table.
fn only_what_matches_when_dropped_early() -> Result<()> {
    let neighbours = Neighbours::new()?;
    Family::V4.restore(
        "*nat\n-A PREROUTING -p tcp --dport 1 -j REDIRECT --to-ports 2\nCOMMIT\n\
         *filter\n:INPUT DROP\n:FORWARD DROP\nCOMMIT\n",
    )?;
    run("sysctl -q -w net.ipv4.conf.all.rp_filter=1 net.ipv4.conf.left.rp_filter=1")?;
    neighbours.left.ip("address add 10.99.0.1/32 dev eth0")?;
    let left = Place::There(&neighbours.left);
    let (node, beyond) = (Family::V4.address(LEFT, NODE), Neighbours::right(Family::V4));
    let nowhere = "10.98.0.1".parse().context("no address")?;
    let known = left.udp(Neighbours::left(Family::V4), 0)?;
    let spoofed = left.udp("10.99.0.1".parse().context("no address")?, 0)?;
    let tracer = Tracer::start(&format!("-4 --dport {WANTED} {THIS_NETNS} --no-connections"))?;
    stay_on_processor(0)?;
    for len in 0..ROUNDS / 3 {
        for (sender, to) in [
            (&known, node),
            (&known, beyond),
            (&known, nowhere),
            (&spoofed, node),
        ] {
            for (port, more) in [(WANTED, 0), (UNWANTED, 1), (UNWANTED, 0)] {
                // The length is unique also among the ways.
                let way = if to == node {
                    0
                } else if to == beyond {
                    250
                } else {
                    500
                };
                send(sender, (to, port).into(), way + len + more)?;
            }
        }
    }
    let lines = tracer.stop()?.whole()?;
    let packets = only_wanted(&lines)?;
    let expected = ROUNDS / 3 * 4;
    ensure!(packets == expected, "{packets} packets instead of {expected}");
    Ok(())
}

fn only_what_matches_of_tcp() -> Result<()> {
    Family::V4.restore(
        "*nat\n-A OUTPUT -p tcp --dport 1 -j REDIRECT --to-ports 2\nCOMMIT\n\
         *filter\n-A INPUT -p tcp --dport 7000:7002 --tcp-flags PSH PSH -j ACCEPT\nCOMMIT\n",
    )?;
    let loopback = Family::V4.loopback();
    let wanted = Place::Here.listen((loopback, WANTED).into())?;
    let unwanted = Place::Here.listen((loopback, UNWANTED).into())?;
    let tracer = Tracer::start(&format!("-4 --dport {WANTED} {THIS_NETNS} --no-connections"))?;
    for _ in 0..40 {
        connection(Place::Here, (loopback, WANTED).into(), &wanted)?;
        connection(Place::Here, (loopback, UNWANTED).into(), &unwanted)?;
        no_connection(Place::Here, (loopback, UNWANTED + 1).into())?;
    }
    let lines = tracer.stop()?.whole()?;
    for line in &lines {
        ensure!(
            line.destination.port == Some(WANTED),
            "not asked for: {}",
            line.text
        );
    }
    let mut connections = BTreeSet::new();
    for (number, lines) in by_packet(&lines) {
        let who: BTreeSet<_> = lines
            .iter()
            .map(|line| (line.source, &line.detail, line.len))
            .collect();
        ensure!(who.len() == 1, "#{number} stands for {who:?}");
        let chains: Vec<_> = lines
            .iter()
            .filter(|line| line.table == "filter")
            .map(|line| line.chain.as_str())
            .collect();
        ensure!(chains == ["OUTPUT", "INPUT"], "#{number} passed {lines:#?}");
        connections.extend(lines.iter().map(|line| line.source));
    }
    ensure!(
        connections.len() == 40,
        "{} connections instead of 40",
        connections.len()
    );
    Ok(())
}
