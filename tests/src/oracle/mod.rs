//! The kernel's own TRACE as the judge: what tracer shows must be what the kernel logged for the same packets
//! at the same time.

mod logged;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, ensure};

use crate::command;
use crate::neighbours::{Family, NODE, Neighbours, RIGHT};
use crate::trace_log::{self, TraceLog};
use crate::tracer::{Endpoint, Line, THIS_NETNS, Tracer};
use crate::traffic;
use rules::Rules;

/// What tells the packets of a scenario apart, and what NAT leaves alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    protocol: String,
    detail: String,
    len: u32,
}

impl Identity {
    fn is_fragment(&self) -> bool {
        self.detail.starts_with("fragment")
    }

    /// Neighbour discovery and multicast listeners go about their business whenever they like.
    fn is_background(&self) -> bool {
        const TYPES: std::ops::RangeInclusive<u8> = 130..=143;
        self.protocol == "ICMPv6"
            && self
                .detail
                .split(' ')
                .nth(1)
                .and_then(|kind| kind.parse().ok())
                .is_some_and(|kind| TYPES.contains(&kind))
    }
}

/// A packet's way through one table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    table: String,
    chain: String,
    verdict: String,
    in_device: String,
    out_device: String,
    source: Endpoint,
    destination: Endpoint,
    mark: u32,
    owner: Option<(u32, u32)>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            table,
            chain,
            verdict,
            in_device,
            out_device,
            mark,
            owner,
            ..
        } = self;
        let port = |end: &Endpoint| end.port.map_or(String::new(), |port| format!(":{port}"));
        write!(
            f,
            "{table}:{chain} {verdict} in={in_device} out={out_device} {}{} > {}{} mark={mark:#x} owner={owner:?}",
            self.source.address,
            port(&self.source),
            self.destination.address,
            port(&self.destination)
        )
    }
}

/// The TRACE rules that every ruleset to be compared begins its raw table with.
pub const TRACE_RULES: &str = "-A PREROUTING -j TRACE\n-A OUTPUT -j TRACE\n";

/// How much was compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Traversals.
    pub traversals: usize,
    /// Of those, the ones that dropped the packet.
    pub dropped: usize,
    /// Different packets.
    pub packets: usize,
}

/// Runs the traffic with TRACE and tracer watching, and compares. The ruleset is already there, with
/// [`TRACE_RULES`]. The traffic calls what it is given now and then, so that the kernel's log is read before
/// it runs over.
///
/// # Errors
///
/// When the two differ; the error shows where.
pub fn compare(traffic: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<()>) -> Result<Compared> {
    let rules = Rules::of_this_namespace()?;
    trace_log::enable()?;
    // The probes of both families need their modules, also where a ruleset is only for one.
    command::run("modprobe -a ip_tables ip6_tables")?;
    let tracer = Tracer::start(THIS_NETNS)?;
    // One processor for all packets: then "which was first" has an answer.
    traffic::stay_on_processor(0)?;
    let mut log = TraceLog::from_now()?;
    traffic(&mut || log.lines().map(drop))?;
    traffic::settle()?;
    let logged = logged::traversals(log.lines()?, &rules)?;
    let shown = shown(tracer)?;
    same(&logged, &shown)
}

fn shown(tracer: Tracer) -> Result<Vec<(u64, Identity, Step)>> {
    let mut lines: Vec<Line> = tracer.stop()?.whole()?;
    // Records come at the end of a traversal. Nested ones are within another's time.
    lines.sort_by(|one, other| one.time.cmp(&other.time));
    marks_continue(&lines)?;
    let steps = lines.into_iter().map(|line| {
        let identity = Identity {
            protocol: line.protocol,
            detail: line.detail,
            len: line.len,
        };
        let step = Step {
            table: line.table,
            chain: line.chain,
            verdict: line.verdict,
            in_device: line.in_device,
            out_device: line.out_device,
            source: line.source,
            destination: line.destination,
            mark: line.mark.0,
            owner: line.owner,
        };
        (line.packet, identity, step)
    });
    Ok(steps
        .filter(|(_, identity, _)| !identity.is_background())
        .collect())
}

/// Nothing but rules sets marks here: a packet enters a table with the mark with which it left the one before.
fn marks_continue(lines: &[Line]) -> Result<()> {
    let mut last: BTreeMap<u64, &Line> = BTreeMap::new();
    for line in lines {
        if let Some(before) = last.insert(line.packet, line) {
            ensure!(
                before.mark.1 == line.mark.0,
                "the mark changed between tables:\n{}\n{}",
                before.text,
                line.text
            );
        }
    }
    Ok(())
}

fn same(logged: &[(Identity, Step)], shown: &[(u64, Identity, Step)]) -> Result<Compared> {
    let mut ways: BTreeMap<&Identity, (Vec<&Step>, Vec<&Step>)> = BTreeMap::new();
    for (identity, step) in logged {
        ways.entry(identity).or_default().0.push(step);
    }
    for (_, identity, step) in shown {
        ways.entry(identity).or_default().1.push(step);
    }
    let text = |steps: &[&Step]| {
        let lines: Vec<String> = steps.iter().map(|step| format!("  {step}\n")).collect();
        lines.concat()
    };
    for (identity, (logged, shown)) in &ways {
        ensure!(
            logged == shown,
            "{} {} len={}: the kernel logged:\n{}tracer shows:\n{}",
            identity.protocol,
            identity.detail,
            identity.len,
            text(logged),
            text(shown)
        );
    }
    numbered(&ways, shown)?;
    Ok(Compared {
        traversals: shown.len(),
        dropped: shown.iter().filter(|(_, _, step)| step.verdict == "DROP").count(),
        packets: ways.len(),
    })
}

/// One number for one packet: no number stands for two, and no packet that went one way only has two.
fn numbered(
    ways: &BTreeMap<&Identity, (Vec<&Step>, Vec<&Step>)>,
    shown: &[(u64, Identity, Step)],
) -> Result<()> {
    let (mut identities, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    for (number, identity, _) in shown {
        let known = identities.entry(number).or_insert(identity);
        // The last fragment goes on as the whole packet.
        ensure!(
            *known == identity || known.is_fragment() || is_first_fragment(known, identity),
            "#{number} stands for {known:?} and {identity:?}"
        );
        numbers
            .entry(identity)
            .or_insert_with(BTreeSet::new)
            .insert(number);
    }
    for (identity, numbers) in numbers {
        let steps = &ways[identity].1;
        let places: BTreeSet<_> = steps.iter().map(|step| (&step.table, &step.chain)).collect();
        ensure!(
            places.len() < steps.len() || numbers.len() == 1,
            "{identity:?} is one packet and has the numbers {numbers:?}"
        );
    }
    Ok(())
}

/// Whether the first could be a first fragment of the second.
fn is_first_fragment(first: &Identity, whole: &Identity) -> bool {
    first.protocol == whole.protocol && first.detail == whole.detail && first.len < whole.len
}

/// A ruleset text for a family: `{left}` and `{right}` become the neighbours' addresses, `{to_right}` the latter
/// as NAT targets take it, `{node}` the node's own address towards the right.
#[must_use]
pub fn rules_for(family: Family, text: &str) -> String {
    let right = Neighbours::right(family);
    let to_right = match family {
        Family::V4 => right.to_string(),
        Family::V6 => format!("[{right}]"),
    };
    text.replace("{left}", &Neighbours::left(family).to_string())
        .replace("{right}", &right.to_string())
        .replace("{to_right}", &to_right)
        .replace("{node}", &family.address(RIGHT, NODE).to_string())
}
