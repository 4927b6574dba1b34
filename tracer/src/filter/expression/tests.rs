//! Expressions: what they hold of, what they are divided into, and what is said of wrong ones.

use etherparse::PacketBuilder;
use tracer_common::{Filter, Traversal as Record, criteria};

use super::{Expression, lower, parse};
use crate::{
    filter::{Headers, Selection, Wanted},
    kernel::preflight::Families,
    traversal::{Family, Traversal},
};

fn parsed(text: &str) -> Expression {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

fn ipv4(source: [u8; 4], destination: [u8; 4]) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ipv4(source, destination, 64)
}

/// A SYN from 10.0.0.1:1111 to 10.0.0.2:80.
fn syn() -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = ipv4([10, 0, 0, 1], [10, 0, 0, 2]).tcp(1111, 80, 7, 1024).syn();
    builder.write(&mut bytes, &[]).unwrap();
    bytes
}

/// A datagram from 10.0.0.2:53 to 192.168.1.9:4000 with 100 bytes.
fn datagram() -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = ipv4([10, 0, 0, 2], [192, 168, 1, 9]).udp(53, 4000);
    builder.write(&mut bytes, &[0; 100]).unwrap();
    bytes
}

/// An echo request from fd00::1 to fd00::2.
fn ping6() -> Vec<u8> {
    let address = |last| std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last).octets();
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv6(address(1), address(2), 64).icmpv6_echo_request(3, 1);
    builder.write(&mut bytes, &[0; 8]).unwrap();
    bytes
}

fn family(bytes: &[u8]) -> Family {
    if bytes[0] >> 4 == 4 {
        Family::Ipv4
    } else {
        Family::Ipv6
    }
}

#[expect(clippy::cast_possible_truncation, reason = "short packets")]
fn holds(text: &str, bytes: &[u8]) -> Option<bool> {
    let headers = Headers {
        family: family(bytes),
        bytes,
        packet_len: bytes.len() as u32,
    };
    parsed(text).holds(&headers)
}

/// Which of the three packets satisfy it: s(yn), d(atagram), p(ing6).
fn which(text: &str) -> String {
    [("s", syn()), ("d", datagram()), ("p", ping6())]
        .into_iter()
        .filter(|(_, bytes)| holds(text, bytes) == Some(true))
        .map(|(name, _)| name)
        .collect()
}

#[test]
fn primitives_hold_of_the_packets_that_they_name() {
    for (text, expected) in [
        ("ip", "sd"),
        ("ip6", "p"),
        ("tcp", "s"),
        ("udp", "d"),
        ("icmp", ""),
        ("icmp6", "p"),
        ("ip proto 6", "s"),
        ("ip6 proto 6", ""),
        ("proto \\udp", "d"),
        ("proto 17", "d"),
        ("host 10.0.0.2", "sd"),
        ("10.0.0.2", "sd"),
        ("src 10.0.0.2", "d"),
        ("src host 10.0.0.2", "d"),
        ("dst host 10.0.0.2", "s"),
        ("src or dst host 10.0.0.2", "sd"),
        ("src and dst net 10", "s"),
        ("ip host 10.0.0.1", "s"),
        ("host fd00::2", "p"),
        ("dst net fd00::/16", "p"),
        ("net 10.0.0.0/8", "sd"),
        ("net 192.168", "d"),
        ("net 192.168.0.0 mask 255.255.0.0", "d"),
        ("dst 192.168.1.0/24", "d"),
        ("10.0.0.0/30", "sd"),
        ("port 80", "s"),
        ("port http", "s"),
        ("src port 80", ""),
        ("dst port 80", "s"),
        ("udp port 53", "d"),
        ("tcp port 53", ""),
        ("udp src port domain", "d"),
        ("portrange 50-60", "d"),
        ("dst portrange 80-5000", "sd"),
        ("less 40", "s"),
        ("greater 128", "d"),
        ("len = 128", "d"),
        ("ip[9] = 17", "d"),
        ("ip[2:2] = 40", "s"),
        ("ip[12:4] = 0x0a000001", "s"),
        ("ip6[6] = 58", "p"),
        ("icmp6[icmp6type] = icmp6-echo", "p"),
        ("tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn", "s"),
        ("tcp[13] & 2 != 0", "s"),
        ("(tcp[13] & 2) != 0", "s"),
        ("((tcp[((6 * 2) + 1)] & 0x2)) = ((2))", "s"),
        ("udp[4:2] - 8 = 100", "d"),
        ("tcp[0:2] > tcp[2:2]", "s"),
        ("tcp[2:2] % 7 == 80 % 7", "s"),
        ("1 << 3 | 2 == 10", "sdp"),
        ("-1 > 5", "sdp"),
        // Beyond the end of the packet, and of another protocol: it does not hold.
        ("tcp[40] = 0", ""),
        ("not tcp[40] = 0", "sdp"),
        ("icmp[0] = 8", ""),
        ("len / (len - 40) > 0", "dp"),
    ] {
        assert_eq!(which(text), expected, "{text}");
    }
}

