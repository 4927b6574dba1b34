//! Compares what the kernel logged with what tracer printed, line for line.
//!
//! Every line of one side must be matched with exactly one of the other, whole from `TRACE: ` to the end. The kernel
//! logs a line when a rule is met, tracer prints a traversal's lines when it is over, so the two interleave
//! differently where packets do; therefore lines are put into groups, by what is the same in all lines of a
//! traversal ([`key`]), and within a group they must be in the same order. Where a group has a line twice (TEE's
//! copy of a packet passes the same table within the traversal that made it) the order is not compared.
//!
//! Three things are not differences:
//!
//! - The rule that makes the kernel trace (`rule:1` of raw's PREROUTING and OUTPUT). `trace_packet` is called
//!   only if `skb->nf_trace` is set already, before the target runs (`ip_tables.c`, `ip6_tables.c`), so the
//!   kernel does not log this rule for a packet that it has just met, and does for one that comes over `lo` or
//!   is a copy of TEE's. tracer prints it each time. This line of tracer's may be without a partner: the rule
//!   has no condition, so that it was met is certain, and whether `nf_trace` was set is not tracer's business.
//! - After a `PARTIAL:` line the kernel may have gone on with the same traversal: the kernel may have more lines
//!   in that group.
//! - A line that tracer says is cut must be the beginning of the kernel's line.

use std::collections::HashMap;

/// How tracer says that it does not know the rest of a line.
const CUT: [&str; 3] = [
    "the link-layer header that the kernel logs was not recorded",
    "the packet's headers were not recorded as far as the kernel logs them",
    "the bridge port that the packet came in by, which the kernel logs, is gone",
];

/// A line of tracer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line<'a> {
    place: usize,
    text: &'a str,
    /// It may be longer in the kernel's log.
    cut: bool,
    /// The kernel may have gone on after it: the traversal is partial.
    open: bool,
}

impl Line<'_> {
    fn is_trace_rule(&self) -> bool {
        ["TRACE: raw:PREROUTING:rule:1 ", "TRACE: raw:OUTPUT:rule:1 "]
            .iter()
            .any(|step| self.text.starts_with(step))
    }

    fn is(&self, kernel: &str) -> bool {
        if self.cut {
            kernel.starts_with(self.text)
        } else {
            kernel == self.text
        }
    }
}

/// Lines of both sides that have the same key.
#[derive(Default)]
struct Group<'a> {
    kernel: Vec<(usize, &'a str)>,
    tracer: Vec<Line<'a>>,
}

/// What is the same in all lines of a traversal, also where one is cut: table, devices, addresses, id and protocol.
#[must_use]
pub fn key(line: &str) -> Vec<&str> {
    // What comes in brackets is a packet that is quoted; options before a field do not matter.
    let packet = line.split('[').next().unwrap_or_default();
    let mut key: Vec<&str> = packet
        .split_whitespace()
        .filter(|word| {
            ["IN=", "OUT=", "SRC=", "DST=", "ID=", "PROTO="]
                .iter()
                .any(|name| word.starts_with(name))
        })
        .collect();
    key.push(table(line));
    key
}

/// The packet's part of a [`key`]: without table and devices.
#[must_use]
pub fn packet(line: &str) -> Vec<&str> {
    key(line)
        .into_iter()
        .filter(|word| word.contains('=') && !word.starts_with("IN=") && !word.starts_with("OUT="))
        .collect()
}

fn table(line: &str) -> &str {
    line.strip_prefix("TRACE: ")
        .and_then(|line| line.split(':').next())
        .unwrap_or_default()
}

/// How the two sides compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// They are the same.
    Identical {
        /// Lines of the kernel's.
        steps: usize,
    },
    /// They are not.
    Different {
        /// The place in the kernel's lines up to which they are the same.
        kernel: usize,
        /// The place in tracer's lines (`PARTIAL:` lines among them) at which no traversal fits.
        tracer: usize,
    },
}

/// Compares the first `kernel_len` of the kernel's lines with all of tracer's, among which are `PARTIAL:` lines.
#[must_use]
pub fn compare<S: AsRef<str>>(kernel: &[S], kernel_len: usize, tracer: &[S]) -> Comparison {
    let mut groups: HashMap<Vec<&str>, Group<'_>> = HashMap::new();
    for (place, line) in kernel.iter().take(kernel_len).enumerate() {
        let line = line.as_ref().trim_end();
        groups.entry(key(line)).or_default().kernel.push((place, line));
    }
    let mut last: Option<Vec<&str>> = None;
    for (place, text) in tracer.iter().enumerate() {
        let text = text.as_ref().trim_end();
        if text.starts_with("PARTIAL: ") {
            let group = last.as_ref().and_then(|key| groups.get_mut(key));
            if let Some(line) = group.and_then(|group| group.tracer.last_mut()) {
                if CUT.iter().any(|cut| text.ends_with(cut)) {
                    line.cut = true;
                } else {
                    line.open = true;
                }
            }
            continue;
        }
        let key = key(text);
        groups.entry(key.clone()).or_default().tracer.push(Line {
            place,
            text,
            cut: false,
            open: false,
        });
        last = Some(key);
    }
    let first = groups.values().filter_map(Group::difference).min();
    match first {
        None => Comparison::Identical { steps: kernel_len },
        Some((kernel, tracer)) => Comparison::Different { kernel, tracer },
    }
}

