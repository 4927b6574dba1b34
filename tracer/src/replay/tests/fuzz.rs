//! Whatever the rules, the packet and the observations: no walk panics, none is endless, and a complete one fits
//! all that is known.

use super::support::*;
use crate::replay::{Completeness, HeadersAfter, Observation, Outcome, PacketAfter, Reason, walk};
use crate::ruleset::builder::{RuleBuilder, TableBuilder, rule};
use crate::ruleset::{Extension, Table, Target};
use crate::traversal::{Conntrack, ConntrackState, Family, Hook, Traversal, Verdict};

/// Bytes from which everything else is made. When they run out the choices go on, from a sum of the bytes.
struct Choices<'a> {
    bytes: &'a [u8],
    state: u64,
}

impl<'a> Choices<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let sum = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self {
            bytes,
            state: bytes.iter().fold(0xcbf2_9ce4_8422_2325, sum),
        }
    }

    fn byte(&mut self) -> u8 {
        if let Some((&byte, rest)) = self.bytes.split_first() {
            self.bytes = rest;
            return byte;
        }
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.state.to_be_bytes()[0]
    }

    fn below(&mut self, end: u8) -> u8 {
        self.byte() % end
    }

    fn word(&mut self) -> u32 {
        u32::from_ne_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn of<T: Copy>(&mut self, candidates: &[T]) -> T {
        candidates[usize::from(self.byte()) % candidates.len()]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.byte()).collect()
    }
}

/// Matches with the length of their structs; also one that is not replayed.
const MATCHES: [(&str, u8, usize); 29] = [
    ("comment", 0, 256),
    ("tcp", 0, 12),
    ("tcpmss", 0, 5),
    ("udp", 0, 9),
    ("udplite", 0, 9),
    ("icmp", 0, 4),
    ("icmp6", 0, 4),
    ("multiport", 1, 48),
    ("mark", 1, 9),
    ("connmark", 1, 9),
    ("conntrack", 3, 164),
    ("state", 0, 4),
    ("length", 0, 5),
    ("ttl", 0, 2),
    ("hl", 0, 2),
    ("dscp", 0, 2),
    ("tos", 1, 3),
    ("ecn", 0, 4),
    ("iprange", 1, 65),
    ("esp", 0, 9),
    ("ah", 0, 14),
    ("sctp", 0, 68),
    ("dccp", 0, 15),
    ("frag", 0, 14),
    ("hbh", 0, 39),
    ("rt", 0, 280),
    ("ipv6header", 0, 3),
    ("mh", 0, 3),
    ("addrtype", 1, 8),
];

const TARGETS: [(&str, u8, usize); 12] = [
    ("MARK", 2, 8),
    ("CONNMARK", 2, 15),
    ("CT", 2, 16),
    ("NOTRACK", 0, 0),
    ("TTL", 0, 2),
    ("HL", 0, 2),
    ("DSCP", 0, 1),
    ("TOS", 1, 2),
    ("REJECT", 0, 4),
    ("NFQUEUE", 3, 6),
    ("LOG", 0, 32),
    ("SYNPROXY", 0, 6),
];

fn some_rule(choices: &mut Choices<'_>) -> RuleBuilder {
    let mut rule = rule().bits(
        choices.of(&[0, 0, 1, 2, 4]),
        choices.of(&[0, 0, 0x08, 0x20, 0x40]),
    );
    if choices.below(2) == 0 {
        rule = rule.protocol(choices.of(&[1, 6, 17, 58, 132, 33, 50, 51, 135]));
    }
    for _ in 0..choices.below(3) {
        let (name, revision, len) = choices.of(&MATCHES);
        // Most bytes zero, as in most rules, so that some match.
        let mut data = vec![0; len];
        for _ in 0..choices.below(8) {
            let at = usize::from(choices.byte()) % len;
            data[at] = choices.byte();
        }
        data.truncate(len - usize::from(choices.below(16) == 0));
        rule = rule.matching(name, revision, &data);
    }
    match choices.below(8) {
        0 | 1 => rule.jump(choices.of(&["A", "B"])),
        2 => rule.goto(choices.of(&["A", "B"])),
        3 => rule.return_(),
        4 => rule.verdict(u32::from(choices.below(4))),
        5 | 6 => {
            let (name, revision, len) = choices.of(&TARGETS);
            let data = choices.bytes(len);
            rule.extension(name, revision, &data)
        }
        _ => rule,
    }
}

fn some_table(choices: &mut Choices<'_>) -> Table {
    let family = choices.of(&[Family::Ipv4, Family::Ipv6]);
    let mut builder = TableBuilder::new(family, "mangle").built_in(Hook::LocalOut, 1);
    for chain in ["", "A", "B"] {
        if !chain.is_empty() {
            builder = builder.chain(chain);
        }
        for _ in 0..choices.below(4) {
            builder = builder.rule(some_rule(choices));
        }
    }
    // Chains that call one another make loops, which decoding need not refuse.
    let mut table = builder.table();
    if choices.below(8) == 0 {
        let at = usize::from(choices.byte()) % table.rules.len();
        table.rules[at].next = choices.word() % 2048;
    }
    if choices.below(8) == 0 {
        table.blob.truncate(usize::from(choices.byte()) * 8);
    }
    table
}

