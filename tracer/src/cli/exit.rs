//! How `tracer` ends: its exit codes, which are a contract that scripts rely on, and what is said about a
//! failure. This is the only place that knows the numbers.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done, also when a signal, a limit or a reader that has seen enough ended it |
//! | 1 | failed while running |
//! | 2 | wrong command line |
//! | 3 | not permitted: not root, or the kernel is locked down |
//! | 4 | the kernel or the node lacks something: BTF, ring buffer, kprobes, legacy tables |
//! | 5 | a recording ends before its trace did: all that is in it was shown |

use std::fmt;
use std::process::ExitCode;

use crate::kernel::attach::AttachError;
use crate::kernel::obstacle::{LockedDown, Obstacle};

/// How `tracer` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It did what it was asked to do.
    Done,
    /// Something failed on the way.
    Failed,
    /// The command line makes no sense.
    Usage,
    /// It may not do what it was asked to do.
    NotPermitted,
    /// The kernel or the node does not have what it takes.
    Lacking,
    /// What was read ends too early: a recording without its end.
    CutOff,
}

impl Exit {
    /// The number.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotPermitted => 3,
            Self::Lacking => 4,
            Self::CutOff => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

impl From<&Obstacle> for Exit {
    fn from(obstacle: &Obstacle) -> Self {
        match obstacle {
            Obstacle::Privilege(_) | Obstacle::Lockdown(_) => Self::NotPermitted,
            Obstacle::NoBtf(_)
            | Obstacle::NoRingBuffer(_)
            | Obstacle::NoKprobes(_)
            | Obstacle::NoLegacyTables { .. }
            | Obstacle::Offsets(_) => Self::Lacking,
        }
    }
}

/// A failure as the user gets it: one message, what to type next, and the exit code.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    /// Flags that make no sense together. What explains them is the help of the command, unless there is a better hint.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self {
            exit: Exit::Usage,
            error: error.into(),
            hint: None,
        }
    }

    /// A failure with its hint.
    pub fn hinted(exit: Exit, error: impl Into<anyhow::Error>, hint: impl Into<String>) -> Self {
        Self {
            exit,
            error: error.into(),
            hint: Some(hint.into()),
        }
    }

    /// The same with another hint.
    #[must_use]
    pub fn or_hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The same with the help of a command as hint, if it is one that was typed wrong and has no hint.
    #[must_use]
    pub fn of_command(self, command: &str) -> Self {
        match (self.exit, &self.hint) {
            (Exit::Usage, None) => {
                self.or_hint(format!("`tracer {command} --help` explains flags and filters"))
            }
            _ => self,
        }
    }

    /// How the process ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

/// Anything that went wrong on the way, without a code of its own.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self {
            exit: Exit::Failed,
            error,
            hint: None,
        }
    }
}

impl From<Obstacle> for Failure {
    fn from(obstacle: Obstacle) -> Self {
        Self {
            exit: Exit::from(&obstacle),
            hint: Some(obstacle.hint()),
            error: obstacle.into(),
        }
    }
}

impl From<AttachError> for Failure {
    fn from(error: AttachError) -> Self {
        // The preflight has found the privileges in order: what still refuses is the kernel itself.
        if let Some(errno) = error.refusal() {
            return Obstacle::Lockdown(LockedDown::Inferred(errno)).into();
        }
        let hint = match error {
            AttachError::NoObject => "build it with `cargo xtask build`, run it with `cargo xtask run`",
            _ => "`tracer doctor` shows what this kernel has; please report it with `uname -r`",
        };
        Self {
            exit: Exit::Failed,
            error: error.into(),
            hint: Some(hint.into()),
        }
    }
}

/// `error: what: cause`, then `hint: what to type`.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {:#}", self.error)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}
