//! Packets, their records, and the structs of extensions.

use etherparse::PacketBuilder;

use crate::replay::{Completeness, Observation, Outcome, Path, Purity, Reason, purity, walk};
use crate::ruleset::builder::{ACCEPT, RuleBuilder, TableBuilder};
use crate::ruleset::{Labels, Offset, Table, Target};
use crate::traversal::{Conntrack, ConntrackState, Device, Family, Hook, Traversal, Verdict};

pub(super) const TCP: u16 = 6;
pub(super) const UDP: u16 = 17;
pub(super) const CONTINUE: u32 = 0xffff_ffff;

/// `iptables -t mangle` with rules in OUTPUT, policy ACCEPT.
pub(super) fn output_of(family: Family) -> TableBuilder {
    TableBuilder::new(family, "mangle").built_in(Hook::LocalOut, ACCEPT)
}

pub(super) fn output() -> TableBuilder {
    output_of(Family::Ipv4)
}

/// A packet accepted in OUTPUT of `mangle`.
pub(super) fn packet(family: Family, headers: Vec<u8>) -> Traversal {
    let bytes = tracer_common::Traversal {
        family: match family {
            Family::Ipv4 => 2,
            Family::Ipv6 => 10,
        },
        ..tracer_common::Traversal::EMPTY
    };
    let mut traversal = Traversal::decode(bytes.bytes()).unwrap();
    traversal.table = "mangle".into();
    traversal.hook = Hook::LocalOut;
    traversal.verdict = Verdict::Accept;
    traversal.packet_len = u32::try_from(headers.len()).unwrap();
    traversal.headers = headers;
    traversal
}

pub(super) fn ipv4(headers: Vec<u8>) -> Traversal {
    packet(Family::Ipv4, headers)
}

pub(super) fn ipv6(headers: Vec<u8>) -> Traversal {
    packet(Family::Ipv6, headers)
}

/// 10.0.0.1:1000 > 10.0.0.2:80, SYN with MSS 1460.
pub(super) fn syn() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(1000, 80, 1, 1024)
        .syn()
        .options_raw(&[2, 4, 0x05, 0xb4, 1, 1, 4, 2])
        .unwrap()
        .write(&mut bytes, &[])
        .unwrap();
    bytes
}

/// 10.0.0.1:1000 > 10.0.0.2:53
pub(super) fn datagram() -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(1000, 53)
        .write(&mut bytes, b"payload!")
        .unwrap();
    bytes
}

/// A later fragment, `units` of eight bytes into its packet.
pub(super) fn fragment_at(units: u16, mut headers: Vec<u8>) -> Vec<u8> {
    headers[6..8].copy_from_slice(&units.to_be_bytes());
    headers
}

