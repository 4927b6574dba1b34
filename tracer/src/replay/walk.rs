//! The engine: `ipt_do_table` and `ip6t_do_table`.

use std::slice;

use super::data::Data;
use super::header::{self, Devices, Parameters};
use super::matches::{self, Call, Stop};
use super::observation::{Observation, Outcome, PacketAfter};
use super::path::{Completeness, Gap, Path, Reason, Step};
use super::purity::{Purity, purity};
use super::targets::{self, CONTINUE, Effect, Headers, Use};
use super::view::{Connection, Overlong, View};
use crate::ruleset::{BuiltIn, Extension, Offset, Rule, Standard, Table, Target};
use crate::traversal::{Family, Traversal, Verdict};

/// Rules looked at in one walk. The kernel refuses rules that loop, so only a corrupted table has longer walks.
const VISITS_MAX: u32 = 1 << 22;
/// Lines of one walk.
const STEPS_MAX: usize = 1 << 16;

/// Replays the walk of a packet through a table.
///
/// In go the rules as they were when the packet came, its record, and the calls of match and target functions
/// that were observed, in their order. Calls that [`purity`] says must be observed have to be there, others may.
/// Out comes the path, with the reason where it is not certain to be the kernel's.
#[must_use]
pub fn walk(table: &Table, traversal: &Traversal, observed: &[Observation]) -> Path {
    walk_knowing(table, traversal, observed, None).0
}

/// The same where the kernel's kind may be known. Out comes also the kind that this record proves the kernel to be of.
#[must_use]
pub fn walk_knowing(
    table: &Table,
    traversal: &Traversal,
    observed: &[Observation],
    known: Option<Overlong>,
) -> (Path, Option<Overlong>) {
    let first = known.unwrap_or(Overlong::Skipped);
    let (path, met_overlong) = attempt(table, traversal, observed, first);
    if known.is_some() || !met_overlong {
        return (path, None);
    }
    let (other, _) = attempt(table, traversal, observed, Overlong::Refused);
    decide(path, other)
}

/// Of the walks of two kinds of kernels the one that the record does not contradict; if it contradicts neither, what
/// they have in common.
fn decide(path: Path, other: Path) -> (Path, Option<Overlong>) {
    let offsets = |path: &Path| path.steps.iter().map(|step| step.offset).collect::<Vec<_>>();
    let is_complete = |path: &Path| path.completeness == Completeness::Complete;
    let same = offsets(&path) == offsets(&other) && path.verdict == other.verdict;
    if path.completeness.is_contradicted() {
        let proved = is_complete(&other).then_some(Overlong::Refused);
        return (other, proved);
    }
    if other.completeness.is_contradicted() {
        let proved = is_complete(&path).then_some(Overlong::Skipped);
        return (path, proved);
    }
    if same {
        return (if is_complete(&other) { other } else { path }, None);
    }
    let common = path.steps.iter().zip(&other.steps);
    let common = common
        .take_while(|(one, other)| one.offset == other.offset)
        .count();
    let path = Path {
        steps: path.steps.into_iter().take(common).collect(),
        verdict: None,
        hotdrop: None,
        completeness: Completeness::Partial(Reason::Overlong),
    };
    (path, None)
}

/// A walk of a kernel of one kind, and whether it would have been another of the other kind.
fn attempt(
    table: &Table,
    traversal: &Traversal,
    observed: &[Observation],
    overlong: Overlong,
) -> (Path, bool) {
    let mut steps = Vec::new();
    let mut hotdrop = None;
    let mut met_overlong = false;
    let replayed = Walk::new(table, traversal, observed, overlong, &mut steps).and_then(|mut walk| {
        let end = walk.run();
        hotdrop = walk.hotdrop;
        met_overlong = walk.view.met_overlong.get();
        end
    });
    let (verdict, completeness) = match replayed {
        Ok((verdict, Ok(()))) => (Some(verdict), Completeness::Complete),
        Ok((verdict, Err(reason))) => (Some(verdict), Completeness::Partial(reason)),
        Err(reason) => (None, Completeness::Partial(reason)),
    };
    let path = Path {
        steps,
        verdict,
        hotdrop,
        completeness,
    };
    (path, met_overlong)
}

/// A walk under way.
struct Walk<'a> {
    table: &'a Table,
    traversal: &'a Traversal,
    chain: BuiltIn,
    devices: Devices,
    parameters: Parameters,
    view: View,
    observed: slice::Iter<'a, Observation>,
    steps: &'a mut Vec<Step>,
    /// Why the headers of some lines are in doubt.
    doubt: Option<Reason>,
    /// Whether the view has the packet's mark: not after a target that may have set it unseen.
    knows_mark: bool,
    /// The rule whose match set `par->hotdrop`.
    hotdrop: Option<Offset>,
}

