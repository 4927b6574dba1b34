//! Replicas of match functions.

use super::support::*;
use crate::replay::{Gap, Observation, Outcome, Purity, Reason, purity};
use crate::ruleset::builder::{RuleBuilder, rule};
use crate::traversal::{Conntrack, ConntrackState, Family, Traversal, Verdict};

/// What cannot be told of a rule.
fn gap(traversal: &Traversal, rule: RuleBuilder) -> Gap {
    let table = output_of(traversal.family).rule(rule).table();
    match reason(&table, traversal, &[]) {
        Reason::Unknown { gap, .. } => gap,
        other => panic!("{other}"),
    }
}

fn tcp(data: &[u8]) -> RuleBuilder {
    rule().protocol(TCP).matching("tcp", 0, data)
}

/// `struct xt_tcp`
fn tcp_data(ports: [u16; 4], option: u8, mask: u8, flags: u8, inverted: u8) -> Vec<u8> {
    let mut data = words16(&ports);
    data.extend([option, mask, flags, inverted]);
    data
}

const ANY: [u16; 4] = [0, 0xffff, 0, 0xffff];

#[test]
fn tcp_ports_and_flags() {
    let packet = ipv4(syn());
    assert!(satisfies(&packet, tcp(&tcp_to(80))));
    assert!(!satisfies(&packet, tcp(&tcp_to(81))));
    assert!(satisfies(
        &packet,
        tcp(&tcp_data([1000, 1000, 1, 100], 0, 0, 0, 0))
    ));
    assert!(!satisfies(
        &packet,
        tcp(&tcp_data([1000, 1000, 1, 100], 0, 0, 0, 1))
    ));
    assert!(!satisfies(
        &packet,
        tcp(&tcp_data([1000, 1000, 1, 100], 0, 0, 0, 2))
    ));
    // --syn: of SYN, RST, ACK and FIN only SYN.
    assert!(satisfies(&packet, tcp(&tcp_data(ANY, 0, 0x17, 0x02, 0))));
    assert!(!satisfies(&packet, tcp(&tcp_data(ANY, 0, 0x17, 0x02, 4))));
}

#[test]
fn tcp_options_are_found_by_kind_alone() {
    let packet = ipv4(syn());
    for (option, there) in [(2, true), (4, true), (1, true), (8, false)] {
        assert_eq!(satisfies(&packet, tcp(&tcp_data(ANY, option, 0, 0, 0))), there);
        assert_eq!(satisfies(&packet, tcp(&tcp_data(ANY, option, 0, 0, 8))), !there);
    }
}

#[test]
fn a_tcp_option_that_is_the_last_byte_ends_the_search() {
    let mut headers = syn();
    headers[40..48].copy_from_slice(&[1, 1, 1, 1, 1, 1, 1, 30]);
    let packet = ipv4(headers);
    assert!(satisfies(&packet, tcp(&tcp_data(ANY, 30, 0, 0, 0))));
    assert!(!satisfies(&packet, tcp(&tcp_data(ANY, 4, 0, 0, 0))));
}

#[test]
fn malformed_tcp_is_dropped_on_the_spot() {
    assert!(hotdropped(ipv4(fragment_at(1, syn())), tcp(&tcp_to(80))));
    assert!(!satisfies(&ipv4(fragment_at(2, syn())), tcp(&tcp_to(80))));
    let mut tiny = ipv4(syn());
    tiny.packet_len = 39;
    assert!(hotdropped(tiny, tcp(&tcp_to(80))));
    // A header length below five is found out only where options are asked for.
    let mut headers = syn();
    headers[32] = 0x40;
    assert!(satisfies(&ipv4(headers.clone()), tcp(&tcp_to(80))));
    assert!(hotdropped(ipv4(headers), tcp(&tcp_data(ANY, 2, 0, 0, 0))));
    // Options that reach beyond the packet.
    let mut headers = syn();
    headers[32] = 0xf0;
    assert!(hotdropped(ipv4(headers), tcp(&tcp_data(ANY, 8, 0, 0, 0))));
}

