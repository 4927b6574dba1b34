//! Runs a campaign of the random oracle in a guest; the last line of its output is the sum.

use std::process::ExitCode;

use clap::Parser;
use tests::campaign::nft::{self, Tools};
use tests::campaign::{self, Campaign};

/// The random oracle.
#[derive(Parser)]
struct Cli {
    /// Whose rules
    #[arg(long, default_value = "legacy", value_parser = ["legacy", "iptables-nft", "nft"])]
    backend: String,
    /// Rulesets to try
    #[arg(long, default_value_t = 50)]
    rulesets: u64,
    /// Everything follows from it
    #[arg(long)]
    seed: u64,
    /// Begin with the ruleset of this number
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Only the ruleset of this number
    #[arg(long)]
    only: Option<u64>,
    /// Look for a small ruleset that still differs
    #[arg(long)]
    shrink: bool,
    /// Print rulesets and all lines
    #[arg(long)]
    verbose: bool,
    /// Hold paths against the kernel's own steps too
    #[arg(long)]
    verify: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let campaign = Campaign {
        seed: cli.seed,
        rulesets: cli.rulesets,
        first: cli.first,
        only: cli.only,
        shrink: cli.shrink,
        verbose: cli.verbose,
        verify: cli.verify,
    };
    let outcome = match cli.backend.as_str() {
        "iptables-nft" => nft::run(&campaign, Tools::Iptables),
        "nft" => nft::run(&campaign, Tools::Native),
        _ => campaign::run(&campaign),
    };
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    for (reason, count) in &outcome.partial {
        println!("partial, {count}: {reason}");
    }
    println!("{outcome}");
    if outcome.identical == outcome.tried && outcome.tried > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
