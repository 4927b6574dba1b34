//! Runs a campaign of the random oracle in a guest; the last line of its output is the sum.

use std::process::ExitCode;

use clap::Parser;
use tests::campaign::{self, Campaign};

/// The random oracle.
#[derive(Parser)]
struct Cli {
    /// Which iptables: only legacy
    #[arg(long, default_value = "legacy", value_parser = ["legacy"])]
    backend: String,
    /// Rulesets to try
    #[arg(long, default_value_t = 50)]
    rulesets: u64,
    /// Everything follows from it
    #[arg(long)]
    seed: u64,
    /// Only the ruleset of this number
    #[arg(long)]
    only: Option<u64>,
    /// Look for a small ruleset that still differs
    #[arg(long)]
    shrink: bool,
    /// Print rulesets and all lines
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let campaign = Campaign {
        seed: cli.seed,
        rulesets: cli.rulesets,
        only: cli.only,
        shrink: cli.shrink,
        verbose: cli.verbose,
    };
    let outcome = match campaign::run(&campaign) {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    for (reason, count) in &outcome.partial {
        println!("partial, {count}: {reason}");
    }
    println!(
        "{} of {} rulesets identical, {} steps, {} partial",
        outcome.identical,
        outcome.tried,
        outcome.steps,
        outcome.partial.values().sum::<usize>()
    );
    if outcome.identical == outcome.tried && outcome.tried > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
