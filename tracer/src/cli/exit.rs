//! Exit codes, and what is said about a failure. All of both is here.

use std::{fmt, process::ExitCode};

/// Exit codes. They are a contract: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Done, also when ended by a signal, a limit or a reader that has seen enough.
    Done = 0,
    /// Failed while running.
    Failed = 1,
    /// Wrong command line.
    Usage = 2,
    /// Not permitted: not root, or the kernel is locked down.
    NotPermitted = 3,
    /// The kernel or the node lacks something: BTF, ring buffer, iptables' legacy tables.
    Unsupported = 4,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code as u8)
    }
}

/// A failure as the user gets it: one message, what to type next, and the exit code.
#[derive(Debug)]
pub struct Failure {
    code: Code,
    error: anyhow::Error,
    hint: Option<String>,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, error: impl Into<anyhow::Error>) -> Self {
        Self {
            code,
            error: error.into(),
            hint: None,
        }
    }

    /// Says what to type next.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }

    /// The exit code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }
}

/// Anything that went wrong on the way, without a code of its own.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Code::Failed, error)
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
