//! A packet of which the kernel's own TRACE log is known: a node connects to a NodePort of its own.

use etherparse::PacketBuilder;

use super::support::*;
use crate::replay::{Completeness, Observation, Path, Reason, walk};
use crate::ruleset::builder::{ACCEPT, DROP, RuleBuilder, TableBuilder, rule};
use crate::ruleset::text::{SavedTable, parse};
use crate::ruleset::{Offset, Standard, Table, Target};
use crate::traversal::{ConntrackState, Family, Hook, Traversal};

const RULES: &str = include_str!("../../../../tests/fixtures/nodeport-local.rules.v4");

/// `IPS_DST_NAT` and its `_DONE`, and `IPS_CONFIRMED`, do not matter to these rules.
const STATUS: u32 = 0;

#[test]
fn the_syn_takes_the_path_that_trace_logged() {
    let node = [192, 168, 199, 34];
    let before = syn_between(node, node, 32275);
    let after = syn_between(node, [10, 244, 3, 3], 8080);
    let mut log = Vec::new();
    for (name, hook, out, headers, mark) in [
        ("raw", Hook::LocalOut, "lo", &before, 0),
        ("mangle", Hook::LocalOut, "lo", &before, 0),
        ("nat", Hook::LocalOut, "lo", &before, 0),
        ("filter", Hook::LocalOut, "lo", &after, 0x4000),
        ("mangle", Hook::PostRouting, "flannel.1", &after, 0x4000),
        ("nat", Hook::PostRouting, "flannel.1", &after, 0x4000),
    ] {
        let table = saved(name);
        let mut traversal = ipv4(headers.clone());
        traversal.table = name.into();
        traversal.hook = hook;
        traversal.out_device = device(out);
        traversal.mark_before = mark;
        traversal.mark_after = Some(if name == "nat" { 0x4000 } else { mark });
        traversal.conntrack = tracked(ConntrackState::New, STATUS, 0);
        let path = local_everywhere(&table, &traversal);
        assert_eq!(path.completeness, Completeness::Complete, "{name} {hook}");
        for (line, step) in lines(&table, &traversal, &path).into_iter().zip(&path.steps) {
            log.push((format!("{name}:{line}"), step.mark));
        }
    }
    // The rule that began the trace is not logged itself.
    assert_eq!(log.remove(0), ("raw:OUTPUT:rule:1".to_owned(), 0));
    let log: Vec<_> = log.iter().map(|(line, mark)| (line.as_str(), *mark)).collect();
    assert_eq!(
        log,
        [
            ("raw:OUTPUT:policy:2", 0),
            ("mangle:OUTPUT:policy:1", 0),
            ("nat:OUTPUT:rule:1", 0),
            ("nat:KUBE-SERVICES:rule:23", 0),
            ("nat:KUBE-NODEPORTS:rule:2", 0),
            ("nat:KUBE-XLB-XP7QDA4CRQ2QA33W:rule:2", 0),
            ("nat:KUBE-MARK-MASQ:rule:1", 0),
            ("nat:KUBE-MARK-MASQ:return:2", 0x4000),
            ("nat:KUBE-XLB-XP7QDA4CRQ2QA33W:rule:3", 0x4000),
            ("nat:KUBE-SVC-XP7QDA4CRQ2QA33W:rule:1", 0x4000),
            ("nat:KUBE-SEP-YO2DYWAEPAUV7YLG:rule:2", 0x4000),
            ("filter:OUTPUT:rule:1", 0x4000),
            ("filter:KUBE-SERVICES:return:1", 0x4000),
            ("filter:OUTPUT:rule:2", 0x4000),
            ("filter:KUBE-FIREWALL:return:2", 0x4000),
            ("filter:OUTPUT:policy:3", 0x4000),
            ("mangle:POSTROUTING:policy:1", 0x4000),
            ("nat:POSTROUTING:rule:1", 0x4000),
            ("nat:KUBE-POSTROUTING:rule:1", 0x4000),
        ]
    );
}

fn syn_between(source: [u8; 4], destination: [u8; 4], port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source, destination, 64)
        .tcp(44522, port, 3_110_696_876, 43690)
        .syn()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

/// Walks where every address that `addrtype` is asked about is a local one.
fn local_everywhere(table: &Table, traversal: &Traversal) -> Path {
    let mut observed: Vec<Observation> = Vec::new();
    loop {
        let path = walk(table, traversal, &observed);
        match path.completeness {
            Completeness::Partial(Reason::NotObserved { rule, ref extension }) if extension == "addrtype" => {
                let mark = path.steps.last().map_or(traversal.mark_before, |step| step.mark);
                observed.push(marked_match_seen(data_of(table, rule, extension), true, mark));
            }
            _ => return path,
        }
    }
}

