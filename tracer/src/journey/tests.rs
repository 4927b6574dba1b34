//! Journeys put together from passages: what they say, and that nothing is said that was not seen.

use std::{net::IpAddr, sync::Arc};

use etherparse::PacketBuilder;
use tracer_common::Traversal as Record;

use super::*;
use crate::{
    connection::{Connection, Tuple},
    event::{End, Fate},
    passage::{Action, Passage, Step},
    ruleset::Kind,
    traversal::{Conntrack, ConntrackState, Device, PacketId, Traversal, Verdict},
};

const NODE: [u8; 4] = [192, 168, 199, 34];
const POD: [u8; 4] = [10, 244, 3, 3];
const FLANNEL: [u8; 4] = [10, 244, 0, 0];
/// `IPS_SRC_NAT`, `IPS_DST_NAT` and that both are done.
const BOTH_NAT: u32 = 0x1b0;

fn tcp(source: [u8; 4], from: u16, destination: [u8; 4], to: u16, ttl: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source, destination, ttl)
        .tcp(from, to, 1, 1024)
        .syn()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

pub(super) fn device(name: &str) -> Option<Device> {
    Some(Device {
        name: name.to_owned(),
        ifindex: u32::try_from(name.len()).unwrap(),
        peer: None,
    })
}

/// A passage of packet number `packet` that its policy accepts; each takes 10 ns, 100 after the one before.
pub(super) fn passage(packet: u64, pass: u32, table: &str, hook: Hook, headers: Vec<u8>) -> Passage {
    let record = Record {
        family: 2,
        verdict: 1,
        skb: packet,
        born_ns: packet * 1_000_000,
        pass,
        flags: if pass == 1 { tracer_common::flags::FIRST } else { 0 },
        entered_ns: packet * 1_000_000 + u64::from(pass) * 100,
        left_ns: packet * 1_000_000 + u64::from(pass) * 100 + 10,
        ..Record::EMPTY
    };
    let mut traversal = Traversal::decode(record.bytes()).unwrap();
    traversal.table = table.into();
    traversal.hook = hook;
    traversal.packet_len = u32::try_from(headers.len()).unwrap();
    traversal.headers = headers;
    let mut passage = Passage::of(traversal, None);
    passage.chain = hook.to_string().into();
    let policy = Action::Verdict(Verdict::Accept);
    passage.steps = vec![step(&passage, &hook.to_string(), Kind::Policy, 1, policy)];
    passage
}

fn step(passage: &Passage, chain: &str, kind: Kind, number: u32, action: Action) -> Step {
    Step {
        chain: chain.into(),
        kind,
        number: Some(number),
        handle: None,
        text: Some(format!("-A {chain} -j {action}").into()),
        action,
        depth: 0,
        mark: passage.traversal.mark_before,
        mark_after: passage.traversal.mark_after,
        headers: passage.traversal.headers.as_slice().into(),
        packet_len: passage.traversal.packet_len,
        meaning: None,
    }
}

/// The passage, decided by this target.
pub(super) fn decided(mut passage: Passage, chain: &str, target: &str, verdict: Verdict) -> Passage {
    passage.traversal.verdict = verdict;
    let action = Action::Target {
        name: target.into(),
        verdict: Some(verdict),
    };
    passage.steps = vec![step(&passage, chain, Kind::Rule, 2, action)];
    passage
}

fn tuple(source: [u8; 4], from: u16, destination: [u8; 4], to: u16) -> Tuple {
    Tuple {
        source: IpAddr::from(source),
        destination: IpAddr::from(destination),
        protocol: 6,
        source_port: from,
        destination_port: to,
    }
}

/// The passage in the connection of the `NodePort` case.
fn tracked(mut passage: Passage, reply: bool, status: u32) -> Passage {
    passage.traversal.conntrack = Conntrack::Tracked {
        address: 0x1000,
        state: if reply {
            ConntrackState::Established
        } else {
            ConntrackState::New
        },
        reply,
        status,
        mark: 0,
    };
    passage.traversal.connection = Some(Connection {
        address: 0x1000,
        status,
        original: tuple(NODE, 35318, NODE, 32275),
        reply: tuple(POD, 8080, FLANNEL, 35318),
    });
    passage
}

