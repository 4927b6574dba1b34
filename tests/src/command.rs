//! Runs tools of the guest.

use std::ffi::OsStr;
use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a tool; the words of the line are its arguments. Returns its standard output.
///
/// # Errors
///
/// When the tool cannot be run or fails; the error holds what the tool said.
pub fn run(line: &str) -> Result<String> {
    run_with(line, "")
}

/// The same, with something to read on standard input.
///
/// # Errors
///
/// As of [`run`].
pub fn run_with(line: &str, input: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let program = words.next().context("failed to run: empty command")?;
    output(Command::new(program).args(words), input)
}

/// Runs a command that was built elsewhere.
///
/// # Errors
///
/// As of [`run`].
pub fn output(command: &mut Command, input: &str) -> Result<String> {
    let line = describe(command);
    let failed = || format!("failed to run: {line}");
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().with_context(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends early tells why itself.
        drop(stdin.write_all(input.as_bytes()));
    }
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().with_context(failed)?;
    if !status.success() {
        bail!(
            "failed to run: {line}: {status}: {}",
            String::from_utf8_lossy(&stderr).trim()
        );
    }
    String::from_utf8(stdout).with_context(failed)
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A process that is ended when this is dropped.
#[derive(Debug)]
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
