//! What was observed, and what does not fit.

use super::support::*;
use crate::replay::{
    Completeness, Gap, HeadersAfter, Observation, Outcome, PacketAfter, Purity, Reason, purity, walk,
};
use crate::ruleset::builder::{DROP, RuleBuilder, TableBuilder, rule};
use crate::ruleset::{Extension, Table, Target};
use crate::traversal::Verdict;

/// `addrtype`, which has to be observed, before a DROP.
fn local() -> TableBuilder {
    output().rule(rule().matching("addrtype", 1, &[0; 8]).verdict(DROP))
}

pub(super) fn target_seen(data: u32, verdict: u32, mark: u32) -> Observation {
    Observation {
        data,
        outcome: Outcome::Target {
            verdict,
            after: PacketAfter { mark, headers: None },
        },
    }
}

#[test]
fn an_observed_match_decides() {
    let table = local().table();
    let data = match_data(&table, 0);
    let mut traversal = ipv4(syn());
    assert_eq!(
        walked_with(&table, &traversal, &[match_seen(data, false)]),
        ["OUTPUT:policy:2"]
    );
    traversal.verdict = Verdict::Drop;
    assert_eq!(
        walked_with(&table, &traversal, &[match_seen(data, true)]),
        ["OUTPUT:rule:1"]
    );
}

#[test]
fn an_observed_hotdrop_ends_the_walk() {
    let table = local().table();
    let mut traversal = ipv4(syn());
    traversal.verdict = Verdict::Drop;
    let seen = |matched| Observation {
        data: match_data(&table, 0),
        outcome: Outcome::Match {
            matched,
            hotdrop: true,
            mark: 0,
        },
    };
    assert!(walked_with(&table, &traversal, &[seen(false)]).is_empty());
    // A match that says yes and hotdrop has its rule logged.
    assert_eq!(walked_with(&table, &traversal, &[seen(true)]), ["OUTPUT:rule:1"]);
}

#[test]
fn a_missing_a_surplus_and_a_misplaced_observation_are_told() {
    let table = local().table();
    let data = match_data(&table, 0);
    let traversal = ipv4(syn());
    assert_eq!(
        reason(&table, &traversal, &[]),
        Reason::NotObserved {
            rule: 0,
            extension: "addrtype".into()
        }
    );
    assert_eq!(
        reason(
            &table,
            &traversal,
            &[match_seen(data, false), match_seen(8, true)]
        ),
        Reason::Surplus { count: 1, first: 8 }
    );
    assert_eq!(
        reason(&table, &traversal, &[match_seen(8, true)]),
        Reason::OutOfPlace {
            rule: 0,
            extension: "addrtype".into(),
            found: 8
        }
    );
    assert_eq!(
        reason(&table, &traversal, &[target_seen(data, 1, 0)]),
        Reason::OtherKind {
            rule: 0,
            extension: "addrtype".into()
        }
    );
    let mut cut = traversal;
    cut.observed_cut = true;
    assert_eq!(reason(&table, &cut, &[]), Reason::ObservationsCut);
}

#[test]
fn a_rule_met_twice_is_observed_twice() {
    let table = output()
        .rule(rule().jump("C"))
        .rule(rule().comment("again").jump("C"))
        .chain("C")
        .rule(
            rule()
                .matching("statistic", 0, &[0; 24])
                .extension("MARK", 2, &set_mark(1, 1)),
        )
        .table();
    let data = match_data(&table, 4);
    let mut traversal = ipv4(syn());
    traversal.mark_after = Some(1);
    assert_eq!(
        walked_with(
            &table,
            &traversal,
            &[match_seen(data, false), match_seen(data, true)]
        ),
        [
            "OUTPUT:rule:1",
            "C:return:2",
            "OUTPUT:rule:2",
            "C:rule:1",
            "C:return:2",
            "OUTPUT:policy:3"
        ]
    );
}

#[test]
fn a_pure_match_may_be_observed_and_has_to_agree() {
    let table = output()
        .rule(rule().protocol(TCP).matching("tcp", 0, &tcp_to(80)))
        .table();
    let data = match_data(&table, 0);
    assert_eq!(
        walked_with(&table, &ipv4(syn()), &[match_seen(data, true)]).len(),
        2
    );
    assert_eq!(
        reason(&table, &ipv4(syn()), &[match_seen(data, false)]),
        Reason::Contradiction {
            rule: 0,
            extension: "tcp".into()
        }
    );
}

#[test]
fn an_observation_answers_what_was_not_captured() {
    let mut cut = ipv4(syn());
    cut.headers.truncate(24);
    let table = output()
        .rule(rule().protocol(TCP).matching("tcp", 0, &tcp_to(80)))
        .table();
    let data = match_data(&table, 0);
    assert_eq!(walked_with(&table, &cut, &[match_seen(data, true)]).len(), 2);
}

#[test]
fn the_mark_at_the_end_has_to_be_the_packets() {
    let table = output()
        .rule(rule().extension("MARK", 2, &set_mark(1, 1)))
        .table();
    assert_eq!(
        reason(&table, &ipv4(syn()), &[]),
        Reason::Mark {
            replayed: 1,
            observed: 0
        }
    );
    let mut gone = ipv4(syn());
    gone.mark_after = None;
    assert_eq!(walked(&table, &gone).len(), 2);
}

