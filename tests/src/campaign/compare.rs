//! Compares what the kernel logged with what tracer printed, line for line, each whole from `TRACE: ` to its end.
//!
//! The kernel logs a line when a rule is met, tracer prints a traversal's lines when it is over. On one processor
//! traversals nest: while one is under way (at a target that sends a packet, or at an interrupt before or after its
//! rules) others may begin and end. tracer prints those first. So if its traversals are looked for one after the
//! other in the kernel's lines, and what was found is taken away, the lines of each are found together, in their
//! order. In the end nothing may be left on either side.
//!
//! Three things are not differences:
//!
//! - The rule that makes the kernel trace (`rule:1` of raw's PREROUTING and OUTPUT). `trace_packet` is called
//!   only if `skb->nf_trace` is set already, before the target runs (`ip_tables.c`, `ip6_tables.c`), so the
//!   kernel does not log this rule for a packet that it has just met, and does for one that comes over `lo` or
//!   is a copy of TEE's. tracer prints it each time. This line of tracer's may be without a partner: the rule
//!   has no condition, so that it was met is certain, and whether `nf_trace` was set is not tracer's business.
//! - After a `PARTIAL:` line the kernel may have gone on with the same traversal: what follows there may be left.
//! - A line that tracer says is cut must be the beginning of the kernel's line.

use std::ops::Range;
use std::time::{Duration, Instant};

/// How tracer says that it does not know the rest of a line.
const CUT: [&str; 3] = [
    "the link-layer header that the kernel logs was not recorded",
    "the packet's headers were not recorded as far as the kernel logs them",
    "the bridge port that the packet came in by, which the kernel logs, is gone",
];

/// How long a comparison may take; a ruleset's takes milliseconds.
const TIME_MAX: Duration = Duration::from_secs(20);
/// How long every way may be tried to find the partners.
const SEARCH_TIME_MAX: Duration = Duration::from_secs(10);

/// A line of tracer's.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line<'a> {
    place: usize,
    text: &'a str,
    /// It may be longer in the kernel's log.
    cut: bool,
    /// The base chain of its traversal, if that is partial: the kernel may have gone on after this line.
    open: Option<&'a str>,
    /// The tables and base chains that come next, of which tracer knows no line.
    then: Vec<(&'a str, &'a str)>,
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

/// What is the same in all lines of a traversal: table, devices, addresses, id, protocol and ports.
#[must_use]
pub fn key(line: &str) -> Vec<&str> {
    let mut key = fields(
        line,
        &["IN=", "OUT=", "SRC=", "DST=", "ID=", "PROTO=", "SPT=", "DPT="],
    );
    key.push(table(line));
    key
}

/// The packet's part of a [`key`]: without table and devices.
#[must_use]
pub fn packet(line: &str) -> Vec<&str> {
    fields(line, &["SRC=", "DST=", "ID=", "PROTO="])
}

/// What tells one segment of a connection from another.
fn segment(line: &str) -> Vec<&str> {
    fields(line, &["SEQ=", "ACK="])
}

fn fields<'a>(line: &'a str, names: &[&str]) -> Vec<&'a str> {
    // What comes in brackets is a packet that is quoted.
    let packet = line.split('[').next().unwrap_or_default();
    let is_asked = |word: &&str| names.iter().any(|name| word.starts_with(name));
    packet.split_whitespace().filter(is_asked).collect()
}

/// What comes after the step.
fn fields_of<'a>(line: &Line<'a>) -> Option<&'a str> {
    line.text.splitn(3, ' ').nth(2)
}

fn table(line: &str) -> &str {
    line.strip_prefix("TRACE: ")
        .and_then(|line| line.split(':').next())
        .unwrap_or_default()
}

/// The base chain that a line is of. The first line of each traversal is of one.
fn base_chain(line: &str) -> Option<&str> {
    let chain = line
        .split(' ')
        .nth(1)?
        .split_once(':')?
        .1
        .rsplitn(3, ':')
        .nth(2)?;
    ["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]
        .contains(&chain)
        .then_some(chain)
}

/// How the two sides compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// They are the same.
    Identical {
        /// Lines of the kernel's.
        steps: usize,
        /// Traversals that tracer has not told of, and has counted as lost.
        lost: u64,
    },
    /// They are not.
    Different {
        /// The lines of the kernel's that have no partner.
        kernel: Vec<usize>,
        /// The first lines of tracer's traversals (by their place among all, also `PARTIAL:`) that were not found.
        tracer: Vec<usize>,
    },
}