#[test]
fn what_was_not_captured_is_unknown_and_not_a_no() {
    let mut cut = ipv4(syn());
    cut.headers.truncate(39);
    assert_eq!(gap(&cut, tcp(&tcp_to(80))), Gap::BeyondCapture);
    // The ports are there, but the kernel wants a whole header before it looks at them.
    cut.headers = syn();
    cut.headers.truncate(44);
    assert!(satisfies(&cut, tcp(&tcp_to(80))));
    assert_eq!(gap(&cut, tcp(&tcp_data(ANY, 8, 0, 0, 0))), Gap::BeyondCapture);
}

#[test]
fn data_that_is_too_short_is_unknown() {
    assert_eq!(
        gap(&ipv4(syn()), rule().matching("mark", 1, &[0; 4])),
        Gap::ShortData
    );
}

#[test]
fn tcpmss() {
    let mss = |least, greatest, inverted| {
        let mut data = words16(&[least, greatest]);
        data.push(inverted);
        rule().protocol(TCP).matching("tcpmss", 0, &data)
    };
    let packet = ipv4(syn());
    assert!(satisfies(&packet, mss(1460, 1460, 0)));
    assert!(!satisfies(&packet, mss(1, 1459, 0)));
    assert!(satisfies(&packet, mss(1, 1459, 1)));
    // Without the option only the inverted question is satisfied.
    let mut headers = syn();
    headers[40..44].fill(1);
    assert!(!satisfies(&ipv4(headers.clone()), mss(0, 0xffff, 0)));
    assert!(satisfies(&ipv4(headers), mss(0, 0xffff, 1)));
}

#[test]
fn udp() {
    let to = |port| {
        let mut data = words16(&[0, 0xffff, port, port]);
        data.push(0);
        rule().protocol(UDP).matching("udp", 0, &data)
    };
    assert!(satisfies(&ipv4(datagram()), to(53)));
    assert!(!satisfies(&ipv4(datagram()), to(54)));
    assert!(!satisfies(&ipv4(fragment_at(1, datagram())), to(53)));
    let mut tiny = ipv4(datagram());
    tiny.packet_len = 27;
    assert!(hotdropped(tiny, to(53)));
}

#[test]
fn icmp_type_255_is_any_but_not_with_icmpv6() {
    let mut echo = syn();
    echo[9] = 1;
    echo[20..22].copy_from_slice(&[8, 0]);
    let icmp = |data: [u8; 4]| rule().protocol(1).matching("icmp", 0, &data);
    assert!(satisfies(&ipv4(echo.clone()), icmp([8, 0, 0xff, 0])));
    assert!(!satisfies(&ipv4(echo.clone()), icmp([8, 1, 0xff, 0])));
    assert!(satisfies(&ipv4(echo.clone()), icmp([0xff, 0, 0xff, 0])));
    assert!(!satisfies(&ipv4(echo), icmp([0xff, 0, 0xff, 1])));

    let echo6 = ipv6(ipv6_packet(58, &[128, 0, 0, 0, 0, 0, 0, 0]));
    let icmp6 = |data: [u8; 4]| rule().protocol(58).matching("icmp6", 0, &data);
    assert!(satisfies(&echo6, icmp6([128, 0, 0xff, 0])));
    assert!(!satisfies(&echo6, icmp6([0xff, 0, 0xff, 0])));
}