/// The packet that opens the connection of the `NodePort` case.
fn request() -> Vec<Passage> {
    let before = tcp(NODE, 35318, NODE, 32275, 64);
    let after = tcp(NODE, 35318, POD, 8080, 64);
    let mut nat = tracked(passage(1, 2, "nat", Hook::LocalOut, before.clone()), false, 0x120);
    nat = decided(nat, "KUBE-SEP-X", "DNAT", Verdict::Accept);
    let post = tracked(
        passage(1, 4, "nat", Hook::PostRouting, after.clone()),
        false,
        BOTH_NAT,
    );
    let mut post = decided(post, "KUBE-POSTROUTING", "MASQUERADE", Verdict::Accept);
    post.traversal.out_device = device("flannel.1");
    vec![
        passage(1, 1, "raw", Hook::LocalOut, before),
        nat,
        tracked(passage(1, 3, "filter", Hook::LocalOut, after), false, 0x120),
        post,
    ]
}

/// What comes back.
fn reply() -> Vec<Passage> {
    let before = tcp(POD, 8080, FLANNEL, 35318, 64);
    let after = tcp(POD, 8080, NODE, 35318, 63);
    let mut first = passage(2, 1, "raw", Hook::PreRouting, before);
    first.traversal.in_device = device("flannel.1");
    vec![
        first,
        tracked(passage(2, 2, "filter", Hook::LocalIn, after), true, BOTH_NAT),
    ]
}

/// One that a rule rejects, after chains that led there.
fn rejected() -> Vec<Passage> {
    let mut passage = passage(3, 1, "filter", Hook::Forward, tcp(NODE, 1, POD, 2, 64));
    passage.traversal.in_device = device("eth0");
    passage.traversal.out_device = device("cali1");
    passage = decided(passage, "cali-tw-cali1", "REJECT", Verdict::Drop);
    let mut last = passage.steps.remove(0);
    last.depth = 1;
    last.text = Some("-A cali-tw-cali1 -m comment --comment \"默认拒绝\" -j REJECT".into());
    last.meaning = Some("to the workload at cali1".into());
    let jump = Action::Jump("cali-FORWARD".into());
    let goto = Action::Goto("cali-tw-cali1".into());
    passage.steps = vec![
        step(&passage, "FORWARD", Kind::Rule, 1, jump),
        Step {
            depth: 1,
            ..step(&passage, "cali-FORWARD", Kind::Rule, 4, goto)
        },
        last,
    ];
    vec![passage]
}

fn end(packet: u64, passes: u32, fate: Fate) -> End {
    End {
        packet: PacketId::new(packet, packet * 1_000_000),
        ended_ns: packet * 1_000_000 + 5_000,
        fate,
        passes,
    }
}

/// The journeys of the request, the reply and the rejected packet.
pub(crate) fn samples() -> Vec<Journey> {
    let mut journeys = Journeys::default();
    for (packet, passages) in [(1, request()), (2, reply()), (3, rejected())] {
        let passes = u32::try_from(passages.len()).unwrap();
        passages.into_iter().for_each(|passage| journeys.passage(passage));
        journeys.end(&end(packet, passes, Fate::Consumed), |_| None);
    }
    journeys.rest()
}

/// The journey of a packet that was delivered after these steps at INPUT, each with its chain, number and depth.
pub(crate) fn delivered(steps: &[(&str, Kind, u32, Action, u16)]) -> Journey {
    let mut passage = passage(1, 1, "filter", Hook::LocalIn, tcp(POD, 1, NODE, 2, 64));
    let steps = steps.iter().map(|(chain, kind, number, action, depth)| Step {
        depth: *depth,
        ..step(&passage, chain, *kind, *number, action.clone())
    });
    passage.steps = steps.collect();
    let mut journeys = Journeys::default();
    journeys.passage(passage);
    journeys.end(&end(1, 1, Fate::Consumed), |_| None);
    journeys.rest().remove(0)
}

fn changes(journey: &Journey) -> Vec<String> {
    let words = |change: &Change| format!("{} {}/{:?}", change.what, change.passage, change.step);
    journey.changes.iter().map(words).collect()
}

#[test]
fn a_request_is_joined_with_its_nat_at_the_steps_that_decided_it() {
    let journey = &samples()[0];
    assert_eq!(
        changes(journey),
        [
            "destination 192.168.199.34:32275>10.244.3.3:8080 1/Some(0)",
            "source 192.168.199.34:35318>10.244.0.0:35318 3/Some(0)",
        ]
    );
    assert_eq!((journey.number, &journey.outcome), (1, &Outcome::Sent));
    assert!(journey.partial.is_empty(), "{:?}", journey.partial);
    let hooks: Vec<_> = journey.stations().iter().map(|station| station.hook).collect();
    assert_eq!(hooks, [Hook::LocalOut, Hook::PostRouting]);
}

