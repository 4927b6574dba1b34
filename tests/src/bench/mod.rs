//! What tracing costs, in instructions for each packet.
//!
//! The machine that this runs in counts instructions: its clock goes on by one nanosecond with each. So a time
//! here is a number of instructions, the same on every run, however busy the host is.

mod cases;
mod load;
mod peers;
mod programs;
mod rulesets;

use anyhow::Result;

pub use cases::Case;
pub use load::Effort;
pub use peers::Peer;
pub use rulesets::Ruleset;

use crate::netns;

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of the ruleset.
    pub ruleset: &'static str,
    /// Name of the case.
    pub case: String,
    /// What a packet takes, from its sending to its being read by the receiver.
    pub instructions_per_packet: u64,
}

/// Measures the cases asked for with a ruleset, in a namespace of its own, and hands over each figure as it comes.
///
/// # Errors
///
/// When the rules cannot be loaded, packets do not arrive, or a tool fails or loses something.
pub fn run(
    ruleset: Ruleset,
    cases: &[Case],
    effort: Effort,
    found: &mut (dyn FnMut(Figure) + Send),
) -> Result<()> {
    netns::isolated(|| {
        let scene = ruleset.scene()?;
        for case in cases {
            case.measure(&scene, effort, &mut |case, instructions_per_packet| {
                found(Figure {
                    ruleset: ruleset.name(),
                    case: case.to_owned(),
                    instructions_per_packet,
                });
            })?;
        }
        Ok(())
    })
}