impl<'a> Walk<'a> {
    fn new(
        table: &'a Table,
        traversal: &'a Traversal,
        observed: &'a [Observation],
        overlong: Overlong,
        steps: &'a mut Vec<Step>,
    ) -> Result<Self, Reason> {
        if traversal.incomplete {
            return Err(Reason::RecordIncomplete);
        }
        if table.family != traversal.family || table.name != traversal.table {
            return Err(Reason::OtherTable);
        }
        let chain = *table
            .hooks
            .iter()
            .find(|chain| chain.hook == traversal.hook)
            .ok_or(Reason::NoChain(traversal.hook))?;
        let view = View::of(traversal, overlong);
        let parameters = Parameters::at_entry(table.family, &view).map_err(|gap| Reason::Header {
            rule: chain.entry,
            gap,
        })?;
        Ok(Self {
            table,
            traversal,
            chain,
            devices: Devices::of(traversal),
            parameters,
            view,
            observed: observed.iter(),
            steps,
            doubt: None,
            knows_mark: true,
            hotdrop: None,
        })
    }

    /// Walks to the end: the verdict, and whether what is known of the end fits.
    fn run(&mut self) -> Result<(Verdict, Result<(), Reason>), Reason> {
        let verdict = self.end()?;
        let fits = self.check(verdict);
        Ok((verdict, fits))
    }

    /// The loop of `ipt_do_table`.
    fn end(&mut self) -> Result<Verdict, Reason> {
        let table = self.table;
        // `jumpstack`
        let mut jumps: Vec<usize> = Vec::new();
        let mut at = self.rule_at(self.chain.entry)?;
        for _ in 0..VISITS_MAX {
            let rule = &table.rules[at];
            let satisfied = self.satisfied(rule)?;
            if self.parameters.hotdrop && self.hotdrop.is_none() {
                self.hotdrop = Some(rule.offset);
            }
            if !satisfied {
                if self.parameters.hotdrop {
                    return Ok(Verdict::Drop);
                }
                at = self.rule_after(at)?;
                continue;
            }
            self.log(rule)?;
            let end = match &rule.target {
                Target::Standard(Standard::Verdict(verdict)) => Some(Verdict::from(*verdict)),
                Target::Standard(Standard::Return) => {
                    at = match jumps.pop() {
                        Some(from) => self.rule_after(from)?,
                        None => self.rule_at(self.chain.underflow)?,
                    };
                    None
                }
                Target::Standard(Standard::Jump(to)) => {
                    // A rule without a target "jumps" to the next one, which nothing returns from.
                    if *to != rule.next && !rule.is_goto(table.family) {
                        if jumps.len() >= table.stack_len_max as usize {
                            return Ok(self.ended(Verdict::Drop));
                        }
                        jumps.push(at);
                    }
                    at = self.rule_at(*to)?;
                    None
                }
                Target::Extension(extension) => {
                    let end = self.target(rule, extension)?;
                    if end.is_none() {
                        at = self.rule_after(at)?;
                    }
                    end
                }
                // `ipt_error`. No sound table leads here.
                Target::Head { .. } => Some(Verdict::Drop),
            };
            if let Some(verdict) = end {
                return Ok(self.ended(verdict));
            }
            if self.parameters.hotdrop {
                return Ok(Verdict::Drop);
            }
        }
        Err(Reason::Endless)
    }

    /// `if (acpar.hotdrop) return NF_DROP; else return verdict;`
    fn ended(&self, verdict: Verdict) -> Verdict {
        if self.parameters.hotdrop {
            Verdict::Drop
        } else {
            verdict
        }
    }

    /// Whether the end fits what was recorded of it.
    fn check(&self, verdict: Verdict) -> Result<(), Reason> {
        if let Some(first) = self.observed.as_slice().first() {
            return Err(Reason::Surplus {
                count: self.observed.len(),
                first: first.data,
            });
        }
        if verdict != self.traversal.verdict {
            return Err(Reason::Verdict {
                replayed: verdict,
                observed: self.traversal.verdict,
            });
        }
        if let Some(observed) = self.traversal.mark_after
            && self.knows_mark
            && observed != self.view.mark
        {
            return Err(Reason::Mark {
                replayed: self.view.mark,
                observed,
            });
        }
        if self.traversal.generation_unsure {
            return Err(Reason::RulesUnsure);
        }
        self.doubt.clone().map_or(Ok(()), Err)
    }

