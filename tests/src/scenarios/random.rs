//! Random rules and packets, judged by the kernel's TRACE.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use libtest_mimic::Trial;

use super::trial;
use crate::neighbours::{Family, LEFT, NODE, Neighbours, RIGHT};
use crate::netns;
use crate::oracle::{TRACE_RULES, compare, rules_for};
use crate::random::{Random, SEED_VARIABLE, seed};
use crate::traffic::{Place, datagram, no_connection};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("random::rules_and_packets", rules_and_packets)]
}

/// Rulesets, half of them IPv6.
const RULESETS: u64 = 4;

const TABLES: [(&str, &[&str]); 4] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    (
        "mangle",
        &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    ),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("security", &["INPUT", "FORWARD", "OUTPUT"]),
];

const MATCHES: [&str; 14] = [
    "",
    "-p udp",
    "! -p udp",
    "-p tcp",
    "-p udp --dport 4000:4003",
    "-p udp --dport 4002:4007",
    "-p tcp --dport 4001",
    "-s {left}",
    "! -d {right}",
    "-m mark --mark 0x1/0x1",
    "-m mark --mark 0x2/0x6",
    "-m length --length 0:180",
    "-m conntrack --ctstate NEW",
    "-m comment --comment said",
];

const TARGETS: [&str; 10] = [
    "ACCEPT",
    "ACCEPT",
    "DROP",
    "RETURN",
    "RETURN",
    "MARK --set-mark 0x1",
    "MARK --or-mark 0x6",
    "MARK --xor-mark 0x3",
    "MARK --set-mark 0x0",
    "",
];

/// Chains of the user's own in each table; each jumps only to later ones.
const CHAINS: [&str; 3] = ["U0", "U1", "U2"];

fn rules_and_packets() -> Result<()> {
    let seed = seed()?;
    for round in 0..RULESETS {
        let seed = seed.wrapping_add(round);
        let family = if seed % 2 == 0 { Family::V4 } else { Family::V6 };
        let rules = rules_for(family, &ruleset(&mut Random::new(seed)));
        netns::isolated(|| run(family, &rules))
            .with_context(|| format!("{SEED_VARIABLE}={seed}: {family:?}:\n{rules}"))?;
    }
    Ok(())
}

fn run(family: Family, rules: &str) -> Result<()> {
    let neighbours = Neighbours::new()?;
    family.restore(rules)?;
    let left = Place::There(&neighbours.left);
    let (node_left, node_right) = (family.address(LEFT, NODE), family.address(RIGHT, NODE));
    let (from_left, to_right) = (Neighbours::left(family), Neighbours::right(family));
    compare(|read_log| {
        let mut lens = 100..;
        let mut len = || lens.next().unwrap_or_default();
        for port in 4000..4006 {
            datagram(Place::Here, node_left, (node_left, port).into(), len())?;
            datagram(Place::Here, node_right, (to_right, port).into(), len())?;
            read_log()?;
            datagram(left, from_left, (node_left, port).into(), len())?;
            datagram(left, from_left, (to_right, port).into(), len())?;
            read_log()?;
        }
        for port in [4001, 4009] {
            no_connection(Place::Here, (node_left, port).into())?;
            no_connection(left, (node_left, port).into())?;
            no_connection(left, (to_right, port).into())?;
            read_log()?;
        }
        Ok(())
    })
    .map(drop)
}

fn ruleset(random: &mut Random) -> String {
    let mut text = String::new();
    for (table, bases) in TABLES {
        let _ = writeln!(text, "*{table}");
        for base in bases {
            let policy = if random.below(8) == 0 { "DROP" } else { "ACCEPT" };
            let _ = writeln!(text, ":{base} {policy}");
        }
        for chain in CHAINS {
            let _ = writeln!(text, ":{chain} -");
        }
        if table == "raw" {
            text.push_str(TRACE_RULES);
        }
        for base in bases {
            add_rules(random, &mut text, base, &CHAINS);
        }
        for (number, chain) in CHAINS.iter().enumerate() {
            add_rules(random, &mut text, chain, &CHAINS[number + 1..]);
        }
        text.push_str("COMMIT\n");
    }
    text
}

fn add_rules(random: &mut Random, text: &mut String, chain: &str, chains: &[&str]) {
    for _ in 0..random.below(5) {
        let condition = random.one_of(&MATCHES);
        let target = if !chains.is_empty() && random.below(2) == 0 {
            let verb = if random.below(4) == 0 { "-g" } else { "-j" };
            format!("{verb} {}", random.one_of(chains))
        } else {
            match *random.one_of(&TARGETS) {
                "" => String::new(),
                target => format!("-j {target}"),
            }
        };
        let _ = writeln!(text, "-A {chain} {condition} {target}");
    }
}