/// What one side told.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// Its lines.
    pub lines: Vec<String>,
    /// Those that must have a partner. The others may be partners, but need not have any.
    pub judged: Range<usize>,
}

/// Compares the kernel's lines with tracer's, among which are `PARTIAL:` lines. `losses_max` is how many traversals
/// tracer has itself counted as lost meanwhile: so many, and no more, may be missing as a whole.
#[must_use]
pub fn compare(kernel: &Account, tracer: &Account, losses_max: u64) -> Comparison {
    let all = Left {
        lines: kernel
            .lines
            .iter()
            .map(|line| line.trim_end())
            .enumerate()
            .collect(),
        ends: Vec::new(),
        last_taken: 0,
    };
    let is_judged = |traversal: &[Line<'_>]| {
        let place = traversal.first().map(|line| line.place);
        place.is_some_and(|place| tracer.judged.contains(&place))
    };
    let traversals = traversals(&tracer.lines);
    let mut left = all.clone();
    let mut missing = Vec::new();
    let end = Instant::now() + TIME_MAX;
    for traversal in &traversals {
        let next = if Instant::now() > end {
            None
        } else {
            left.ways(traversal).next()
        };
        match next {
            Some(next) => left = next,
            None => missing.push(traversal),
        }
    }
    // What tracer lost may lie within another traversal, whose lines are then not together.
    let mut unfound = Vec::new();
    for traversal in missing {
        if (losses_max == 0 || !left.take_apart(traversal)) && is_judged(traversal) {
            unfound.extend(traversal.first().map(|line| line.place));
        }
    }
    let unexcused = left.unexcused(&kernel.judged);
    let lost = pieces(&left, &unexcused);
    if unfound.is_empty() && lost <= losses_max {
        return Comparison::Identical {
            steps: kernel.judged.len() - unexcused.len(),
            lost,
        };
    }
    // Lines of two packets may be the same, as those of two resets that REJECT sends, and one may have been taken for the
    // other.
    let search = Search {
        is_judged: &is_judged,
        is_over: &|left| left.unexcused(&kernel.judged).is_empty(),
        end: Instant::now() + SEARCH_TIME_MAX,
    };
    if search.rest(all, &traversals) {
        return Comparison::Identical {
            steps: kernel.judged.len(),
            lost: 0,
        };
    }
    Comparison::Different {
        kernel: unexcused,
        tracer: unfound,
    }
}

/// How many traversals the lines at these places are, at least: in a traversal's lines the key is the same.
fn pieces(left: &Left<'_>, places: &[usize]) -> u64 {
    let lines = left.lines.iter().filter(|(place, _)| places.contains(place));
    let mut keys: Vec<Vec<&str>> = lines.map(|(_, line)| key(line)).collect();
    keys.dedup();
    keys.len() as u64
}

/// tracer's lines, those that may belong to one traversal together. Several traversals may be taken for one, where packets
/// with the same addresses and ports pass the same table in a row, as the original and a copy of it do.
fn traversals(tracer: &[String]) -> Vec<Vec<Line<'_>>> {
    let mut traversals: Vec<Vec<Line<'_>>> = Vec::new();
    let mut last: Option<Vec<&str>> = None;
    for (place, text) in tracer.iter().enumerate() {
        let text = text.trim_end();
        if let Some(partial) = text.strip_prefix("PARTIAL: ") {
            let mut of = partial.splitn(3, ':');
            let (of_table, of_chain) = (of.next().unwrap_or_default(), of.next().unwrap_or_default());
            let last_traversal = traversals.last_mut();
            let last_chain = last_traversal
                .as_ref()
                .and_then(|lines| lines.iter().rev().find_map(|line| base_chain(line.text)));
            if let Some(line) = last_traversal.and_then(|traversal| traversal.last_mut()) {
                if CUT.iter().any(|cut| text.ends_with(cut)) {
                    line.cut = true;
                } else if of_table == table(line.text) && last_chain == Some(of_chain) {
                    line.open = Some(of_chain);
                    last = None;
                } else {
                    // Nothing is known of this traversal, which is of the same packet.
                    line.then.push((of_table, of_chain));
                    last = None;
                }
            }
            continue;
        }
        let key = key(text);
        let line = Line {
            place,
            text,
            cut: false,
            open: None,
            then: Vec::new(),
        };
        match traversals.last_mut() {
            // Every way through raw begins with the rule that traces.
            Some(traversal) if last.as_ref() == Some(&key) && !line.is_trace_rule() => traversal.push(line),
            _ => traversals.push(vec![line]),
        }
        last = Some(key);
    }
    traversals
}

