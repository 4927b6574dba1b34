//! What targets do.

use super::observations::target_seen;
use super::support::*;
use crate::replay::{Completeness, Path, Reason, walk};
use crate::ruleset::builder::{RuleBuilder, rule};
use crate::traversal::{ConntrackState, Family, Traversal, Verdict};

/// The packet after a target.
fn after(traversal: &Traversal, target: RuleBuilder) -> (u32, Vec<u8>) {
    let table = output_of(traversal.family).rule(target).table();
    let mut traversal = traversal.clone();
    traversal.mark_after = None;
    let Path {
        steps, completeness, ..
    } = walk(&table, &traversal, &[]);
    assert_eq!(completeness, Completeness::Complete);
    (steps[1].mark, steps[1].headers.to_vec())
}

/// Whether the IPv4 header's checksum is right.
fn sound(headers: &[u8]) -> bool {
    let sum: u32 = headers[..20]
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(word[1]))
        .sum();
    (sum & 0xffff) + (sum >> 16) == 0xffff
}

#[test]
fn ttl_is_set_raised_and_lowered_within_its_bounds() {
    for (mode, value, ttl) in [
        (0, 1, 1),
        (1, 1, 65),
        (1, 255, 255),
        (2, 1, 63),
        (2, 200, 0),
        (0, 64, 64),
    ] {
        let (_, headers) = after(&ipv4(syn()), rule().extension("TTL", 0, &[mode, value]));
        assert_eq!(headers[8], ttl);
        assert!(sound(&headers), "{mode} {value}");
    }
}

#[test]
fn hop_limit_has_no_checksum() {
    let before = ipv6_packet(59, &[]);
    let (_, headers) = after(&ipv6(before.clone()), rule().extension("HL", 0, &[2, 1]));
    assert_eq!(headers[7], 63);
    assert_eq!(headers[..7], before[..7]);
}

#[test]
fn dscp_keeps_ecn_and_tos_only_what_its_mask_leaves() {
    let mut before = syn();
    // ECT(0), with a checksum that fits.
    let (_, headers) = after(&ipv4(before), rule().extension("TOS", 1, &[2, 0xff]));
    before = headers;
    assert_eq!(before[1], 2);
    for value in 0..64 {
        let (_, headers) = after(&ipv4(before.clone()), rule().extension("DSCP", 0, &[value]));
        assert_eq!(headers[1], value << 2 | 2);
        assert!(sound(&headers));
    }
    let (_, headers) = after(&ipv4(before), rule().extension("TOS", 1, &[0x10, 0xf0]));
    assert_eq!(headers[1], 0x12);
    assert!(sound(&headers));
}

#[test]
fn dscp_in_ipv6_lies_across_two_bytes() {
    let mut before = ipv6_packet(59, &[]);
    before[1] = 0x2f;
    let (_, headers) = after(&ipv6(before), rule().extension("DSCP", 0, &[46]));
    assert_eq!(headers[..2], [0x6b, 0xaf]);
}

#[test]
fn later_matches_see_the_changed_header_and_mark() {
    let table = output()
        .rule(rule().extension("TTL", 0, &[0, 1]))
        .rule(rule().extension("MARK", 2, &set_mark(5, 7)))
        .rule(rule().matching("ttl", 0, &[0, 1]))
        .rule(rule().matching("mark", 1, &mark_is(5, 7)))
        .table();
    let mut traversal = ipv4(syn());
    traversal.mark_after = Some(5);
    assert_eq!(walked(&table, &traversal).len(), 5);
}

#[test]
fn mark_clears_its_mask_and_flips_its_value() {
    let mut traversal = ipv4(syn());
    traversal.mark_before = 0b1100;
    let (mark, _) = after(&traversal, rule().extension("MARK", 2, &set_mark(0b1010, 0b0110)));
    assert_eq!(mark, 0b1000 ^ 0b1010);
}

#[test]
fn connection_marks_are_observed_for_other_packets_change_them() {
    let restore = [words32(&[0, 0xff, 0xff]), vec![2]].concat();
    let table = output()
        .rule(rule().extension("CONNMARK", 1, &restore))
        .rule(rule().matching("connmark", 1, &mark_is(0x11, 0xff)).verdict(0))
        .table();
    let mut traversal = ipv4(syn());
    traversal.conntrack = tracked(ConntrackState::New, 0, 0);
    traversal.verdict = Verdict::Drop;
    traversal.mark_after = Some(0x11);
    // The record says that the connection had no mark at entry; it has one when it is asked for.
    let seen = [
        target_seen(target_data(&table, 0), CONTINUE, 0x11),
        marked_match_seen(match_data(&table, 1), true, 0x11),
    ];
    assert_eq!(
        walked_with(&table, &traversal, &seen),
        ["OUTPUT:rule:1", "OUTPUT:rule:2"]
    );
}

