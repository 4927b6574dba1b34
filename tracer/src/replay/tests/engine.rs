//! `ipt_do_table` and `ip6t_do_table` themselves.

use super::support::*;
use crate::replay::{Gap, Reason, walk};
use crate::ruleset::builder::{ACCEPT, DROP, TableBuilder, rule};
use crate::traversal::{Family, Hook, Verdict};

#[test]
fn an_empty_chain_shows_its_policy() {
    assert_eq!(walked(&output().table(), &ipv4(syn())), ["OUTPUT:policy:1"]);
}

#[test]
fn a_rule_without_target_is_a_line_and_nothing_is_returned_to() {
    let table = output().rule(rule()).rule(rule().comment("second")).table();
    assert_eq!(
        walked(&table, &ipv4(syn())),
        ["OUTPUT:rule:1", "OUTPUT:rule:2", "OUTPUT:policy:3"]
    );
}

#[test]
fn the_end_of_a_chain_returns_to_the_rule_after_the_jump() {
    let table = output()
        .rule(rule().jump("C"))
        .rule(rule().verdict(ACCEPT))
        .chain("C")
        .rule(rule().protocol(UDP).verdict(DROP))
        .table();
    assert_eq!(
        walked(&table, &ipv4(syn())),
        ["OUTPUT:rule:1", "C:return:2", "OUTPUT:policy:2"]
    );
}

#[test]
fn after_a_goto_the_policy_follows() {
    let table = output()
        .rule(rule().goto("C"))
        .rule(rule().comment("never seen"))
        .chain("C")
        .table();
    assert_eq!(
        walked(&table, &ipv4(syn())),
        ["OUTPUT:rule:1", "C:return:1", "OUTPUT:policy:3"]
    );
}

#[test]
fn a_goto_within_a_called_chain_returns_to_its_caller() {
    let table = output()
        .rule(rule().jump("A"))
        .chain("A")
        .rule(rule().goto("B"))
        .rule(rule().comment("never seen"))
        .chain("B")
        .table();
    assert_eq!(
        walked(&table, &ipv4(syn())),
        ["OUTPUT:rule:1", "A:rule:1", "B:return:1", "OUTPUT:policy:2"]
    );
}

#[test]
fn the_flag_of_a_goto_is_another_one_in_ipv6() {
    let table = output_of(Family::Ipv6)
        .rule(rule().goto("C"))
        .rule(rule())
        .chain("C")
        .table();
    assert_eq!(
        walked(&table, &ipv6(ipv6_packet(59, &[]))),
        ["OUTPUT:rule:1", "C:return:1", "OUTPUT:policy:3"]
    );
}

#[test]
fn return_in_a_built_in_chain_leads_to_its_policy() {
    let table = output()
        .rule(rule().comment("conditional").return_())
        .rule(rule())
        .table();
    assert_eq!(walked(&table, &ipv4(syn())), ["OUTPUT:rule:1", "OUTPUT:policy:3"]);
}

#[test]
fn the_policy_of_the_right_hook_is_used() {
    let table = TableBuilder::new(Family::Ipv4, "mangle")
        .built_in(Hook::LocalIn, DROP)
        .built_in(Hook::LocalOut, ACCEPT)
        .rule(rule().comment("here").return_())
        .table();
    assert_eq!(walked(&table, &ipv4(syn())), ["OUTPUT:rule:1", "OUTPUT:policy:2"]);
    let mut incoming = ipv4(syn());
    incoming.hook = Hook::LocalIn;
    incoming.verdict = Verdict::Drop;
    assert_eq!(walked(&table, &incoming), ["INPUT:policy:1"]);
    incoming.hook = Hook::Forward;
    assert_eq!(reason(&table, &incoming, &[]), Reason::NoChain(Hook::Forward));
}

#[test]
fn a_full_jump_stack_drops_after_the_line() {
    let mut table = output()
        .rule(rule().jump("A"))
        .chain("A")
        .rule(rule().jump("B"))
        .chain("B")
        .table();
    table.stack_len_max = 1;
    let mut traversal = ipv4(syn());
    traversal.verdict = Verdict::Drop;
    assert_eq!(walked(&table, &traversal), ["OUTPUT:rule:1", "A:rule:1"]);
}

#[test]
fn a_loop_that_no_kernel_accepts_ends_with_a_reason() {
    let table = output().rule(rule().bits(2, 0).jump_to_offset(0)).table();
    assert_eq!(reason(&table, &ipv4(syn()), &[]), Reason::Endless);
}

#[test]
fn a_jump_between_rules_ends_with_a_reason() {
    let table = {
        let mut table = output().rule(rule().jump("C")).chain("C").table();
        table.rules[3].offset += 8;
        table
    };
    assert!(matches!(reason(&table, &ipv4(syn()), &[]), Reason::NoRule(_)));
}

