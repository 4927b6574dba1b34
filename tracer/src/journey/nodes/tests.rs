//! Journeys of several nodes: joined where it is certain, in the order in which they went; and never otherwise.

use etherparse::PacketBuilder;

use super::{super::Journeys, *};
use crate::journey::tests::{decided, device, passage};

const POD: [u8; 4] = [10, 244, 1, 2];
const OTHER_POD: [u8; 4] = [10, 244, 2, 2];
const NODES: [[u8; 4]; 3] = [[172, 16, 0, 1], [172, 16, 0, 2], [172, 16, 0, 3]];

/// An echo request, as it is with this time to live.
fn ping(source: [u8; 4], ttl: u8, sequence: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(source, OTHER_POD, ttl)
        .icmpv4_echo_request(77, sequence)
        .write(&mut bytes, b"0123456789")
        .unwrap();
    bytes[4..6].copy_from_slice(&sequence.to_be_bytes());
    bytes
}

fn in_vxlan(from: usize, to: usize, inner: &[u8]) -> Vec<u8> {
    let mut frame = vec![8, 0, 0, 0, 0, 0, 1, 0];
    frame.extend([2; 12]);
    frame.extend([8, 0]);
    frame.extend(inner);
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(NODES[from], NODES[to], 64)
        .udp(5555, 8472)
        .write(&mut bytes, &frame)
        .unwrap();
    bytes
}

/// A packet on a node, from hook to hook; its clock is behind by an hour for each node.
fn on(node: u32, packet: u64, hooks: &[(Hook, Vec<u8>)]) -> Vec<Passage> {
    let passages = (1..).zip(hooks).map(|(pass, (hook, headers))| {
        let mut passage = passage(packet, pass, "filter", *hook, headers.clone());
        let traversal = &mut passage.traversal;
        traversal.in_device = device("eth0").filter(|_| *hook != Hook::LocalOut);
        traversal.out_device = device("eth1").filter(|_| !matches!(hook, Hook::PreRouting | Hook::LocalIn));
        let name = format!("node-{node}");
        traversal.place(
            node,
            Some(name.as_str().into()),
            i64::from(9 - node) * 3_600_000_000_000,
        );
        passage
    });
    passages.collect()
}

fn forwarded(node: u32, packet: u64, ttl: u8) -> Vec<Passage> {
    let (before, after) = (ping(POD, ttl, 1), ping(POD, ttl - 1, 1));
    on(
        node,
        packet,
        &[
            (Hook::PreRouting, before),
            (Hook::Forward, after.clone()),
            (Hook::PostRouting, after),
        ],
    )
}

fn delivered(node: u32, packet: u64, ttl: u8) -> Vec<Passage> {
    let headers = ping(POD, ttl, 1);
    on(
        node,
        packet,
        &[(Hook::PreRouting, headers.clone()), (Hook::LocalIn, headers)],
    )
}

fn sent(node: u32, packet: u64, headers: &[u8]) -> Vec<Passage> {
    on(
        node,
        packet,
        &[
            (Hook::LocalOut, headers.to_vec()),
            (Hook::PostRouting, headers.to_vec()),
        ],
    )
}

/// What joining makes of the packets of several nodes, as it is shown, with what it counts.
fn joined(packets: impl IntoIterator<Item = Vec<Passage>>) -> (Vec<Journey>, NodeCounts) {
    let mut journeys = Journeys::default();
    packets
        .into_iter()
        .flatten()
        .for_each(|passage| journeys.passage(passage));
    let mut nodes = Nodes::default();
    for journey in journeys.rest() {
        assert!(!nodes.take(journey));
    }
    (nodes.join(), nodes.counts)
}

