//! Two accounts of the same packets: the lines that the kernel's TRACE logs, and those that
//! `tracer trace --format log` prints. They have to be the same.

use anyhow::{Context as _, Result, bail, ensure};

use crate::command;
use crate::neighbours::Family;
use crate::netns::Namespace;
use crate::trace_log::{self, Line, TraceLog};
use crate::tracer::{Summary, Tracer};
use crate::traffic;

/// Which packets to look at, told to both.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    /// Address family.
    pub family: Family,
    /// As iptables has it: `-p tcp --dport 80`.
    pub matches: &'static str,
    /// As tracer has it: `--proto tcp --dport 80`.
    pub filter: &'static str,
}

impl Selection {
    /// Puts a TRACE rule first into PREROUTING and OUTPUT of the current network namespace.
    ///
    /// # Errors
    ///
    /// When the tool or the kernel refuses.
    pub fn log(&self) -> Result<()> {
        trace_log::enable()?;
        let Self { family, matches, .. } = self;
        for chain in ["PREROUTING", "OUTPUT"] {
            let tool = family.tool();
            command::run(&format!("{tool} -w -t raw -I {chain} 1 {matches} -j TRACE"))?;
        }
        Ok(())
    }

    /// The same in another namespace.
    ///
    /// # Errors
    ///
    /// As of [`Selection::log`], and when the namespace cannot be entered.
    pub fn log_in(&self, namespace: &Namespace) -> Result<()> {
        namespace.enter(|| self.log())
    }

    /// Runs the traffic while both look, and compares line by line. Returns the lines. TRACE rules are there
    /// already, and all traffic stays on one processor, so both see one packet after the other.
    ///
    /// # Errors
    ///
    /// When the accounts differ, tracer is not certain of something, or nothing came.
    pub fn compare(&self, traffic: impl FnOnce(&mut TraceLog) -> Result<()>) -> Result<Vec<Line>> {
        let tracer = Tracer::start(&format!("--format log {} {}", self.family.flag(), self.filter))?;
        let mut log = TraceLog::from_now()?;
        traffic(&mut log)?;
        traffic::settle()?;
        let logged = log.lines()?.to_vec();
        same(&logged, &Told::read(tracer)?.certain()?)?;
        ensure!(!logged.is_empty(), "no packet was logged");
        Ok(logged)
    }
}

/// What tracer told in the kernel's words.
#[derive(Debug)]
pub struct Told {
    /// The lines as TRACE has them.
    pub lines: Vec<Line>,
    /// The remarks between them.
    pub partial: Vec<String>,
}

impl Told {
    /// Stops tracer and reads what it printed; no line may be lost.
    ///
    /// # Errors
    ///
    /// When something was, or there is a line that is neither.
    pub fn read(tracer: Tracer) -> Result<Self> {
        let text = tracer.stop_as_text()?;
        Summary::whole(&text.said)?;
        Self::parse(&text.shown)
    }

    /// The lines, where tracer is certain of all.
    ///
    /// # Errors
    ///
    /// When it is not.
    pub fn certain(self) -> Result<Vec<Line>> {
        let Self { lines, partial } = self;
        ensure!(partial.is_empty(), "tracer is not certain: {partial:#?}");
        Ok(lines)
    }

    /// Reads a text.
    ///
    /// # Errors
    ///
    /// When there is a line that is none of the two.
    pub fn parse(text: &str) -> Result<Self> {
        let (mut lines, mut partial) = (Vec::new(), Vec::new());
        for line in text.lines() {
            match Line::parse(line) {
                Some(line) => lines.push(line),
                None if line.starts_with("PARTIAL: ") => partial.push(line.to_owned()),
                None => bail!("tracer prints a line that TRACE does not have: {line}"),
            }
        }
        Ok(Self { lines, partial })
    }
}

/// Whether this is the line of a TRACE rule for a packet that did not have the bit before: the kernel logs a rule
/// before it sets the bit. A packet from `lo` got it on its way out.
fn is_unlogged(line: &Line) -> bool {
    match line.step().as_str() {
        "raw:OUTPUT:rule:1" => true,
        "raw:PREROUTING:rule:1" => line.field("IN") != Some("lo"),
        _ => false,
    }
}