#[test]
fn another_verdict_than_the_kernels_is_no_path() {
    let mut traversal = ipv4(syn());
    traversal.verdict = Verdict::Drop;
    let path = walk(&output().table(), &traversal, &[]);
    assert_eq!(path.verdict, Some(Verdict::Accept));
    assert_eq!(
        reason(&output().table(), &traversal, &[]),
        Reason::Verdict {
            replayed: Verdict::Accept,
            observed: Verdict::Drop
        }
    );
}

#[test]
fn a_record_with_gaps_is_no_path() {
    let mut traversal = ipv4(syn());
    traversal.incomplete = true;
    assert_eq!(
        reason(&output().table(), &traversal, &[]),
        Reason::RecordIncomplete
    );
    let mut traversal = ipv4(syn());
    traversal.generation_unsure = true;
    assert_eq!(reason(&output().table(), &traversal, &[]), Reason::RulesUnsure);
    let mut traversal = ipv4(syn());
    traversal.table = "filter".into();
    assert_eq!(reason(&output().table(), &traversal, &[]), Reason::OtherTable);
}

#[test]
fn addresses_and_their_inversions() {
    let packet = ipv4(syn());
    assert!(satisfies(&packet, rule().source("10.0.0.0/8")));
    assert!(!satisfies(&packet, rule().not_source("10.0.0.0/8")));
    assert!(!satisfies(&packet, rule().destination("10.0.0.1")));
    assert!(satisfies(&packet, rule().not_destination("10.0.0.1")));
}

#[test]
fn an_ipv4_address_beyond_its_mask_is_never_satisfied_but_an_ipv6_one_is() {
    let mut table = output().rule(rule().source("10.0.0.0/8")).table();
    table.rules[0].header.source.0[3] = 1;
    assert_eq!(walked(&table, &ipv4(syn())), ["OUTPUT:policy:2"]);

    let mut table = output_of(Family::Ipv6).rule(rule().source("fd00::/16")).table();
    table.rules[0].header.source.0[15] = 9;
    assert_eq!(
        walked(&table, &ipv6(ipv6_packet(59, &[]))),
        ["OUTPUT:rule:1", "OUTPUT:policy:2"]
    );
}

#[test]
fn devices_are_compared_with_their_nul_unless_the_rule_ends_in_a_plus() {
    let mut packet = ipv4(syn());
    packet.out_device = device("eth0");
    assert!(satisfies(&packet, rule().out_device("eth0")));
    assert!(satisfies(&packet, rule().out_device("eth+")));
    assert!(!satisfies(&packet, rule().out_device("eth")));
    assert!(!satisfies(&packet, rule().not_out_device("eth0")));
    // There is no in device, which has the name of sixteen zeros.
    assert!(!satisfies(&packet, rule().in_device("eth+")));
    assert!(satisfies(&packet, rule().not_in_device("eth0")));
    assert!(satisfies(&packet, rule().in_device("+")));
}

#[test]
fn a_device_name_that_is_no_text_is_only_compared_where_it_matters() {
    let mut packet = ipv4(syn());
    packet.out_device = device("\u{fffd}0");
    assert!(satisfies(&packet, rule()));
    let table = output().rule(rule().out_device("eth0")).table();
    assert_eq!(
        reason(&table, &packet, &[]),
        Reason::Header {
            rule: 0,
            gap: Gap::DeviceName
        }
    );
}

#[test]
fn protocol_zero_is_any_even_inverted() {
    let packet = ipv4(syn());
    assert!(satisfies(&packet, rule().protocol(TCP)));
    assert!(!satisfies(&packet, rule().not_protocol(TCP)));
    assert!(satisfies(&packet, rule().not_protocol(UDP)));
    assert!(satisfies(&packet, rule().bits(0, 0x40)));
}

#[test]
fn fragments() {
    const FRAGMENT: u8 = 0x01;
    const INVERTED: u8 = 0x20;
    let (first, later) = (ipv4(syn()), ipv4(fragment_at(3, syn())));
    assert!(!satisfies(&first, rule().bits(FRAGMENT, 0)));
    assert!(satisfies(&later, rule().bits(FRAGMENT, 0)));
    assert!(satisfies(&first, rule().bits(FRAGMENT, INVERTED)));
    assert!(!satisfies(&later, rule().bits(FRAGMENT, INVERTED)));
    // Inverted without being asked for: no packet at all.
    assert!(!satisfies(&first, rule().bits(0, INVERTED)));
    assert!(!satisfies(&later, rule().bits(0, INVERTED)));
}

