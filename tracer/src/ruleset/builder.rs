//! Builds tables for tests: chains and rules are added one by one, as `iptables` would be told, and the result is
//! the very blob that the kernel would hold, decoded.
//!
//! ```ignore
//! let table = TableBuilder::new(Family::Ipv4, "filter")
//!     .built_in(Hook::LocalIn, ACCEPT)
//!     .rule(rule().source("10.0.0.0/8").protocol(6).matching("tcp", 0, &ports).jump("WEB"))
//!     .chain("WEB")
//!     .rule(rule().in_device("eth+").verdict(DROP))
//!     .table();
//! ```

use std::collections::HashMap;
use std::net::IpAddr;

use super::blob::{self, Info};
use super::model::{HeaderMatch, Offset, Standard, Table};
use crate::traversal::{Family, Hook};

/// `NF_DROP`
pub(crate) const DROP: u32 = 0;
/// `NF_ACCEPT`
pub(crate) const ACCEPT: u32 = 1;

/// `IPT_INV_*`, the same in both families.
mod inverted {
    pub(super) const IN_DEVICE: u8 = 0x01;
    pub(super) const OUT_DEVICE: u8 = 0x02;
    pub(super) const SOURCE: u8 = 0x08;
    pub(super) const DESTINATION: u8 = 0x10;
    pub(super) const PROTOCOL: u8 = 0x40;
}

/// A rule that asks nothing and does nothing.
pub(crate) fn rule() -> RuleBuilder {
    RuleBuilder {
        header: HeaderMatch {
            source: ([0; 16], [0; 16]),
            destination: ([0; 16], [0; 16]),
            in_device: ([0; 16], [0; 16]),
            out_device: ([0; 16], [0; 16]),
            protocol: 0,
            flags: 0,
            inverted: 0,
        },
        matches: Vec::new(),
        target: TargetSpec::None,
    }
}

/// A rule under construction.
#[derive(Clone, Debug)]
pub(crate) struct RuleBuilder {
    pub(super) header: HeaderMatch,
    pub(super) matches: Vec<(String, u8, Vec<u8>)>,
    pub(super) target: TargetSpec,
}

/// What a rule is to do.
#[derive(Clone, Debug)]
pub(super) enum TargetSpec {
    /// No `-j`: on to the next rule.
    None,
    /// A standard target as it is.
    Standard(Standard),
    /// `-j` to a user-defined chain.
    Jump(String),
    /// `-g` to a user-defined chain.
    Goto(String),
    /// `-j` to an extension.
    Extension(String, u8, Vec<u8>),
    /// The head of a chain.
    Head(String),
}

impl RuleBuilder {
    /// `-s 10.0.0.0/8`
    pub(crate) fn source(mut self, network: &str) -> Self {
        self.header.source = parse_network(network);
        self
    }

    /// `! -s 10.0.0.0/8`
    pub(crate) fn not_source(mut self, network: &str) -> Self {
        self.header.inverted |= inverted::SOURCE;
        self.source(network)
    }

    /// `-d 10.0.0.0/8`
    pub(crate) fn destination(mut self, network: &str) -> Self {
        self.header.destination = parse_network(network);
        self
    }

    /// `! -d 10.0.0.0/8`
    pub(crate) fn not_destination(mut self, network: &str) -> Self {
        self.header.inverted |= inverted::DESTINATION;
        self.destination(network)
    }

    /// `-i eth0`, `-i eth+`
    pub(crate) fn in_device(mut self, name: &str) -> Self {
        self.header.in_device = parse_device(name);
        self
    }

    /// `! -i eth0`
    pub(crate) fn not_in_device(mut self, name: &str) -> Self {
        self.header.inverted |= inverted::IN_DEVICE;
        self.in_device(name)
    }

    /// `-o eth0`, `-o eth+`
    pub(crate) fn out_device(mut self, name: &str) -> Self {
        self.header.out_device = parse_device(name);
        self
    }

