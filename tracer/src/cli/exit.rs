//! What the exit code of `tracer` says. This is the only place that knows the numbers.
//!
//! | code | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | failed while running |
//! | 2 | wrong command line |
//! | 3 | not permitted: not root, or the kernel is locked down |
//! | 4 | the kernel or the node lacks something: BTF, ring buffer, kprobes, legacy tables |

use std::process::ExitCode;

use crate::kernel::obstacle::Obstacle;

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