#[test]
fn a_hotdrop_has_no_line_and_no_policy() {
    let table = output()
        .rule(rule().comment("before"))
        .rule(rule().protocol(TCP).matching("tcp", 0, &tcp_to(80)))
        .rule(rule())
        .table();
    let mut traversal = ipv4(fragment_at(1, syn()));
    traversal.verdict = Verdict::Drop;
    assert_eq!(walked(&table, &traversal), ["OUTPUT:rule:1"]);
}

#[test]
fn matches_stop_at_the_first_no() {
    // The second match would drop the packet on the spot.
    let mut packet = ipv4(syn());
    packet.packet_len = 30;
    let asked = rule()
        .protocol(TCP)
        .matching("mark", 1, &mark_is(1, 1))
        .matching("tcp", 0, &tcp_to(80));
    assert!(!satisfies(&packet, asked));
}

#[test]
fn ipv6_looks_for_the_transport_header_behind_extensions() {
    // Hop-by-hop options, then TCP.
    let mut rest = vec![6, 0, 1, 4, 0, 0, 0, 0];
    rest.extend(tcp_header(1000, 80));
    let packet = ipv6(ipv6_packet(0, &rest));
    assert!(satisfies(
        &packet,
        rule().protocol(TCP).matching("tcp", 0, &tcp_to(80))
    ));
    assert!(!satisfies(&packet, rule().protocol(UDP)));
    assert!(satisfies(&packet, rule().not_protocol(UDP)));
    // Protocol zero with the flag asks for nothing but that the headers can be read.
    assert!(satisfies(&packet, rule().bits(1, 0)));
}

#[test]
fn ipv6_headers_that_end_early_drop_the_packet_only_where_a_rule_has_a_protocol() {
    let packet = ipv6(ipv6_packet(0, &[6]));
    assert!(satisfies(&packet, rule()));
    assert!(hotdropped(packet.clone(), rule().protocol(TCP)));
    // Addresses are asked for first.
    assert!(satisfies(&packet, rule().comment("no protocol")));
    assert!(!satisfies(&packet, rule().source("fd01::/16").protocol(TCP)));
}

#[test]
fn an_ipv6_later_fragment_with_an_extension_header_inside_is_dropped() {
    let fragment = |next| {
        let mut rest = vec![next, 0, 0, 16, 0, 0, 0, 1];
        rest.extend([0; 16]);
        ipv6(ipv6_packet(44, &rest))
    };
    assert!(hotdropped(fragment(60), rule().protocol(TCP)));
    assert!(satisfies(&fragment(6), rule().protocol(TCP)));
}

#[test]
fn the_ipv6_fragment_offset_stays_for_rules_without_a_protocol() {
    let mut rest = vec![6, 0, 0, 16, 0, 0, 0, 1];
    rest.extend([0; 16]);
    let packet = ipv6(ipv6_packet(44, &rest));
    // Without a protocol the match reads at offset zero: the IPv6 header itself, as ports 24576 and 0.
    let ports = {
        let mut data = vec![1, 1];
        data.extend([0; 46]);
        data
    };
    let asked = rule().matching("multiport", 1, &ports);
    assert!(satisfies(&packet, asked.clone()));
    // After a rule with a protocol it is known to be a later fragment, which has no ports.
    let table = output_of(Family::Ipv6)
        .rule(rule().protocol(UDP))
        .rule(asked)
        .table();
    assert_eq!(walked(&table, &packet), ["OUTPUT:policy:3"]);
}

#[test]
fn lines_show_the_packet_before_their_target() {
    let table = output()
        .rule(rule().extension("MARK", 2, &set_mark(0x4000, 0x4000)))
        .rule(rule().extension("TTL", 0, &[2, 1]))
        .table();
    let mut traversal = ipv4(syn());
    traversal.mark_before = 1;
    traversal.mark_after = Some(0x4001);
    let path = walk(&table, &traversal, &[]);
    let marks: Vec<_> = path.steps.iter().map(|step| step.mark).collect();
    let ttls: Vec<_> = path.steps.iter().map(|step| step.headers[8]).collect();
    assert_eq!(marks, [1, 0x4001, 0x4001]);
    assert_eq!(ttls, [64, 64, 63]);
}

#[test]
fn reasons_are_sentences() {
    let table = output()
        .rule(rule().matching("addrtype", 1, &[0; 8]).verdict(DROP))
        .table();
    assert_eq!(
        reason(&table, &ipv4(syn()), &[]).to_string(),
        "addrtype in the rule at offset 0 was not observed"
    );
    let mut cut = ipv4(syn());
    cut.headers.truncate(30);
    let table = output()
        .rule(rule().protocol(TCP).matching("tcp", 0, &tcp_to(80)))
        .table();
    assert_eq!(
        reason(&table, &cut, &[]).to_string(),
        "tcp in the rule at offset 0: the answer lies beyond the captured headers"
    );
}