/// A packet that goes through a tunnel, and one with NAT between the nodes.
pub(crate) fn samples() -> Vec<Journey> {
    let outer = in_vxlan(0, 1, &ping(POD, 63, 1));
    let translated = ping(NODES[0], 62, 2);
    let parts = [
        forwarded(0, 1, 64),
        sent(0, 2, &outer),
        on(
            1,
            3,
            &[(Hook::PreRouting, outer.clone()), (Hook::LocalIn, outer.clone())],
        ),
        forwarded(1, 4, 63),
        sent(0, 5, &ping(POD, 64, 2)),
        on(
            1,
            6,
            &[
                (Hook::PreRouting, translated.clone()),
                (Hook::LocalIn, translated),
            ],
        ),
    ];
    joined(parts).0
}

/// `0:OUTPUT 0:POSTROUTING | 1:PREROUTING 1:INPUT`
fn way(journey: &Journey) -> String {
    let mut way = String::new();
    for (index, passage) in journey.passages.iter().enumerate() {
        if let Some(joint) = journey.joint_at(index) {
            way.push_str(match joint.how {
                How::Sent => "| ",
                How::Translated => "|nat| ",
                How::Wrapped => "( ",
                How::Unwrapped => ") ",
            });
        }
        let traversal = &passage.traversal;
        way.push_str(&format!("{}:{} ", traversal.packet.recording(), traversal.hook));
    }
    way.trim_end().to_owned()
}

#[test]
fn three_nodes_are_one_way_whatever_their_clocks_say() {
    let parts = [
        delivered(2, 3, 62),
        forwarded(1, 2, 63),
        sent(0, 1, &ping(POD, 63, 1)),
    ];
    let (journeys, counts) = joined(parts);
    assert_eq!(journeys.len(), 1);
    assert_eq!(
        way(&journeys[0]),
        "0:OUTPUT 0:POSTROUTING | 1:PREROUTING 1:FORWARD 1:POSTROUTING | 2:PREROUTING 2:INPUT"
    );
    assert_eq!((counts.joined, counts.ambiguous), (1, 0));
    let journey = &journeys[0];
    assert_eq!(journey.number, 1);
    // 110 ns on the first, 210 on the second, 110 on the last: the way between them is no node's.
    assert_eq!(journey.duration_ns(), 110 + 210 + 110);
    assert_eq!(journey.stations().len(), 7);
    assert!(journey.partial.is_empty(), "{:?}", journey.partial);
}

#[test]
fn a_drop_on_the_second_node_is_named_with_its_rule() {
    let mut dropped = forwarded(1, 2, 64);
    dropped.truncate(2);
    let last = dropped.pop().unwrap();
    dropped.push(decided(last, "DENY", "DROP", Verdict::Drop));
    let (journeys, _) = joined([sent(0, 1, &ping(POD, 64, 1)), dropped]);
    assert_eq!(journeys.len(), 1);
    assert_eq!(
        journeys[0].outcome,
        Outcome::Dropped {
            passage: 3,
            rejected: false
        }
    );
    assert_eq!(journeys[0].dropped_by().unwrap().label, "filter:DENY:rule:2");
}

#[test]
fn packets_that_nothing_tells_apart_are_not_joined() {
    let twice = [
        sent(0, 1, &ping(POD, 64, 1)),
        delivered(1, 2, 64),
        delivered(1, 3, 64),
    ];
    let (journeys, counts) = joined(twice);
    assert_eq!(journeys.len(), 3);
    assert_eq!((counts.joined, counts.ambiguous), (0, 3));
    for journey in &journeys {
        assert!(journey.joints.is_empty());
        let why = &journey.partial[0];
        assert!(
            why.starts_with("not joined with what other nodes have recorded: "),
            "{why}"
        );
    }
    // Two nodes that leave the time to live alone may have it from each other.
    let bridged = |node, packet| {
        let headers = ping(POD, 64, 1);
        on(
            node,
            packet,
            &[(Hook::PreRouting, headers.clone()), (Hook::PostRouting, headers)],
        )
    };
    let (journeys, counts) = joined([bridged(0, 1), bridged(1, 2)]);
    assert_eq!((journeys.len(), counts.joined, counts.ambiguous), (2, 0, 2));
}

