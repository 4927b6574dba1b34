//! The kernel's own account of a packet's path: the lines that the TRACE target logs.

use std::fs;

use anyhow::{Context as _, Result};

use crate::command;
use crate::kmsg::Log;
use crate::wait;

/// The two families that can be traced, with the names the kernel has for their loggers.
const LOGGERS: [(&str, &str); 2] = [("2", "nf_log_ipv4"), ("10", "nf_log_ipv6")];

/// Lets namespaces other than the first one log. To be called once, outside of any of them.
///
/// # Errors
///
/// When the kernel does not take the setting.
pub fn allow_all_namespaces() -> Result<()> {
    let path = "/proc/sys/net/netfilter/nf_log_all_netns";
    fs::write(path, "1").with_context(|| format!("failed to write: {path}"))
}

/// Makes TRACE log to the kernel's log in the current network namespace, for IPv4 and IPv6.
///
/// # Errors
///
/// When the loggers cannot be loaded or set.
pub fn enable() -> Result<()> {
    load_loggers()?;
    set_loggers()
}

/// Loads what logs, for every network namespace.
///
/// # Errors
///
/// When the modules cannot be loaded.
pub fn load_loggers() -> Result<()> {
    for (_, logger) in LOGGERS {
        // One module for both families in newer kernels, one for each in older ones.
        command::run("modprobe nf_log_syslog").or_else(|_| command::run(&format!("modprobe {logger}")))?;
    }
    Ok(())
}

/// The rest of [`enable`], once they are loaded.
///
/// # Errors
///
/// When they cannot be set.
pub fn set_loggers() -> Result<()> {
    for (family, logger) in LOGGERS {
        let path = format!("/proc/sys/net/netfilter/nf_log/{family}");
        fs::write(&path, logger).with_context(|| format!("failed to write: {path}"))?;
    }
    Ok(())
}

/// One TRACE line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// From `table` on, as the kernel printed it.
    pub text: String,
    /// Table, `nat` for example.
    pub table: String,
    /// Chain, built in or user-defined.
    pub chain: String,
    /// `rule`, `return` or `policy`.
    pub kind: String,
    /// Number of the rule in its chain, from 1.
    pub number: u32,
}

impl Line {
    /// Reads a line of the kernel's log; `None` if it is not one of TRACE.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim_start().strip_prefix("TRACE: ")?;
        // A chain's name may hold anything but a blank, even a colon: table from the left, the rest from
        // the right.
        let (table, rest) = text.split_whitespace().next()?.split_once(':')?;
        let mut parts = rest.rsplitn(3, ':');
        let (number, kind, chain) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self {
            text: text.to_owned(),
            table: table.to_owned(),
            chain: chain.to_owned(),
            kind: kind.to_owned(),
            number: number.parse().ok()?,
        })
    }

    /// The step alone: `table:chain:kind:number`.
    #[must_use]
    pub fn step(&self) -> String {
        format!("{}:{}:{}:{}", self.table, self.chain, self.kind, self.number)
    }

    /// The value of a field `KEY=value`, of the packet itself (not of one quoted in an ICMP error).
    #[must_use]
    pub fn field(&self, key: &str) -> Option<&str> {
        self.text
            .split_whitespace()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
    }

    /// Whether a flag such as `SYN` or `DF` is there.
    #[must_use]
    pub fn has(&self, flag: &str) -> bool {
        self.text.split_whitespace().any(|word| word == flag)
    }
}

/// TRACE lines from a mark on.
#[derive(Debug)]
pub struct TraceLog {
    log: Log,
    lines: Vec<Line>,
}

impl TraceLog {
    /// Starts to listen.
    ///
    /// # Errors
    ///
    /// When the kernel's log cannot be opened.
    pub fn from_now() -> Result<Self> {
        Ok(Self {
            log: Log::from_now()?,
            lines: Vec::new(),
        })
    }

    /// All lines since the start, with those that have come by now.
    ///
    /// # Errors
    ///
    /// When the kernel's log cannot be read, or lost records.
    pub fn lines(&mut self) -> Result<&[Line]> {
        self.lines
            .extend(self.log.read()?.iter().filter_map(|text| Line::parse(text)));
        Ok(&self.lines)
    }

    /// All lines since the start, as soon as one of them is the one waited for.
    ///
    /// # Errors
    ///
    /// When it does not come within the limit; see [`TraceLog::lines`] as well.
    pub fn wait_for(&mut self, what: &str, mut is_it: impl FnMut(&Line) -> bool) -> Result<&[Line]> {
        wait::until(what, || Ok(self.lines()?.iter().any(&mut is_it)))?;
        Ok(&self.lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: &str = "TRACE: nat:KUBE-SEP-A:B:rule:2 IN= OUT=lo SRC=10.0.0.1 DST=10.0.0.2 LEN=60 DF \
                       PROTO=TCP SPT=1 DPT=80 SYN URGP=0";

    #[test]
    fn reads_a_step_and_fields() {
        let line = Line::parse(SYN).unwrap();
        assert_eq!(line.step(), "nat:KUBE-SEP-A:B:rule:2");
        assert_eq!((line.chain.as_str(), line.number), ("KUBE-SEP-A:B", 2));
        assert_eq!(
            (line.field("IN"), line.field("DPT"), line.field("MARK")),
            (Some(""), Some("80"), None)
        );
        assert!(line.has("SYN") && !line.has("ACK"));
    }

    #[test]
    fn leaves_other_lines() {
        assert_eq!(Line::parse("nf_conntrack: default"), None);
        assert_eq!(Line::parse("TRACE: raw:OUTPUT:policy:x IN="), None);
    }
}
