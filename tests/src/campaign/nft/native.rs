//! Random rulesets for `nft`: chains at all hooks, jumps, verdict maps, sets, statements.

use std::fmt::Write as _;

use fastrand::Rng;

/// Hooks, with whether packets can be rejected there.
const HOOKS: [(&str, bool); 5] = [
    ("prerouting", false),
    ("input", true),
    ("forward", true),
    ("output", true),
    ("postrouting", false),
];
const TABLES_MAX: usize = 3;
const CHAINS_MAX: usize = 6;
const RULES_MAX: usize = 7;

/// A ruleset as `nft -f` reads it.
pub(super) fn ruleset(rng: &mut Rng) -> String {
    let mut text = String::new();
    for number in 0..rng.usize(1..=TABLES_MAX) {
        let family = ["ip", "ip6", "inet", "inet"][rng.usize(..4)];
        table(rng, &mut text, family, number);
    }
    text
}

/// Writing to a string cannot fail.
macro_rules! put {
    ($text:expr, $($format:tt)+) => {
        let _ = writeln!($text, $($format)+);
    };
}

fn table(rng: &mut Rng, text: &mut String, family: &str, number: usize) {
    put!(text, "table {family} t{number} {{");
    sets(rng, text);
    let chains: Vec<String> = (0..rng.usize(0..=CHAINS_MAX))
        .map(|at| format!("c{at}"))
        .collect();
    // The kernel refuses loops, and nft a chain that is jumped to before it is written; so the last comes first, and
    // each leads only to those before it.
    for (at, chain) in chains.iter().enumerate() {
        put!(text, "  chain {chain} {{");
        rules(rng, text, family, &chains[..at], None);
        put!(text, "  }}");
    }
    if !chains.is_empty() {
        let (to, other) = (rng.choice(chains.iter()), rng.choice(chains.iter()));
        if let (Some(to), Some(other)) = (to, other) {
            put!(
                text,
                "  map ports {{ type inet_service : verdict; elements = {{ 80 : jump {to}, 81 : goto {other}, \
                 5000 : return, 5001 : accept }}; }}"
            );
        }
    }
    for at in 0..rng.usize(1..=4) {
        let (hook, rejects) = HOOKS[rng.usize(..HOOKS.len())];
        let kind = match rng.u8(..6) {
            0 if hook != "forward" => "nat",
            1 if hook == "output" => "route",
            _ => "filter",
        };
        let policy = if rng.u8(..12) == 0 && kind != "nat" {
            "drop"
        } else {
            "accept"
        };
        let priority = [-300, -150, -100, 0, 50, 100, 150][rng.usize(..7)] + rng.i32(-5..=5);
        // The kernel wants NAT after conntrack.
        let priority = if kind == "nat" {
            priority.max(-199)
        } else {
            priority
        };
        put!(text, "  chain b{at} {{");
        put!(
            text,
            "    type {kind} hook {hook} priority {priority}; policy {policy};"
        );
        let base = Base { kind, hook, rejects };
        rules(rng, text, family, &chains, Some(&base));
        put!(text, "  }}");
    }
    put!(text, "}}");
}

struct Base {
    kind: &'static str,
    hook: &'static str,
    rejects: bool,
}

fn sets(rng: &mut Rng, text: &mut String) {
    put!(
        text,
        "  set some4 {{ type ipv4_addr; flags interval; elements = {{ 10.{}.0.0/24, 127.0.0.{} }}; }}",
        rng.u8(1..=2),
        rng.u8(1..=2)
    );
    put!(
        text,
        "  set some6 {{ type ipv6_addr; elements = {{ fd00:{}::2, ::1 }}; }}",
        rng.u8(1..=2)
    );
}

/// What a rule asks of a packet: nft refuses rules that ask for two protocols at once.
struct About {
    network: Option<Network>,
    transport: Option<Transport>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Network {
    V4,
    V6,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Udp,
    Any,
}

impl About {
    fn random(rng: &mut Rng, family: &str) -> Self {
        Self {
            network: match (family, rng.u8(..4)) {
                ("ip" | "inet", 0) => Some(Network::V4),
                ("ip6", 0) | ("inet", 1) => Some(Network::V6),
                _ => None,
            },
            transport: match rng.u8(..6) {
                0 | 1 => Some(Transport::Tcp),
                2 => Some(Transport::Udp),
                3 => Some(Transport::Any),
                _ => None,
            },
        }
    }

    fn may_be_tcp(&self) -> bool {
        matches!(self.transport, None | Some(Transport::Tcp))
    }

