//! Every path held against the steps that the kernel was seen to take (`--verify`).

use std::fmt;

use super::Rules;
use crate::{
    replay::{Comparison, Completeness, Path, Reason, compare},
    ruleset::Offset,
    traversal::{Hook, Traversal},
};

/// What was compared so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Traversals whose steps were compared.
    pub traversals: u64,
    /// Steps of theirs that the kernel was seen to take.
    pub steps: u64,
    /// Traversals with a step that was not the kernel's.
    pub differences: u64,
    /// Traversals whose replay could not go on, where the kernel was seen to.
    pub completed: u64,
    /// Traversals with more steps than a witness has room for.
    pub cut: u64,
    /// Traversals whose steps were not seen.
    pub unseen: u64,
    /// Traversals without rules to name their steps by.
    pub without_rules: u64,
}

impl Verification {
    /// There is no path to compare.
    pub(super) fn without_rules(&mut self) {
        self.without_rules += 1;
    }

    /// Compares a path with the traversal's witness. Where they differ, or where the kernel knows more, the path says
    /// so.
    pub(super) fn check(&mut self, traversal: &Traversal, rules: &Rules, path: &mut Path) {
        let Some(witness) = &traversal.witness else {
            self.unseen += 1;
            return;
        };
        self.traversals += 1;
        self.steps += witness.steps.len() as u64;
        self.cut += u64::from(witness.cut);
        let name = |offset: Offset| name(rules, traversal.hook, offset);
        let names = |offsets: &[Offset]| {
            let names: Vec<_> = offsets.iter().map(|offset| name(*offset)).collect();
            let more = if witness.cut { ", …" } else { "" };
            format!("{}{more}", names.join(", "))
        };
        match compare(path, witness) {
            Comparison::Same => {
                if path.completeness != Completeness::Complete {
                    add(path, "every step is the kernel's".to_owned());
                }
            }
            Comparison::SameSoFar => {}
            Comparison::GoesOn(steps) => {
                self.completed += 1;
                add(
                    path,
                    if steps.is_empty() {
                        "the kernel took no further step".to_owned()
                    } else {
                        format!("the kernel went on with {}", names(&steps))
                    },
                );
            }
            Comparison::Differs {
                at,
                replayed,
                witnessed,
            } => {
                self.differences += 1;
                let replayed = replayed.map_or_else(|| "the end".to_owned(), name);
                let witnessed = if witnessed.is_empty() {
                    "ended".to_owned()
                } else {
                    format!("took {}", names(&witnessed))
                };
                add(
                    path,
                    format!(
                        "step {} is {replayed} in the replay, but the kernel {witnessed}",
                        at + 1
                    ),
                );
            }
        }
    }
}

/// A rule as TRACE names it.
fn name(rules: &Rules, hook: Hook, offset: Offset) -> String {
    rules.labels.of(hook, offset).map_or_else(
        || format!("offset {offset}, where no rule begins"),
        |label| label.to_string(),
    )
}

fn add(path: &mut Path, said: String) {
    path.completeness = Completeness::Partial(match &path.completeness {
        Completeness::Complete => Reason::Witnessed(said),
        Completeness::Partial(reason) => Reason::AndWitnessed {
            reason: Box::new(reason.clone()),
            said,
        },
    });
}

/// `verified: 12 traversals, 40 steps, 0 differences`, and in lines of their own what could not be compared.
impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "verified: {} traversals, {} steps, {} differences",
            self.traversals, self.steps, self.differences
        )?;
        for (count, meaning) in [
            (
                self.completed,
                "replays could not go on, their further steps are from the kernel",
            ),
            (self.cut, "traversals had more steps than could be witnessed"),
            (
                self.unseen,
                "traversals not verified: their steps were not witnessed",
            ),
            (
                self.without_rules,
                "traversals not verified: there are no rules to compare with",
            ),
        ] {
            if count > 0 {
                writeln!(f, "  {count:>8}  {meaning}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        replay,
        ruleset::{
            Labels,
            builder::{ACCEPT, TableBuilder, rule},
            text::Texts,
        },
        traversal::Family,
        witness::Witness,
    };

    /// The path of a packet through OUTPUT with two rules that ask nothing, and what a witness has to say of it.
    fn checked(
        verdict: u32,
        witness: impl FnOnce(&[Offset]) -> Option<Witness>,
    ) -> (Verification, Completeness) {
        let table = TableBuilder::new(Family::Ipv4, "mangle")
            .built_in(Hook::LocalOut, ACCEPT)
            .rule(rule())
            .rule(rule())
            .table();
        let rules = Rules {
            labels: Labels::new(&table),
            texts: Texts::own(),
            table,
        };
        let mut record = tracer_common::Traversal {
            family: 2,
            hook: 3,
            verdict,
            headers_len: 20,
            ..tracer_common::Traversal::EMPTY
        };
        record.table_name[..6].copy_from_slice(b"mangle");
        record.headers[0] = 0x45;
        let mut traversal = Traversal::decode(record.bytes()).unwrap();
        let mut path = replay::walk(&rules.table, &traversal, &[]);
        let steps: Vec<_> = path.steps.iter().map(|step| step.offset).collect();
        assert_eq!(steps.len(), 3, "{path:?}");
        traversal.witness = witness(&steps);
        let mut verification = Verification::default();
        verification.check(&traversal, &rules, &mut path);
        (verification, path.completeness)
    }

    fn reason(completeness: &Completeness) -> String {
        match completeness {
            Completeness::Complete => String::new(),
            Completeness::Partial(reason) => reason.to_string(),
        }
    }

    #[test]
    fn a_path_that_the_kernel_took_stays_complete() {
        let (verification, completeness) = checked(1, |steps| Some(Witness::from_steps(steps, false)));
        assert_eq!(completeness, Completeness::Complete);
        assert_eq!(
            verification.to_string(),
            "verified: 1 traversals, 3 steps, 0 differences\n"
        );
    }

    #[test]
    fn a_step_that_the_kernel_did_not_take_makes_the_path_partial() {
        let (verification, completeness) =
            checked(1, |steps| Some(Witness::from_steps(&[steps[0], steps[2]], false)));
        assert_eq!(
            reason(&completeness),
            "verify: step 2 is OUTPUT:rule:2 in the replay, but the kernel took OUTPUT:policy:3"
        );
        assert_eq!(verification.differences, 1);
    }

    #[test]
    fn an_address_that_is_no_rule_is_a_difference() {
        let (_, completeness) = checked(1, |steps| Some(Witness::from_steps(&[steps[0], 5], false)));
        assert!(
            reason(&completeness).ends_with("took offset 5, where no rule begins"),
            "{completeness:?}"
        );
    }

    #[test]
    fn a_partial_path_keeps_its_reason() {
        // The kernel dropped what the replay accepts.
        let (verification, completeness) = checked(0, |steps| Some(Witness::from_steps(steps, false)));
        let said = reason(&completeness);
        assert!(
            said.contains("the kernel said DROP; verify: every step"),
            "{said}"
        );
        assert_eq!(verification.differences, 0);
    }

    #[test]
    fn a_traversal_without_a_witness_is_counted() {
        let (verification, completeness) = checked(1, |_| None);
        assert_eq!(completeness, Completeness::Complete);
        assert!(verification.to_string().contains("1  traversals not verified"));
    }
}
