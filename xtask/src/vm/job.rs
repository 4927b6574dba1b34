//! The job that init finds in its image as `/job`.
//!
//! The form is NUL-terminated strings, settings first, then `--`, then the arguments: nothing to escape,
//! nothing to parse wrongly. The reader is `tests::job`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
}

/// What is to be run in the guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Job {
    /// The program and its arguments.
    pub(crate) argv: Vec<OsString>,
    /// Environment variables besides `PATH` and `HOME`.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// What the program reads from its standard input; `None` is the null device.
    pub(crate) stdin: Option<Vec<u8>>,
    /// Set for a shell on a terminal: the program gets a controlling terminal of this size.
    pub(crate) terminal: Option<Size>,
}

impl Job {
    /// A job without a terminal.
    pub(crate) fn command(argv: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }

    /// The content of `/job`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |parts: &[&[u8]]| {
            out.extend(parts.concat());
            out.push(0);
        };
        if let Some(Size { rows, columns }) = self.terminal {
            put(&[format!("terminal={rows}x{columns}").as_bytes()]);
        }
        for (name, value) in &self.env {
            put(&[b"env=", name.as_bytes(), b"=", value.as_bytes()]);
        }
        put(&[b"--"]);
        for argument in &self.argv {
            put(&[argument.as_bytes()]);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_then_arguments() {
        let mut job = Job::command(["echo", "a b", "--"]);
        job.terminal = Some(Size {
            rows: 24,
            columns: 80,
        });
        job.env.push(("TERM".into(), "linux".into()));
        assert_eq!(
            job.encode(),
            b"terminal=24x80\0env=TERM=linux\0--\0echo\0a b\0--\0"
        );
    }
}
