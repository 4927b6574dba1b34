//! One line for each journey:
//!
//! ```text
//! 11:02:03.123456 #1 ACCEPT TCP 10.0.0.1:44522 > 10.0.0.1:80 SYN len=60 OUTPUT(lo) POSTROUTING(eth0) ct=NEW
//!     destination=10.0.0.1:80>10.244.3.3:8080 by nat:KUBE-SEP-X:rule:2; sent by eth0
//! ```
//!
//! (on one line). Local time of the first table, number of the packet, verdict, the packet as it was first seen, the
//! hooks that it passed with their devices, the state of its connection, what changed it and who did, and what
//! became of it.

use std::{
    fmt::Write as _,
    io::{self, Write},
    sync::Arc,
};

use super::{
    Context, Homes, Output,
    words::{author, duration, fate, outcome_style, printable},
};
use crate::{
    journey::{By, Journey, RuleRef},
    packet::Packet,
    traversal::Device,
};

pub(super) struct Line {
    writer: Box<dyn Write>,
    context: Context,
}

impl Line {
    pub(super) fn new(writer: Box<dyn Write>, context: Context) -> Self {
        Self { writer, context }
    }
}

impl Output for Line {
    fn journey(&mut self, journey: &Journey) -> io::Result<()> {
        writeln!(self.writer, "{}", render(journey, &self.context))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn render(journey: &Journey, context: &Context) -> String {
    let mut line = start(journey, context);
    line.push_str(&way(journey, &context.homes));
    if let Some(flow) = journey.flows.first() {
        let reply = if flow.reply { ",reply" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(line, " ct={}{reply}", flow.state);
    }
    for change in &journey.changes {
        if change.by == By::Forwarding {
            continue;
        }
        let _ = write!(
            line,
            " {}={}>{}",
            change.what.name(),
            change.what.before(),
            change.what.after()
        );
        let passage = &journey.passages[change.passage];
        match change.step.and_then(|step| passage.steps.get(step)) {
            Some(step) => {
                let _ = write!(line, " by {}", printable(&RuleRef::of(passage, step).to_string()));
            }
            None => {
                let _ = write!(line, " ({})", author(&change.by));
            }
        }
    }
    let _ = write!(line, "; {}", fate(journey));
    if let Some(rule) = journey.dropped_by() {
        let _ = write!(line, " by {}", printable(&rule.to_string()));
        if let Some(text) = &rule.text {
            let _ = write!(line, "  {}", printable(text));
        }
    }
    let _ = write!(line, " in {}", duration(journey.duration_ns()));
    for tie in &journey.ties {
        let _ = write!(line, "; {} #{}", tie.relation.words(), tie.other);
    }
    for why in &journey.partial {
        let _ = write!(line, " [partial: {}]", printable(why));
    }
    line
}

/// `11:02:03.123456 #1 ACCEPT TCP … len=60`
pub(super) fn start(journey: &Journey, context: &Context) -> String {
    let first = &journey.first().traversal;
    let style = outcome_style(&journey.outcome);
    let packet = Packet::parse(&first.headers);
    let packet = packet.map_or_else(
        || "(no readable IP header)".to_owned(),
        |packet| packet.to_string(),
    );
    format!(
        "{} #{} {style}{}{style:#} {packet} len={}",
        context.clock.local(first.entered_ns),
        journey.number,
        journey.outcome.word(),
        first.packet_len
    )
}

/// The hooks with their devices, each with a space before it: ` PREROUTING(eth0) FORWARD(eth0>cni0) POSTROUTING(cni0)`;
/// a node or network namespace before the first of its own.
pub(super) fn way(journey: &Journey, homes: &Homes) -> String {
    let mut way = String::new();
    let mut node: Option<Arc<str>> = None;
    let mut place: Option<(u32, u32)> = None;
    for station in journey.stations() {
        if node != station.node {
            if let Some(name) = &station.node {
                let _ = write!(way, " node={}:", printable(name));
            }
            node.clone_from(&station.node);
        }
        let here = (station.recording, station.netns);
        let arrives = place.is_none_or(|(recording, _)| recording != station.recording);
        let at_home = homes.has(station.recording, station.netns);
        if place != Some(here) && !(arrives && at_home) {
            let name = station.netns_name.as_deref().map(printable);
            let name = name.map_or_else(String::new, |name| format!("[{name}]"));
            let _ = write!(way, " netns={}{name}:", station.netns);
        }
        place = Some(here);
        let name = |device: &Device| {
            let peer = device.peer.as_deref().map(printable);
            let peer = peer.map_or_else(String::new, |peer| format!("[{peer}]"));
            format!("{}{peer}", printable(&device.name))
        };
        let devices = match (&station.in_device, &station.out_device) {
            (Some(from), Some(to)) => format!("({}>{})", name(from), name(to)),
            (Some(device), None) | (None, Some(device)) => format!("({})", name(device)),
            (None, None) => String::new(),
        };
        let _ = write!(way, " {}{devices}", station.hook);
    }
    way
}
