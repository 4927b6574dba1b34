//! `cargo xtask demo`: tracer at work on the node of the `NodePort` article, in a guest.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::setup::Series;
use crate::vm::{Job, Lab};
use crate::workspace::Workspace;

const LIMIT: Duration = Duration::from_secs(300);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel to boot
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: Series,
    /// Output format of tracer
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Boots the guest and runs the demonstration there; tracer's output is all that goes to standard output.
pub(crate) fn command(args: Args) -> Result<ExitCode> {
    let mut argv = vec!["demo".to_owned()];
    argv.extend(
        args.format
            .into_iter()
            .flat_map(|format| ["--format".to_owned(), format]),
    );
    let lab = Lab::open(Workspace::find()?, &[args.kernel])?;
    let kernel = lab
        .kernels()
        .first()
        .context("failed to start guest: no kernel")?;
    eprintln!("demo: booting kernel {}", kernel.release);
    let outcome = lab.run(
        kernel,
        Some(LIMIT),
        &Job::command(argv),
        &mut io::stdout(),
        &mut io::stderr(),
    )?;
    if let Some(console) = outcome.console {
        eprintln!("hint: the console is in {}", console.display());
    }
    Ok(ExitCode::from(outcome.code))
}
