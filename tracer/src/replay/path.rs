//! What a walk yields.

use std::sync::Arc;

use thiserror::Error;

use crate::ruleset::Offset;
use crate::traversal::{Hook, Verdict};

/// The way of a packet through a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The lines that TRACE would have logged, in their order. Where the path is partial: those up to the place
    /// where it could not go on, or all of them where only the end does not fit.
    pub steps: Vec<Step>,
    /// Where the walk ended; `None` where it could not be followed to its end.
    pub verdict: Option<Verdict>,
    /// The rule with the match that had the packet dropped at once (`par->hotdrop`), which TRACE has no line for:
    /// then the last step is not what dropped it.
    pub hotdrop: Option<Offset>,
    /// Whether the steps are exactly those of the kernel.
    pub completeness: Completeness,
}

/// A rule whose matches all held: one line of TRACE's, logged before the rule's target is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The rule.
    pub offset: Offset,
    /// The packet's mark at this line.
    pub mark: u32,
    /// The packet's headers at this line, as far as they are certain.
    pub headers: Arc<[u8]>,
    /// Length of the packet at this line, from the network header to the end.
    pub packet_len: u32,
}

/// Whether a path is exactly the kernel's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// It is.
    Complete,
    /// It may not be.
    Partial(Reason),
}

impl Completeness {
    /// Whether what was recorded of the kernel's walk says that it was another one.
    #[must_use]
    pub fn is_contradicted(&self) -> bool {
        matches!(
            self,
            Self::Partial(
                Reason::Verdict { .. }
                    | Reason::ImpossibleVerdict { .. }
                    | Reason::Mark { .. }
                    | Reason::Surplus { .. }
                    | Reason::OutOfPlace { .. }
                    | Reason::Contradiction { .. }
            )
        )
    }
}

/// Why a path is partial.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Reason {
    /// The record has gaps of its own.
    #[error("kernel memory could not be read while the packet was recorded")]
    RecordIncomplete,
    /// The table was replaced while the packet went through it, or there were too many tables to be sure.
    #[error("the rules may have been replaced while the packet went through them")]
    RulesUnsure,
    /// More had to be observed than a record holds.
    #[error("more functions were called than a record has room for")]
    ObservationsCut,
    /// The table is not the one that the record is about.
    #[error("the rules are those of another table")]
    OtherTable,
    /// The table is not called at this hook.
    #[error("the table has no chain {0}")]
    NoChain(Hook),
    /// An offset that is not the beginning of a rule.
    #[error("no rule begins at offset {0}")]
    NoRule(Offset),
    /// What the rule asks of the IP header and the devices cannot be told.
    #[error("rule at offset {rule}: {gap}")]
    Header {
        /// The rule.
        rule: Offset,
        /// What is not known.
        gap: Gap,
    },
    /// What an extension did cannot be told.
    #[error("{extension} in the rule at offset {rule}: {gap}")]
    Unknown {
        /// The rule.
        rule: Offset,
        /// Name of the extension.
        extension: String,
        /// What is not known.
        gap: Gap,
    },
    /// A function had to be observed and was not.
    #[error("{extension} in the rule at offset {rule} was not observed")]
    NotObserved {
        /// The rule.
        rule: Offset,
        /// Name of the extension.
        extension: String,
    },
    /// A function had to be observed, and another one was.
    #[error(
        "{extension} in the rule at offset {rule} was expected, but a call with data at offset {found} observed"
    )]
    OutOfPlace {
        /// The rule.
        rule: Offset,
        /// Name of the extension.
        extension: String,
        /// The data of the observed call.
        found: Offset,
    },
    /// A match was observed where there is a target, or the other way round.
    #[error("{extension} in the rule at offset {rule} was observed as something else")]
    OtherKind {
        /// The rule.
        rule: Offset,
        /// Name of the extension.
        extension: String,
    },
    /// Replay and observation disagree.
    #[error("{extension} in the rule at offset {rule} was observed to do something else than its replay")]
    Contradiction {
        /// The rule.
        rule: Offset,
        /// Name of the extension.
        extension: String,
    },
    /// A target that changes headers was observed without them. Where it changes the transport header alone the
    /// walk goes on, and only the headers of the later lines are in doubt.
    #[error("the headers after {extension} in the rule at offset {rule} were not observed")]
    HeadersNotObserved {
        /// The rule.
        rule: Offset,
        /// Name of the extension.
        extension: String,
    },
    /// A target that cannot say what the kernel said at the end.
    #[error("the verdict {verdict} was observed, which {extension} in the rule at offset {rule} cannot give")]
    ImpossibleVerdict {
        /// The rule.
        rule: Offset,
        /// Name of the target.
        extension: String,
        /// The verdict.
        verdict: Verdict,
    },
    /// More was observed than the walk met.
    #[error("{count} observed calls were not met by the walk, the first with data at offset {first}")]
    Surplus {
        /// How many.
        count: usize,
        /// The data of the first.
        first: Offset,
    },
    /// The walk ended elsewhere than the kernel's.
    #[error("the replay ends with {replayed}, the kernel said {observed}")]
    Verdict {
        /// Where the walk ended.
        replayed: Verdict,
        /// What the kernel said.
        observed: Verdict,
    },
    /// The mark is not the one that the packet left with.
    #[error("the replay ends with mark {replayed:#x}, the packet left with {observed:#x}")]
    Mark {
        /// The mark at the end of the walk.
        replayed: u32,
        /// The mark that was observed.
        observed: u32,
    },
    /// The kernel was seen to take other steps (`--verify`).
    #[error("verify: {0}")]
    Witnessed(String),
    /// The path is partial, and the kernel was seen to take these steps (`--verify`).
    #[error("{reason}; verify: {said}")]
    AndWitnessed {
        /// Why the path is partial.
        reason: Box<Reason>,
        /// What the kernel did.
        said: String,
    },
    /// Kernels differ here, and the record fits more than one way.
    #[error("kernels differ on a header that claims to be longer than the packet")]
    Overlong,
    /// A walk of a length that no sound table leads to.
    #[error("the walk does not end")]
    Endless,
}

/// What a replica of the kernel does not know.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Gap {
    /// It depends on bytes of the packet beyond those that were captured.
    #[error("the answer lies beyond the captured headers")]
    BeyondCapture,
    /// The extension's data is shorter than its struct, or says what the kernel would have refused.
    #[error("its data is malformed")]
    ShortData,
    /// It depends on headers that a target has changed.
    #[error("the answer lies in headers that an earlier target may have changed")]
    Changed,
    /// It depends on something of the connection that is not in the record.
    #[error("the answer depends on more of the connection than was recorded")]
    Connection,
    /// The device has a name that is no text.
    #[error("a device has a name that is not text")]
    DeviceName,
    /// Kernels answer differently for a packet like this.
    #[error("kernels differ for a packet like this")]
    KernelsDiffer,
    /// There is no replica of the function.
    #[error("it cannot be replayed")]
    NoReplica,
}
