//! Matches: what the rule itself compares, and extensions.

use fastrand::Rng;

use super::Place;

/// Protocols of a rule, with how often.
const PROTOCOLS: [(&str, u8); 8] = [
    ("", 9),
    ("tcp", 6),
    ("udp", 6),
    ("icmp", 3),
    ("all", 1),
    ("47", 1),
    ("! tcp", 1),
    ("! udp", 1),
];

/// Pieces of a rule, and its protocol as the first of them.
pub(super) fn some(
    rng: &mut Rng,
    place: &Place<'_>,
    required: Option<&str>,
) -> (Vec<String>, Option<String>) {
    let mut name = "";
    let protocol = match required {
        Some(required) => {
            name = if required.contains("tcp") { "tcp" } else { "udp" };
            Some(required.to_owned())
        }
        None => {
            let all: u8 = PROTOCOLS.iter().map(|(_, often)| often).sum();
            let mut at = rng.u8(..all);
            for (protocol, often) in PROTOCOLS {
                if at < often {
                    name = protocol;
                    break;
                }
                at -= often;
            }
            match name {
                "" => None,
                "icmp" => Some(format!("-p {}", place.by_family("icmp", "ipv6-icmp"))),
                "! tcp" | "! udp" => Some(format!("! -p {}", &name[2..])),
                _ => Some(format!("-p {name}")),
            }
        }
    };
    let mut pieces = Vec::new();
    if let Some(piece) = (rng.u8(..4) == 0).then(|| address(rng, place, "s")) {
        pieces.push(piece);
    }
    if let Some(piece) = (rng.u8(..4) == 0).then(|| address(rng, place, "d")) {
        pieces.push(piece);
    }
    if rng.u8(..4) == 0 {
        pieces.extend(device(rng, place));
    }
    if rng.bool() {
        pieces.extend(of_protocol(rng, place, name));
    }
    let mut seen: Vec<String> = Vec::new();
    for _ in 0..[0, 0, 1, 1, 1, 2, 2, 3][rng.usize(..8)] {
        let Some(piece) = extension(rng, place) else {
            continue;
        };
        // A module can be there once, and so can `-f`.
        let module = match piece.trim_start_matches("! ") {
            "-f" => "-f",
            piece => piece.split_whitespace().nth(1).unwrap_or_default(),
        };
        let module = module.to_owned();
        if !seen.contains(&module) {
            seen.push(module);
            pieces.push(piece);
        }
    }
    (pieces, protocol)
}

/// Something that few packets have.
pub(super) fn narrow(rng: &mut Rng, place: &Place<'_>) -> String {
    match rng.u8(..4) {
        0 => format!("-m mark --mark 0x{:x}", rng.u8(1..4)),
        1 => format!("-m length --length {}:{}", rng.u8(20..60), rng.u8(60..90)),
        2 => address(rng, place, "d"),
        _ => "-m statistic --mode random --probability 0.2".to_owned(),
    }
}

fn maybe_not(rng: &mut Rng) -> &'static str {
    if rng.u8(..4) == 0 { "! " } else { "" }
}

fn address(rng: &mut Rng, place: &Place<'_>, side: &str) -> String {
    let not = maybe_not(rng);
    let (net, host) = (rng.u8(1..=2), rng.u8(1..=2));
    let v4 = [
        format!("10.{net}.0.{host}"),
        format!("10.{net}.0.0/24"),
        format!("10.{net}.0.{host}/255.0.0.255"),
        "127.0.0.0/8".to_owned(),
        "0.0.0.0/0".to_owned(),
    ];
    let v6 = [
        format!("fd00:{net}::{host}"),
        format!("fd00:{net}::/64"),
        format!("fd00:{net}::{host}/ffff::ffff"),
        "::1/128".to_owned(),
        "fe80::/10".to_owned(),
    ];
    let at = rng.usize(..5);
    format!("{not}-{side} {}", place.by_family(&v4[at], &v6[at]))
}

fn device(rng: &mut Rng, place: &Place<'_>) -> Option<String> {
    // The tools refuse a direction that the built-in chain does not have.
    let (can_in, can_out) = (
        !place
            .hooks
            .iter()
            .any(|hook| ["OUTPUT", "POSTROUTING"].contains(hook)),
        !place
            .hooks
            .iter()
            .any(|hook| ["PREROUTING", "INPUT"].contains(hook)),
    );
    let side = match (can_in, can_out) {
        (true, true) => ["i", "o"][rng.usize(..2)],
        (true, false) => "i",
        (false, true) => "o",
        (false, false) => return None,
    };
    let name = ["left", "right", "lo", "le+", "r+", "l+", "eth0"][rng.usize(..7)];
    Some(format!("{}-{side} {name}", maybe_not(rng)))
}

