//! What a person reads when a command fails: the chain of causes in one line, then what to type.

use std::fmt;

/// An error that knows what to do about it.
#[derive(Debug)]
struct Hinted {
    message: String,
    hint: String,
}

impl fmt::Display for Hinted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Hinted {}

/// An error with the commands, one a line, that would help.
pub(crate) fn hinted(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Hinted {
        message: message.into(),
        hint: hint.into(),
    }
    .into()
}

/// Prints the error and its hint to stderr.
pub(crate) fn report(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
    if let Some(hinted) = error.chain().find_map(|cause| cause.downcast_ref::<Hinted>()) {
        let mut lines = hinted.hint.lines();
        eprintln!("hint: {}", lines.next().unwrap_or_default());
        for line in lines {
            eprintln!("      {line}");
        }
    }
}
