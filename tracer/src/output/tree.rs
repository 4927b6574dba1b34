//! Every packet with its tables, and in each table the rules that it met, chain by chain:
//!
//! ```text
//! #1 TCP 192.168.199.34:41948 > 192.168.199.34:32275 SYN len=60
//!   11:49:28.577233 nat:OUTPUT ACCEPT out=lo ct=NEW mark=0x0>0x4000
//!     OUTPUT:rule:1  -A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
//!       KUBE-SERVICES:rule:23  -A KUBE-SERVICES … -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
//!         KUBE-MARK-MASQ:rule:1  -A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000  [mark 0x0>0x4000]
//! ```
//!
//! A rule that jumps has what follows indented below it; a goto does not, for there is no way back. A packet is
//! named again when it looks different (NAT), or when another one was shown in between.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};

use super::{
    Output,
    clock::Clock,
    words::{Numbers, details, printable, verdict_style},
};
use crate::{
    explain::{Explanation, Rules},
    packet::Packet,
    passage,
    replay::{Path, Step},
    ruleset::{Rule, Standard, Target},
    traversal::Traversal,
};

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const CHANGE: Style = AnsiColor::Cyan.on_default();
const PARTIAL: Style = AnsiColor::Yellow.on_default().bold();

pub(super) struct Tree {
    writer: Box<dyn Write>,
    own_netns: Option<u32>,
    numbers: Numbers,
    clock: Clock,
    /// The packet that was shown last, and as what.
    last: Option<(u64, Option<Packet>)>,
}

impl Tree {
    pub(super) fn new(writer: Box<dyn Write>, own_netns: Option<u32>, clock: Clock) -> Self {
        Self {
            writer,
            own_netns,
            numbers: Numbers::default(),
            clock,
            last: None,
        }
    }
}

impl Output for Tree {
    fn traversal(&mut self, traversal: &Traversal, explanation: Option<&Explanation>) -> io::Result<()> {
        let number = self.numbers.of(traversal.packet);
        let packet = Packet::parse(&traversal.headers);
        let last = self.last.replace((number, packet));
        if last != self.last {
            let changed = last.is_some_and(|(last, _)| last == number);
            writeln!(
                self.writer,
                "{}",
                head(number, packet.as_ref(), traversal, changed)
            )?;
        }
        let time = self.clock.local(traversal.entered_ns);
        writeln!(self.writer, "{}", table(traversal, &time, self.own_netns))?;
        if let Some(Explanation::Path { rules, path }) = explanation {
            write!(self.writer, "{}", steps(traversal, rules, path))?;
        }
        if let Some(Explanation::Nftables(explained)) = explanation {
            write!(self.writer, "{}", reported(&explained.steps))?;
        }
        if let Some(why) = explanation.and_then(Explanation::partial) {
            writeln!(self.writer, "    {PARTIAL}partial: {why}{PARTIAL:#}")?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn head(number: u64, packet: Option<&Packet>, traversal: &Traversal, changed: bool) -> String {
    let now = if changed { "is now " } else { "" };
    let packet = packet.map_or_else(|| "(no readable IP header)".to_owned(), Packet::to_string);
    format!(
        "{BOLD}#{number} {now}{packet}{BOLD:#} len={}",
        traversal.packet_len
    )
}

fn table(traversal: &Traversal, time: &str, own_netns: Option<u32>) -> String {
    let style = verdict_style(traversal.verdict);
    let mut line = format!(
        "  {DIM}{time}{DIM:#} {}:{} {style}{}{style:#}",
        printable(&traversal.table),
        printable(&traversal.chain),
        traversal.verdict
    );
    details(&mut line, traversal, None, own_netns);
    line
}

/// Steps on nf_tables.
fn reported(steps: &[passage::Step]) -> String {
    let mut text = String::new();
    for step in steps {
        let indent = 4 + 2 * usize::from(step.depth);
        // Writing to a string cannot fail.
        let _ = write!(text, "{:indent$}{}", "", printable(&step.label()));
        if let Some(rule) = &step.text {
            let _ = write!(text, "  {DIM}{}{DIM:#}", printable(rule));
        }
        if let Some(after) = step.mark_after.filter(|after| *after != step.mark) {
            let _ = write!(text, "  {CHANGE}[mark {:#x}>{after:#x}]{CHANGE:#}", step.mark);
        }
        text.push('\n');
    }
    text
}

fn steps(traversal: &Traversal, rules: &Rules, path: &Path) -> String {
    let mut text = String::new();
    let mut depth: usize = 0;
    for (index, step) in path.steps.iter().enumerate() {
        let rule = rules.table.rule(step.offset);
        if traversal_starts_over(rules, traversal, step) {
            depth = 0;
        }
        let label = rules.labels.of(traversal.hook, step.offset);
        let label = label.map_or_else(|| format!("offset {}", step.offset), |label| label.to_string());
        let indent = 4 + 2 * depth;
        // Writing to a string cannot fail.
        let _ = write!(text, "{:indent$}{}", "", printable(&label));
        if let Some(rule) = rules.texts.of(&rules.table, step.offset) {
            let _ = write!(text, "  {DIM}{}{DIM:#}", printable(&rule));
        }
        let after = path
            .steps
            .get(index + 1)
            .map_or(traversal.mark_after, |next| Some(next.mark));
        if let Some(after) = after.filter(|after| *after != step.mark) {
            let _ = write!(text, "  {CHANGE}[mark {:#x}>{after:#x}]{CHANGE:#}", step.mark);
        }
        text.push('\n');
        depth = rule.map_or(depth, |rule| depth_after(depth, rule, traversal));
    }
    text
}

/// Whether a step is the policy of the built-in chain: however it was reached, nothing is pending any more.
fn traversal_starts_over(rules: &Rules, traversal: &Traversal, step: &Step) -> bool {
    let mut hooks = rules.table.hooks.iter();
    hooks.any(|chain| chain.hook == traversal.hook && chain.underflow == step.offset)
}

fn depth_after(depth: usize, rule: &Rule, traversal: &Traversal) -> usize {
    match rule.target {
        Target::Standard(Standard::Jump(to)) if to != rule.next && !rule.is_goto(traversal.family) => {
            depth + 1
        }
        Target::Standard(Standard::Return) => depth.saturating_sub(1),
        _ => depth,
    }
}