#[test]
fn and_or_and_not_join_as_tcpdump_joins_them() {
    for (text, expected) in [
        ("tcp and host 10.0.0.1", "s"),
        ("tcp && host 10.0.0.2", "s"),
        ("tcp or icmp6", "sp"),
        ("tcp || udp", "sd"),
        ("not tcp", "dp"),
        ("! tcp and ! udp", "p"),
        ("not (tcp or udp)", "p"),
        // From left to right, with the same precedence: (tcp or udp) and port 53.
        ("tcp or udp and port 53", "d"),
        ("udp and port 53 or tcp", "sd"),
        // A value without keywords takes the last ones.
        ("port 80 or 53", "sd"),
        ("host 10.0.0.1 or fd00::1", "sp"),
        ("tcp dst port 80 or 443", "s"),
        ("dst port 443 or 4000 or port 80", "sd"),
        ("not host 10.0.0.1 and 192.168.1.9", "d"),
        ("not not not tcp", "dp"),
    ] {
        assert_eq!(which(text), expected, "{text}");
    }
}

#[test]
fn later_fragments_have_no_ports() {
    let mut fragment = datagram();
    fragment[7] = 8;
    assert_eq!(holds("udp", &fragment), Some(true));
    assert_eq!(holds("port 53", &fragment), Some(false));
    assert_eq!(holds("udp[0:2] = 53", &fragment), Some(false));
    assert_eq!(holds("ip[6:2] & 0x1fff != 0", &fragment), Some(true));
}

#[test]
fn what_was_not_recorded_is_not_decided() {
    let bytes = datagram();
    let holds = |text: &str, recorded: usize| {
        parsed(text).holds(&Headers {
            family: Family::Ipv4,
            bytes: &bytes[..recorded],
            packet_len: 128,
        })
    };
    assert_eq!(holds("udp[20] = 0", 128), Some(true));
    assert_eq!(holds("udp[20] = 0", 40), None);
    assert_eq!(holds("not udp[20] = 0", 40), None);
    assert_eq!(holds("port 53", 22), None);
    assert_eq!(holds("port 53", 24), Some(true));
    // Where the rest decides, it is decided.
    assert_eq!(holds("udp[20] = 0 and tcp", 40), Some(false));
    assert_eq!(holds("udp[20] = 0 or udp", 40), Some(true));
    assert_eq!(holds("udp[200] = 0", 40), Some(false));
}

#[test]
fn what_is_wrong_is_shown_in_its_place() {
    let error = parse("tcp and host nodee and udp").unwrap_err();
    assert_eq!(
        error.to_string(),
        "failed to read the filter: expected an address, not `nodee`\n  \
         tcp and host nodee and udp\n               ^~~~~"
    );
    assert_eq!(error.hint(), Some("names are not looked up; give the address"));
}