#[test]
fn multiport() {
    let multiport = |which: u8, ports: &[u16], ranges: &[usize], inverted: u8| {
        let mut data = vec![0; 48];
        data[0] = which;
        data[1] = u8::try_from(ports.len()).unwrap();
        data[2..2 + 2 * ports.len()].copy_from_slice(&words16(ports));
        for range in ranges {
            data[32 + range] = 1;
        }
        data[47] = inverted;
        rule().protocol(TCP).matching("multiport", 1, &data)
    };
    let packet = ipv4(syn());
    assert!(satisfies(&packet, multiport(1, &[22, 80], &[], 0)));
    assert!(!satisfies(&packet, multiport(0, &[22, 80], &[], 0)));
    assert!(satisfies(&packet, multiport(2, &[22, 1000], &[], 0)));
    assert!(satisfies(&packet, multiport(1, &[22, 70, 90], &[1], 0)));
    assert!(!satisfies(&packet, multiport(1, &[22, 70, 81], &[0], 0)));
    assert!(!satisfies(&packet, multiport(1, &[22, 80], &[], 1)));
    assert!(satisfies(&packet, multiport(1, &[22], &[], 1)));
    assert_eq!(gap(&packet, multiport(1, &[1; 15], &[14], 0)), Gap::ShortData);
}

#[test]
fn length_is_unknown_where_kernels_differ() {
    let length = |least, greatest| {
        let mut data = words16(&[least, greatest]);
        data.push(0);
        rule().matching("length", 0, &data)
    };
    let packet = ipv4(syn());
    assert!(satisfies(&packet, length(48, 48)));
    assert!(!satisfies(&packet, length(0, 47)));
    let mut headers = syn();
    headers[2..4].fill(0);
    let mut big = ipv4(headers);
    big.packet_len = 100_000;
    assert_eq!(gap(&big, length(0, 47)), Gap::KernelsDiffer);
    assert!(!satisfies(&big, length(1, 0xffff)));

    let packet = ipv6(ipv6_packet(59, &[]));
    assert!(satisfies(&packet, length(40, 40)));
    let mut padded = packet;
    padded.packet_len = 46;
    assert_eq!(gap(&padded, length(40, 40)), Gap::KernelsDiffer);
}

#[test]
fn ttl_and_hop_limit() {
    let packet = ipv4(syn());
    let packet6 = ipv6(ipv6_packet(59, &[]));
    for (data, holds) in [
        ([0, 64], true),
        ([0, 63], false),
        ([1, 63], true),
        ([2, 65], true),
        ([2, 64], false),
        ([3, 63], true),
        ([9, 64], false),
    ] {
        assert_eq!(satisfies(&packet, rule().matching("ttl", 0, &data)), holds);
        assert_eq!(satisfies(&packet6, rule().matching("hl", 0, &data)), holds);
    }
}

#[test]
fn dscp_tos_and_ecn() {
    let mut headers = syn();
    headers[1] = 46 << 2 | 2;
    headers[33] |= 0x40;
    let packet = ipv4(headers);
    let mut headers = ipv6_packet(59, &[]);
    headers[0..2].copy_from_slice(&[0x6b, 0xa0]);
    let packet6 = ipv6(headers);
    for packet in [&packet, &packet6] {
        assert!(satisfies(packet, rule().matching("dscp", 0, &[46, 0])));
        assert!(!satisfies(packet, rule().matching("dscp", 0, &[46, 1])));
        assert!(satisfies(packet, rule().matching("tos", 1, &[0xff, 0xba, 0])));
        assert!(satisfies(packet, rule().matching("tos", 1, &[0x03, 0x02, 0])));
        assert!(satisfies(packet, rule().matching("ecn", 0, &[1, 0, 2, 0])));
        assert!(!satisfies(packet, rule().matching("ecn", 0, &[1, 1, 2, 0])));
    }
    let ecn = |asked, inverted| rule().protocol(TCP).matching("ecn", 0, &[asked, inverted, 0, 0]);
    assert!(satisfies(&packet, ecn(0x10, 0)));
    assert!(!satisfies(&packet, ecn(0x20, 0)));
    assert!(satisfies(&packet, ecn(0x30, 0x20)));
}

