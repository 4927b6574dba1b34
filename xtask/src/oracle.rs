//! `cargo xtask oracle`: random rulesets and packets, tracer against the kernel's TRACE, in a guest.

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::setup::Series;
use crate::vm::{Job, Lab, VmOptions};
use crate::workspace::Workspace;

/// Options of `cargo xtask oracle`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask oracle                               50 rulesets on kernel 6.12, with a fresh seed
  cargo xtask oracle --kernel 5.10 --rulesets 500
  cargo xtask oracle --seed 7 --only 12 --shrink   one ruleset again, and a smaller one that differs too

The last line of standard output is the sum; the exit code is 1 if there is any difference.")]
pub(crate) struct Args {
    /// Whose rules: legacy tables, iptables on nf_tables, or nft
    #[arg(long, value_name = "BACKEND", default_value = "legacy", value_parser = ["legacy", "iptables-nft", "nft"])]
    backend: String,
    /// Kernel to boot
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: Series,
    /// Rulesets to try
    #[arg(long, value_name = "N", default_value_t = RULESETS)]
    rulesets: u64,
    /// Everything follows from it; a fresh one is printed
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Begin with the ruleset of this number
    #[arg(long, value_name = "INDEX", default_value_t = 0)]
    first: u64,
    /// Only the ruleset of this number
    #[arg(long, value_name = "INDEX")]
    only: Option<u64>,
    /// Look for a smaller ruleset that differs too (up to two minutes for each that differs)
    #[arg(long)]
    shrink: bool,
    /// Print rulesets and all lines
    #[arg(long)]
    verbose: bool,
    /// Have tracer hold its paths against the kernel's own steps too, with --backend legacy
    #[arg(long)]
    verify: bool,
}

/// As many as `cargo xtask test` runs on each kernel.
pub(crate) const RULESETS: u64 = 50;
/// For the boot, and for each ruleset on a busy machine.
const LIMITS: [Duration; 2] = [Duration::from_secs(240), Duration::from_secs(15)];

/// A seed that nobody has seen.
pub(crate) fn fresh_seed() -> u64 {
    // Small enough to be typed.
    RandomState::new().hash_one(0) % 1_000_000_000
}

/// The campaign as a job of a guest.
pub(crate) fn job(backend: &str, kernel: Series, rulesets: u64, seed: u64) -> Job {
    let mut job = Job::command(["oracle", "--backend", backend]);
    let options = [("--rulesets", rulesets), ("--seed", seed)];
    job.argv.extend(
        options
            .into_iter()
            .flat_map(|(name, value)| [name.into(), value.to_string().into()]),
    );
    // For the command that it prints.
    job.env
        .push(("TRACER_TEST_SERIES".into(), kernel.to_string().into()));
    job
}

/// Runs a campaign; what it prints goes to standard output, its progress to standard error.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(fresh_seed);
    let mut job = job(&args.backend, args.kernel, args.rulesets, seed);
    job.argv.extend(["--first".into(), args.first.to_string().into()]);
    if let Some(only) = args.only {
        job.argv.extend(["--only".into(), only.to_string().into()]);
    }
    job.argv.extend(args.shrink.then(|| "--shrink".into()));
    job.argv.extend(args.verbose.then(|| "--verbose".into()));
    job.argv.extend(args.verify.then(|| "--verify".into()));
    let lab = Lab::open(Workspace::find()?, &[args.kernel])?;
    let kernel = lab
        .kernels()
        .first()
        .context("failed to start guest: no kernel")?;
    eprintln!(
        "oracle: {} on kernel {}, seed {seed}",
        args.backend, kernel.release
    );
    let rulesets = u32::try_from(args.rulesets).context("failed to run: too many rulesets")?;
    let shrinking = if args.shrink {
        Duration::from_secs(600)
    } else {
        Duration::ZERO
    };
    let limit = LIMITS[0] + LIMITS[1] * rulesets + shrinking;
    // One thing happens at a time.
    let options = VmOptions {
        processors: 1,
        ..lab.options().clone()
    };
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let outcome = lab.run_with(&options, kernel, Some(limit), &job, &mut stdout, &mut stderr)?;
    if let Some(console) = outcome.console {
        eprintln!("hint: the console is in {}", console.display());
    }
    Ok(ExitCode::from(outcome.code))
}
