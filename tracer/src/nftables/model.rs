//! The rules of nf_tables in a network namespace, as nfnetlink tells them.

use std::{collections::HashMap, fmt};

use serde::{Deserialize, Serialize};

use crate::traversal::{Hook, Verdict};

/// Family of a table: `NFPROTO_*`, `include/uapi/linux/netfilter.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// Sees IPv4 and IPv6.
    Inet,
    /// IPv4
    Ip,
    /// ARP
    Arp,
    /// What enters or leaves by a device.
    Netdev,
    /// What a bridge forwards.
    Bridge,
    /// IPv6
    Ip6,
    /// A number that has no name here.
    Other(u8),
}

impl Family {
    const NAMED: [(u8, Self, &str); 6] = [
        (1, Self::Inet, "inet"),
        (2, Self::Ip, "ip"),
        (3, Self::Arp, "arp"),
        (5, Self::Netdev, "netdev"),
        (7, Self::Bridge, "bridge"),
        (10, Self::Ip6, "ip6"),
    ];

    /// The family that `nft` calls so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let mut named = Self::NAMED.into_iter();
        named
            .find(|(_, _, other)| *other == name)
            .map(|(_, family, _)| family)
    }

    /// Whether packets in its chains are followed.
    #[must_use]
    pub fn is_followed(self) -> bool {
        matches!(self, Self::Inet | Self::Ip | Self::Ip6)
    }
}

impl From<u8> for Family {
    fn from(number: u8) -> Self {
        let mut named = Self::NAMED.into_iter();
        let found = named.find(|(other, ..)| *other == number);
        found.map_or(Self::Other(number), |(_, family, _)| family)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::NAMED.into_iter().find(|(_, family, _)| family == self);
        match (found, self) {
            (Some((_, _, name)), _) => f.pad(name),
            (None, Self::Other(number)) => write!(f, "family-{number}"),
            (None, _) => Ok(()),
        }
    }
}

/// Every table of a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ruleset {
    /// The tables.
    pub tables: Vec<Table>,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Its handle, which no other table of the namespace has.
    pub handle: u64,
    /// Its chains.
    pub chains: Vec<Chain>,
    /// Where the rule of each handle is: the place of its chain, and its place there. A handle is never given twice
    /// in a table.
    #[serde(skip)]
    pub places: HashMap<u64, (usize, usize)>,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Its handle.
    pub handle: u64,
    /// Where it is called from, if it is a base chain.
    pub base: Option<Base>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// What makes a chain a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// The hook; that of inet's ingress has no name here.
    pub hook: Hook,
    /// When at the hook: lower is earlier.
    pub priority: i32,
    /// What becomes of a packet at its end.
    pub policy: Verdict,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Its handle.
    pub handle: u64,
    /// Whether it asks nothing of a packet and only gives a verdict or returns: what the legacy tables' TRACE calls
    /// `return` or `policy`.
    pub is_tail: bool,
    /// What it does at its end.
    pub statement: Statement,
    /// What it may change of a packet.
    pub changes: Changes,
    /// What it may have changed when it turns out not to match.
    pub changes_on_the_way: Changes,
    /// What it looks up in a verdict map; empty where it looks up nothing, or something that is not known afterwards.
    #[serde(default)]
    pub key: Vec<KeyPart>,
    /// Its own words, where no tool gives better ones.
    pub text: String,
}

/// A part of a packet that is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyPart {
    /// Source address.
    Source(IpVersion),
    /// Destination address.
    Destination(IpVersion),
    /// Transport protocol.
    Protocol,
    /// First port.
    SourcePort,
    /// Second port.
    DestinationPort,
    /// Name of the in device.
    InDevice,
    /// Name of the out device.
    OutDevice,
}

/// Which IP an address is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpVersion {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// Parts of a packet that a rule may change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    /// Its mark.
    pub mark: bool,
    /// Its headers.
    pub headers: bool,
}

/// What a rule does at its end, as far as it can be read off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Statement {
    /// Nothing: what is known of the packet then goes on to the next rule.
    Nothing,
    /// Jumps or goes to a chain.
    Chain(String),
    /// Any other verdict.
    Verdict,
    /// A target of iptables, or a statement of nft.
    Named(String),
}

impl Ruleset {
    /// Whether some rule changes headers, and packets go on to others.
    #[must_use]
    pub fn changes_headers(&self) -> bool {
        let chains = self.tables.iter().flat_map(|table| &table.chains);
        let mut rules = chains.flat_map(|chain| &chain.rules);
        rules.any(|rule| rule.changes.headers || rule.changes_on_the_way.headers)
    }

    /// Finds the place of each rule again, which is not written down.
    pub(crate) fn find_places(&mut self) {
        for table in &mut self.tables {
            let chains = table.chains.iter().enumerate();
            table.places = chains
                .flat_map(|(chain, Chain { rules, .. })| {
                    let rules = rules.iter().enumerate();
                    rules.map(move |(place, rule)| (rule.handle, (chain, place)))
                })
                .collect();
        }
    }
}

impl Table {
    /// The chain with a handle, as a place in [`Table::chains`].
    #[must_use]
    pub fn chain_of(&self, handle: u64) -> Option<usize> {
        self.chains.iter().position(|chain| chain.handle == handle)
    }

    /// The chain with a name, in the same way.
    #[must_use]
    pub fn chain_named(&self, name: &str) -> Option<usize> {
        self.chains.iter().position(|chain| chain.name == name)
    }

    /// Whether it is one that `iptables-nft` and `ip6tables-nft` keep their rules in: family and name are those of an
    /// iptables table, and every base chain has the name that iptables gives it.
    #[must_use]
    pub fn is_iptables(&self) -> bool {
        const NAMES: [&str; 5] = ["filter", "nat", "mangle", "raw", "security"];

        let built_in = |chain: &Chain| match chain.base {
            Some(base) => base.hook.to_string() == chain.name,
            None => true,
        };
        matches!(self.family, Family::Ip | Family::Ip6)
            && NAMES.contains(&self.name.as_str())
            && self.chains.iter().all(built_in)
    }
}

impl Ruleset {
    /// Tables with base chains whose packets are not followed, as `nft` names them: `bridge filter`.
    pub fn not_followed(&self) -> impl Iterator<Item = String> {
        let hooked = |table: &&Table| table.chains.iter().any(|chain| chain.base.is_some());
        let tables = self.tables.iter().filter(hooked);
        tables
            .filter(|table| !table.family.is_followed())
            .map(|table| format!("{} {}", table.family, table.name))
    }

    /// The table with a handle.
    #[must_use]
    pub fn table(&self, handle: u64) -> Option<&Table> {
        self.tables.iter().find(|table| table.handle == handle)
    }
}
