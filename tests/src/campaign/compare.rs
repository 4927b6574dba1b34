//! Compares what the kernel logged with what tracer printed, line for line.
//!
//! Both are one sequence. The guest has a single processor, and the kernel walks a table with softirqs off, so
//! the kernel's lines of one traversal come one after the other, but for those of traversals that it started
//! itself in the middle (a packet that TEE or REJECT sends, softirqs run at the end of `ipt_do_table`): these
//! are nested. tracer prints a traversal when it is over, so a nested one comes before the one around it. The
//! kernel's sequence is therefore tracer's in another order of whole traversals, and [`compare`] puts it back:
//! tracer's traversals are a forest in post-order, which must flatten to the kernel's lines. Nothing else may
//! differ: every line of one side is matched with exactly one of the other, whole from `TRACE: ` to the end.
//!
//! Three things are not differences:
//!
//! - The rule that makes the kernel trace (`rule:1` of raw's PREROUTING and OUTPUT). `trace_packet` is called
//!   only if `skb->nf_trace` is set already, before the target runs (`ip_tables.c`, `ip6_tables.c`), so the
//!   kernel does not log this rule for a packet that it has just met, and does for one that comes over `lo` or
//!   is a copy of TEE's. tracer prints it each time. This line of tracer's may be without a partner: the rule
//!   has no condition, so that it was met is certain, and whether `nf_trace` was set is not tracer's business.
//! - After a `PARTIAL:` line the kernel may have gone on with the same traversal: tracer's lines must be the
//!   beginning of the kernel's.
//! - A line that tracer says is cut must be the beginning of the kernel's line.
//!
//! Adjacent traversals of a packet that look the same (mangle's PREROUTING and INPUT, where nothing is between
//! them) count as one here; that takes nothing away, as their lines are still matched in their order.

use std::ops::Range;

/// How tracer says that it does not know the rest of a line.
const CUT: [&str; 2] = [
    "the link-layer header that the kernel logs was not recorded",
    "the packet's headers were not recorded as far as the kernel logs them",
];

/// How far apart a traversal and the first one nested in it may be in tracer's output.
const NESTED_MAX: usize = 500;

/// A line of tracer's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line<'a> {
    text: &'a str,
    /// It may be longer in the kernel's log.
    cut: bool,
}

impl Line<'_> {
    fn is_trace_rule(&self) -> bool {
        ["TRACE: raw:PREROUTING:rule:1 ", "TRACE: raw:OUTPUT:rule:1 "]
            .iter()
            .any(|step| self.text.starts_with(step))
    }

    fn is(&self, kernel: &str) -> bool {
        if self.cut {
            kernel.starts_with(self.text.trim_end())
        } else {
            kernel == self.text.trim_end()
        }
    }
}

/// One traversal of tracer's (or several that look the same).
#[derive(Clone, Debug, Default)]
struct Traversal<'a> {
    lines: Vec<Line<'a>>,
    /// The kernel may have more lines.
    open: bool,
}