fn some_packet(choices: &mut Choices<'_>, family: Family) -> Traversal {
    let mut headers = match family {
        Family::Ipv4 if choices.below(2) == 0 => syn(),
        Family::Ipv4 => datagram(),
        Family::Ipv6 => {
            let next = choices.of(&[0, 6, 17, 43, 44, 50, 51, 58, 59, 60, 135]);
            let len = usize::from(choices.below(64));
            let rest = choices.bytes(len);
            ipv6_packet(next, &rest)
        }
    };
    for _ in 0..choices.below(6) {
        let at = usize::from(choices.byte()) % headers.len();
        headers[at] = choices.byte();
    }
    let mut traversal = packet(family, headers);
    if choices.below(4) == 0 {
        traversal.headers.truncate(usize::from(choices.below(80)));
    }
    if choices.below(4) == 0 {
        traversal.packet_len = choices.of(&[0, 19, 20, 28, 39, 40, 1500, 70_000, u32::MAX]);
    }
    traversal.verdict = Verdict::from(u32::from(choices.below(4)));
    traversal.mark_before = u32::from(choices.below(2));
    traversal.mark_after = choices.of(&[None, Some(0), Some(1)]);
    traversal.conntrack = choices.of(&[
        Conntrack::None,
        Conntrack::Untracked,
        Conntrack::Orphaned,
        tracked(ConntrackState::New, 0, 0),
        tracked(ConntrackState::Other(6), 0x30, 1),
    ]);
    traversal.out_device = device(choices.of(&["lo", "\u{fffd}", "a name that is far too long"]));
    traversal
}

fn some_observation(choices: &mut Choices<'_>, table: &Table) -> Observation {
    let extensions: Vec<&Extension> = table
        .rules
        .iter()
        .flat_map(|rule| {
            let target = match &rule.target {
                Target::Extension(extension) => Some(extension),
                _ => None,
            };
            rule.matches.iter().chain(target)
        })
        .collect();
    let data = match extensions.len() {
        0 => choices.word(),
        len => extensions[usize::from(choices.byte()) % len].data.start,
    };
    let outcome = if choices.below(3) == 0 {
        let len = usize::from(choices.below(64));
        Outcome::Target {
            verdict: choices.of(&[CONTINUE, CONTINUE, 0, 1, 2, 3]),
            after: PacketAfter {
                mark: u32::from(choices.below(2)),
                headers: (choices.below(2) == 0).then(|| HeadersAfter {
                    bytes: choices.bytes(len).into(),
                    packet_len: choices.word(),
                }),
            },
        }
    } else {
        Outcome::Match {
            matched: choices.below(2) == 0,
            hotdrop: choices.below(4) == 0,
            mark: u32::from(choices.below(2)),
        }
    };
    Observation { data, outcome }
}

/// What the replay asks to have observed, answered as it comes; now and then something else is put in.
fn answered(choices: &mut Choices<'_>, table: &Table, traversal: &Traversal) -> Vec<Observation> {
    let mut observed = Vec::new();
    while observed.len() < 16 {
        if choices.below(32) == 0 {
            observed.push(some_observation(choices, table));
        }
        let Completeness::Partial(Reason::NotObserved { rule, extension }) =
            walk(table, traversal, &observed).completeness
        else {
            break;
        };
        let mut next = some_observation(choices, table);
        let rule = table.rules.iter().find(|other| other.offset == rule).unwrap();
        let of_match = rule.matches.iter().find(|other| other.name == extension);
        next.data = match (of_match, &rule.target) {
            (Some(of_match), _) => of_match.data.start,
            (None, Target::Extension(target)) => target.data.start,
            (None, _) => break,
        };
        observed.push(next);
    }
    observed
}

#[test]
fn any_walk_ends_and_a_complete_one_fits() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let mut choices = Choices::new(bytes);
        let table = some_table(&mut choices);
        let mut traversal = some_packet(&mut choices, table.family);
        let observed = answered(&mut choices, &table, &traversal);
        // Most packets end as the replay says.
        if let Some(verdict) = walk(&table, &traversal, &observed).verdict
            && choices.below(8) != 0
        {
            traversal.verdict = verdict;
            traversal.mark_after = None;
        }
        let path = walk(&table, &traversal, &observed);
        match &path.completeness {
            Completeness::Complete => assert_eq!(path.verdict, Some(traversal.verdict)),
            Completeness::Partial(reason) => assert!(!reason.to_string().is_empty()),
        }
        for step in &path.steps {
            assert!(table.rules.iter().any(|rule| rule.offset == step.offset));
        }
        // The same again, for nothing else goes in.
        assert_eq!(path, walk(&table, &traversal, &observed));
    });
}