    /// `! -o eth0`
    pub(crate) fn not_out_device(mut self, name: &str) -> Self {
        self.header.inverted |= inverted::OUT_DEVICE;
        self.out_device(name)
    }

    /// `-p 6`; in an IPv6 table with `IP6T_F_PROTO`, as `ip6tables` does.
    pub(crate) fn protocol(mut self, number: u16) -> Self {
        self.header.protocol = number;
        self
    }

    /// `! -p 6`
    pub(crate) fn not_protocol(mut self, number: u16) -> Self {
        self.header.inverted |= inverted::PROTOCOL;
        self.protocol(number)
    }

    /// Sets `flags` and `invflags` bits as the kernel codes them.
    pub(crate) fn bits(mut self, flags: u8, inverted: u8) -> Self {
        self.header.flags |= flags;
        self.header.inverted |= inverted;
        self
    }

    /// `-m name` of a revision with its data, which is padded as `XT_ALIGN` does.
    pub(crate) fn matching(mut self, name: &str, revision: u8, data: &[u8]) -> Self {
        self.matches.push((name.to_owned(), revision, data.to_vec()));
        self
    }

    /// `-m comment --comment text`
    pub(crate) fn comment(self, text: &str) -> Self {
        let mut data = [0; 256];
        data[..text.len()].copy_from_slice(text.as_bytes());
        self.matching("comment", 0, &data)
    }

    /// `-j ACCEPT` ([`ACCEPT`]), `-j DROP` ([`DROP`]), or any other value that ends the traversal.
    pub(crate) fn verdict(self, verdict: u32) -> Self {
        self.to(TargetSpec::Standard(Standard::Verdict(verdict)))
    }

    /// `-j RETURN`
    pub(crate) fn return_(self) -> Self {
        self.to(TargetSpec::Standard(Standard::Return))
    }

    /// `-j CHAIN`
    pub(crate) fn jump(self, chain: &str) -> Self {
        self.to(TargetSpec::Jump(chain.to_owned()))
    }

    /// `-g CHAIN`
    pub(crate) fn goto(self, chain: &str) -> Self {
        self.to(TargetSpec::Goto(chain.to_owned()))
    }

    /// A jump to an offset, whatever is there.
    pub(crate) fn jump_to_offset(self, offset: Offset) -> Self {
        self.to(TargetSpec::Standard(Standard::Jump(offset)))
    }

    /// `-j NAME` of an extension of a revision with its data.
    pub(crate) fn extension(self, name: &str, revision: u8, data: &[u8]) -> Self {
        self.to(TargetSpec::Extension(name.to_owned(), revision, data.to_vec()))
    }

    /// The head of a user-defined chain, in the middle of another.
    pub(crate) fn head(self, chain: &str) -> Self {
        self.to(TargetSpec::Head(chain.to_owned()))
    }

    fn to(mut self, target: TargetSpec) -> Self {
        self.target = target;
        self
    }

    fn entry_len(family: Family) -> usize {
        match family {
            Family::Ipv4 => 112,
            Family::Ipv6 => 168,
        }
    }

    /// Length of the matches.
    fn matches_len(&self) -> usize {
        self.matches
            .iter()
            .map(|(_, _, data)| 32 + align(data.len()))
            .sum()
    }

    /// Length of the whole entry.
    fn len(&self, family: Family) -> usize {
        let target = match &self.target {
            TargetSpec::Extension(_, _, data) => data.len(),
            TargetSpec::Head(_) => 30,
            TargetSpec::None | TargetSpec::Standard(_) | TargetSpec::Jump(_) | TargetSpec::Goto(_) => 4,
        };
        Self::entry_len(family) + self.matches_len() + 32 + align(target)
    }