#[test]
fn a_reply_is_changed_back_by_what_the_request_met() {
    let journey = &samples()[1];
    let by: Vec<_> = journey
        .changes
        .iter()
        .map(|change| match &change.by {
            By::Nat {
                undone: true,
                decided: Some(decided),
            } => format!("{} {} #{}", change.what.name(), decided.rule, decided.journey),
            other => format!("{} {other:?}", change.what.name()),
        })
        .collect();
    assert_eq!(
        by,
        [
            "destination nat:KUBE-POSTROUTING:rule:2 #1",
            // Not from PREROUTING to FORWARD: nothing here says that it was forwarded.
            "ttl Unknown",
            "source nat:KUBE-SEP-X:rule:2 #1",
        ]
    );
    assert_eq!(journey.outcome, Outcome::Delivered);
    assert_eq!(journey.flows[0].number, samples()[0].flows[0].number);
}

#[test]
fn a_drop_names_the_rule_and_the_chains_that_led_there() {
    let journey = &samples()[2];
    assert_eq!(journey.outcome.word(), "REJECT");
    assert_eq!(journey.dropped_by().unwrap().label, "filter:cali-tw-cali1:rule:2");
    assert_eq!(
        journey.last().chain_path(),
        ["FORWARD", "cali-FORWARD", "cali-tw-cali1"]
    );
}

#[test]
fn a_lost_record_makes_a_journey_partial() {
    let mut journeys = Journeys::default();
    let mut passages = request();
    passages.remove(1);
    passages.into_iter().for_each(|passage| journeys.passage(passage));
    journeys.end(&end(1, 6, Fate::Consumed), |_| None);
    // The last two were announced and may come yet.
    assert!(journeys.over(1_100_000_000 / 2).is_empty());
    let over = journeys.rest();
    assert_eq!(
        over[0].partial,
        ["3 of its tables were lost on the way to tracer"]
    );
}

#[test]
fn a_journey_is_over_at_its_end_at_a_drop_or_when_nothing_comes() {
    let mut journeys = Journeys::default();
    request()
        .into_iter()
        .for_each(|passage| journeys.passage(passage));
    rejected()
        .into_iter()
        .for_each(|passage| journeys.passage(passage));
    let numbers = |over: Vec<Journey>| -> Vec<u64> { over.iter().map(|journey| journey.number).collect() };
    assert_eq!(numbers(journeys.over(4_000_000)), Vec::<u64>::new());
    assert_eq!(numbers(journeys.over(6_000_000)), [2]);
    assert_eq!(numbers(journeys.over(1_500_000_000)), Vec::<u64>::new());
    let idle = journeys.over(1_600_000_000);
    assert_eq!(idle[0].outcome, Outcome::Accepted);
    assert!(journeys.rest().is_empty());
    // What comes later is another journey that says so.
    journeys.passage(passage(1, 5, "raw", Hook::PreRouting, tcp(NODE, 1, POD, 2, 64)));
    let rest = journeys.rest();
    assert_eq!(
        rest[0].ties,
        [Tie {
            relation: Relation::Continues,
            other: 1
        }]
    );
    assert!(rest[0].partial.is_empty());
}

#[test]
fn who_drops_besides_tables_is_told_by_the_function() {
    let fate = |function: Option<&str>| {
        let mut journeys = Journeys::default();
        journeys.passage(passage(1, 1, "raw", Hook::PreRouting, tcp(NODE, 1, POD, 2, 64)));
        journeys.end(&end(1, 1, Fate::Dropped { location: 7 }), |address| {
            assert_eq!(address, 7);
            function.map(str::to_owned)
        });
        journeys.rest().remove(0).outcome
    };
    assert!(matches!(
        fate(Some("nf_hook_slow")),
        Outcome::DroppedByHook { .. }
    ));
    assert!(matches!(
        fate(Some("tcp_v4_rcv")),
        Outcome::DroppedByKernel { function: Some(_) }
    ));
    assert_eq!(fate(None), Outcome::DroppedByKernel { function: None });
}