/// Compares what TRACE logged with what tracer told.
///
/// # Errors
///
/// When they differ; the error shows where.
pub fn same(logged: &[Line], told: &[Line]) -> Result<()> {
    let told: Vec<&Line> = told.iter().filter(|line| !is_unlogged(line)).collect();
    for (index, line) in logged.iter().enumerate() {
        let other = told.get(index).map(|line| line.text.trim_end());
        if other != Some(line.text.trim_end()) {
            let before = &logged[index.saturating_sub(2)..index];
            let before: Vec<String> = before.iter().map(Line::step).collect();
            bail!(
                "line {index}, after {before:?}: the kernel logged\n  {}\ntracer tells\n  {}",
                line.text,
                other.unwrap_or("nothing")
            );
        }
    }
    match told.get(logged.len()) {
        None => Ok(()),
        Some(line) => bail!("tracer tells more than the kernel logged:\n  {}", line.text),
    }
}

/// The steps of each packet. A packet begins where the first one does.
#[must_use]
pub fn packets(lines: &[Line]) -> Vec<Vec<Seen>> {
    let mut packets: Vec<Vec<Seen>> = Vec::new();
    let first = lines.first().map(Line::step);
    for line in lines {
        if Some(line.step()) == first {
            packets.push(Vec::new());
        }
        if let Some(packet) = packets.last_mut() {
            packet.push(Seen::of(line));
        }
    }
    packets
}

/// A step as published: its name and the packet's mark. Addresses and numbers are another machine's.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    /// `table:chain:kind:number`
    pub step: String,
    /// The mark, if it is not zero.
    pub mark: Option<String>,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.step, self.mark.as_deref().unwrap_or("0x0"))
    }
}

impl Seen {
    /// What of a line is compared with a published one.
    #[must_use]
    pub fn of(line: &Line) -> Self {
        Self {
            step: line.step(),
            mark: line.field("MARK").map(str::to_owned),
        }
    }
}

/// The lines of a published log.
///
/// # Errors
///
/// When there is no such fixture, or a line is not one of TRACE.
pub fn published(name: &str) -> Result<Vec<Line>> {
    let text = crate::ruleset::fixture(name)?;
    text.lines()
        .filter(|line| !line.is_empty())
        .map(|line| Line::parse(line).with_context(|| format!("failed to read line of {name}: {line}")))
        .collect()
}

/// Compares with a published log.
///
/// # Errors
///
/// When they differ.
pub fn same_as_published(published: &[Line], lines: &[Line]) -> Result<()> {
    let published: Vec<Seen> = published.iter().map(Seen::of).collect();
    let seen: Vec<Seen> = lines.iter().map(Seen::of).collect();
    for (index, (published, seen)) in published.iter().zip(&seen).enumerate() {
        ensure!(
            published == seen,
            "step {index}: published {published:?}, seen {seen:?}"
        );
    }
    ensure!(
        published.len() == seen.len(),
        "{} steps are published, {} were seen",
        published.len(),
        seen.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<Line> {
        text.lines().filter_map(Line::parse).collect()
    }

    const LOGGED: &str = "TRACE: raw:OUTPUT:policy:2 IN= OUT=lo \nTRACE: raw:PREROUTING:rule:1 IN=lo OUT=\n";

    #[test]
    fn only_the_rule_that_sets_the_bit_is_left_out() {
        let told = "TRACE: raw:OUTPUT:rule:1 IN= OUT=lo\nTRACE: raw:OUTPUT:policy:2 IN= OUT=lo\n\
                    TRACE: raw:PREROUTING:rule:1 IN=lo OUT=\n";
        same(&lines(LOGGED), &lines(told)).unwrap();
        let outside = told.replace("IN=lo", "IN=eth0");
        assert!(same(&lines(LOGGED), &lines(&outside)).is_err());
    }

    #[test]
    fn differences_are_found() {
        assert!(same(&lines(LOGGED), &lines("TRACE: raw:OUTPUT:policy:2 IN= OUT=lo\n")).is_err());
        assert!(same(&[], &lines(LOGGED)).is_err());
        assert!(Told::parse("something else\n").is_err());
    }
}
