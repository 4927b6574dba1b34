//! Compares what the kernel reported with what tracer tells, run by run: each run of a packet through a base chain must
//! be there on both sides, with the same table, devices and addresses, the same steps in the same order, and of each
//! step the same rule, verdict and mark afterwards. The order of runs among each other is not compared: between the
//! last report of a run and the return of its function an interrupt may bring another packet.
//!
//! Nothing is left out but one thing of iptables': the kernel reports the end of a built-in chain and then its
//! policy, TRACE has one line for the two, the policy's.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::monitor::{Run, Verdict, What};
use super::npt::Translation;
use super::numbers::Numbers;

const NFPROTO_IPV6: u8 = 10;

/// Runs: table and steps in words, and the packets that had such a run.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    runs: BTreeMap<String, Vec<Met>>,
    pub(super) steps: usize,
    /// Why runs are partial.
    pub(super) partial: BTreeMap<String, usize>,
}

/// The packet of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Met {
    /// In and out. The kernel does not report them where the first step of a run steals the packet
    /// (`nft_trace_notify`, `net/netfilter/nf_tables_trace.c`).
    devices: Option<String>,
    /// The kernel does not report those of a packet either that is stolen, or in whose headers it found no way
    /// (`nft_set_pktinfo_ipv6_validate`).
    addresses: Option<String>,
    /// For people.
    said: String,
}

impl Met {
    /// Whether it may be that one: all that both know is the same.
    fn may_be(&self, other: &Self) -> bool {
        let same =
            |one: &Option<String>, other: &Option<String>| one.is_none() || other.is_none() || one == other;
        same(&self.devices, &other.devices) && same(&self.addresses, &other.addresses)
    }

    fn known(&self) -> usize {
        usize::from(self.devices.is_some()) + usize::from(self.addresses.is_some())
    }
}

impl Account {
    fn add(&mut self, run: String, packet: Met, steps: usize) {
        self.steps += steps;
        self.runs.entry(run).or_default().push(packet);
    }

    /// Of each run the packets that had it on this side alone, and on the other.
    fn unpaired<'a>(&'a self, told: &'a Self) -> impl Iterator<Item = (&'a String, Vec<Met>, Vec<Met>)> {
        let runs: BTreeSet<&String> = self.runs.keys().chain(told.runs.keys()).collect();
        runs.into_iter().map(|run| {
            let mut told = told.runs.get(run).cloned().unwrap_or_default();
            let mut reported = self.runs.get(run).cloned().unwrap_or_default();
            // Those of which most is known first, so that the others get what is left.
            reported.sort_by_key(|packet| std::cmp::Reverse(packet.known()));
            reported.retain(|packet| {
                let partner = told.iter().position(|other| packet.may_be(other));
                partner.map(|partner| told.swap_remove(partner)).is_none()
            });
            (run, reported, told)
        })
    }

    /// What one side has and the other has not, in words; `None` if they are the same.
    pub(super) fn difference(&self, told: &Self) -> Option<String> {
        let mut text = String::new();
        for (run, reported, told) in self.unpaired(told) {
            for (whose, left) in [
                ("only the kernel reported", reported),
                ("only tracer tells", told),
            ] {
                if !left.is_empty() {
                    text += &format!("{whose}, {} times: {run}", left.len());
                    text.extend(left.iter().map(|packet| format!("    of {}\n", packet.said)));
                }
            }
        }
        (!text.is_empty()).then_some(text)
    }

    /// Whether what the kernel reported lacks only what it does not report of runs whose last rule has stolen the packet: the
    /// run, or all but that last step, which then has the id of another packet (`trace_fill_id` hashes what is gone).
    pub(super) fn lacks_only_stolen(&self, told: &Self) -> bool {
        let mut steps_alone = Vec::new();
        let mut lacking = Vec::new();
        for (run, reported, told) in self.unpaired(told) {
            steps_alone.extend(reported.iter().map(|_| run));
            lacking.extend(told.iter().map(|_| run));
        }
        let is_end_of = |alone: &str, run: &str| match (alone.split_once('\n'), run.split_once('\n')) {
            (Some((table, step)), Some((of, steps))) => {
                table == of && step.lines().count() == 1 && steps.ends_with(step)
            }
            _ => false,
        };
        lacking.iter().all(|run| run.ends_with(STOLEN_LAST))
            && steps_alone.iter().all(|alone| {
                let whole = lacking.iter().position(|run| is_end_of(alone, run));
                whole.map(|whole| lacking.swap_remove(whole)).is_some()
            })
    }

    /// What tracer tells, where the kernel has not reported all of it.
    pub(super) fn with_unreported(mut self, reported: &Self) -> Self {
        let unreported = reported.unpaired(&self).map(|(_, _, told)| told.len()).sum();
        self.partial.insert(
            "not reported by this kernel: a rule stole the packet".to_owned(),
            unreported,
        );
        self.steps = reported.steps;
        self
    }
}

/// How a run ends whose last rule has stolen the packet.
const STOLEN_LAST: &str = " STOLEN mark=gone\n";