const PORTS: [&str; 8] = [
    "80",
    "81",
    "5000",
    "5001:5002",
    "1024:",
    ":1023",
    "40000:65535",
    "6000:6010",
];

fn of_protocol(rng: &mut Rng, place: &Place<'_>, protocol: &str) -> Option<String> {
    let not = maybe_not(rng);
    let port = PORTS[rng.usize(..PORTS.len())];
    let side = ["s", "d"][rng.usize(..2)];
    Some(match protocol {
        "tcp" | "udp" if rng.u8(..4) == 0 => {
            let kind = ["sports", "dports", "ports"][rng.usize(..3)];
            let list = ["80,81,5000", "5000:5002,80", "1:79,5001", "1024:65535"][rng.usize(..4)];
            format!("-m multiport {not}--{kind} {list}")
        }
        "udp" => format!("-m udp {not}--{side}port {port}"),
        "tcp" => match rng.u8(..7) {
            0..=2 => format!("-m tcp {not}--{side}port {port}"),
            3 => format!("-m tcp {not}--syn"),
            4 => {
                let flags = [
                    "SYN,ACK SYN",
                    "ALL FIN,PSH,URG",
                    "ALL NONE",
                    "SYN,FIN SYN,FIN",
                    "RST RST",
                ];
                format!("-m tcp {not}--tcp-flags {}", flags[rng.usize(..flags.len())])
            }
            5 => format!("-m tcp {not}--tcp-option {}", [2, 3, 4, 8][rng.usize(..4)]),
            _ => format!("-m tcpmss {not}--mss 500:1460"),
        },
        "icmp" => {
            let v4 = ["8", "0", "3", "3/3", "11", "any"];
            let v6 = ["128", "129", "1", "1/4", "3", "135"];
            let at = rng.usize(..6);
            place
                .by_family(
                    &format!(
                        "-m icmp {}--icmp-type {}",
                        if v4[at] == "any" { "" } else { not },
                        v4[at]
                    ),
                    &format!("-m icmp6 {not}--icmpv6-type {}", v6[at]),
                )
                .to_owned()
        }
        _ => return None,
    })
}

/// Where a match can be.
#[derive(Clone, Copy)]
enum Where {
    Any,
    /// Only these hooks.
    Hooks(&'static [&'static str]),
    /// A table and hooks.
    In(&'static [&'static str], &'static [&'static str]),
}

use Where::{Any, Hooks, In};

const IN_HOOKS: &[&str] = &["PREROUTING", "INPUT", "FORWARD"];
const OUT_HOOKS: &[&str] = &["OUTPUT", "POSTROUTING"];