    /// The index of the rule that begins at an offset.
    fn rule_at(&self, offset: Offset) -> Result<usize, Reason> {
        self.table
            .rules
            .binary_search_by_key(&offset, |rule| rule.offset)
            .map_err(|_| Reason::NoRule(offset))
    }

    /// The index of the rule after another one: the next, for the blob has no gaps.
    fn rule_after(&self, at: usize) -> Result<usize, Reason> {
        let next = self.table.rules[at].next;
        match self.table.rules.get(at + 1) {
            Some(rule) if rule.offset == next => Ok(at + 1),
            _ => Err(Reason::NoRule(next)),
        }
    }

    /// Whether the packet satisfies all that a rule asks. Stops at the first no.
    fn satisfied(&mut self, rule: &Rule) -> Result<bool, Reason> {
        let by_header = header::matches(
            self.table.family,
            &rule.header,
            &self.view,
            &self.devices,
            &mut self.parameters,
        )
        .map_err(|gap| Reason::Header {
            rule: rule.offset,
            gap,
        })?;
        if !by_header {
            return Ok(false);
        }
        for extension in &rule.matches {
            if !self.matched(rule, extension)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where TRACE logs: all matches have held, and the target has not been called.
    fn log(&mut self, rule: &Rule) -> Result<(), Reason> {
        if self.steps.len() == STEPS_MAX {
            return Err(Reason::Endless);
        }
        // Only what is certain: a line is never written from bytes that a target has changed unseen.
        let headers = match self
            .view
            .doubtful_from
            .and_then(|from| self.view.headers.get(..from as usize))
        {
            Some(certain) => certain.into(),
            None => self.view.headers.clone(),
        };
        self.steps.push(Step {
            offset: rule.offset,
            mark: self.view.mark,
            headers,
            packet_len: self.view.len,
        });
        Ok(())
    }

    /// Calls a match function.
    fn matched(&mut self, rule: &Rule, extension: &Extension) -> Result<bool, Reason> {
        let call = Call {
            data: Data::of(extension, self.table),
            revision: extension.revision,
            family: self.table.family,
            parameters: self.parameters,
            view: &self.view,
        };
        // What it returns, and whether it sets hotdrop, which nothing takes back.
        let replayed = match matches::answer(extension, &call) {
            Ok(matched) => Ok((matched, self.parameters.hotdrop)),
            Err(Stop::Hotdrop) => Ok((false, true)),
            Err(Stop::Unknown(gap)) => Err(gap),
        };
        let at = Place { rule, extension };
        let (matched, hotdrop) = match self.take_observation(extension) {
            Some(&Outcome::Match {
                matched,
                hotdrop,
                mark,
            }) => {
                // A replica never sets the mark.
                let expected =
                    |(is_match, drops)| (is_match, drops, self.view.mark) == (matched, hotdrop, mark);
                if !replayed.is_ok_and(expected) && replayed.is_ok() {
                    return Err(at.contradiction());
                }
                self.view.mark = mark;
                (matched, hotdrop)
            }
            Some(Outcome::Target { .. }) => return Err(at.other_kind()),
            None => {
                self.need_no_observation(at)?;
                replayed.map_err(|gap| at.unknown(gap))?
            }
        };
        self.parameters.hotdrop |= hotdrop;
        Ok(matched)
    }

    /// Calls a target function; a verdict ends the walk.
    fn target(&mut self, rule: &Rule, extension: &Extension) -> Result<Option<Verdict>, Reason> {
        let target = Use::new(extension, self.table.family, Data::of(extension, self.table));
        let effect = targets::effect(extension, &target);
        let at = Place { rule, extension };
        let observed = match self.take_observation(extension) {
            Some(Outcome::Target { verdict, after }) => Some((*verdict, after)),
            Some(Outcome::Match { .. }) => return Err(at.other_kind()),
            None => {
                self.need_no_observation(at)?;
                None
            }
        };
        match effect {
            Effect::Continues(change) => self.continues(at, &target, change, observed),
            Effect::Ends { gives, keeps_mark } => {
                self.knows_mark &= keeps_mark;
                let verdict = match observed {
                    Some((CONTINUE, _)) => return Err(at.contradiction()),
                    Some((verdict, _)) => Verdict::from(verdict),
                    None => self.traversal.verdict,
                };
                match gives(&target, verdict) {
                    Ok(true) => Ok(Some(verdict)),
                    // Dropped by an earlier hotdrop, whatever the target said.
                    _ if self.parameters.hotdrop => Ok(Some(verdict)),
                    Ok(false) => Err(Reason::ImpossibleVerdict {
                        rule: rule.offset,
                        extension: extension.name.clone(),
                        verdict,
                    }),
                    Err(gap) => Err(at.unknown(gap)),
                }
            }
            Effect::Observed(touches) => {
                let (verdict, after) = observed.ok_or_else(|| at.not_observed())?;
                if verdict != CONTINUE {
                    self.knows_mark = false;
                    return Ok(Some(Verdict::from(verdict)));
                }
                self.view.mark = after.mark;
                let unseen = || Reason::HeadersNotObserved {
                    rule: rule.offset,
                    extension: extension.name.clone(),
                };
                match (&after.headers, touches.headers) {
                    (Some(headers), _) => {
                        self.view.headers = headers.bytes.clone();
                        self.view.len = headers.packet_len;
                        self.view.doubtful_from = None;
                    }
                    (None, Headers::None) => {}
                    (None, Headers::Transport) => {
                        let from = match self.table.family {
                            Family::Ipv4 => self.parameters.transport,
                            Family::Ipv6 => 40,
                        };
                        self.view.doubtful_from = Some(from);
                        self.doubt.get_or_insert_with(unseen);
                    }
                    (None, Headers::All) => return Err(unseen()),
                }
                if touches.connection {
                    self.view.connection = Connection::Unknown;
                }
                Ok(None)
            }
        }
    }

    /// A target whose effect is known and lets the walk go on. Where it was observed it may have failed, which
    /// drops the packet; else it has to have done what its replica does.
    fn continues(
        &mut self,
        at: Place<'_>,
        target: &Use<'_>,
        change: fn(&Use<'_>, &mut View) -> Result<(), Gap>,
        observed: Option<(u32, &PacketAfter)>,
    ) -> Result<Option<Verdict>, Reason> {
        if let Some((verdict, _)) = observed
            && verdict != CONTINUE
        {
            return Ok(Some(Verdict::from(verdict)));
        }
        let changed = change(target, &mut self.view);
        let Some((_, after)) = observed else {
            changed.map_err(|gap| at.unknown(gap))?;
            return Ok(None);
        };
        let headers = after.headers.as_ref();
        if changed.is_ok()
            && (after.mark != self.view.mark
                || headers.is_some_and(|headers| headers.bytes != self.view.headers))
        {
            return Err(at.contradiction());
        }
        self.view.mark = after.mark;
        if let Some(headers) = headers {
            self.view.headers = headers.bytes.clone();
            self.view.len = headers.packet_len;
        }
        if changed.is_err() {
            self.view.connection = Connection::Unknown;
        }
        Ok(None)
    }

    /// The next observed call, if it is this extension's.
    fn take_observation(&mut self, extension: &Extension) -> Option<&'a Outcome> {
        let next = self.observed.as_slice().first()?;
        if next.data != extension.data.start {
            return None;
        }
        self.observed.next();
        Some(&next.outcome)
    }

    /// Whether a call may go without having been observed.
    fn need_no_observation(&self, at: Place<'_>) -> Result<(), Reason> {
        match (purity(at.extension, self.table), self.observed.as_slice().first()) {
            (Purity::Pure, _) => Ok(()),
            (Purity::Observed, None) if self.traversal.observed_cut => Err(Reason::ObservationsCut),
            (Purity::Observed, None) => Err(at.not_observed()),
            (Purity::Observed, Some(next)) => Err(Reason::OutOfPlace {
                rule: at.rule.offset,
                extension: at.extension.name.clone(),
                found: next.data,
            }),
        }
    }
}

/// An extension of a rule, for reasons to name.
#[derive(Clone, Copy)]
struct Place<'a> {
    rule: &'a Rule,
    extension: &'a Extension,
}

impl Place<'_> {
    fn unknown(self, gap: Gap) -> Reason {
        Reason::Unknown {
            rule: self.rule.offset,
            extension: self.extension.name.clone(),
            gap,
        }
    }

    fn not_observed(self) -> Reason {
        Reason::NotObserved {
            rule: self.rule.offset,
            extension: self.extension.name.clone(),
        }
    }

    fn other_kind(self) -> Reason {
        Reason::OtherKind {
            rule: self.rule.offset,
            extension: self.extension.name.clone(),
        }
    }

    fn contradiction(self) -> Reason {
        Reason::Contradiction {
            rule: self.rule.offset,
            extension: self.extension.name.clone(),
        }
    }
}