#[test]
fn every_mistake_has_its_message_and_place() {
    for (text, marked, said) in [
        ("", "", "empty"),
        ("tcp and", "", "expected a condition"),
        ("tcp port", "", "expected a port"),
        ("tcp prot 80", "prot", "expected an address, not `prot`"),
        ("host", "", "expected an address"),
        ("host 10.0.0.0/8", "10.0.0.0", "an address has no length"),
        ("net 10.0.0.1/8", "10.0.0.1/8", "bits beyond"),
        ("net 10.0.0.0/33", "33", "from 0 to 32"),
        ("net 10.0.0.0 mask 255.0.255.0", "255.0.255.0", "expected a mask"),
        ("ip host fd00::1", "fd00::1", "the other family"),
        ("port 70000", "70000", "expected a port"),
        ("port 80-90", "80-90", "expected one port"),
        ("portrange 80", "80", "expected a range"),
        ("icmp port 80", "80", "no ports"),
        ("proto tpc", "tpc", "expected a protocol"),
        ("vlan 7", "vlan", "not known in an IP table"),
        ("ether host 1:2:3:4:5:6", "ether", "not known in an IP table"),
        ("80", "80", "a number is no condition"),
        ("tcp[13] & 2", "tcp[13] & 2", "a number is no condition"),
        ("tcp[13] = 2 and (len)", "(len)", "a number is no condition"),
        ("tcp[13", "", "expected `]`"),
        ("tcp[0:3] = 1", "3", "1, 2 or 4"),
        ("(tcp", "", "expected `)`"),
        ("tcp)", ")", "`)` without `(`"),
        ("tcp udp", "udp", "expected an address"),
        ("len = 4 udp", "udp", "expected `and` or `or`"),
        ("tcp ; udp", ";", "unknown character"),
        ("len / 0 = 1", "len / 0", "division by zero"),
        ("len = udp", "", "expected `[`"),
        ("TCP", "TCP", "expected a condition"),
        ("pört 80", "ö", "unknown character"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.message.contains(said), "{text}: {error}");
        assert_eq!(&text[error.place.clone()], marked, "{error}");
    }
    assert_eq!(
        parse("TCP").unwrap_err().hint(),
        Some("keywords are in lower case")
    );
    assert_eq!(
        parse("tcp prot 80").unwrap_err().hint(),
        Some("did you mean `port`?")
    );
    let deep = "(".repeat(1000) + "tcp";
    assert!(parse(&deep).unwrap_err().message.contains("too deep"));
    assert!(
        parse(&"tcp ".repeat(2000))
            .unwrap_err()
            .message
            .contains("longer than")
    );
}

#[test]
fn what_has_a_place_in_the_programs_is_decided_there() {
    let lowered = |text: &str| lower(parsed(text), Families::ALL, Filter::EVERYTHING);
    for (text, expected) in [
        (
            "tcp port 80 and host 10.0.0.1",
            criteria::PROTOCOL | criteria::EITHER_PORT | criteria::EITHER,
        ),
        (
            "src net 10 and dst port 53",
            criteria::SOURCE | criteria::DESTINATION_PORT,
        ),
        (
            "(src and dst port 53) and udp",
            criteria::SOURCE_PORT | criteria::DESTINATION_PORT | criteria::PROTOCOL,
        ),
        (
            "tcp and tcp port 80 and tcp dst port 80",
            criteria::PROTOCOL | criteria::EITHER_PORT | criteria::DESTINATION_PORT,
        ),
        ("ip", 0),
    ] {
        let lowered = lowered(text);
        assert_eq!(
            (lowered.filter.criteria, &lowered.rest),
            (expected, &None),
            "{text}"
        );
    }
    let only_ipv4 = Families {
        ipv4: true,
        ipv6: false,
    };
    assert_eq!(lowered("host 10.0.0.1").families, only_ipv4);
    assert_eq!(lowered("icmp").families, only_ipv4);
    let nothing = lowered("host 10.0.0.1 and host fd00::1");
    assert_eq!(nothing.rest, Some(parsed("host fd00::1")));
}