/// Looks for partners in every way, the last choice being the first to be made otherwise.
struct Search<'s> {
    is_judged: &'s dyn Fn(&[Line<'_>]) -> bool,
    /// Whether what is left when all traversals have their lines may be left.
    is_over: &'s dyn Fn(&Left<'_>) -> bool,
    end: Instant,
}

impl Search<'_> {
    /// Whether these traversals are found, and nothing is left that must have been.
    fn rest<'a>(&self, left: Left<'a>, traversals: &[Vec<Line<'a>>]) -> bool {
        let Some((first, rest)) = traversals.split_first() else {
            return (self.is_over)(&left);
        };
        for next in left.ways(first) {
            if Instant::now() > self.end {
                return false;
            }
            if self.rest(next, rest) {
                return true;
            }
        }
        !(self.is_judged)(first) && self.rest(left, rest)
    }
}

/// Where a partial traversal ends: the kernel may have gone on from there.
#[derive(Clone)]
struct End<'a> {
    /// The place of its last line.
    place: usize,
    /// What the lines after it have.
    words: Vec<&'a str>,
    /// The base chain that those are of which are not of another chain.
    base_chain: &'a str,
}

/// The kernel's lines that have no partner yet.
#[derive(Clone)]
struct Left<'a> {
    lines: Vec<(usize, &'a str)>,
    /// Where partial traversals end.
    ends: Vec<End<'a>>,
    /// The place of the line that was taken last.
    last_taken: usize,
}

