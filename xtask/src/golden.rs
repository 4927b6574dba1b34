//! `cargo xtask golden`: makes the recording anew that `tracer/tests/show.rs` is about, and what each format shows of it.
//! git tells what has changed.

use std::env;
use std::fs;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::demo;
use crate::setup::Series;
use crate::workspace::Workspace;

/// What the test is told by to write the files instead of comparing them.
const RENEW: &str = "TRACER_GOLDEN_RENEW";

/// Options of `cargo xtask golden`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel to record on
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: Series,
    /// Keep the recording, and only make anew what is shown of it
    #[arg(long)]
    shown: bool,
}

pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let ws = Workspace::find()?;
    let file = ws.root.join("tests/fixtures/golden/nodeport-local.rec");
    if let Some(directory) = file.parent() {
        fs::create_dir_all(directory)
            .with_context(|| format!("failed to create: {}", directory.display()))?;
    }
    if !args.shown {
        // Beside it, so that what is there is not lost if the guest fails.
        let new = file.with_extension("rec.new");
        let code = demo::command(demo::Args::recording(args.kernel, new.clone()))?;
        if code != ExitCode::SUCCESS {
            return Ok(code);
        }
        fs::rename(&new, &file).with_context(|| format!("failed to write: {}", file.display()))?;
    }
    let mut test = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    test.current_dir(&ws.root)
        .args(["test", "--quiet", "--package", "tracer", "--test", "show", "--"])
        .args(["--exact", "every_format_shows_what_it_has_shown"])
        .env(RENEW, "1");
    let status = test.status().context("failed to run: cargo test")?;
    ensure!(status.success(), "failed to run: cargo test: {status}");
    eprintln!("golden: written; `git diff tests/fixtures/golden` tells what has changed");
    Ok(ExitCode::SUCCESS)
}