#[test]
fn where_tables_are_left_out_they_may_have_dropped_it_or_been_the_last() {
    let outcome = |hook, fate| {
        let mut journeys = Journeys::default();
        journeys.leave_out_tables();
        journeys.passage(passage(1, 1, "nat", hook, tcp(NODE, 1, POD, 2, 64)));
        journeys.end(&end(1, 1, fate), |_| Some("nf_hook_slow".to_owned()));
        journeys.rest().remove(0).outcome
    };
    assert_eq!(
        outcome(Hook::PostRouting, Fate::Dropped { location: 7 }),
        Outcome::DroppedByHook {
            function: "nf_hook_slow".to_owned(),
            some_tables: true
        }
    );
    assert_eq!(outcome(Hook::PostRouting, Fate::Consumed), Outcome::Passed);
    assert_eq!(outcome(Hook::LocalIn, Fate::Consumed), Outcome::Delivered);
}

#[test]
fn a_queue_drops_before_and_behind_it_and_keeps_segments() {
    let outcome = |function: &str| {
        let mut journeys = Journeys::default();
        let mut queued = passage(1, 1, "mangle", Hook::LocalOut, tcp(NODE, 1, POD, 2, 64));
        queued.traversal.verdict = Verdict::Queue {
            number: 7,
            bypass: false,
        };
        journeys.passage(queued);
        journeys.end(&end(1, 1, Fate::Dropped { location: 7 }), |_| {
            Some(function.to_owned())
        });
        journeys.rest().remove(0).outcome
    };
    for function in ["nf_queue", "nf_reinject", "nfqnl_recv_verdict [nfnetlink_queue]"] {
        assert!(outcome(function).is_drop(), "{function}");
    }
    assert_eq!(
        outcome("nfqnl_enqueue_packet [nfnetlink_queue]"),
        Outcome::Queued { number: 7 }
    );
}

#[test]
fn what_a_target_sends_is_tied_to_the_packet_that_met_it() {
    let mut journeys = Journeys::default();
    let mut answer = passage(4, 1, "filter", Hook::LocalOut, tcp(POD, 2, NODE, 1, 64));
    let parent = rejected().remove(0);
    answer.traversal.entered_ns = parent.traversal.entered_ns + 2;
    answer.traversal.left_ns = parent.traversal.entered_ns + 5;
    // Its record comes first.
    journeys.passage(answer);
    journeys.passage(parent);
    let mut over = journeys.rest();
    over.sort_by_key(|journey| journey.number);
    let ties: Vec<_> = over.iter().map(|journey| journey.ties.clone()).collect();
    let tie = |relation, other| vec![Tie { relation, other }];
    assert_eq!(ties, [tie(Relation::SentBy, 2), tie(Relation::Sent, 1)]);
}

#[test]
fn any_order_of_records_is_taken_and_memory_is_bounded() {
    bolero::check!()
        .with_type::<Vec<(u8, u8, u8, bool)>>()
        .for_each(|records| {
            let mut journeys = Journeys::default();
            let mut came = 0;
            let mut over = Vec::new();
            for (packet, pass, kind, ended) in records {
                let packet = u64::from(packet % 5);
                if *ended {
                    let fate = Fate::Dropped { location: 1 };
                    journeys.end(&end(packet, u32::from(*pass), fate), |_| None);
                    continue;
                }
                let hook = Hook::from(kind % 6);
                let mut next = passage(
                    packet,
                    u32::from(*pass),
                    "nat",
                    hook,
                    vec![*kind; usize::from(*kind)],
                );
                next.traversal.verdict = Verdict::from(u32::from(kind % 7));
                came += 1;
                journeys.passage(next);
                over.extend(journeys.over(u64::from(*pass) * 10_000_000));
            }
            over.extend(journeys.rest());
            let shown: usize = over.iter().map(|journey| journey.passages.len()).sum();
            assert_eq!(shown, came);
            for journey in &over {
                assert!(!journey.stations().is_empty());
                let _ = (
                    journey.dropped_by(),
                    journey.duration_ns(),
                    journey.last().chain_path(),
                );
            }
        });
}

#[test]
fn only_so_many_journeys_are_kept_open() {
    let mut journeys = Journeys::default();
    let headers = Arc::new(tcp(NODE, 1, POD, 2, 64));
    for packet in 1..=9000 {
        journeys.passage(passage(packet, 1, "raw", Hook::PreRouting, headers.to_vec()));
    }
    assert_eq!(journeys.counts().cut, 9000 - 8192);
    let cut = journeys.over(u64::MAX / 2).remove(0);
    assert!(cut.partial[0].contains("too many packets"), "{:?}", cut.partial);
}