#[test]
fn what_differs_in_anything_that_stays_is_another_packet() {
    let other = ping(POD, 64, 2);
    let mut changed = ping(POD, 64, 1);
    *changed.last_mut().unwrap() ^= 1;
    for headers in [other, changed, ping(POD, 65, 1)] {
        let came = on(
            1,
            2,
            &[(Hook::PreRouting, headers.clone()), (Hook::LocalIn, headers)],
        );
        let (journeys, counts) = joined([sent(0, 1, &ping(POD, 64, 1)), came]);
        assert_eq!((journeys.len(), counts.joined, counts.ambiguous), (2, 0, 0));
    }
    // What came from nowhere else, and what went nowhere.
    let (journeys, _) = joined([delivered(0, 1, 64), delivered(1, 2, 64)]);
    assert_eq!(journeys.len(), 2);
}

#[test]
fn nat_between_two_nodes_is_told_as_such() {
    let before = sent(0, 1, &ping(POD, 64, 1));
    let after = ping(NODES[0], 62, 1);
    let came = on(1, 2, &[(Hook::PreRouting, after.clone()), (Hook::LocalIn, after)]);
    let (journeys, _) = joined([before, came]);
    assert_eq!(
        way(&journeys[0]),
        "0:OUTPUT 0:POSTROUTING |nat| 1:PREROUTING 1:INPUT"
    );
    let changes: Vec<String> = journeys[0]
        .changes
        .iter()
        .map(|change| change.what.to_string())
        .collect();
    assert_eq!(changes, ["source 10.244.1.2>172.16.0.1", "ttl 64>62"]);
    assert!(journeys[0].changes.iter().all(|change| change.by == By::Node));
}

#[test]
fn a_tunnel_is_followed_through_its_packets() {
    let inner = ping(POD, 63, 1);
    let outer = in_vxlan(0, 1, &inner);
    let parts = |tunnel: bool| {
        let mut parts = vec![forwarded(0, 1, 64)];
        if tunnel {
            parts.push(sent(0, 2, &outer));
            parts.push(on(
                1,
                3,
                &[(Hook::PreRouting, outer.clone()), (Hook::LocalIn, outer.clone())],
            ));
        }
        parts.push(forwarded(1, 4, 63));
        parts
    };
    let (journeys, counts) = joined(parts(true));
    assert_eq!(
        way(&journeys[0]),
        "0:PREROUTING 0:FORWARD 0:POSTROUTING ( 0:OUTPUT 0:POSTROUTING | 1:PREROUTING 1:INPUT ) 1:PREROUTING \
         1:FORWARD 1:POSTROUTING"
    );
    assert_eq!((journeys.len(), counts.joined, counts.ambiguous), (1, 1, 0));
    // Where the tunnel's own packets were not recorded, the inner ones are enough.
    let (journeys, _) = joined(parts(false));
    assert_eq!(
        way(&journeys[0]),
        "0:PREROUTING 0:FORWARD 0:POSTROUTING | 1:PREROUTING 1:FORWARD 1:POSTROUTING"
    );
    assert!(
        journeys[0].changes.iter().all(|change| change.by != By::Node),
        "{:?}",
        journeys[0].changes
    );
}

#[test]
fn parts_that_were_not_asked_for_are_shown_with_those_that_were() {
    let mut journeys = Journeys::default();
    sent(0, 1, &ping(POD, 64, 1))
        .into_iter()
        .for_each(|passage| journeys.passage(passage));
    let mut others = Journeys::default();
    for part in [delivered(1, 2, 64), sent(1, 3, &ping(POD, 64, 9))] {
        part.into_iter().for_each(|passage| others.passage(passage));
    }
    let mut nodes = Nodes::default();
    journeys
        .rest()
        .into_iter()
        .for_each(|journey| assert!(!nodes.take(journey)));
    others
        .rest()
        .into_iter()
        .for_each(|journey| assert!(!nodes.take_other(journey)));
    let shown = nodes.join();
    assert_eq!(shown.len(), 1);
    assert_eq!(way(&shown[0]), "0:OUTPUT 0:POSTROUTING | 1:PREROUTING 1:INPUT");
    assert_eq!(shown[0].number, 1);
}