fn data_of(table: &Table, rule: Offset, name: &str) -> Offset {
    let rule = table.rules.iter().find(|other| other.offset == rule).unwrap();
    let named = rule.matches.iter().find(|extension| extension.name == name);
    named.unwrap().data.start
}

/// A table of the fixture. The log was made with one more rule, the one that begins the trace.
fn saved(name: &str) -> Table {
    let tables = parse(RULES).unwrap();
    let saved: &SavedTable = tables.iter().find(|table| table.name == name).unwrap();
    let mut builder = TableBuilder::new(Family::Ipv4, name);
    for chain in &saved.chains {
        builder = match chain.policy.as_deref() {
            Some(policy) => builder.built_in(hook(&chain.name), verdict(policy).unwrap()),
            None => builder.chain(&chain.name),
        };
        if name == "raw" && chain.name == "OUTPUT" {
            builder = builder.rule(rule().protocol(TCP).matching("tcp", 0, &tcp_to(32275)).extension(
                "TRACE",
                0,
                &[],
            ));
        }
        builder = builder.rules(chain.rules.iter().map(|text| saved_rule(text)));
    }
    let table = builder.table();
    let jumps = |table: &Table| {
        table
            .rules
            .iter()
            .filter(|rule| matches!(rule.target, Target::Standard(Standard::Jump(_))))
            .count()
    };
    // What reads the rules here has found something.
    assert!(name == "raw" || name == "mangle" || jumps(&table) > 5);
    table
}

fn hook(chain: &str) -> Hook {
    Hook::NAMED
        .into_iter()
        .find(|hook| hook.to_string() == chain)
        .unwrap()
}

fn verdict(name: &str) -> Option<u32> {
    match name {
        "ACCEPT" => Some(ACCEPT),
        "DROP" => Some(DROP),
        _ => None,
    }
}

/// A rule as `iptables` would make it of the words that the fixture has.
fn saved_rule(text: &str) -> RuleBuilder {
    let words = words(text);
    let mut words = words.iter().map(String::as_str);
    let mut rule = rule();
    let mut not = false;
    let mut matching = "";
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap();
        rule = match word {
            "!" => {
                not = true;
                continue;
            }
            "-A" => {
                value();
                rule
            }
            "-s" if not => rule.not_source(value()),
            "-s" => rule.source(value()),
            "-d" if not => rule.not_destination(value()),
            "-d" => rule.destination(value()),
            "-i" => rule.in_device(value()),
            "-o" if not => rule.not_out_device(value()),
            "-o" => rule.out_device(value()),
            "-p" => rule.protocol(if value() == "tcp" { TCP } else { UDP }),
            "-m" => {
                matching = value();
                // `-m tcp` without a question of its own.
                if text.contains("-m tcp -j") && matching == "tcp" {
                    rule = rule.matching("tcp", 0, &[words16(&[0, 0xffff, 0, 0xffff]), vec![0; 4]].concat());
                }
                continue;
            }
            "--comment" => rule.comment(value()),
            "--dport" => rule.matching(matching, 0, &tcp_to(value().parse().unwrap())),
            "--dst-type" | "--src-type" => {
                value();
                rule.matching("addrtype", 1, &[0; 8])
            }
            "--mark" => {
                let (mark, mask) = masked(value());
                rule.matching("mark", 1, &mark_is(mark, mask))
            }
            "--ctstate" => {
                let states = value().split(',').map(|state| match state {
                    "INVALID" => 1,
                    "ESTABLISHED" => 2,
                    "RELATED" => 4,
                    "NEW" => 8,
                    other => panic!("{other}"),
                });
                rule.matching("conntrack", 3, &conntrack(1, 0, states.sum(), 0))
            }
            "--mode" => {
                value();
                continue;
            }
            "--probability" => {
                value();
                rule.matching("statistic", 0, &[0; 24])
            }
            "-j" => match value() {
                "RETURN" => rule.return_(),
                "MARK" => {
                    assert_eq!(value(), "--set-xmark");
                    let (mark, mask) = masked(value());
                    rule.extension("MARK", 2, &set_mark(mark, mask))
                }
                "DNAT" => {
                    value();
                    value();
                    rule.extension("DNAT", 0, &[0; 16])
                }
                "MASQUERADE" => rule.extension("MASQUERADE", 0, &[0; 20]),
                name => match verdict(name) {
                    Some(verdict) => rule.verdict(verdict),
                    None => rule.jump(name),
                },
            },
            other => panic!("{other} in {text}"),
        };
        not = false;
    }
    rule
}

fn masked(text: &str) -> (u32, u32) {
    let (mark, mask) = text.split_once('/').unwrap();
    let number = |text: &str| u32::from_str_radix(&text[2..], 16).unwrap();
    (number(mark), number(mask))
}

/// The words of a line, those in quotes as one.
fn words(text: &str) -> Vec<String> {
    text.split('"')
        .enumerate()
        .flat_map(|(index, part)| -> Vec<String> {
            if index % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect()
}