impl Group<'_> {
    /// The places of the first difference, the kernel's and tracer's.
    fn difference(&self) -> Option<(usize, usize)> {
        let ordered = self
            .kernel
            .iter()
            .enumerate()
            .all(|(at, (_, line))| self.kernel[..at].iter().all(|(_, before)| before != line));
        let end = self.kernel.last().map_or(usize::MAX, |(place, _)| *place);
        let mut left: Vec<_> = self.kernel.clone();
        let mut open = false;
        for line in &self.tracer {
            let found = left.iter().position(|(_, kernel)| line.is(kernel));
            match found {
                // What the kernel has in between is the rest of a partial traversal.
                Some(at) if ordered && (at == 0 || open) => drop(left.drain(..=at)),
                Some(at) if !ordered => drop(left.remove(at)),
                _ if line.is_trace_rule() => continue,
                _ => return Some((left.first().map_or(end, |(place, _)| *place), line.place)),
            }
            open = line.open || open && !ordered;
        }
        let surplus = left.first().filter(|_| !open)?;
        Some((
            surplus.0,
            self.tracer.last().map_or(usize::MAX, |line| line.place),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(step: &str, id: u32) -> String {
        format!(
            "TRACE: {step} IN= OUT=lo SRC=10.0.0.1 DST=10.0.0.2 LEN=60 ID={id} PROTO=UDP SPT=1 DPT=2 LEN=40 "
        )
    }

    fn same(kernel: &[String], tracer: &[String]) -> bool {
        matches!(
            compare(kernel, kernel.len(), tracer),
            Comparison::Identical { .. }
        )
    }

    #[test]
    fn packets_may_interleave_but_a_traversal_has_its_order() {
        let (a, b) = (line("filter:OUTPUT:rule:1", 1), line("filter:OUTPUT:policy:2", 1));
        let other = line("filter:OUTPUT:policy:2", 2);
        assert!(same(
            &[a.clone(), other.clone(), b.clone()],
            &[other.clone(), a.clone(), b.clone()]
        ));
        assert!(!same(&[a.clone(), b.clone()], &[b.clone(), a.clone()]));
        assert!(!same(&[a.clone(), b.clone()], std::slice::from_ref(&a)));
        assert!(!same(std::slice::from_ref(&a), &[a.clone(), b]));
        assert!(!same(
            std::slice::from_ref(&a),
            &[line("filter:OUTPUT:rule:2", 1)]
        ));
    }

    #[test]
    fn every_field_counts() {
        let kernel = line("filter:OUTPUT:rule:1", 1);
        assert!(!same(&[format!("{kernel}MARK=0x1 ")], &[kernel]));
    }

    #[test]
    fn the_rule_that_traces_may_be_missing_in_the_kernels_log() {
        let (rule, policy) = (line("raw:OUTPUT:rule:1", 1), line("raw:OUTPUT:policy:2", 1));
        assert!(same(
            std::slice::from_ref(&policy),
            &[rule.clone(), policy.clone()]
        ));
        assert!(same(
            &[rule.clone(), policy.clone()],
            &[rule.clone(), policy.clone()]
        ));
        assert!(!same(&[rule, policy.clone()], &[policy]));
    }

    #[test]
    fn a_copy_within_the_traversal_that_made_it_has_the_same_lines() {
        let (tee, policy) = (line("mangle:OUTPUT:rule:1", 1), line("mangle:OUTPUT:policy:2", 1));
        let kernel = [tee.clone(), tee.clone(), policy.clone(), policy.clone()];
        assert!(same(
            &kernel,
            &[tee.clone(), policy.clone(), tee.clone(), policy.clone()]
        ));
        assert!(!same(&kernel, &[tee.clone(), policy.clone(), tee]));
    }

    #[test]
    fn a_partial_path_is_the_beginning_of_the_kernels() {
        let (a, b) = (line("filter:OUTPUT:rule:1", 1), line("filter:OUTPUT:policy:2", 1));
        let partial = "PARTIAL: filter:OUTPUT: statistic was not observed".to_owned();
        assert!(same(&[a.clone(), b.clone()], &[a.clone(), partial.clone()]));
        assert!(!same(&[a, b.clone()], &[b, partial]));
    }
}
