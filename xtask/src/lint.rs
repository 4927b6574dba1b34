//! `cargo xtask lint`: format and lints, also of the eBPF programs, which plain cargo leaves out.

use std::env;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::build;
use crate::workspace::Workspace;

#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn command(_: &Args) -> Result<()> {
    let ws = Workspace::find()?;
    let cargo = |arguments: &[&str]| {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&ws.root).args(arguments);
        cargo
    };
    check(cargo(&["fmt", "--all", "--check"]))?;
    check(cargo(&["clippy", "--all-targets", "--", "-Dwarnings"]))?;
    let mut ebpf = build::ebpf_cargo(&ws, "clippy")?;
    ebpf.args(["--", "-Dwarnings"]).stdout(Stdio::null());
    check(ebpf)
}

fn check(mut command: Command) -> Result<()> {
    let words: Vec<_> = command
        .get_args()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let what = format!("cargo {}", words.join(" "));
    let status = command
        .status()
        .with_context(|| format!("failed to run: {what}"))?;
    ensure!(status.success(), "failed to pass: {what}");
    Ok(())
}