    /// Appends the entry to a blob; `chains` has the offset of the first rule of each user-defined chain.
    fn append(&self, family: Family, chains: &HashMap<&str, u32>, blob: &mut Vec<u8>) {
        let start = blob.len();
        let entry_len = Self::entry_len(family);
        let (goto, protocol) = match family {
            Family::Ipv4 => (2, 0),
            Family::Ipv6 => (4, 1),
        };
        let mut flags = self.header.flags;
        if matches!(self.target, TargetSpec::Goto(_)) {
            flags |= goto;
        }
        if self.header.protocol != 0 {
            flags |= protocol;
        }
        let address_len = match family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        };
        let header = &self.header;
        for address in [
            &header.source.0,
            &header.destination.0,
            &header.source.1,
            &header.destination.1,
        ] {
            blob.extend(&address[..address_len]);
        }
        for device in [
            &header.in_device.0,
            &header.out_device.0,
            &header.in_device.1,
            &header.out_device.1,
        ] {
            blob.extend(device);
        }
        blob.extend(header.protocol.to_ne_bytes());
        if family == Family::Ipv6 {
            blob.push(0); // tos
        }
        blob.extend([flags, header.inverted]);
        let offsets = match family {
            Family::Ipv4 => 88,
            Family::Ipv6 => 140,
        };
        blob.resize(start + offsets, 0);
        blob.extend(
            u16::try_from(entry_len + self.matches_len())
                .unwrap()
                .to_ne_bytes(),
        );
        blob.extend(u16::try_from(self.len(family)).unwrap().to_ne_bytes());
        blob.resize(start + entry_len, 0);
        for (name, revision, data) in &self.matches {
            extension(name, *revision, data, blob);
        }
        let chain = |name: &str| *chains.get(name).unwrap_or_else(|| panic!("no chain {name}"));
        let next = u32::try_from(start + self.len(family)).unwrap();
        let standard = |verdict: i32, blob: &mut Vec<u8>| extension("", 0, &verdict.to_ne_bytes(), blob);
        match &self.target {
            TargetSpec::None => standard(next.cast_signed(), blob),
            TargetSpec::Standard(Standard::Verdict(verdict)) => standard(-verdict.cast_signed() - 1, blob),
            TargetSpec::Standard(Standard::Return) => standard(-5, blob),
            TargetSpec::Standard(Standard::Jump(to)) => standard(to.cast_signed(), blob),
            TargetSpec::Jump(name) | TargetSpec::Goto(name) => standard(chain(name).cast_signed(), blob),
            TargetSpec::Extension(name, revision, data) => extension(name, *revision, data, blob),
            TargetSpec::Head(name) => {
                let mut data = [0; 30];
                data[..name.len()].copy_from_slice(name.as_bytes());
                extension("ERROR", 0, &data, blob);
            }
        }
    }
}

/// A table under construction. As in the kernel the built-in chains come first, in the order of their hooks.
#[derive(Clone, Debug)]
pub(crate) struct TableBuilder {
    family: Family,
    name: String,
    built_in: Vec<(Hook, RuleBuilder, Vec<RuleBuilder>)>,
    user_defined: Vec<(String, Vec<RuleBuilder>)>,
}

impl TableBuilder {
    /// A table without chains.
    pub(crate) fn new(family: Family, name: &str) -> Self {
        Self {
            family,
            name: name.to_owned(),
            built_in: Vec::new(),
            user_defined: Vec::new(),
        }
    }

    /// Adds the built-in chain of a hook. Its policy is the verdict [`ACCEPT`] or [`DROP`].
    pub(crate) fn built_in(mut self, hook: Hook, policy: u32) -> Self {
        assert!(self.user_defined.is_empty(), "built-in chains come first");
        self.built_in.push((hook, rule().verdict(policy), Vec::new()));
        self
    }

    /// Adds a user-defined chain. Its end is a RETURN, which need not be added.
    pub(crate) fn chain(mut self, name: &str) -> Self {
        self.user_defined.push((name.to_owned(), Vec::new()));
        self
    }

    /// Appends a rule to the chain that was added last.
    pub(crate) fn rule(mut self, rule: RuleBuilder) -> Self {
        let rules = match self.user_defined.last_mut() {
            Some((_, rules)) => rules,
            None => {
                &mut self
                    .built_in
                    .last_mut()
                    .expect("a chain comes before its rules")
                    .2
            }
        };
        rules.push(rule);
        self
    }