#[test]
fn iprange() {
    let range = |flags: u8| {
        let mut data = vec![0; 65];
        data[..4].copy_from_slice(&[10, 0, 0, 0]);
        data[16..20].copy_from_slice(&[10, 0, 0, 1]);
        data[32..36].copy_from_slice(&[10, 0, 0, 3]);
        data[48..52].copy_from_slice(&[10, 0, 1, 0]);
        data[64] = flags;
        rule().matching("iprange", 1, &data)
    };
    let packet = ipv4(syn());
    assert!(satisfies(&packet, range(0x01)));
    assert!(!satisfies(&packet, range(0x11)));
    assert!(!satisfies(&packet, range(0x02)));
    assert!(satisfies(&packet, range(0x23)));
}

#[test]
fn mark_is_inverted() {
    let mut packet = ipv4(syn());
    packet.mark_before = 0x4001;
    packet.mark_after = Some(0x4001);
    let mark = |mark, inverted| {
        let mut data = words32(&[mark, 0x4000]);
        data.push(inverted);
        rule().matching("mark", 1, &data)
    };
    assert!(satisfies(&packet, mark(0x4000, 0)));
    assert!(!satisfies(&packet, mark(0x4000, 1)));
    // A mark beyond its mask never matches.
    assert!(!satisfies(&packet, mark(0x4001, 0)));
}

#[test]
fn security_parameter_indexes() {
    let mut esp_headers = syn();
    esp_headers[9] = 50;
    esp_headers[20..24].copy_from_slice(&7_u32.to_be_bytes());
    let mut data = words32(&[5, 9]);
    data.push(0);
    assert!(satisfies(
        &ipv4(esp_headers),
        rule().protocol(50).matching("esp", 0, &data)
    ));

    let mut ah = vec![59, 4, 0, 0];
    ah.extend(7_u32.to_be_bytes());
    ah.extend([0; 16]);
    let packet = ipv6(ipv6_packet(51, &ah));
    let asked = |len| {
        let mut data = words32(&[5, 9, len]);
        data.extend([1, 0]);
        rule().matching("ah", 0, &data)
    };
    assert!(satisfies(&packet, asked(0)));
    assert!(satisfies(&packet, asked(24)));
    assert!(!satisfies(&packet, asked(20)));
    assert!(!satisfies(&ipv6(ipv6_packet(59, &[])), asked(0)));
    assert!(hotdropped(ipv6(ipv6_packet(51, &ah[..9])), asked(0)));
}

#[test]
fn sctp_and_dccp_ports() {
    let mut headers = syn();
    headers[9] = 132;
    let mut data = vec![0; 68];
    data[..8].copy_from_slice(&words16(&[80, 80, 1000, 1000]));
    data[60..64].copy_from_slice(&words32(&[3]));
    let sctp = rule().protocol(132).matching("sctp", 0, &data);
    assert!(satisfies(&ipv4(headers.clone()), sctp));

    headers[9] = 33;
    headers[28] = 5 << 1;
    let dccp = |types: u16| {
        let mut data = words16(&[80, 80, 1000, 1000, 7, 0, types]);
        data.extend([0; 2]);
        rule().protocol(33).matching("dccp", 0, &data)
    };
    assert!(satisfies(&ipv4(headers.clone()), dccp(1 << 5)));
    assert!(!satisfies(&ipv4(headers), dccp(1 << 4)));
}

#[test]
fn ipv6_fragment_header() {
    let packet = |offset: u16| {
        let mut rest = vec![17, 0];
        rest.extend(offset.to_be_bytes());
        rest.extend(77_u32.to_be_bytes());
        rest.extend([0; 8]);
        ipv6(ipv6_packet(44, &rest))
    };
    let asked = |asked: u8| {
        let mut data = words32(&[77, 77, 0]);
        data.extend([asked, 0]);
        rule().matching("frag", 0, &data)
    };
    let (first, last) = (packet(1), packet(16));
    assert!(satisfies(&first, asked(0)));
    assert!(satisfies(&first, asked(0x08 | 0x10)));
    assert!(!satisfies(&first, asked(0x20)));
    assert!(satisfies(&last, asked(0x20)));
    assert!(!satisfies(&last, asked(0x08)));
    assert!(!satisfies(&ipv6(ipv6_packet(59, &[])), asked(0)));
}