#[test]
fn a_pure_target_may_be_observed_and_has_to_agree() {
    let table = output()
        .rule(rule().extension("MARK", 2, &set_mark(1, 1)))
        .table();
    let data = target_data(&table, 0);
    let mut traversal = ipv4(syn());
    traversal.mark_after = Some(1);
    walked_with(&table, &traversal, &[target_seen(data, CONTINUE, 1)]);
    assert_eq!(
        reason(&table, &traversal, &[target_seen(data, CONTINUE, 3)]),
        Reason::Contradiction {
            rule: 0,
            extension: "MARK".into()
        }
    );
}

#[test]
fn a_target_that_changes_headers_is_observed_with_them() {
    let table = output()
        .rule(
            rule()
                .protocol(TCP)
                .extension("TCPMSS", 0, &1400_u16.to_ne_bytes()),
        )
        .table();
    let data = target_data(&table, 0);
    assert_eq!(
        reason(&table, &ipv4(syn()), &[target_seen(data, CONTINUE, 0)]),
        Reason::HeadersNotObserved {
            rule: 0,
            extension: "TCPMSS".into()
        }
    );
    let unseen = walk(&table, &ipv4(syn()), &[target_seen(data, CONTINUE, 0)]);
    assert_eq!((unseen.steps.len(), unseen.verdict), (2, Some(Verdict::Accept)));
    let mut clamped = syn();
    clamped[42..44].copy_from_slice(&1400_u16.to_be_bytes());
    let seen = Observation {
        data,
        outcome: Outcome::Target {
            verdict: CONTINUE,
            after: PacketAfter {
                mark: 0,
                headers: Some(HeadersAfter {
                    packet_len: 48,
                    bytes: clamped.clone().into(),
                }),
            },
        },
    };
    let path = walk(&table, &ipv4(syn()), &[seen]);
    assert_eq!(path.completeness, Completeness::Complete);
    assert_eq!(*path.steps[0].headers, *syn());
    assert_eq!(*path.steps[1].headers, *clamped);
}

#[test]
fn what_a_target_may_have_changed_unseen_is_not_looked_at() {
    let after = |asked: RuleBuilder| {
        let table = output()
            .rule(rule().protocol(TCP).extension("TCPMSS", 0, &[0xff, 0xff]))
            .rule(asked)
            .table();
        reason(
            &table,
            &ipv4(syn()),
            &[target_seen(target_data(&table, 0), CONTINUE, 0)],
        )
    };
    let unknown = |name: &str, reason| match reason {
        Reason::Unknown { extension, gap, .. } => extension == name && gap == Gap::Changed,
        _ => false,
    };
    let tcp = rule().protocol(TCP).matching("tcp", 0, &tcp_to(80));
    assert!(unknown("tcp", after(tcp)));
    assert!(unknown("length", after(rule().matching("length", 0, &[0; 5]))));
    // The IP header is as it was.
    let ttl = rule().source("10.0.0.1").matching("ttl", 0, &[0, 64]);
    assert!(matches!(after(ttl), Reason::HeadersNotObserved { .. }));
}

#[test]
fn an_unknown_target_may_end_the_walk_or_let_it_go_on() {
    let table = output().rule(rule().extension("CHAOS", 0, &[0; 8])).table();
    let data = target_data(&table, 0);
    let mut stolen = ipv4(syn());
    stolen.verdict = Verdict::Stolen;
    stolen.mark_after = None;
    assert_eq!(
        walked_with(&table, &stolen, &[target_seen(data, 2, 0)]),
        ["OUTPUT:rule:1"]
    );
    assert!(matches!(
        reason(&table, &ipv4(syn()), &[target_seen(data, CONTINUE, 0)]),
        Reason::HeadersNotObserved { .. }
    ));
}

/// The purity of a use of a match and of a target.
fn purities(table: &Table) -> Vec<Purity> {
    let of = |extension: &Extension| purity(extension, table);
    table
        .rules
        .iter()
        .flat_map(|rule| {
            let target = match &rule.target {
                Target::Extension(extension) => Some(extension),
                _ => None,
            };
            rule.matches.iter().chain(target)
        })
        .map(of)
        .collect()
}

#[test]
fn purity_depends_on_the_use() {
    const ORIGSRC: u16 = 4;
    let table = output()
        .rule(rule().matching("conntrack", 3, &conntrack(1, 0, 2, 0)))
        .rule(rule().matching("conntrack", 3, &conntrack(1 | ORIGSRC, 0, 2, 0)))
        .rule(rule().matching("tcp", 0, &tcp_to(80)))
        .rule(rule().matching("tcp", 1, &tcp_to(80)))
        .rule(rule().matching("addrtype", 1, &[0; 8]))
        .rule(rule().extension("DNAT", 0, &[0; 16]))
        .rule(rule().extension("SYNPROXY", 0, &[0; 8]))
        .rule(rule().extension("SET", 3, &words16(&[0, 0, 0, 0, 65_535, 0, 0, 0, 0, 0])))
        .rule(rule().extension("SET", 3, &words16(&[0, 0, 0, 0, 1, 0, 0, 0, 0, 0])))
        .table();
    use Purity::{Observed, Pure};
    assert_eq!(
        purities(&table),
        [
            Pure, Observed, Pure, Observed, Observed, Pure, Observed, Pure, Observed
        ]
    );
}