/// For IPv4 and IPv6; `~` is where an inversion can be, an empty text is for a family that has none.
const CHOICES: &[(Where, &str, &str)] = &[
    (Any, "-m mark ~--mark 0x1", "-m mark ~--mark 0x1/0xf"),
    (Any, "-m mark ~--mark 0x4000/0xff00", "-m mark ~--mark 0x10/0x10"),
    (Any, "-m mark ~--mark 0", "-m mark ~--mark 0"),
    (Any, "-m connmark ~--mark 0x7", "-m connmark ~--mark 0x7/0x7"),
    (Any, "-m conntrack ~--ctstate NEW", "-m conntrack ~--ctstate NEW"),
    (
        Any,
        "-m conntrack ~--ctstate ESTABLISHED,RELATED",
        "-m conntrack ~--ctstate ESTABLISHED,RELATED",
    ),
    (
        Any,
        "-m conntrack ~--ctstate INVALID,UNTRACKED",
        "-m conntrack ~--ctstate INVALID,UNTRACKED",
    ),
    (
        Any,
        "-m conntrack ~--ctstate DNAT,SNAT",
        "-m conntrack ~--ctstate DNAT,SNAT",
    ),
    (
        Any,
        "-m conntrack ~--ctstatus SEEN_REPLY,CONFIRMED",
        "-m conntrack ~--ctstatus ASSURED,NONE",
    ),
    (Any, "-m conntrack ~--ctproto 17", "-m conntrack ~--ctproto 6"),
    (
        Any,
        "-m conntrack ~--ctorigsrc 10.1.0.0/24",
        "-m conntrack ~--ctorigsrc fd00:1::/64",
    ),
    (
        Any,
        "-m conntrack ~--ctreplsrc 10.2.0.2",
        "-m conntrack ~--ctreplsrc fd00:2::2",
    ),
    (
        Any,
        "-m conntrack ~--ctexpire 1:100",
        "-m conntrack ~--ctexpire 1:100",
    ),
    (Any, "-m conntrack --ctdir ORIGINAL", "-m conntrack --ctdir REPLY"),
    (Any, "-m state ~--state NEW", "-m state ~--state ESTABLISHED"),
    (
        Any,
        "-m connbytes ~--connbytes 200 --connbytes-dir both --connbytes-mode bytes",
        "-m connbytes ~--connbytes 2:5 --connbytes-dir original --connbytes-mode packets",
    ),
    (
        Any,
        "-m connlimit --connlimit-above 2",
        "-m connlimit --connlimit-upto 2",
    ),
    (Any, "-m helper ~--helper ftp", "-m helper ~--helper ftp"),
    (
        Any,
        "-m statistic --mode random ~--probability 0.5",
        "-m statistic --mode random ~--probability 0.3",
    ),
    (
        Any,
        "-m statistic --mode nth ~--every 3 --packet 1",
        "-m statistic --mode nth ~--every 2 --packet 0",
    ),
    (
        Any,
        "-m limit --limit 5/sec --limit-burst 4",
        "-m limit --limit 1/min --limit-burst 2",
    ),
    (
        Any,
        "-m hashlimit --hashlimit-upto 2/sec --hashlimit-burst 3 --hashlimit-mode srcip --hashlimit-name a",
        "-m hashlimit --hashlimit-above 2/sec --hashlimit-burst 3 --hashlimit-mode dstip,dstport --hashlimit-name b",
    ),
    (Any, "-m quota ~--quota 600", "-m quota ~--quota 600"),
    (
        Any,
        "-m recent ~--set --name seen --rsource",
        "-m recent ~--set --name seen6 --rdest",
    ),
    (
        Any,
        "-m recent ~--rcheck --seconds 60 --hitcount 2 --name seen --rsource",
        "-m recent ~--rcheck --name seen6 --rdest",
    ),
    (
        Any,
        "-m recent ~--update --name seen --rsource",
        "-m recent ~--remove --name seen6 --rdest",
    ),
    (
        Any,
        "-m set ~--match-set hosts4 src",
        "-m set ~--match-set hosts6 src",
    ),
    (
        Any,
        "-m set ~--match-set nets4 dst",
        "-m set ~--match-set nets6 dst",
    ),
    (
        Any,
        "-m set ~--match-set ports dst",
        "-m set ~--match-set ports src",
    ),
    (
        Any,
        "-m addrtype ~--dst-type LOCAL",
        "-m addrtype ~--dst-type LOCAL",
    ),
    (
        Any,
        "-m addrtype ~--src-type LOCAL ~--dst-type UNICAST",
        "-m addrtype ~--src-type UNICAST",
    ),
    (
        Any,
        "-m addrtype ~--dst-type BROADCAST,MULTICAST",
        "-m addrtype ~--dst-type MULTICAST",
    ),
    (
        Hooks(OUT_HOOKS),
        "-m owner ~--uid-owner 1000",
        "-m owner ~--uid-owner 1000-2000",
    ),
    (
        Hooks(OUT_HOOKS),
        "-m owner ~--gid-owner 0",
        "-m owner ~--gid-owner 100",
    ),
    (
        Hooks(OUT_HOOKS),
        "-m owner ~--socket-exists",
        "-m owner ~--socket-exists",
    ),
    (Any, "-m length ~--length 0:60", "-m length ~--length 80"),
    (Any, "-m length ~--length 84", "-m length ~--length 100:2000"),
    (Any, "-m ttl --ttl-gt 50", "-m hl --hl-gt 50"),
    (Any, "-m ttl ~--ttl-eq 64", "-m hl ~--hl-eq 64"),
    (Any, "-m ttl --ttl-lt 41", "-m hl --hl-lt 41"),
    (Any, "-m tos ~--tos 0x10/0x3f", "-m tos ~--tos 0x10"),
    (Any, "-m dscp ~--dscp 0x1a", "-m dscp ~--dscp 0"),
    (Any, "-m ecn ~--ecn-ip-ect 0", "-m ecn ~--ecn-ip-ect 2"),
    (
        Any,
        "-m comment --comment here",
        "-m comment --comment \"some words\"",
    ),
    (
        Hooks(IN_HOOKS),
        "-m mac ~--mac-source 02:00:00:00:01:02",
        "-m mac ~--mac-source 02:00:00:00:02:02",
    ),
    (
        Any,
        "-m pkttype ~--pkt-type unicast",
        "-m pkttype ~--pkt-type multicast",
    ),
    (
        Any,
        "-m iprange ~--src-range 10.1.0.1-10.2.0.1",
        "-m iprange ~--src-range fd00:1::1-fd00:2::1",
    ),
    (
        Any,
        "-m iprange ~--dst-range 10.1.0.2-10.2.0.2",
        "-m iprange ~--dst-range fd00:1::2-fd00:2::2",
    ),
    (
        Any,
        "-m string ~--string needle --algo bm",
        "-m string ~--string needle --algo kmp --from 40 --to 200",
    ),
    (Any, "-m u32 ~--u32 6&0xFF=0x11", "-m u32 ~--u32 4&0xFF00=0x1100"),
    (
        Any,
        "-m u32 ~--u32 0>>22&0x3C@0>>16=80:5001",
        "-m u32 ~--u32 40>>16=1:65535",
    ),
    (
        Any,
        "-m time --timestart 00:00 --timestop 12:00",
        "-m time --weekdays Mon,Tue,Wed",
    ),
    (Any, "-m cpu ~--cpu 0", "-m cpu ~--cpu 1"),
    (
        Hooks(IN_HOOKS),
        "-m devgroup ~--src-group 0",
        "-m devgroup ~--src-group 0",
    ),
    (
        Hooks(&["FORWARD", "OUTPUT", "POSTROUTING"]),
        "-m devgroup ~--dst-group 0",
        "-m devgroup ~--dst-group 0",
    ),
    (
        Any,
        "-m physdev ~--physdev-in port",
        "-m physdev ~--physdev-is-in",
    ),
    (
        Any,
        "-m physdev ~--physdev-in eth+",
        "-m physdev ~--physdev-in p+ ~--physdev-is-in",
    ),
    (
        Hooks(IN_HOOKS),
        "-m policy --dir in --pol none",
        "-m policy --dir in --pol none",
    ),
    (
        Hooks(OUT_HOOKS),
        "-m policy --dir out --pol none",
        "-m policy --dir out --pol none",
    ),
    (
        Any,
        "-m bpf --bytecode \"4,48 0 0 9,21 0 1 6,6 0 0 1,6 0 0 0\"",
        "-m bpf --bytecode \"4,48 0 0 6,21 0 1 17,6 0 0 1,6 0 0 0\"",
    ),
    (
        In(&["raw", "mangle"], &["PREROUTING"]),
        "-m rpfilter --loose",
        "-m rpfilter --validmark",
    ),
    (
        In(&["mangle"], &["PREROUTING", "INPUT"]),
        "-m socket",
        "-m socket --nowildcard",
    ),
    (Any, "-f", "-m frag --fragid 0:4294967295"),
    (Any, "! -f", "-m frag --fragfirst"),
    (Any, "", "-m frag --fragmore"),
    (
        Hooks(&["INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]),
        "-m realm ~--realm 0",
        "",
    ),
    (Any, "", "-m frag --fraglast"),
    (Any, "", "-m ipv6header ~--header frag --soft"),
    (Any, "", "-m ipv6header ~--header hop-by-hop,dst --soft"),
    (Any, "", "-m ipv6header ~--header none"),
    (Any, "", "-m dst ~--dst-len 8"),
    (Any, "", "-m dst --dst-opts 1:4"),
    (Any, "", "-m hbh ~--hbh-len 8"),
    (Any, "", "-m rt ~--rt-type 0"),
    (Any, "", "-m rt --rt-segsleft 0:1"),
    (Hooks(IN_HOOKS), "", "-m eui64"),
];

fn extension(rng: &mut Rng, place: &Place<'_>) -> Option<String> {
    let (place_of, v4, v6) = CHOICES[rng.usize(..CHOICES.len())];
    let fits = match place_of {
        Any => true,
        Hooks(hooks) => place.only(hooks),
        In(tables, hooks) => tables.contains(&place.table) && place.only(hooks),
    };
    let text = place.by_family(v4, v6);
    if !fits || text.is_empty() {
        return None;
    }
    let mut piece = String::new();
    for (at, part) in text.split('~').enumerate() {
        if at > 0 {
            piece += maybe_not(rng);
        }
        piece += part;
    }
    Some(piece)
}