#[test]
fn ipv6_options_are_matched_in_their_order() {
    // PadN of 0 bytes, then router alert.
    let packet = ipv6(ipv6_packet(0, &[59, 0, 1, 0, 5, 2, 0, 0]));
    let asked = |options: &[u16]| {
        let mut data = words32(&[8]);
        data.extend([3, 0]);
        data.extend(words16(options));
        data.resize(38, 0);
        data.push(u8::try_from(options.len()).unwrap());
        rule().matching("hbh", 0, &data)
    };
    assert!(satisfies(&packet, asked(&[0x0100])));
    assert!(satisfies(&packet, asked(&[0x0100, 0x0502])));
    assert!(satisfies(&packet, asked(&[0x01ff, 0x05ff])));
    assert!(!satisfies(&packet, asked(&[0x0502])));
    assert!(!satisfies(&packet, asked(&[0x0100, 0x0502, 0x0100])));
    assert!(!satisfies(&ipv6(ipv6_packet(59, &[])), asked(&[0x0100])));
}

#[test]
fn ipv6_routing_header() {
    let mut rest = vec![59, 2, 4, 1];
    rest.extend([0; 20]);
    let packet = ipv6(ipv6_packet(43, &rest));
    let asked = |kind, segments: [u32; 2], len| {
        let mut data = words32(&[kind, segments[0], segments[1], len]);
        data.extend([0x01 | 0x04, 0]);
        data.resize(280, 0);
        rule().matching("rt", 0, &data)
    };
    assert!(satisfies(&packet, asked(4, [1, 1], 24)));
    assert!(!satisfies(&packet, asked(0, [1, 1], 24)));
    assert!(!satisfies(&packet, asked(4, [2, 9], 24)));
    assert!(!satisfies(&packet, asked(4, [1, 1], 16)));
}

#[test]
fn ipv6_headers_that_are_there() {
    let mut rest = vec![6, 0, 1, 4, 0, 0, 0, 0];
    rest.extend(tcp_header(1, 2));
    let packet = ipv6(ipv6_packet(0, &rest));
    let asked = |headers, inverted, soft| rule().matching("ipv6header", 0, &[headers, inverted, soft]);
    assert!(satisfies(&packet, asked(0x81, 0, 0)));
    assert!(!satisfies(&packet, asked(0x80, 0, 0)));
    assert!(satisfies(&packet, asked(0x80, 0xff, 0)));
    assert!(satisfies(&packet, asked(0x80, 0, 1)));
    assert!(!satisfies(&packet, asked(0x40, 0, 1)));
}

#[test]
fn mobility_headers_are_the_last() {
    let asked = rule().protocol(135).matching("mh", 0, &[5, 6, 0]);
    let packet = |following, kind| ipv6(ipv6_packet(135, &[following, 0, kind, 0, 0, 0, 0, 0]));
    assert!(satisfies(&packet(59, 5), asked.clone()));
    assert!(!satisfies(&packet(59, 7), asked.clone()));
    assert!(hotdropped(packet(6, 5), asked));
}