#[test]
fn a_match_that_sets_the_mark_is_believed() {
    let table = output()
        .rule(
            rule()
                .matching("socket", 3, &[4])
                .extension("MARK", 2, &set_mark(1, 1)),
        )
        .table();
    let mut traversal = ipv4(syn());
    traversal.mark_after = Some(0x7);
    let seen = [marked_match_seen(match_data(&table, 0), true, 0x6)];
    let path = walk(&table, &traversal, &seen);
    assert_eq!(path.completeness, Completeness::Complete);
    assert_eq!(path.steps[0].mark, 0x6);
}

#[test]
fn notrack_acts_only_on_packets_without_a_connection() {
    const STATE: u16 = 1;
    const UNTRACKED: u16 = 0x100;
    const NEW: u16 = 8;
    let state = |state| rule().matching("conntrack", 3, &conntrack(STATE, 0, state, 0));
    for target in [
        rule().extension("NOTRACK", 0, &[]),
        rule().extension("CT", 0, &words16(&[1, 0])),
    ] {
        let table = output()
            .rule(target)
            .rule(state(UNTRACKED))
            .rule(state(NEW))
            .table();
        let mut traversal = ipv4(syn());
        assert_eq!(
            walked(&table, &traversal),
            ["OUTPUT:rule:1", "OUTPUT:rule:2", "OUTPUT:policy:4"]
        );
        traversal.conntrack = tracked(ConntrackState::New, 0, 0);
        assert_eq!(
            walked(&table, &traversal),
            ["OUTPUT:rule:1", "OUTPUT:rule:3", "OUTPUT:policy:4"]
        );
    }
    // A template looks like a new connection.
    let table = output()
        .rule(rule().extension("CT", 2, &words16(&[0, 1])))
        .rule(state(NEW))
        .table();
    assert_eq!(walked(&table, &ipv4(syn())).len(), 3);
}

#[test]
fn logging_targets_leave_no_trace() {
    for name in ["LOG", "NFLOG", "TRACE", "CLASSIFY", "AUDIT"] {
        let (mark, headers) = after(&ipv4(syn()), rule().extension(name, 0, &[0; 64]));
        assert_eq!((mark, headers), (0, syn()));
    }
}

#[test]
fn a_target_ends_the_walk_with_a_verdict_that_it_can_give() {
    let ends = |name, revision, data: &[u8], verdict| {
        let table = output().rule(rule().extension(name, revision, data)).table();
        let mut traversal = ipv4(syn());
        traversal.verdict = verdict;
        match walk(&table, &traversal, &[]).completeness {
            Completeness::Complete => true,
            Completeness::Partial(Reason::ImpossibleVerdict { .. }) => false,
            Completeness::Partial(reason) => panic!("{reason}"),
        }
    };
    assert!(ends("REJECT", 0, &[0; 4], Verdict::Drop));
    assert!(!ends("REJECT", 0, &[0; 4], Verdict::Accept));
    assert!(ends("DNAT", 0, &[0; 16], Verdict::Accept));
    assert!(ends("MASQUERADE", 0, &[0; 16], Verdict::Drop));
    assert!(!ends("MASQUERADE", 0, &[0; 16], Verdict::Stolen));
    let queue = |number, bypass| Verdict::Queue { number, bypass };
    let balanced = words16(&[4, 2, 1, 0]);
    assert!(ends("NFQUEUE", 3, &balanced, queue(4, true)));
    assert!(ends("NFQUEUE", 3, &balanced, queue(5, true)));
    assert!(!ends("NFQUEUE", 3, &balanced, queue(6, true)));
    assert!(!ends("NFQUEUE", 3, &balanced, queue(4, false)));
    assert!(ends("NFQUEUE", 0, &words16(&[7]), queue(7, false)));
}

#[test]
fn tproxy_may_set_the_mark() {
    let table = output().rule(rule().extension("TPROXY", 1, &[0; 32])).table();
    let mut traversal = ipv4(syn());
    traversal.mark_after = Some(0x99);
    assert_eq!(walked(&table, &traversal), ["OUTPUT:rule:1"]);
}

#[test]
fn targets_of_the_other_family_have_to_be_observed() {
    let table = output_of(Family::Ipv6)
        .rule(rule().extension("TTL", 0, &[2, 1]))
        .table();
    assert!(matches!(
        reason(&table, &ipv6(ipv6_packet(59, &[])), &[]),
        Reason::NotObserved { .. }
    ));
}
