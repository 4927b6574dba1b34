//! What tracer shows is what the kernel's own TRACE logs.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::neighbours::{FAMILIES, Family, LEFT, NEIGHBOUR, NODE, Neighbours, RIGHT};
use crate::oracle::{TRACE_RULES, compare, rules_for};
use crate::traffic::{Place, connection, datagram, no_connection};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("oracle::five_tables_v4", || five_tables(Family::V4)),
        trial("oracle::five_tables_v6", || five_tables(Family::V6)),
        trial("oracle::fragments", fragments),
        trial("oracle::nothing_but_policies", nothing_but_policies),
    ]
}

/// All five tables with rules, chains of the user's, drops by rule and by policy, rejects, NAT both ways, marks.
const FIVE_TABLES: &str = "\
*raw
-A PREROUTING -j TRACE
-A OUTPUT -j TRACE
-A PREROUTING -p udp --dport 4000 -j CT --notrack
-A OUTPUT -p udp --dport 4001 -j DROP
COMMIT
*mangle
:MARKS -
:MORE -
-A PREROUTING -p udp -j MARKS
-A OUTPUT -p udp -j MARKS
-A OUTPUT -p tcp -j MARK --set-mark 0x10
-A POSTROUTING -m mark --mark 0x4000/0x4000 -j MARK --set-mark 0
-A MARKS -p udp --dport 4002 -j MARK --set-mark 0x4000
-A MARKS -p udp --dport 4003 -j RETURN
-A MARKS -g MORE
-A MORE -j MARK --or-mark 0x1
COMMIT
*nat
:SERVICES -
-A PREROUTING -j SERVICES
-A OUTPUT -j SERVICES
-A POSTROUTING -o right -p udp --dport 4012 -j SNAT --to-source {node}
-A POSTROUTING -o right -s {left} -j MASQUERADE
-A SERVICES -p tcp --dport 8081 -j DNAT --to-destination {to_right}:8080
-A SERVICES -p udp --dport 4011 -j DNAT --to-destination {to_right}:4010
-A SERVICES -p udp --dport 4014 -j REDIRECT --to-ports 4015
COMMIT
*filter
:INPUT ACCEPT
:FORWARD DROP
:OUTPUT ACCEPT
:SERVICES -
-A INPUT -p udp --dport 4005 -j DROP
-A INPUT -p udp --dport 4006 -j REJECT
-A INPUT -p tcp --dport 4007 -j REJECT --reject-with tcp-reset
-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -j SERVICES
-A SERVICES -p tcp -j ACCEPT
-A SERVICES -p udp --dport 4010:4012 -j ACCEPT
-A SERVICES ! -p udp -j RETURN
-A OUTPUT -p udp --dport 4008 -j REJECT
COMMIT
*security
-A INPUT -p udp --dport 4009 -j DROP
-A OUTPUT -p udp -j ACCEPT
-A FORWARD -p tcp --dport 9999 -j DROP
COMMIT
";

/// The ports that the rules look at, and some more.
const PORTS: std::ops::RangeInclusive<u16> = 3999..=4016;

fn five_tables(family: Family) -> Result<()> {
    let neighbours = Neighbours::new()?;
    family.restore(&rules_for(family, FIVE_TABLES))?;
    let (left, right) = (Place::There(&neighbours.left), Place::There(&neighbours.right));
    let compared = compare(|read_log| {
        let mut lens = 100..;
        let mut len = || lens.next().unwrap_or_default();
        for port in PORTS {
            // Over loopback (not from 127.0.0.1, which may not be sent elsewhere), out, in, and through.
            let (node_right, node_left) = (family.address(RIGHT, NODE), family.address(LEFT, NODE));
            datagram(Place::Here, node_left, (node_left, port).into(), len())?;
            read_log()?;
            datagram(
                Place::Here,
                node_right,
                (Neighbours::right(family), port).into(),
                len(),
            )?;
            datagram(left, Neighbours::left(family), (node_left, port).into(), len())?;
            read_log()?;
            datagram(
                left,
                Neighbours::left(family),
                (Neighbours::right(family), port).into(),
                len(),
            )?;
            read_log()?;
        }
        let here = Place::Here.listen((family.loopback(), 8080).into())?;
        let there = right.listen((Neighbours::right(family), 8080).into())?;
        let on_right: SocketAddr = (Neighbours::right(family), 8080).into();
        let on_node: SocketAddr = (family.address(LEFT, NODE), 8081).into();
        connection(Place::Here, (family.loopback(), 8080).into(), &here)?;
        read_log()?;
        connection(Place::Here, on_right, &there)?;
        read_log()?;
        connection(left, on_right, &there)?;
        read_log()?;
        // Through DNAT, from without and from the node itself.
        connection(left, on_node, &there)?;
        read_log()?;
        connection(Place::Here, on_node, &there)?;
        read_log()?;
        for port in [4007, 81, 9999] {
            no_connection(Place::Here, (family.loopback(), port).into())?;
            no_connection(left, (family.address(LEFT, NODE), port).into())?;
            no_connection(left, (Neighbours::right(family), port).into())?;
            read_log()?;
        }
        Place::Here.ping(family.loopback(), 300)?;
        Place::Here.ping(Neighbours::right(family), 310)?;
        left.ping(family.address(LEFT, NODE), 320)?;
        read_log()
    })?;
    // That the comparison has not compared nothing with nothing.
    ensure!(
        compared.traversals > 500 && compared.dropped > 10,
        "few packets: {compared:?}"
    );
    Ok(())
}

/// Without connection tracking nothing puts fragments together before the tables of PREROUTING.
fn fragments() -> Result<()> {
    let neighbours = Neighbours::new()?;
    for family in FAMILIES {
        family.restore(&format!(
            "*raw\n{TRACE_RULES}COMMIT\n*mangle\n-A PREROUTING -p udp -j MARK --set-mark 7\nCOMMIT\n\
             *filter\n-A INPUT -p udp --dport 4001 -j DROP\nCOMMIT\n"
        ))?;
    }
    let left = Place::There(&neighbours.left);
    let compared = compare(|read_log| {
        for family in FAMILIES {
            let (node, neighbour) = (family.address(LEFT, NODE), family.address(LEFT, NEIGHBOUR));
            for (port, len) in [(4000, 2000), (4001, 3500), (4002, 4096)] {
                datagram(left, neighbour, (node, port).into(), len)?;
                datagram(left, neighbour, (Neighbours::right(family), port).into(), len + 1)?;
                datagram(Place::Here, node, (neighbour, port).into(), len + 2)?;
                datagram(
                    Place::Here,
                    family.loopback(),
                    (family.loopback(), port).into(),
                    len + 3,
                )?;
                read_log()?;
            }
        }
        Ok(())
    })?;
    ensure!(compared.packets > 20, "few packets: {compared:?}");
    Ok(())
}

fn nothing_but_policies() -> Result<()> {
    for family in FAMILIES {
        family.restore(&format!(
            "*raw\n{TRACE_RULES}COMMIT\n*filter\n:INPUT DROP\nCOMMIT\n"
        ))?;
    }
    let compared = compare(|read_log| {
        for family in FAMILIES {
            datagram(
                Place::Here,
                family.loopback(),
                (family.loopback(), 5000).into(),
                100,
            )?;
            no_connection(Place::Here, (family.loopback(), 5000).into())?;
        }
        read_log()
    })?;
    ensure!(compared.dropped >= 4, "few packets: {compared:?}");
    Ok(())
}