    /// Appends rules to the chain that was added last.
    pub(crate) fn rules(self, rules: impl IntoIterator<Item = RuleBuilder>) -> Self {
        rules.into_iter().fold(self, Self::rule)
    }

    /// The table, decoded from its blob.
    pub(crate) fn table(&self) -> Table {
        let (info, blob) = self.blob();
        blob::decode(self.family, &info, blob).unwrap()
    }

    /// What `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` would answer.
    pub(crate) fn blob(&self) -> (Info, Vec<u8>) {
        let mut entries: Vec<RuleBuilder> = Vec::new();
        let mut built_in = Vec::new();
        for (hook, policy, rules) in &self.built_in {
            built_in.push((*hook, entries.len(), entries.len() + rules.len()));
            entries.extend(rules.iter().cloned());
            entries.push(policy.clone());
        }
        let mut chains = HashMap::new();
        for (name, rules) in &self.user_defined {
            entries.push(rule().to(TargetSpec::Head(name.clone())));
            chains.insert(name.as_str(), entries.len());
            entries.extend(rules.iter().cloned());
            entries.push(rule().return_());
        }
        entries.push(rule().to(TargetSpec::Head("ERROR".into())));
        let mut offsets = vec![0];
        for entry in &entries {
            offsets.push(offsets[offsets.len() - 1] + u32::try_from(entry.len(self.family)).unwrap());
        }
        let chains = chains
            .into_iter()
            .map(|(name, index)| (name, offsets[index]))
            .collect();
        let mut blob = Vec::new();
        for entry in &entries {
            entry.append(self.family, &chains, &mut blob);
        }
        let mut info = Info {
            name: self.name.clone(),
            valid_hooks: 0,
            hook_entry: [u32::MAX; 5],
            underflow: [u32::MAX; 5],
            entries_count: u32::try_from(entries.len()).unwrap(),
            size: u32::try_from(blob.len()).unwrap(),
        };
        for (hook, entry, underflow) in built_in {
            info.valid_hooks |= 1 << hook.number();
            info.hook_entry[usize::from(hook.number())] = offsets[entry];
            info.underflow[usize::from(hook.number())] = offsets[underflow];
        }
        (info, blob)
    }
}

fn align(len: usize) -> usize {
    len.next_multiple_of(8)
}

fn extension(name: &str, revision: u8, data: &[u8], blob: &mut Vec<u8>) {
    let start = blob.len();
    let len = 32 + align(data.len());
    blob.extend(u16::try_from(len).unwrap().to_ne_bytes());
    blob.extend(name.as_bytes());
    blob.resize(start + 31, 0);
    blob.push(revision);
    blob.extend(data);
    blob.resize(start + len, 0);
}

/// Address and mask of `10.0.0.0/8`, `2001:db8::/32`, or an address alone.
fn parse_network(network: &str) -> ([u8; 16], [u8; 16]) {
    let (address, prefix) = match network.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse::<usize>().unwrap())),
        None => (network, None),
    };
    let bytes = match address.parse().unwrap() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let prefix = prefix.unwrap_or(bytes.len() * 8);
    let mut network = ([0; 16], [0; 16]);
    for bit in 0..prefix {
        network.1[bit / 8] |= 0x80 >> (bit % 8);
    }
    for (at, byte) in bytes.iter().enumerate() {
        network.0[at] = byte & network.1[at];
    }
    network
}

/// Name and mask of `eth0` or `eth+`, as `xtables_parse_interface` makes them.
fn parse_device(name: &str) -> ([u8; 16], [u8; 16]) {
    let mut device = ([0; 16], [0; 16]);
    let (prefix, mask_len) = match name.strip_suffix('+') {
        Some(prefix) => (prefix, prefix.len()),
        None => (name, name.len() + 1),
    };
    // The name keeps its plus sign; the mask leaves it out.
    device.0[..name.len()].copy_from_slice(name.as_bytes());
    device.1[..mask_len].fill(0xff);
    assert!(prefix.len() < 16, "device names have at most 15 bytes");
    device
}