/// An IPv6 packet from fd00::1 to fd00::2 with what follows its header.
pub(super) fn ipv6_packet(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
    bytes.extend([next, 64]);
    for last in [1, 2] {
        bytes.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    bytes.extend(rest);
    bytes
}

/// A TCP header without options.
pub(super) fn tcp_header(source: u16, destination: u16) -> [u8; 20] {
    let mut header = [0; 20];
    header[..2].copy_from_slice(&source.to_be_bytes());
    header[2..4].copy_from_slice(&destination.to_be_bytes());
    header[12] = 0x50;
    header[13] = 0x02;
    header
}

pub(super) fn device(name: &str) -> Option<Device> {
    Some(Device {
        name: name.into(),
        ifindex: 1,
        peer: None,
    })
}

pub(super) fn tracked(state: ConntrackState, status: u32, mark: u32) -> Conntrack {
    Conntrack::Tracked {
        address: 0x1000,
        state,
        reply: false,
        status,
        mark,
    }
}

/// The fields of a struct, in the byte order of the machine.
pub(super) fn words16(values: &[u16]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

pub(super) fn words32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// `struct xt_tcp` for `--dport`.
pub(super) fn tcp_to(port: u16) -> Vec<u8> {
    let mut data = words16(&[0, 0xffff, port, port]);
    data.extend([0; 4]);
    data
}

/// `struct xt_mark_mtinfo1`
pub(super) fn mark_is(mark: u32, mask: u32) -> Vec<u8> {
    let mut data = words32(&[mark, mask]);
    data.push(0);
    data
}

/// `struct xt_mark_tginfo2`
pub(super) fn set_mark(mark: u32, mask: u32) -> Vec<u8> {
    words32(&[mark, mask])
}

/// `struct xt_conntrack_mtinfo3`
pub(super) fn conntrack(asked: u16, inverted: u16, states: u16, statuses: u16) -> Vec<u8> {
    let mut data = vec![0; 164];
    data[146..154].copy_from_slice(&words16(&[asked, inverted, states, statuses]));
    data
}

/// The lines of a path.
pub(super) fn lines(table: &Table, traversal: &Traversal, path: &Path) -> Vec<String> {
    let labels = Labels::new(table);
    path.steps
        .iter()
        .map(|step| labels.of(traversal.hook, step.offset).unwrap().to_string())
        .collect()
}

/// The lines of a walk that has to be complete.
pub(super) fn walked(table: &Table, traversal: &Traversal) -> Vec<String> {
    walked_with(table, traversal, &[])
}

pub(super) fn walked_with(table: &Table, traversal: &Traversal, observed: &[Observation]) -> Vec<String> {
    let path = walk(table, traversal, observed);
    assert_eq!(path.completeness, Completeness::Complete);
    assert_eq!(path.verdict, Some(traversal.verdict));
    lines(table, traversal, &path)
}

/// Why a walk is not complete.
pub(super) fn reason(table: &Table, traversal: &Traversal, observed: &[Observation]) -> Reason {
    match walk(table, traversal, observed).completeness {
        Completeness::Partial(reason) => reason,
        Completeness::Complete => panic!("the path is complete"),
    }
}

/// Whether the packet satisfies a rule: the only one of the chain, so that its line is there or is not.
pub(super) fn satisfies(traversal: &Traversal, rule: RuleBuilder) -> bool {
    // No target, so that the policy follows in any case.
    let table = output_of(traversal.family).rule(rule).table();
    let observed = |extension| purity(extension, &table) == Purity::Observed;
    if table.rules[0].matches.iter().any(observed) {
        // A replica that only checks fits one answer and contradicts the other.
        let fits = |matched| {
            let seen = match_seen(match_data(&table, 0), matched);
            walk(&table, traversal, &[seen]).completeness == Completeness::Complete
        };
        assert_ne!(fits(true), fits(false));
        return fits(true);
    }
    let lines = walked(&table, traversal);
    assert_eq!(lines.last().unwrap(), "OUTPUT:policy:2");
    lines.len() == 2
}

/// Whether the packet is dropped on the spot by a rule's matches, without a line.
pub(super) fn hotdropped(mut traversal: Traversal, rule: RuleBuilder) -> bool {
    let table = output_of(traversal.family).rule(rule).table();
    traversal.verdict = Verdict::Drop;
    let path = walk(&table, &traversal, &[]);
    path.completeness == Completeness::Complete && path.steps.is_empty()
}

/// Where the data of a rule's first match is, by the rule's number in the blob.
pub(super) fn match_data(table: &Table, rule: usize) -> Offset {
    table.rules[rule].matches[0].data.start
}

/// Where the data of a rule's target is.
pub(super) fn target_data(table: &Table, rule: usize) -> Offset {
    match &table.rules[rule].target {
        Target::Extension(extension) => extension.data.start,
        other => panic!("{other:?} has no data"),
    }
}

pub(super) fn match_seen(data: Offset, matched: bool) -> Observation {
    marked_match_seen(data, matched, 0)
}

pub(super) fn marked_match_seen(data: Offset, matched: bool, mark: u32) -> Observation {
    Observation {
        data,
        outcome: Outcome::Match {
            matched,
            hotdrop: false,
            mark,
        },
    }
}