#[test]
fn what_has_no_place_is_left_for_user_space() {
    let lowered = |text: &str| lower(parsed(text), Families::ALL, Filter::EVERYTHING);
    for (text, criteria, rest) in [
        ("tcp and not port 22", criteria::PROTOCOL, "not port 22"),
        ("port 80 or 443", 0, "port 80 or 443"),
        (
            "udp and (port 53 or 5353) and greater 100",
            criteria::PROTOCOL,
            "(port 53 or 5353) and greater 100",
        ),
        (
            "host 10.0.0.1 and host 10.0.0.2",
            criteria::EITHER,
            "host 10.0.0.2",
        ),
    ] {
        let lowered = lowered(text);
        assert_eq!(lowered.filter.criteria, criteria, "{text}");
        assert_eq!(lowered.rest, Some(parsed(rest)), "{text}");
    }
    // Whatever is left needs every table of a packet.
    let filter = Filter {
        hooks: 1,
        tables_len: 1,
        ..Filter::EVERYTHING
    };
    let wanted = lower(parsed("not tcp"), Families::ALL, filter);
    assert_eq!(wanted.for_programs(), Filter::EVERYTHING);
    let wanted = lower(parsed("tcp"), Families::ALL, filter);
    assert_eq!(
        (wanted.for_programs().hooks, wanted.for_programs().tables_len),
        (1, 1)
    );
}

#[expect(clippy::cast_possible_truncation, reason = "short packets")]
fn traversal(skb: u64, pass: u32, table: &str, bytes: &[u8]) -> Traversal {
    let mut record = Record {
        family: if family(bytes) == Family::Ipv4 { 2 } else { 10 },
        skb,
        pass,
        packet_len: bytes.len() as u32,
        headers_len: bytes.len() as u16,
        ..Record::EMPTY
    };
    record.table_name[..table.len()].copy_from_slice(table.as_bytes());
    record.headers[..bytes.len()].copy_from_slice(bytes);
    Traversal::decode(record.bytes()).unwrap()
}

#[test]
fn a_packet_is_followed_from_the_table_at_which_it_satisfies() {
    let wanted = lower(
        parsed("tcp and not dst port 80"),
        Families::ALL,
        Filter::EVERYTHING,
    );
    let mut selection = Selection::new(wanted);
    let mut after_nat = syn();
    after_nat[22..24].copy_from_slice(&8080_u16.to_be_bytes());
    let mut shown = |skb, pass, bytes: &[u8]| {
        let mut traversal = traversal(skb, pass, "raw", bytes);
        selection
            .takes(&mut traversal)
            .then_some((traversal.pass, traversal.first))
    };
    assert_eq!(shown(1, 1, &syn()), None);
    assert_eq!(shown(2, 1, &datagram()), None);
    assert_eq!(shown(1, 2, &after_nat), Some((1, true)));
    assert_eq!(shown(1, 3, &syn()), Some((2, false)));
    // A record that was lost is still missed.
    assert_eq!(shown(1, 5, &syn()), Some((4, false)));
}

/// `struct nf_conntrack_tuple` of a packet's headers, as conntrack has it.
fn tuple(bytes: &[u8], direction: u8) -> [u8; tracer_common::TUPLE_LEN] {
    let mut tuple = [0; tracer_common::TUPLE_LEN];
    tuple[..4].copy_from_slice(&bytes[12..16]);
    tuple[16..18].copy_from_slice(&bytes[20..22]);
    tuple[18..20].copy_from_slice(&2_u16.to_ne_bytes());
    tuple[20..24].copy_from_slice(&bytes[16..20]);
    tuple[36..38].copy_from_slice(&bytes[22..24]);
    tuple[38] = bytes[9];
    tuple[39] = direction;
    tuple
}

