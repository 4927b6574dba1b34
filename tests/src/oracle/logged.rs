//! From TRACE lines to traversals.

use anyhow::{Context as _, Result, bail, ensure};

use super::rules::Rules;
use super::{Identity, Step};
use crate::neighbours::Family;
use crate::trace_log::Line;
use crate::tracer::Endpoint;

/// The traversals that these lines tell of, in the order in which they began.
pub(super) fn traversals(lines: &[Line], rules: &Rules) -> Result<Vec<(Identity, Step)>> {
    let mut all: Vec<Traversal> = Vec::new();
    for line in lines {
        let entry = Entry::read(line).with_context(|| format!("failed to read TRACE line: {}", line.text))?;
        if entry.identity.is_background() {
            continue;
        }
        let base = rules.is_base(entry.family, &line.table, &line.chain);
        // Nested traversals begin and end within another one, so the last that fits is the right one.
        let open = all.iter_mut().rev().find(|traversal| {
            !traversal.ended
                && traversal.identity == entry.identity
                && traversal.step.table == line.table
                && traversal.step.in_device == entry.in_device
                && traversal.step.out_device == entry.out_device
                && (!base || traversal.step.chain == line.chain)
        });
        let traversal = match open {
            Some(traversal) => traversal,
            None => {
                ensure!(base, "the first line is in no built-in chain: {}", line.text);
                all.push(Traversal::begin(entry, line));
                all.last_mut().context("just pushed")?
            }
        };
        if let Some(verdict) = rules.verdict(traversal.family, &line.table, &line.chain, line.number) {
            verdict.clone_into(&mut traversal.step.verdict);
            traversal.ended = true;
        }
    }
    if let Some(traversal) = all.iter().find(|traversal| !traversal.ended) {
        bail!("a traversal without an end: {}", traversal.step);
    }
    Ok(all
        .into_iter()
        .map(|traversal| (traversal.identity, traversal.step))
        .collect())
}

struct Traversal {
    family: Family,
    identity: Identity,
    step: Step,
    ended: bool,
}

impl Traversal {
    fn begin(entry: Entry, line: &Line) -> Self {
        Self {
            family: entry.family,
            identity: entry.identity,
            step: Step {
                table: line.table.clone(),
                chain: line.chain.clone(),
                verdict: String::new(),
                in_device: entry.in_device,
                out_device: entry.out_device,
                source: entry.source,
                destination: entry.destination,
                mark: entry.mark,
                owner: entry.owner,
            },
            ended: false,
        }
    }
}

/// What a line says about the packet.
struct Entry {
    family: Family,
    identity: Identity,
    in_device: String,
    out_device: String,
    source: Endpoint,
    destination: Endpoint,
    mark: u32,
    owner: Option<(u32, u32)>,
}

/// In the order of the log.
const TCP_FLAGS: [&str; 8] = ["CWR", "ECE", "URG", "ACK", "PSH", "RST", "SYN", "FIN"];

impl Entry {
    fn read(line: &Line) -> Option<Self> {
        let line = &Line {
            text: without_quoted(&line.text),
            ..line.clone()
        };
        let number = |key: &str| line.field(key).and_then(|text| text.parse::<u32>().ok());
        let endpoint = |address: &str, port: &str| {
            Some(Endpoint {
                address: line.field(address)?.parse().ok()?,
                port: number(port).and_then(|port| port.try_into().ok()),
            })
        };
        let (source, destination) = (endpoint("SRC", "SPT")?, endpoint("DST", "DPT")?);
        let family = if source.address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        };
        let mark = line.field("MARK").map_or(Some(0), |text| {
            u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
        })?;
        Some(Self {
            family,
            identity: Identity {
                protocol: line.field("PROTO")?.to_owned(),
                detail: detail(line, family)?,
                len: number("LEN")?,
            },
            in_device: line.field("IN")?.to_owned(),
            out_device: line.field("OUT")?.to_owned(),
            source,
            destination,
            mark,
            owner: number("UID").zip(number("GID")),
        })
    }
}

/// What tracer shows after the destination.
fn detail(line: &Line, family: Family) -> Option<String> {
    let fragment = line
        .text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("FRAG:"));
    let at: u32 = fragment.map_or(Some(0), |at| at.parse().ok())?;
    if at != 0 {
        // IPv4 counts in units of eight bytes.
        return Some(format!(
            "fragment at {}",
            if family == Family::V4 { at * 8 } else { at }
        ));
    }
    match (line.field("TYPE"), line.field("CODE")) {
        (Some(kind), Some(code)) => Some(format!("type {kind} code {code}")),
        _ if line.field("PROTO") == Some("TCP") => {
            let flags: Vec<&str> = TCP_FLAGS.into_iter().filter(|flag| line.has(flag)).collect();
            Some(flags.join(" "))
        }
        _ => Some(String::new()),
    }
}

/// The line without the packet that an ICMP error quotes in brackets.
fn without_quoted(text: &str) -> String {
    match (text.find('['), text.rfind(']')) {
        (Some(from), Some(to)) if from < to => format!("{}{}", &text[..from], &text[to + 1..]),
        _ => text.to_owned(),
    }
}