/// What the kernel reported from the first marker on.
pub(super) fn reported(runs: &[Run], numbers: &Numbers, first: u16) -> Result<Account> {
    let is_first = |run: &Run| is_marker(run, first);
    let from = runs.iter().position(is_first).context("no marker was reported")?;
    let mut account = Account::default();
    for run in &runs[from..] {
        let mut text = format!("{}\n", run.table);
        let mut steps = 0;
        for step in &run.steps {
            let label = match step.what {
                What::Rule { handle } => Some(numbers.rule(run.family, &run.table, &step.chain, handle)?),
                What::ChainEnd => numbers.end(run.family, &run.table, &step.chain, false),
                What::Policy => numbers.end(run.family, &run.table, &step.chain, true),
            };
            let Some(label) = label else { continue };
            steps += 1;
            let action = match (step.what, &step.verdict) {
                (What::ChainEnd, _) => "return".to_owned(),
                (_, Verdict::Continue) => "continue".to_owned(),
                (_, Verdict::Return) => "return".to_owned(),
                (_, Verdict::Jump(chain)) => format!("jump {chain}"),
                (_, Verdict::Goto(chain)) => format!("goto {chain}"),
                (_, Verdict::Final(verdict)) => verdict.clone(),
            };
            // The mark of a packet that is gone: 5.10 reads the freed memory, which may still have it (`nft_trace_notify`,
            // `net/netfilter/nf_tables_trace.c`; later kernels do not look).
            let is_gone = matches!(&step.verdict, Verdict::Final(verdict) if verdict == "STOLEN");
            let mark = mark(step.mark.filter(|_| !is_gone));
            text += &format!("  {label} {action} mark={mark}\n");
        }
        account.add(text, met(run), steps);
    }
    Ok(account)
}

/// The packet of a run, as far as the kernel reported it.
fn met(run: &Run) -> Met {
    let devices = devices(&run.devices[0], &run.devices[1]);
    match &run.packet {
        Some(packet) => {
            let addresses = format!("{} > {}", packet.source, packet.destination);
            let protocol = if packet.is_udp { "UDP " } else { "" };
            let (from, to) = packet.ports.unwrap_or_default();
            Met {
                said: format!("{protocol}{addresses} {from:#06x} {to:#06x} {devices}"),
                devices: Some(devices),
                addresses: Some(addresses),
            }
        }
        None => Met {
            devices: (!run.is_stolen_at_once()).then(|| devices.clone()),
            addresses: None,
            said: format!("unknown {devices}"),
        },
    }
}

fn devices(device_in: &str, device_out: &str) -> String {
    format!("in={device_in} out={device_out}")
}

fn mark(mark: Option<u32>) -> String {
    mark.map_or_else(|| "gone".to_owned(), |mark| format!("{mark:#x}"))
}

/// Whether the packet is a marker, as it was sent.
pub(super) fn is_marker(run: &Run, port: u16) -> bool {
    let Some(packet) = &run.packet else { return false };
    packet.is_udp && packet.ports == Some((port, port))
}

/// Whether a journey is a marker's.
pub(super) fn is_markers(journey: &Value, port: u16) -> bool {
    let packet = &journey["packet"];
    packet["protocol_number"] == 17 && packet["source_port"] == port && packet["destination_port"] == port
}

/// What tracer told of the first marker and of what came after it, in a network namespace. A copy of the marker (TEE) is
/// one as well; it comes later, but may be over before. A journey may have begun before the marker's: where the kernel
/// left out the run that sees the end of a packet, the next one at the address may be taken for it.
pub(super) fn told(journeys: &[Value], numbers: &Numbers, first: u16, netns: u64) -> Result<Account> {
    let markers = journeys.iter().filter(|journey| is_markers(journey, first));
    // All times have the same number of digits.
    let start = markers
        .filter_map(|journey| journey["time"].as_str())
        .min()
        .context("tracer does not tell of the first marker")?;
    let mut account = Account::default();
    for journey in journeys {
        let runs = journey["tables"].as_array().context("a journey without tables")?;
        let is_since = |run: &&Value| run["netns"] == netns && run["time"].as_str() >= Some(start);
        for run in runs.iter().filter(is_since) {
            if let Some(reason) = run["partial"].as_str() {
                *account.partial.entry(plain(reason)).or_default() += 1;
            }
            let word = |key: &str| run[key].as_str().unwrap_or_default();
            let mut endpoints = addresses(word("packet"));
            let devices = devices(word("in"), word("out"));
            let mut text = format!("{}\n", word("table"));
            let steps = run["steps"].as_array().context("a run without steps")?;
            for (index, step) in steps.iter().enumerate() {
                let number = step["number"]
                    .as_u64()
                    .map_or_else(String::new, |number| number.to_string());
                let said_of = |key: &str| step[key].as_str().unwrap_or_default();
                let label = format!("{}:{}:{number}", said_of("chain"), said_of("kind"));
                let said = step["action"].as_str().unwrap_or_default();
                let is_last = index + 1 == steps.len();
                let action = action(said, is_last, word("verdict"));
                // Its first message has the packet as the rule left it: translated, unless a match of the rule has dropped it
                // (`par->hotdrop`).
                if index == 0
                    && action != "DROP"
                    && let Some(translation) = numbers.translation(NFPROTO_IPV6, word("table"), &label)
                {
                    endpoints = translated(translation, endpoints);
                }
                let mark_after = step["mark_after"].as_u64();
                let mark_after = mark(mark_after.and_then(|mark| u32::try_from(mark).ok()));
                text += &format!("  {label} {action} mark={mark_after}\n");
            }
            let (source, destination) = endpoints;
            let met = Met {
                said: format!("{} {devices}, length {}", word("packet"), journey["length"]),
                devices: Some(devices),
                addresses: Some(format!("{source} > {destination}")),
            };
            account.add(text, met, steps.len());
        }
    }
    Ok(account)
}