#[test]
fn the_replies_of_a_connection_are_followed_before_conntrack_has_seen_them() {
    let udp = |source: [u8; 4], from, destination: [u8; 4], to| {
        let mut bytes = Vec::new();
        let builder = ipv4(source, destination).udp(from, to);
        builder.write(&mut bytes, &[1]).unwrap();
        bytes
    };
    let (client, node, pod) = ([10, 0, 0, 9], [10, 0, 0, 1], [10, 244, 3, 3]);
    let request = udp(client, 4000, node, 32275);
    let reply = udp(pod, 8080, client, 4000);
    let other_reply = udp(pod, 8080, client, 4001);
    // The nat table, which has found the pod.
    let mut record = Record {
        family: 2,
        skb: 1,
        pass: 1,
        flags: tracer_common::flags::TUPLES | tracer_common::flags::CONNTRACK,
        conntrack: 0x1000,
        conntrack_after: 0x1000,
        original: tuple(&request, 0),
        reply: tuple(&reply, 1),
        packet_len: 29,
        headers_len: 29,
        ..Record::EMPTY
    };
    record.headers[..29].copy_from_slice(&request);
    let mut wanted = lower(parsed("dst port 32275"), Families::ALL, Filter::EVERYTHING);
    for connections in [true, false] {
        wanted.connections = connections;
        let mut selection = Selection::new(wanted.clone());
        let mut before = traversal(2, 1, "raw", &reply);
        assert!(!selection.takes(&mut before), "nobody has asked yet");
        assert!(selection.takes(&mut Traversal::decode(record.bytes()).unwrap()));
        assert_eq!(selection.takes(&mut traversal(3, 1, "raw", &reply)), connections);
        assert!(!selection.takes(&mut traversal(4, 1, "raw", &other_reply)));
        let mut elsewhere = traversal(5, 1, "raw", &reply);
        elsewhere.netns = 7;
        assert!(!selection.takes(&mut elsewhere), "another namespace");
        assert_eq!(wanted.for_programs().connections, u8::from(connections));
    }
    // Without a criterion everything is followed anyway.
    let all = lower(parsed("ip or ip6"), Families::ALL, Filter::EVERYTHING);
    let all = Wanted {
        connections: true,
        ..all
    };
    assert_eq!(all.for_programs().connections, 0);
}

#[test]
fn any_text_is_read_or_refused() {
    const WORDS: [&str; 44] = [
        "tcp",
        "udp",
        "icmp",
        "ip",
        "ip6",
        "src",
        "dst",
        "host",
        "net",
        "port",
        "portrange",
        "proto",
        "and",
        "or",
        "not",
        "!",
        "(",
        ")",
        "[",
        "]",
        ":",
        "=",
        "!=",
        "<",
        ">",
        "&",
        "|",
        "+",
        "-",
        "*",
        "/",
        "%",
        "<<",
        "len",
        "less",
        "tcpflags",
        "tcp-syn",
        "80",
        "80-90",
        "0x10",
        "10.0.0.1",
        "10.0.0.0",
        "fd00::1",
        "mask",
    ];
    let packets = [syn(), datagram(), ping6()];
    let check = |text: &str| match parse(text) {
        Err(error) => {
            let said = error.to_string();
            assert_eq!(said.lines().count(), 3, "{said}");
        }
        Ok(expression) => {
            let wanted = lower(expression.clone(), Families::ALL, Filter::EVERYTHING);
            for bytes in &packets {
                let mut whole = traversal(1, 1, "raw", bytes);
                let holds = expression.holds(&Headers::of(&whole));
                // The parts together say what the whole says.
                let mut selection = Selection::new(Wanted { ..wanted.clone() });
                assert_eq!(selection.takes(&mut whole), holds != Some(false), "{text}");
            }
        }
    };
    bolero::check!().for_each(|bytes: &[u8]| {
        check(&String::from_utf8_lossy(bytes));
        let words: Vec<&str> = bytes
            .iter()
            .map(|byte| WORDS[usize::from(*byte) % WORDS.len()])
            .collect();
        check(&words.join(" "));
    });
}