impl<'a> Left<'a> {
    /// What is left when the partners of a traversal's lines are taken away, in each way in which that can be; the
    /// likeliest first.
    fn ways<'s>(&'s self, traversal: &'s [Line<'a>]) -> impl Iterator<Item = Left<'a>> + 's {
        let simple = self
            .found(traversal)
            .map(|places| self.without(&places, traversal));
        let nested = std::iter::once_with(|| self.nested(traversal, None));
        simple.chain(nested.flatten())
    }

    /// The same for lines of several traversals, each of which happened within the next, or before it if it is another
    /// segment's: a copy, which was over before the original, and what an answer to it sent. After the rule that made the copy the original may have met no other,
    /// where a match dropped it; then they must differ in their fields. `within` is where the one before was, and
    /// its first line.
    fn nested(&self, lines: &[Line<'a>], within: Option<(usize, &Line<'a>)>) -> Option<Self> {
        (1..=lines.len()).find_map(|at| {
            let (first, rest) = lines.split_at(at);
            let places = self.found(first).next()?;
            let (start, last) = (*places.first()?, *places.last()?);
            if let Some((from, before)) = within {
                let differ = fields_of(before) != fields_of(&first[0]);
                let is_around = start < from && from <= last + usize::from(differ);
                let is_next = start >= from && segment(before.text) != segment(first[0].text);
                if !is_around && !is_next {
                    return None;
                }
            }
            let left = self.without(&places, first);
            if rest.is_empty() {
                return within.is_some().then_some(left);
            }
            left.nested(rest, Some((start, &first[0])))
        })
    }

    fn without(&self, places: &[usize], traversal: &[Line<'a>]) -> Self {
        let mut left = self.clone();
        left.remove(places, traversal);
        left
    }

    /// Takes the partners of a traversal's lines away, whatever is between them.
    fn take_apart(&mut self, traversal: &[Line<'a>]) -> bool {
        let mut places = Vec::new();
        let mut from = 0;
        for line in traversal {
            let found = self.lines[from..].iter().position(|(_, kernel)| line.is(kernel));
            match found {
                Some(at) => {
                    places.push(from + at);
                    from += at + 1;
                }
                None if line.is_trace_rule() => {}
                None => return false,
            }
        }
        self.remove(&places, traversal);
        true
    }

    /// Where the lines of a traversal may be, in order, with nothing between them but what a partial traversal within
    /// it has left.
    fn found<'s>(&'s self, traversal: &'s [Line<'a>]) -> impl Iterator<Item = Vec<usize>> + 's {
        let places = move || (0..=self.lines.len()).filter_map(move |from| self.places(traversal, from));
        // That of the original may begin without the rule that traces, which a copy has.
        let whole = places().filter(|places| places.len() == traversal.len());
        let rest = move || places().filter(|places| places.len() < traversal.len());
        let some = rest().filter(|places| !places.is_empty());
        // Where there is nothing to be taken, it is all the same from where.
        let nothing = rest().find(Vec::is_empty);
        whole.chain(some).chain(nothing)
    }

    /// The places of a traversal's lines if the first is at `from`.
    fn places(&self, traversal: &[Line<'_>], from: usize) -> Option<Vec<usize>> {
        let mut places = Vec::new();
        let mut at = from;
        for line in traversal {
            while !places.is_empty()
                && let Some((place, kernel)) = self.lines.get(at)
                && !line.is(kernel)
                && self.is_rest(*place, kernel)
            {
                at += 1;
            }
            match self.lines.get(at) {
                Some((_, kernel)) if line.is(kernel) => {
                    places.push(at);
                    at += 1;
                }
                _ if line.is_trace_rule() => {}
                _ => return None,
            }
        }
        Some(places)
    }

    fn remove(&mut self, places: &[usize], traversal: &[Line<'a>]) {
        if let Some(last) = places.last() {
            self.last_taken = self.lines[*last].0;
        }
        // Of a traversal that met the rule that traces and no more the kernel may have logged nothing so far.
        if let Some((line, base_chain)) = traversal.last().and_then(|line| Some((line, line.open?))) {
            self.ends.push(End {
                place: self.last_taken,
                words: key(line.text),
                base_chain,
            });
        }
        if let Some(line) = traversal.last() {
            for (table, base_chain) in &line.then {
                // Its devices are not told: they may be others than at the hook before.
                let mut words = packet(line.text);
                words.push(table);
                self.ends.push(End {
                    place: self.last_taken,
                    words,
                    base_chain,
                });
            }
        }
        for at in places.iter().rev() {
            self.lines.remove(*at);
        }
    }

    /// Whether a line may be what follows a partial traversal.
    fn is_rest(&self, place: usize, text: &str) -> bool {
        if self.ends.is_empty() {
            return false;
        }
        let key = key(text);
        let chain = base_chain(text);
        self.ends.iter().any(|end| {
            // The key of a line that is cut may lack ports.
            end.place <= place
                && chain.is_none_or(|chain| chain == end.base_chain)
                && end.words.iter().all(|word| key.contains(word))
        })
    }

    /// The lines that should have a partner, and are not what follows a partial traversal.
    fn unexcused(&self, judged: &Range<usize>) -> Vec<usize> {
        let lines = self.lines.iter().filter(|(place, _)| judged.contains(place));
        let unexcused = lines.filter(|(place, text)| !self.is_rest(*place, text));
        unexcused.map(|(place, _)| *place).collect()
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

    fn whole(lines: &[String]) -> Account {
        Account {
            lines: lines.to_vec(),
            judged: 0..lines.len(),
        }
    }

    fn same(kernel: &[String], tracer: &[String]) -> bool {
        matches!(
            compare(&whole(kernel), &whole(tracer), 0),
            Comparison::Identical { .. }
        )
    }

    #[test]
    fn what_is_not_judged_may_be_a_partner_and_need_not_have_one() {
        let [a, b, c] = [1, 2, 3].map(|id| line("filter:OUTPUT:policy:2", id));
        let account = |lines: [&String; 2], judged| Account {
            lines: lines.map(String::clone).to_vec(),
            judged,
        };
        let same = |kernel: &Account, tracer: &Account| {
            matches!(compare(kernel, tracer, 0), Comparison::Identical { .. })
        };
        // Each side told of one of them before the start of what is judged.
        assert!(same(&account([&a, &b], 0..2), &account([&b, &a], 1..2)));
        assert!(same(&account([&c, &b], 1..2), &account([&a, &b], 1..2)));
        assert!(!same(&account([&c, &b], 0..2), &account([&a, &b], 1..2)));
        assert!(!same(&account([&c, &b], 1..2), &account([&a, &b], 0..2)));
    }

    #[test]
    fn a_traversal_has_its_order() {
        let (a, b) = (line("filter:OUTPUT:rule:1", 1), line("filter:OUTPUT:policy:2", 1));
        assert!(same(&[a.clone(), b.clone()], &[a.clone(), b.clone()]));
        assert!(!same(&[a.clone(), b.clone()], &[b.clone(), a.clone()]));
        assert!(!same(&[a.clone(), b.clone()], std::slice::from_ref(&a)));
        assert!(!same(std::slice::from_ref(&a), &[a.clone(), b]));
        assert!(!same(
            std::slice::from_ref(&a),
            &[line("filter:OUTPUT:rule:2", 1)]
        ));
    }

    #[test]
    fn what_happened_within_a_traversal_is_printed_before_it() {
        let (a, b) = (line("filter:OUTPUT:rule:1", 1), line("filter:OUTPUT:policy:2", 1));
        let other = line("filter:OUTPUT:policy:2", 2);
        let kernel = [a.clone(), other.clone(), b.clone()];
        assert!(same(&kernel, &[other.clone(), a.clone(), b.clone()]));
        // Not the other way round.
        assert!(!same(&kernel, &[a, b, other]));
    }

    #[test]
    fn every_field_counts() {
        let kernel = line("filter:OUTPUT:rule:1", 1);
        assert!(!same(&[format!("{kernel}MARK=0x1 ")], &[kernel]));
    }

    #[test]
    fn the_rule_that_traces_may_be_missing_in_the_kernels_log() {
        let (rule, policy) = (line("raw:OUTPUT:rule:1", 1), line("raw:OUTPUT:policy:2", 1));
        let both = [rule.clone(), policy.clone()];
        assert!(same(std::slice::from_ref(&policy), &both));
        assert!(same(&both, &both));
        assert!(!same(&[rule, policy.clone()], &[policy]));
    }

    #[test]
    fn a_copy_within_the_traversal_that_made_it_has_the_same_key() {
        let (tee, policy) = (line("mangle:OUTPUT:rule:1", 1), line("mangle:OUTPUT:policy:2", 1));
        let copy = format!("{tee}DF ");
        let kernel = [tee.clone(), copy.clone(), format!("{policy}DF "), policy.clone()];
        let tracer = [copy.clone(), format!("{policy}DF "), tee.clone(), policy.clone()];
        assert!(same(&kernel, &tracer));
        assert!(!same(&kernel, &[&tracer[2..], &tracer[..2]].concat()));
        // The original is dropped by a match after the rule that copies, which is no line.
        let kernel = [tee.clone(), copy.clone(), format!("{policy}DF ")];
        let tracer = [copy.clone(), format!("{policy}DF "), tee.clone()];
        assert!(same(&kernel, &tracer));
        let same_text = [tee.clone(), tee.clone(), policy.clone(), policy.clone()];
        assert!(same(
            &same_text,
            &[tee.clone(), policy.clone(), tee.clone(), policy.clone()]
        ));
        assert!(!same(&same_text, &[tee.clone(), policy, tee]));
    }

    #[test]
    fn a_table_of_which_nothing_is_known_may_have_other_devices() {
        let (a, b) = (
            line("filter:OUTPUT:policy:1", 1),
            line("mangle:POSTROUTING:policy:2", 1),
        );
        let b = b.replace("IN= OUT=lo", "IN=right OUT=right");
        let partial = "PARTIAL: mangle:POSTROUTING: tcpmss: kernels differ".to_owned();
        let kernel = [a.clone(), b];
        assert!(same(&kernel, &[a.clone(), partial]));
        assert!(!same(&kernel, &[a]));
        // The same table at the next hook.
        let (a, b) = (
            line("mangle:PREROUTING:policy:1", 1).replace("IN= OUT=lo", "IN=right OUT="),
            line("mangle:FORWARD:policy:2", 1).replace("IN= OUT=lo", "IN=right OUT=left"),
        );
        let partial = "PARTIAL: mangle:FORWARD: kernels differ".to_owned();
        assert!(same(&[a.clone(), b.clone()], &[a.clone(), partial.clone()]));
        assert!(!same(&[a.clone(), b.clone()], std::slice::from_ref(&a)));
        let c = b.replace("FORWARD", "POSTROUTING");
        let kernel = [a.clone(), b, c];
        assert!(!same(&kernel, &[a.clone(), partial.clone()]));
        // Two in a row.
        let next = "PARTIAL: mangle:POSTROUTING: kernels differ".to_owned();
        assert!(same(&kernel, &[a, partial, next]));
    }

    #[test]
    fn a_line_tells_its_base_chain() {
        assert_eq!(base_chain(&line("mangle:OUTPUT:rule:1", 1)), Some("OUTPUT"));
        assert_eq!(base_chain(&line("mangle:OUTPUT:0:rule:1", 1)), None);
        assert_eq!(base_chain(&line("mangle:KUBE-SERVICES:rule:1", 1)), None);
    }

    #[test]
    fn lines_of_two_packets_may_be_the_same() {
        let (rule, policy) = (line("raw:OUTPUT:rule:1", 0), line("raw:OUTPUT:policy:2", 0));
        let (a, b) = (line("filter:OUTPUT:rule:1", 1), line("filter:OUTPUT:policy:2", 1));
        // One reset is sent within a traversal, without the bit, and one that has it later.
        let kernel = [a.clone(), policy.clone(), b.clone(), rule.clone(), policy.clone()];
        let reset = [rule, policy];
        let tracer = [&reset[..], &[a.clone(), b.clone()], &reset].concat();
        assert!(same(&kernel, &tracer));
        assert!(!same(&kernel, &tracer[..4]));
        assert!(!same(&kernel[..4], &tracer));
        // Not where the traversal is told before what happened within it.
        assert!(!same(&kernel, &[&[a, b], &reset[..], &reset].concat()));
    }

    #[test]
    fn an_answer_to_a_copy_may_send_a_packet_that_is_copied_as_well() {
        let step = |step: &str, number: u32| line(step, 1) + &format!("SEQ={number} ");
        let tee = |number| step("security:OUTPUT:rule:3", number);
        let rest = |len| {
            [
                step("security:OUTPUT:rule:4", len),
                step("security:OUTPUT:policy:6", len),
            ]
        };
        let whole = |len| [&[tee(len)][..], &rest(len)].concat();
        // Number 80: its copy, then what the answer sends, with its copy, then the end.
        let kernel = [
            &[tee(80)][..],
            &rest(80),
            &[tee(60)],
            &rest(60),
            &rest(60),
            &rest(80),
        ]
        .concat();
        let tracer = [&rest(80)[..], &rest(60), &whole(60), &whole(80)].concat();
        assert!(same(&kernel, &tracer));
        assert!(!same(&kernel[..8], &tracer));
        assert!(!same(
            &kernel,
            &[&rest(80)[..], &rest(60), &whole(80), &whole(60)].concat()
        ));
    }

    #[test]
    fn what_tracer_counted_as_lost_may_be_missing_and_no_more() {
        let (a, b) = (line("filter:OUTPUT:rule:1", 1), line("filter:OUTPUT:policy:2", 1));
        let (c, d) = (line("raw:OUTPUT:policy:2", 2), line("filter:OUTPUT:policy:2", 2));
        let kernel = [a.clone(), c.clone(), d.clone(), b.clone()];
        let with = |losses, tracer: &[String]| compare(&whole(&kernel), &whole(tracer), losses);
        let tracer = [d.clone(), a.clone(), b.clone()];
        assert!(matches!(with(0, &tracer), Comparison::Different { .. }));
        assert_eq!(with(1, &tracer), Comparison::Identical { steps: 3, lost: 1 });
        let tracer = [a.clone(), b.clone()];
        assert!(matches!(with(1, &tracer), Comparison::Different { .. }));
        assert_eq!(with(2, &tracer), Comparison::Identical { steps: 2, lost: 2 });
        // What was told must be true.
        let wrong = [d, a, c.replace("policy:2", "policy:3"), b];
        assert!(matches!(with(9, &wrong), Comparison::Different { .. }));
    }

    #[test]
    fn what_a_partial_traversal_leaves_may_lie_within_another() {
        let (a, b) = (line("filter:OUTPUT:rule:1", 1), line("filter:OUTPUT:policy:2", 1));
        let (c, d) = (line("raw:OUTPUT:rule:1", 2), line("raw:OUTPUT:policy:2", 2));
        let kernel = [a.clone(), c.clone(), d.clone(), b.clone()];
        let partial = "PARTIAL: raw:OUTPUT: statistic was not observed".to_owned();
        assert!(same(&kernel, &[c.clone(), partial, a.clone(), b.clone()]));
        assert!(!same(&kernel, &[c, a, b]));
    }

    #[test]
    fn a_partial_path_is_the_beginning_of_the_kernels() {
        let (a, b) = (line("filter:OUTPUT:rule:1", 1), line("filter:OUTPUT:policy:2", 1));
        let partial = "PARTIAL: filter:OUTPUT: statistic was not observed".to_owned();
        assert!(same(&[a.clone(), b.clone()], &[a.clone(), partial.clone()]));
        assert!(!same(&[a, b.clone()], &[b, partial]));
        // The kernel has not logged the rule that traces.
        let (rule, policy) = (line("raw:OUTPUT:rule:1", 1), line("raw:OUTPUT:policy:2", 1));
        let partial = "PARTIAL: raw:OUTPUT: statistic was not observed".to_owned();
        assert!(same(std::slice::from_ref(&policy), &[rule, partial]));
    }
}
