//! Every packet's whole way: its tables, in each the rules that it met, chain by chain, what changed it, and how it
//! ended:
//!
//! ```text
//! #1 TCP 192.168.199.34:41948 > 192.168.199.34:32275 SYN len=60
//!   11:49:28.577233 nat:OUTPUT ACCEPT out=lo ct=NEW mark=0x0>0x4000 31.0µs
//!     OUTPUT:rule:1  -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
//!       KUBE-SERVICES:rule:23  -A KUBE-SERVICES … -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
//!         KUBE-MARK-MASQ:rule:1  -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
//!           [mark 0x0>0x4000]
//!   = sent by flannel.1 as TCP 10.244.0.0:41948 > 10.244.3.3:8080 SYN after 214µs
//! ```
//!
//! A rule that jumps has what follows indented below it; a goto does not, for there is no way back. On a narrow
//! terminal the middle of long texts is left out, or they go on a line of their own.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};

use super::{
    Context, Output,
    layout::{Place, columns, place},
    words::{author, details, duration, fate, leaves_as, outcome_style, printable, verdict_style},
};
use crate::{
    journey::{Change, Journey},
    packet::Packet,
    passage::{Passage, Step},
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const CHANGE: Style = AnsiColor::Cyan.on_default();
const MEANING: Style = AnsiColor::Blue.on_default();
const PARTIAL: Style = AnsiColor::Yellow.on_default().bold();

/// Columns before a step of the built-in chain.
const INDENT: usize = 4;

pub(super) struct Tree {
    writer: Box<dyn Write>,
    context: Context,
}

impl Tree {
    pub(super) fn new(writer: Box<dyn Write>, context: Context) -> Self {
        Self { writer, context }
    }
}

impl Output for Tree {
    fn journey(&mut self, journey: &Journey) -> io::Result<()> {
        self.writer.write_all(render(journey, &self.context).as_bytes())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

// Writing to a string cannot fail: the results of `writeln!` below say nothing.

fn render(journey: &Journey, context: &Context) -> String {
    let mut text = String::new();
    let first = &journey.first().traversal;
    let mut shown = Packet::parse(&first.headers);
    let _ = writeln!(
        text,
        "{BOLD}#{} {}{BOLD:#} len={}",
        journey.number,
        shown
            .as_ref()
            .map_or_else(|| "(no readable IP header)".to_owned(), Packet::to_string),
        first.packet_len
    );
    for tie in &journey.ties {
        let _ = writeln!(
            text,
            "  {CHANGE}{} #{}{CHANGE:#}",
            tie.relation.words(),
            tie.other
        );
    }
    for (index, passage) in journey.passages.iter().enumerate() {
        if let Some(joint) = journey.joint_at(index) {
            let _ = writeln!(text, "  {BOLD}--> {}{BOLD:#}", printable(&joint.words(passage)));
        }
        let packet = Packet::parse(&passage.traversal.headers);
        if packet != shown {
            if let Some(packet) = &packet {
                let _ = writeln!(text, "  {BOLD}is now {packet}{BOLD:#}");
            }
            shown = packet;
        }
        table(&mut text, passage, context);
        let changes: Vec<&Change> = journey
            .changes
            .iter()
            .filter(|change| change.passage == index)
            .collect();
        for (place, step) in passage.steps.iter().enumerate() {
            let made = changes.iter().filter(|change| change.step == Some(place));
            let made: Vec<String> = made.map(|change| format!("[{}]", change.what)).collect();
            let before = place.checked_sub(1).and_then(|place| passage.steps.get(place));
            let enters = before.is_none_or(|before| before.chain != step.chain && before.depth <= step.depth);
            let meaning = step.meaning.as_deref().filter(|_| enters);
            step_line(&mut text, step, meaning, &made.join(" "), context);
        }
        if let Some(hotdrop) = &passage.hotdrop {
            let rule = hotdrop.text.as_deref().map(printable).unwrap_or_default();
            let label = printable(&hotdrop.label);
            let _ = writeln!(
                text,
                "{:INDENT$}{PARTIAL}dropped by a match of {label}{PARTIAL:#}  {DIM}{rule}{DIM:#}",
                ""
            );
        }
        if let Some(why) = &passage.partial {
            let _ = writeln!(
                text,
                "{:INDENT$}{PARTIAL}partial: {}{PARTIAL:#}",
                "",
                printable(why)
            );
        }
        for change in changes.iter().filter(|change| change.step.is_none()) {
            let _ = writeln!(
                text,
                "  {CHANGE}[{}] {}{CHANGE:#}",
                change.what,
                author(&change.by)
            );
        }
    }
    end(&mut text, journey);
    text
}

fn table(text: &mut String, passage: &Passage, context: &Context) {
    let traversal = &passage.traversal;
    let style = verdict_style(traversal.verdict);
    let _ = write!(
        text,
        "  {DIM}{}{DIM:#} {}:{} {style}{}{style:#}",
        context.clock.local(traversal.entered_ns),
        printable(&traversal.table_in_words()),
        printable(&passage.chain),
        traversal.verdict
    );
    details(text, traversal, None, &context.homes);
    let _ = writeln!(text, " {DIM}{}{DIM:#}", duration(passage.duration_ns()));
}

/// A step: its name, the rule's text as far as there is room, what the chain is for, what the step changed.
fn step_line(text: &mut String, step: &Step, meaning: Option<&str>, changes: &str, context: &Context) {
    let indent = INDENT + 2 * usize::from(step.depth);
    let label = printable(&step.label());
    let _ = write!(text, "{:indent$}{label}", "");
    let meaning = meaning
        .map(|meaning| format!("({})", printable(meaning)))
        .unwrap_or_default();
    let after: usize = [meaning.as_str(), changes]
        .into_iter()
        .filter(|part| !part.is_empty())
        .map(|part| 2 + columns(part))
        .sum();
    let mut below = None;
    if let Some(rule) = &step.text {
        let used = indent + columns(&label);
        match place(&printable(rule), used, after, indent, context.screen.columns()) {
            Place::Behind(rule) => {
                let _ = write!(text, "  {DIM}{rule}{DIM:#}");
            }
            Place::Below(rule, indent) => below = Some((rule, indent)),
        }
    }
    if !meaning.is_empty() {
        let _ = write!(text, "  {MEANING}{meaning}{MEANING:#}");
    }
    if !changes.is_empty() {
        let _ = write!(text, "  {CHANGE}{changes}{CHANGE:#}");
    }
    text.push('\n');
    if let Some((rule, indent)) = below {
        let _ = writeln!(text, "{:indent$}{DIM}{rule}{DIM:#}", "");
    }
}

fn end(text: &mut String, journey: &Journey) {
    let style = outcome_style(&journey.outcome);
    let _ = write!(text, "  {style}= {}{style:#}", fate(journey));
    if let Some(rule) = journey.dropped_by() {
        let _ = write!(text, " by {}", printable(&rule.to_string()));
    }
    if let Some(packet) = leaves_as(journey) {
        let _ = write!(text, " as {packet}");
    }
    let _ = writeln!(text, " after {}", duration(journey.duration_ns()));
    for why in &journey.partial {
        let _ = writeln!(text, "  {PARTIAL}partial: {}{PARTIAL:#}", printable(why));
    }
}
