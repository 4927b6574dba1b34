//! Random rulesets: whatever the tools and the kernel take.

mod matches;
mod targets;

use fastrand::Rng;

use super::rules::{Family, Rule, Ruleset, Table};

/// The tables with their built-in chains.
const TABLES: [(&str, &[&str]); 5] = [
    ("raw", &["PREROUTING", "OUTPUT"]),
    (
        "mangle",
        &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
    ),
    ("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]),
    ("filter", &["INPUT", "FORWARD", "OUTPUT"]),
    ("security", &["INPUT", "FORWARD", "OUTPUT"]),
];

/// Where a rule is to be.
struct Place<'a> {
    family: Family,
    table: &'static str,
    /// Built-in chains from which it can be reached; extensions depend on them.
    hooks: &'a [&'static str],
}

impl Place<'_> {
    fn only(&self, hooks: &[&str]) -> bool {
        self.hooks.iter().all(|hook| hooks.contains(hook))
    }

    /// What has a form for each family.
    fn by_family<'t>(&self, v4: &'t str, v6: &'t str) -> &'t str {
        match self.family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

/// A ruleset for both families.
#[must_use]
pub fn ruleset(rng: &mut Rng) -> Ruleset {
    let mut tables = Vec::new();
    for family in Family::ALL {
        for (name, builtin) in TABLES {
            // Not every table is in use everywhere; raw always is.
            if name == "raw" || rng.u8(..10) < 8 {
                tables.push(table(rng, family, name, builtin));
            }
        }
    }
    Ruleset {
        sets: sets(rng),
        tables,
    }
}

fn sets(rng: &mut Rng) -> String {
    let mut text = String::from(
        "create hosts4 hash:ip family inet\ncreate hosts6 hash:ip family inet6\n\
         create nets4 hash:net family inet\ncreate nets6 hash:net family inet6\n\
         create ports bitmap:port range 0-65535\n",
    );
    for net in 1..=2 {
        for host in 1..=2 {
            if rng.bool() {
                text += &format!("add hosts4 10.{net}.0.{host}\n");
            }
            if rng.bool() {
                text += &format!("add hosts6 fd00:{net}::{host}\n");
            }
        }
        if rng.bool() {
            text += &format!("add nets4 10.{net}.0.0/24\nadd nets6 fd00:{net}::/64\n");
        }
    }
    for port in [80, 81, 5000, 5001, 5002] {
        if rng.bool() {
            text += &format!("add ports {port}\n");
        }
    }
    text
}

/// A chain that rules can be put into, with where it can be reached from.
struct Chain {
    name: String,
    hooks: Vec<&'static str>,
}

fn table(rng: &mut Rng, family: Family, name: &'static str, builtin: &[&'static str]) -> Table {
    let mut chains: Vec<Chain> = builtin
        .iter()
        .map(|hook| Chain {
            name: (*hook).to_owned(),
            hooks: vec![*hook],
        })
        .collect();
    // Chains of one hook can use what only works there; those of all are where paths meet.
    for number in 0..rng.usize(0..=6) {
        chains.push(if rng.u8(..3) == 0 {
            Chain {
                name: format!("ALL-{number}"),
                hooks: builtin.to_vec(),
            }
        } else {
            let hook = builtin[rng.usize(..builtin.len())];
            let name = match rng.u8(..6) {
                0 => format!("{hook}:{number}"),
                _ => format!("{hook}-{number}"),
            };
            Chain {
                name,
                hooks: vec![hook],
            }
        });
    }
    let mut rules = Vec::new();
    for (at, chain) in chains.iter().enumerate() {
        let is_builtin = at < builtin.len();
        if name == "raw" && is_builtin {
            rules.push(Rule {
                chain: chain.name.clone(),
                matches: Vec::new(),
                target: "-j TRACE".to_owned(),
                is_trace: true,
            });
        }
        let place = Place {
            family,
            table: name,
            hooks: &chain.hooks,
        };
        // Only to later chains: the kernel refuses loops.
        let callable: Vec<&str> = chains
            .iter()
            .enumerate()
            .filter(|(to, callee)| {
                *to >= builtin.len() && *to > at && chain.hooks.iter().all(|hook| callee.hooks.contains(hook))
            })
            .map(|(_, callee)| callee.name.as_str())
            .collect();
        let most = if is_builtin { 7 } else { 5 };
        for _ in 0..rng.usize(0..=most) {
            rules.push(rule(rng, &place, &chain.name, &callable));
        }
    }
    let policies = builtin
        .iter()
        .map(|hook| {
            (
                *hook,
                if name != "nat" && rng.u8(..14) == 0 {
                    "DROP"
                } else {
                    "ACCEPT"
                },
            )
        })
        .collect();
    let chains = chains
        .into_iter()
        .skip(builtin.len())
        .map(|chain| chain.name)
        .collect();
    Table {
        family,
        name,
        policies,
        chains,
        rules,
    }
}

fn rule(rng: &mut Rng, place: &Place<'_>, chain: &str, callable: &[&str]) -> Rule {
    let target = target(rng, place, callable);
    let (mut found, protocol) = matches::some(rng, place, target.protocol);
    // What ends most paths should not be met by most packets.
    if target.ends && found.is_empty() && protocol.is_none() && rng.u8(..8) != 0 {
        found.push(matches::narrow(rng, place));
    }
    Rule {
        chain: chain.to_owned(),
        matches: protocol.into_iter().chain(found).collect(),
        target: target.text,
        is_trace: false,
    }
}

/// A target, with what it needs.
struct Target {
    text: String,
    /// The only protocol that it takes, as a match.
    protocol: Option<&'static str>,
    /// Whether a packet does not go on in this table.
    ends: bool,
}

fn target(rng: &mut Rng, place: &Place<'_>, callable: &[&str]) -> Target {
    let goes_on = |text: String| Target {
        text,
        protocol: None,
        ends: false,
    };
    match rng.u8(..20) {
        0 | 1 => goes_on(String::new()),
        2..=7 if !callable.is_empty() => {
            let how = if rng.u8(..4) == 0 { "-g" } else { "-j" };
            goes_on(format!("{how} {}", callable[rng.usize(..callable.len())]))
        }
        8 => goes_on("-j RETURN".to_owned()),
        9 => Target {
            text: "-j ACCEPT".to_owned(),
            protocol: None,
            ends: true,
        },
        10 if place.table != "nat" && rng.bool() => Target {
            text: "-j DROP".to_owned(),
            protocol: None,
            ends: true,
        },
        _ => targets::extension(rng, place),
    }
}