    fn conditions(&self, rng: &mut Rng) -> String {
        let net = rng.u8(1..=2);
        let host = rng.u8(1..=2);
        let network: Vec<String> = match self.network {
            None => Vec::new(),
            Some(Network::V4) => vec![
                format!("ip saddr 10.{net}.0.{host}"),
                format!("ip daddr 10.{net}.0.0/24"),
                "ip daddr @some4".to_owned(),
                format!("ip saddr != {{ 10.1.0.{host}, 127.0.0.1 }}"),
                "ip ttl < 64".to_owned(),
            ],
            Some(Network::V6) => vec![
                format!("ip6 saddr fd00:{net}::{host}"),
                "ip6 daddr @some6".to_owned(),
                format!("ip6 daddr fd00:{net}::/64"),
                "ip6 hoplimit 64".to_owned(),
            ],
        };
        let transport: &[&str] = match self.transport {
            None => &[],
            Some(Transport::Tcp) => &[
                "meta l4proto tcp",
                "tcp dport 80",
                "tcp dport { 80, 81, 5000-5002 }",
                "tcp flags syn",
            ],
            Some(Transport::Udp) => &["udp dport != 5000", "udp sport 50000-50050", "udp length > 20"],
            Some(Transport::Any) => &["meta l4proto { udp, icmp, icmpv6 }", "meta l4proto != tcp"],
        };
        let of_all = [
            format!("iifname {}", ["left", "right", "lo"][rng.usize(..3)]),
            "oifname \"r*\"".to_owned(),
            format!("meta mark {}", rng.u8(..3)),
            "meta mark and 0x10 == 0x10".to_owned(),
            "ct state new".to_owned(),
            "ct state established,related".to_owned(),
            "ct direction reply".to_owned(),
            "numgen inc mod 2 0".to_owned(),
            "numgen random mod 3 != 0".to_owned(),
            format!("meta length > {}", rng.u16(40..200)),
            "meta skuid 1000".to_owned(),
            "limit rate 3/second".to_owned(),
        ];
        let mut line = String::new();
        let mut add = |condition: &str| {
            line += condition;
            line.push(' ');
        };
        if !network.is_empty() {
            add(&network[rng.usize(..network.len())]);
        }
        if !transport.is_empty() {
            add(transport[rng.usize(..transport.len())]);
        }
        if rng.u8(..3) == 0 {
            add(&of_all[rng.usize(..of_all.len())]);
        }
        line
    }
}

fn rules(rng: &mut Rng, text: &mut String, family: &str, chains: &[String], base: Option<&Base>) {
    for _ in 0..rng.usize(0..=RULES_MAX) {
        let about = About::random(rng, family);
        let mut line = about.conditions(rng);
        if rng.u8(..3) == 0 {
            line += "counter ";
        }
        if rng.u8(..4) == 0 {
            line += statement(rng);
            line.push(' ');
        }
        line += &end(rng, family, chains, base, &about);
        if line.trim().is_empty() {
            line = "counter".to_owned();
        }
        put!(text, "    {}", line.trim());
    }
}

fn statement(rng: &mut Rng) -> &'static str {
    [
        "meta mark set 0x10",
        "meta mark set meta mark or 0x1",
        "ct mark set 5",
        "meta mark set ct mark",
        "meta priority set 1:1",
        "limit rate over 2/second",
    ][rng.usize(..6)]
}

fn end(rng: &mut Rng, family: &str, chains: &[String], base: Option<&Base>, about: &About) -> String {
    let unconditional = about.network.is_none() && about.transport.is_none();
    if let Some(base) = base {
        if base.kind == "nat" && rng.u8(..3) == 0 {
            return nat(rng, family, base.hook, about);
        }
        if base.rejects && base.kind == "filter" && !unconditional && rng.u8(..12) == 0 {
            return if about.transport == Some(Transport::Tcp) && rng.bool() {
                "reject with tcp reset".to_owned()
            } else {
                "reject".to_owned()
            };
        }
    }
    let chain = |rng: &mut Rng| chains[rng.usize(..chains.len())].clone();
    match rng.u8(..16) {
        0..=3 if !chains.is_empty() => format!("jump {}", chain(rng)),
        4 if !chains.is_empty() => format!("goto {}", chain(rng)),
        5 if !chains.is_empty() && about.may_be_tcp() => format!(
            "tcp dport vmap {{ 80 : jump {}, 81 : goto {}, 5000 : continue, 5001 : accept, 5002 : return }}",
            chain(rng),
            chain(rng)
        ),
        6 if !chains.is_empty() => {
            format!(
                "numgen inc mod 3 vmap {{ 0 : jump {}, 1 : continue, 2 : goto {} }}",
                chain(rng),
                chain(rng)
            )
        }
        7 if base.is_some() && !chains.is_empty() && about.may_be_tcp() => "tcp dport vmap @ports".to_owned(),
        8 => "return".to_owned(),
        9 if !unconditional => "accept".to_owned(),
        10 if !unconditional => "drop".to_owned(),
        11 => "continue".to_owned(),
        _ => String::new(),
    }
}

fn nat(rng: &mut Rng, family: &str, hook: &str, about: &About) -> String {
    let host = rng.u8(1..=2);
    let v4 = about.network != Some(Network::V6);
    match (family, hook) {
        ("ip", "prerouting" | "output") if about.transport == Some(Transport::Tcp) => {
            format!("dnat to 10.2.0.{host}:80")
        }
        ("ip", "prerouting" | "output") => format!("dnat to 10.2.0.{host}"),
        ("ip", "input") => "snat to 10.1.0.9".to_owned(),
        ("ip6", "prerouting" | "output") => format!("dnat to fd00:2::{host}"),
        ("inet", "prerouting" | "output") if v4 => {
            format!("meta nfproto ipv4 dnat ip to 10.2.0.{host}")
        }
        (_, "postrouting") => "masquerade".to_owned(),
        _ => "counter".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_ruleset_again() {
        let text = |seed| ruleset(&mut Rng::with_seed(seed));
        assert_eq!(text(1), text(1));
        assert_ne!(text(1), text(2));
    }
}
