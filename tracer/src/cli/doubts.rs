//! Filters that will match nothing as things are: said before a trace begins. No error, for what is missing may come
//! later.

use std::{borrow::Cow, collections::BTreeSet, fmt, fs};

use nix::net::if_::if_nameindex;
use tracer_common::{Filter, IFNAME_LEN, criteria};

use crate::{
    filter::Wanted,
    netns::{Netns, NetnsError},
    nftables::source::table_names,
};

/// The tables of legacy iptables, and the hooks at which they have a chain, by their names.
const LEGACY: [(&str, &[u8]); 5] = [
    ("raw", &[PREROUTING, OUTPUT]),
    ("mangle", &[PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING]),
    ("nat", &[PREROUTING, INPUT, OUTPUT, POSTROUTING]),
    ("filter", &[INPUT, FORWARD, OUTPUT]),
    ("security", &[INPUT, FORWARD, OUTPUT]),
];
// `enum nf_inet_hooks`, `include/uapi/linux/netfilter.h`.
const PREROUTING: u8 = 0;
const INPUT: u8 = 1;
const FORWARD: u8 = 2;
const OUTPUT: u8 = 3;
const POSTROUTING: u8 = 4;

/// `IPPROTO_ICMP`
const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`
const ICMPV6: u8 = 58;

/// Names listed at most.
const LISTED_MAX: usize = 12;

/// Something to think about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    what: String,
    hint: String,
}

/// `warning: what`, then `hint: what to type`.
impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "warning: {}\nhint: {}", self.what, self.hint)
    }
}

/// What there is in the network namespaces of this machine that the filter leaves.
#[derive(Debug, Default)]
pub(super) struct Present {
    namespaces: usize,
    devices: BTreeSet<String>,
    tables: BTreeSet<String>,
    /// Whether some of it could not be looked at: then nothing is known to be missing.
    unknown: bool,
}

impl Present {
    /// Looks, if the filter asks for anything by its name. Of nf_tables only where it is there: asking would load it.
    pub(super) fn of(wanted: &Wanted, nftables: bool) -> Option<Self> {
        let filter = &wanted.filter;
        let named = criteria::IN_DEVICE | criteria::OUT_DEVICE | criteria::NETNS;
        if filter.criteria & named == 0 && filter.tables_len == 0 {
            return None;
        }
        let mut present = Self::default();
        for netns in Netns::all() {
            if filter.criteria & criteria::NETNS != 0 && filter.netns != netns.inode() {
                continue;
            }
            present.namespaces += 1;
            let seen = netns.enter(|| {
                present.look();
                Ok::<_, NetnsError>(())
            });
            present.unknown |= seen.is_err();
            if nftables {
                match table_names(&netns) {
                    Ok(names) => present.tables.extend(names),
                    Err(_) => present.unknown = true,
                }
            }
        }
        Some(present)
    }

    /// Devices and legacy tables of the namespace that this thread is in.
    fn look(&mut self) {
        match if_nameindex() {
            Ok(devices) => {
                let names = devices.iter().map(|device| device.name().to_string_lossy());
                self.devices.extend(names.map(Cow::into_owned));
            }
            Err(_) => self.unknown = true,
        }
        for list in ["ip_tables_names", "ip6_tables_names"] {
            // Not there without the module.
            let names = fs::read_to_string(format!("/proc/thread-self/net/{list}")).unwrap_or_default();
            self.tables.extend(names.lines().map(str::to_owned));
        }
    }
}

/// What will match nothing as things are.
pub(super) fn doubts(wanted: &Wanted, present: Option<&Present>) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    doubts.extend(of_other_family(wanted));
    if let Some(present) = present.filter(|present| !present.unknown) {
        if present.namespaces == 0 {
            doubts.push(Doubt {
                what: "no network namespace of this machine has that inode number".to_owned(),
                hint: "`lsns -t net` lists them (NS)".to_owned(),
            });
            return doubts;
        }
        doubts.extend(no_such_devices(&wanted.filter, present));
        doubts.extend(no_such_tables(&wanted.filter, present));
    }
    doubts.extend(no_chain_at_hook(&wanted.filter));
    doubts
}

/// ICMP of the other family.
fn of_other_family(wanted: &Wanted) -> Option<Doubt> {
    let asks = wanted.filter.criteria & criteria::PROTOCOL != 0;
    let (is, other) = match wanted.filter.protocol {
        ICMP if asks && !wanted.families.ipv4 => ("icmp is that of IPv4", "icmpv6"),
        ICMPV6 if asks && !wanted.families.ipv6 => ("icmpv6 is that of IPv6", "icmp"),
        _ => return None,
    };
    Some(Doubt {
        what: format!("{is}, and the filter leaves only the other family"),
        hint: format!("`--proto {other}`"),
    })
}

fn no_such_devices(filter: &Filter, present: &Present) -> Vec<Doubt> {
    [
        (criteria::IN_DEVICE, &filter.in_device, &filter.in_device_mask),
        (criteria::OUT_DEVICE, &filter.out_device, &filter.out_device_mask),
    ]
    .into_iter()
    .filter(|(criterion, ..)| filter.criteria & criterion != 0)
    .filter_map(|(_, name, mask)| {
        let device = Device::new(name, mask);
        if present.devices.iter().any(|name| device.is(name)) {
            return None;
        }
        Some(Doubt {
            what: format!(
                "no device is called {device} {}: nothing matches until there is one",
                places(present.namespaces)
            ),
            hint: if device.stem == "any" {
                "leave it out to see all devices".to_owned()
            } else {
                format!("devices: {}", listed(&present.devices))
            },
        })
    })
    .collect()
}

/// A device as the filter has it.
struct Device {
    stem: String,
    whole: bool,
}

impl Device {
    fn new(name: &[u8; IFNAME_LEN], mask: &[u8; IFNAME_LEN]) -> Self {
        let stem_len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Self {
            stem: String::from_utf8_lossy(&name[..stem_len]).into_owned(),
            whole: mask.get(stem_len) == Some(&0xff),
        }
    }

    fn is(&self, name: &str) -> bool {
        if self.whole {
            name == self.stem
        } else {
            name.starts_with(&self.stem)
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.stem, if self.whole { "" } else { "+" })
    }
}

fn no_such_tables(filter: &Filter, present: &Present) -> Vec<Doubt> {
    tables(filter)
        .into_iter()
        .filter(|table| !present.tables.contains(table))
        .map(|table| {
            let lower = table.to_lowercase();
            let known = LEGACY.iter().map(|(name, _)| *name);
            let mut known = known.chain(present.tables.iter().map(String::as_str));
            let hint = match known.find(|known| known.to_lowercase() == lower && **known != *table) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("tables: {}", listed(&present.tables)),
            };
            Doubt {
                what: format!(
                    "no table is called {table} {}: nothing of it is shown until there is one",
                    places(present.namespaces)
                ),
                hint,
            }
        })
        .collect()
}

fn tables(filter: &Filter) -> Vec<String> {
    let tables = filter.tables.iter().take(usize::from(filter.tables_len));
    tables
        .map(|name| {
            let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            String::from_utf8_lossy(&name[..len]).into_owned()
        })
        .collect()
}

/// Tables of iptables that are looked at only where they have no chain.
fn no_chain_at_hook(filter: &Filter) -> Option<Doubt> {
    let tables = tables(filter);
    let hooks: Vec<&[u8]> = tables
        .iter()
        .map(|table| {
            LEGACY
                .iter()
                .find(|(name, _)| name == table)
                .map(|(_, hooks)| *hooks)
        })
        .collect::<Option<_>>()?;
    let any = |hooks: &&[u8]| hooks.iter().any(|hook| filter.hooks & (1 << hook) != 0);
    (!tables.is_empty() && !hooks.iter().any(any)).then(|| Doubt {
        what: format!(
            "{} of iptables has no chain at that hook: only one of nftables can show something",
            tables.join(", ")
        ),
        hint: "leave --hook or --table out".to_owned(),
    })
}

fn places(namespaces: usize) -> String {
    match namespaces {
        1 => "in the network namespace that was looked at".to_owned(),
        count => format!("in any of {count} network namespaces"),
    }
}

fn listed(names: &BTreeSet<String>) -> String {
    let mut text: Vec<&str> = names.iter().take(LISTED_MAX).map(String::as_str).collect();
    if names.len() > LISTED_MAX {
        text.push("…");
    }
    if text.is_empty() {
        return "none".to_owned();
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::filter::{Subject, tests::Cli};

    fn said(flags: &str) -> String {
        let present = Present {
            namespaces: 3,
            devices: ["lo", "eth0", "cali123"].map(str::to_owned).into(),
            tables: ["filter", "Custom"].map(str::to_owned).into(),
            unknown: false,
        };
        let cli = Cli::try_parse_from(["tracer"].into_iter().chain(flags.split_whitespace())).unwrap();
        let wanted = cli.filter.wanted(&[], Subject::Machine).unwrap();
        let doubts = doubts(&wanted, Some(&present));
        doubts.iter().map(|doubt| format!("{doubt}\n")).collect()
    }

    #[test]
    fn what_is_there_is_not_doubted() {
        for flags in [
            "",
            "-i eth0 -o lo",
            "-i cali+ -o eth+",
            "-t filter -t Custom",
            "-t filter --hook INPUT",
            "-p icmp -4",
            "-p icmpv6",
        ] {
            assert_eq!(said(flags), "", "{flags}");
        }
    }

    #[test]
    fn what_is_not_there_is_told() {
        assert_eq!(
            said("-i nosuchdev"),
            "warning: no device is called nosuchdev in any of 3 network namespaces: nothing matches until there is one\n\
             hint: devices: cali123, eth0, lo\n"
        );
        assert!(said("-o ppp+").contains("called ppp+ "));
        assert!(said("-i any").contains("hint: leave it out to see all devices"));
        assert!(said("-t NAT").contains("no table is called NAT "));
        assert!(said("-t NAT").contains("hint: did you mean `nat`?"));
        assert!(said("-t custom").contains("did you mean `Custom`?"));
        assert!(said("-t foo").contains("hint: tables: Custom, filter\n"));
    }

    #[test]
    fn what_does_not_go_together_is_told() {
        assert!(said("-p icmp -6").contains("hint: `--proto icmpv6`"));
        assert!(said("-t filter --hook PREROUTING").contains("filter of iptables has no chain at that hook"));
    }
}