/// What a step did, as the kernel says it: a target or statement goes on, or gives the verdict of the run.
fn action<'a>(said: &'a str, is_last: bool, verdict: &'a str) -> &'a str {
    let own = ["continue", "return", "ACCEPT", "DROP", "STOLEN"];
    if own.contains(&said)
        || ["jump ", "goto ", "QUEUE("]
            .iter()
            .any(|word| said.starts_with(word))
    {
        said
    } else if is_last {
        verdict
    } else {
        "continue"
    }
}

fn translated(translation: Translation, (source, destination): (String, String)) -> (String, String) {
    let apply = |address: String| match address.parse() {
        Ok(address) => translation.apply(address).to_string(),
        Err(_) => address,
    };
    if translation.of_source {
        (apply(source), destination)
    } else {
        (source, apply(destination))
    }
}

/// Source and destination in `TCP 10.0.0.1:80 > 10.0.0.2:90 SYN`.
fn addresses(packet: &str) -> (String, String) {
    let words: Vec<&str> = packet.split_whitespace().collect();
    let at = words.iter().position(|word| *word == ">");
    let address = |at: Option<usize>| {
        let word = at.and_then(|at| words.get(at)).copied().unwrap_or_default();
        let address = word.parse::<IpAddr>();
        let address = address.or_else(|_| word.parse::<SocketAddr>().map(|address| address.ip()));
        address.map_or_else(|_| word.to_owned(), |address| address.to_string())
    };
    (
        address(at.and_then(|at| at.checked_sub(1))),
        address(at.map(|at| at + 1)),
    )
}

/// A reason without its numbers, so that it can be counted.
fn plain(reason: &str) -> String {
    let words = reason.split_whitespace();
    let word = |word: &str| if word.starts_with("0x") { "N" } else { word }.to_owned();
    words.map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_ports() {
        let of = |text: &str| addresses(text).0;
        assert_eq!(of("UDP 10.0.0.1:5 > 10.0.0.2:6"), "10.0.0.1");
        assert_eq!(of("TCP [fd00::1]:5 > [fd00::2]:6 SYN"), "fd00::1");
        assert_eq!(of("ICMPv6 fd00::1 > fd00::2 type 1 code 4"), "fd00::1");
    }

    #[test]
    fn what_is_missing_on_either_side_is_told() {
        let met = |addresses: &str| Met {
            devices: Some("in=a out=".to_owned()),
            addresses: Some(addresses.to_owned()),
            said: addresses.to_owned(),
        };
        let mut kernel = Account::default();
        kernel.add("a\n".into(), Met::default(), 1);
        kernel.add("a\n".into(), met("1 > 2"), 1);
        let mut tracer = Account::default();
        tracer.add("a\n".into(), met("1 > 2"), 1);
        assert_eq!(
            kernel.difference(&tracer).as_deref(),
            Some("only the kernel reported, 1 times: a\n    of \n")
        );
        tracer.add("a\n".into(), met("2 > 1"), 1);
        assert_eq!(kernel.difference(&tracer), None);
        tracer.add("b\n".into(), met("2 > 1"), 1);
        assert_eq!(
            kernel.difference(&tracer).as_deref(),
            Some("only tracer tells, 1 times: b\n    of 2 > 1\n")
        );
        assert!(!kernel.lacks_only_stolen(&tracer));
        tracer.runs.remove("b\n");
        tracer.add("b\n  in:rule:1 STOLEN mark=gone\n".into(), met("2 > 1"), 1);
        assert!(kernel.lacks_only_stolen(&tracer));
        assert!(!tracer.lacks_only_stolen(&kernel));
        let whole = "b\n  in:rule:1 continue mark=0x0\n  in:rule:2 STOLEN mark=gone\n";
        tracer.add(whole.into(), met("2 > 1"), 2);
        kernel.add("b\n  in:rule:2 STOLEN mark=gone\n".into(), Met::default(), 1);
        assert!(kernel.lacks_only_stolen(&tracer));
        kernel.add("b\n  in:rule:3 STOLEN mark=gone\n".into(), Met::default(), 1);
        assert!(!kernel.lacks_only_stolen(&tracer));
    }
}
