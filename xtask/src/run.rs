//! `cargo xtask run`: builds as the user and raises privilege for the last step only.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::error::hinted;
use crate::workspace::Workspace;
use crate::{build, process};

/// In the order of preference; pkexec last because it changes the directory and asks on the desktop.
const PRIVILEGE_PROGRAMS: [&str; 3] = ["sudo", "doas", "pkexec"];

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask run                          the same as `cargo xtask run -- trace`
  cargo xtask run -- --port 80             the same as `cargo xtask run -- trace --port 80`
  cargo xtask run -- trace --help          what tracer can trace
  TRACER_SUDO='sudo -n' cargo xtask run    raise privilege in your own way

tracer is built as you and only the finished program is run with sudo, doas or pkexec.")]
pub(crate) struct Args {
    /// Arguments for tracer
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    args: Vec<OsString>,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    let tracer = build::tracer(&Workspace::find()?)?;
    let mut words = privilege()?;
    words.push(tracer.into_os_string());
    words.extend(words_for_tracer(&args.args));
    // exec: signals, the terminal and the exit code are tracer's own.
    let error = Command::new(&words[0]).args(&words[1..]).exec();
    Err(error).with_context(|| format!("failed to run: {}", words[0].display()))
}

/// What tracer is given: `trace` is meant where no command is named.
fn words_for_tracer(typed: &[OsString]) -> Vec<OsString> {
    let mut words = typed.to_vec();
    let of_tracer_itself = ["-h", "--help", "-V", "--version"];
    let names_command = typed.first().is_some_and(|first| {
        let first = first.to_string_lossy();
        !first.starts_with('-') || of_tracer_itself.contains(&first.as_ref())
    });
    if !names_command {
        words.insert(0, "trace".into());
    }
    words
}

/// The words to put before a program that must run as root; none for root.
fn privilege() -> Result<Vec<OsString>> {
    if nix::unistd::geteuid().is_root() {
        return Ok(Vec::new());
    }
    if let Some(words) = env::var("TRACER_SUDO")
        .ok()
        .filter(|words| !words.trim().is_empty())
    {
        return Ok(words.split_whitespace().map(OsString::from).collect());
    }
    PRIVILEGE_PROGRAMS
        .iter()
        .find_map(|program| process::find(program))
        .map_or_else(
            || {
                Err(hinted(
                    "failed to run: tracer: it needs root, and sudo, doas and pkexec are not on PATH",
                    "set TRACER_SUDO to the command that runs a program as root, or run this command as root",
                ))
            },
            |program| Ok(vec![program.into_os_string()]),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_is_meant_where_no_command_is_named() {
        let given = |typed: &str| {
            let typed: Vec<_> = typed.split_whitespace().map(OsString::from).collect();
            words_for_tracer(&typed).join(&OsString::from(" "))
        };
        assert_eq!(given(""), "trace");
        assert_eq!(given("--port 80"), "trace --port 80");
        assert_eq!(given("doctor"), "doctor");
        assert_eq!(given("--help"), "--help");
        assert_eq!(given("trace --help"), "trace --help");
    }
}