#[test]
fn conntrack_states() {
    const STATE: u16 = 1;
    let asked = |states, inverted| rule().matching("conntrack", 3, &conntrack(STATE, inverted, states, 0));
    let all = [1, 2, 4, 8, 0x100];
    let packet = |conntrack| {
        let mut packet = ipv4(syn());
        packet.conntrack = conntrack;
        packet
    };
    for (conntrack, state) in [
        (Conntrack::None, 1),
        (Conntrack::Orphaned, 1),
        (Conntrack::Untracked, 0x100),
        (tracked(ConntrackState::Established, 0, 0), 2),
        (tracked(ConntrackState::Related, 0, 0), 4),
        (tracked(ConntrackState::New, 0, 0), 8),
    ] {
        for asked_state in all {
            assert_eq!(
                satisfies(&packet(conntrack), asked(asked_state, 0)),
                state == asked_state
            );
            assert_eq!(
                satisfies(&packet(conntrack), asked(asked_state, STATE)),
                state != asked_state
            );
        }
    }
    // SNAT and DNAT are bits of the status, which is not the packet's own.
    assert!(!is_pure(asked(0x80, 0)));
    assert!(!is_pure(asked(0x40, 0)));
    assert!(is_pure(asked(8, 0)));
}

fn is_pure(rule: RuleBuilder) -> bool {
    let table = output().rule(rule).table();
    purity(&table.rules[0].matches[0], &table) == Purity::Pure
}

#[test]
fn conntrack_status_and_direction() {
    const STATUS: u16 = 0x40;
    const DIRECTION: u16 = 0x1000;
    let asked =
        |asked, inverted, statuses| rule().matching("conntrack", 3, &conntrack(asked, inverted, 0, statuses));
    let mut packet = ipv4(syn());
    packet.conntrack = tracked(ConntrackState::New, 0x08, 0);
    // The status is not the packet's own.
    assert!(!is_pure(asked(STATUS, 0, 0x08)));
    assert!(satisfies(&packet, asked(DIRECTION, 0, 0)));
    assert!(!satisfies(&packet, asked(DIRECTION, DIRECTION, 0)));
    // Without a connection only the state can be satisfied.
    packet.conntrack = Conntrack::None;
    assert!(!satisfies(&packet, asked(0, 0, 0)));
}

#[test]
fn conntrack_revision_1_has_masks_of_one_byte() {
    let mut data = conntrack(1, 0, 0, 0);
    data[150] = 8;
    let mut packet = ipv4(syn());
    packet.conntrack = tracked(ConntrackState::New, 0, 0);
    assert!(satisfies(&packet, rule().matching("conntrack", 1, &data)));
}

#[test]
fn state_knows_untracked_by_another_bit() {
    let mut packet = ipv4(syn());
    packet.conntrack = Conntrack::Untracked;
    let state = |states| rule().matching("state", 0, &words32(&[states]));
    assert!(satisfies(&packet, state(0x40)));
    assert!(!satisfies(&packet, state(0x100)));
    packet.conntrack = Conntrack::None;
    assert!(satisfies(&packet, state(1)));
}

#[test]
fn no_replica_of_the_other_family() {
    let table = output_of(Family::Ipv6)
        .rule(rule().matching("ttl", 0, &[0, 64]))
        .table();
    assert!(matches!(
        reason(&table, &ipv6(ipv6_packet(59, &[])), &[]),
        Reason::NotObserved { .. }
    ));
}

#[test]
fn an_option_header_longer_than_the_packet_is_left_to_the_kernel() {
    let packet = ipv6(ipv6_packet(60, &[59, 200, 1, 4, 0, 0, 0, 0]));
    let mut data = words32(&[8]);
    data.extend([1, 0]);
    data.resize(40, 0);
    let table = output_of(Family::Ipv6)
        .rule(rule().matching("dst", 0, &data))
        .table();
    let at = match_data(&table, 0);
    assert_eq!(
        walked_with(&table, &packet, &[match_seen(at, false)]),
        ["OUTPUT:policy:2"]
    );
    let mut dropped = packet;
    dropped.verdict = Verdict::Drop;
    let seen = Observation {
        data: at,
        outcome: Outcome::Match {
            matched: false,
            hotdrop: true,
            mark: 0,
        },
    };
    assert!(walked_with(&table, &dropped, &[seen]).is_empty());
}