/// What is the same in all lines of a traversal: table, devices, addresses, protocol and ports.
#[must_use]
pub fn key(line: &str) -> Vec<&str> {
    // What comes in brackets is a packet that is quoted; options before a field do not matter.
    let packet = line.split('[').next().unwrap_or_default();
    let mut key: Vec<&str> = packet
        .split_whitespace()
        .filter(|word| {
            ["IN=", "OUT=", "SRC=", "DST=", "ID=", "PROTO=", "SPT=", "DPT="]
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

/// Compares; both sides begin and end with the same traversals, but the kernel's may go on after `kernel_len`.
///
/// Lines are those of one ruleset, without their line ends, and `PARTIAL:` lines on tracer's side.
#[must_use]
pub fn compare<S: AsRef<str>>(kernel: &[S], kernel_len: usize, tracer: &[S]) -> Comparison {
    let kernel: Vec<&str> = kernel.iter().map(|line| line.as_ref().trim_end()).collect();
    let (traversals, starts) = traversals(tracer);
    let mut matcher = Matcher {
        kernel: &kernel,
        traversals: &traversals,
        farthest: 0,
    };
    let (mut place, mut done) = (0, 0);
    while done < traversals.len() {
        match matcher.tree(place, done..traversals.len()) {
            Some((next, after)) => (place, done) = (next, after),
            None => {
                return Comparison::Different {
                    kernel: matcher.farthest.max(place),
                    tracer: starts[done],
                };
            }
        }
    }
    if place < kernel_len {
        return Comparison::Different {
            kernel: place,
            tracer: tracer.len(),
        };
    }
    Comparison::Identical { steps: kernel_len }
}

/// Tracer's lines by traversal, each with the place of its first line.
fn traversals<S: AsRef<str>>(lines: &[S]) -> (Vec<Traversal<'_>>, Vec<usize>) {
    let (mut traversals, mut starts): (Vec<Traversal<'_>>, Vec<usize>) = (Vec::new(), Vec::new());
    for (place, text) in lines.iter().map(AsRef::as_ref).enumerate() {
        if let Some(reason) = text.strip_prefix("PARTIAL: ") {
            if traversals.is_empty() {
                traversals.push(Traversal::default());
                starts.push(place);
            }
            let Some(last) = traversals.last_mut() else {
                continue;
            };
            match last.lines.last_mut() {
                Some(line) if CUT.iter().any(|cut| reason.ends_with(cut)) => line.cut = true,
                _ if !last.open => last.open = true,
                // A traversal without any line of which nothing else is known.
                _ => {
                    traversals.push(Traversal {
                        open: true,
                        ..Traversal::default()
                    });
                    starts.push(place);
                }
            }
            continue;
        }
        let line = Line { text, cut: false };
        let goes_on = traversals.last().is_some_and(|last| {
            !last.open
                && !line.is_trace_rule()
                && last
                    .lines
                    .last()
                    .is_some_and(|before| same_traversal(before, &line))
        });
        if !goes_on {
            traversals.push(Traversal::default());
            starts.push(place);
        }
        if let Some(last) = traversals.last_mut() {
            last.lines.push(line);
        }
    }
    (traversals, starts)
}

fn same_traversal(before: &Line<'_>, line: &Line<'_>) -> bool {
    if before.cut {
        // Only what comes before the cut can be compared.
        return table(before.text) == table(line.text);
    }
    key(before.text) == key(line.text)
}

struct Matcher<'a> {
    kernel: &'a [&'a str],
    traversals: &'a [Traversal<'a>],
    farthest: usize,
}

impl Matcher<'_> {
    fn at(&self, place: usize) -> Option<&str> {
        self.kernel.get(place).copied()
    }

    /// Finds the traversal around the kernel's line at `place`, with all that are nested in it. These are the
    /// first of `range`. Returns the places after them on both sides.
    fn tree(&mut self, place: usize, range: Range<usize>) -> Option<(usize, usize)> {
        let end = range.end.min(range.start + NESTED_MAX);
        (range.start..end).find_map(|root| self.root(place, range.start..root).map(|place| (place, root + 1)))
    }

    /// Matches the traversal `nested.end`, all of `nested` within it.
    fn root(&mut self, mut place: usize, mut nested: Range<usize>) -> Option<usize> {
        let traversals = self.traversals;
        let root = &traversals[nested.end];
        let begin = place;
        if root.lines.is_empty() && !nested.is_empty() {
            return None;
        }
        for line in &root.lines {
            loop {
                if self.at(place).is_some_and(|kernel| line.is(kernel)) {
                    place += 1;
                    self.farthest = self.farthest.max(place);
                    break;
                }
                if line.is_trace_rule() {
                    break;
                }
                // Nothing is nested before the first line; without this the search would be exponential.
                if place == begin {
                    return None;
                }
                (place, nested.start) = self.tree(place, nested.clone())?;
            }
        }
        if place == begin && !nested.is_empty() {
            return None;
        }
        while !nested.is_empty() {
            (place, nested.start) = self.tree(place, nested.clone())?;
        }
        if root.open {
            place = self.rest(place, root, nested.end + 1);
        }
        Some(place)
    }

    /// The kernel's lines of a traversal whose rest tracer did not know.
    fn rest(&self, mut place: usize, root: &Traversal<'_>, next: usize) -> usize {
        let Some(first) = root
            .lines
            .first()
            .map_or_else(|| self.at(place), |line| Some(line.text))
        else {
            return place;
        };
        let first = key(first);
        let next = self
            .traversals
            .get(next)
            .and_then(|next| next.lines.iter().find(|line| !line.is_trace_rule()));
        while let Some(line) = self.at(place) {
            if key(line) != first || next.is_some_and(|next| next.is(line)) {
                break;
            }
            place += 1;
        }
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines from `table:chain:kind:number ID`.
    fn lines(short: &[&str]) -> Vec<String> {
        short
            .iter()
            .map(|line| match line.split_once(' ') {
                Some((step, id)) => format!("TRACE: {step} IN= OUT=lo SRC=1.1.1.1 ID={id} PROTO=1"),
                None => format!("PARTIAL: {line}: why"),
            })
            .collect()
    }

    fn compared(kernel: &[&str], tracer: &[&str]) -> Comparison {
        compare(&lines(kernel), kernel.len(), &lines(tracer))
    }

    #[test]
    fn the_rule_that_sets_the_trace_bit_may_be_missing_and_nothing_else() {
        let tracer = [
            "raw:OUTPUT:rule:1 7",
            "raw:OUTPUT:policy:2 7",
            "filter:OUTPUT:policy:1 7",
        ];
        let same = Comparison::Identical { steps: 2 };
        assert_eq!(compared(&tracer[1..], &tracer), same);
        assert_eq!(compared(&tracer, &tracer), Comparison::Identical { steps: 3 });
        assert_eq!(
            compared(&tracer[..1], &tracer[..1]),
            Comparison::Identical { steps: 1 }
        );
        assert!(matches!(
            compared(&tracer[2..], &tracer),
            Comparison::Different { .. }
        ));
        assert!(matches!(
            compared(&tracer, &tracer[1..]),
            Comparison::Different { kernel: 0, .. }
        ));
        assert!(matches!(
            compared(&tracer[1..], &tracer[..2]),
            Comparison::Different { kernel: 1, .. }
        ));
    }

    #[test]
    fn a_nested_traversal_may_be_anywhere_within_the_one_around_it() {
        let inner = ["raw:OUTPUT:policy:2 8", "filter:OUTPUT:policy:1 8"];
        let outer = ["mangle:INPUT:rule:1 7", "mangle:INPUT:policy:2 7"];
        let tracer = [inner[0], inner[1], outer[0], outer[1]];
        let same = Comparison::Identical { steps: 4 };
        assert_eq!(compared(&[outer[0], inner[0], inner[1], outer[1]], &tracer), same);
        assert_eq!(compared(&[outer[0], outer[1], inner[0], inner[1]], &tracer), same);
        assert_eq!(compared(&tracer, &tracer), same);
        for other in [
            [outer[1], inner[0], inner[1], outer[0]],
            [outer[0], inner[1], inner[0], outer[1]],
        ] {
            assert!(matches!(compared(&other, &tracer), Comparison::Different { .. }));
        }
    }

    #[test]
    fn a_partial_traversal_is_a_beginning() {
        let kernel = [
            "filter:INPUT:rule:1 7",
            "filter:INPUT:policy:2 7",
            "nat:INPUT:policy:1 7",
        ];
        let same = Comparison::Identical { steps: 3 };
        assert_eq!(compared(&kernel, &[kernel[0], "filter:INPUT", kernel[2]]), same);
        assert_eq!(compared(&kernel, &["filter:INPUT", kernel[2]]), same);
        let wrong = [kernel[1], "filter:INPUT", kernel[2]];
        assert!(matches!(compared(&kernel, &wrong), Comparison::Different { .. }));
    }

    #[test]
    fn what_differs_within_a_line_is_found() {
        let kernel = lines(&["nat:OUTPUT:policy:1 7"]);
        let tracer = [format!("{} MARK=0x1", kernel[0])];
        assert_eq!(
            compare(&kernel, 1, tracer.as_ref()),
            Comparison::Different { kernel: 0, tracer: 0 }
        );
    }
}
