//! Measures in a guest; each line of its output is a figure: ruleset, case, instructions for each packet.

use std::io::{self, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use tests::bench::{self, Case, Effort, Ruleset};
use tests::trace_log;

/// What tracing costs.
#[derive(Parser)]
struct Cli {
    /// Rules; all if there is none
    #[arg(long, value_parser = ruleset)]
    ruleset: Vec<Ruleset>,
    /// Situations; all if there is none
    #[arg(long, value_parser = case)]
    case: Vec<Case>,
    /// Packets of a round
    #[arg(long, default_value_t = 500)]
    packets: u16,
    /// Rounds; the middle one counts
    #[arg(long, default_value_t = 5)]
    rounds: u16,
}

fn ruleset(name: &str) -> Result<Ruleset, String> {
    Ruleset::by_name(name).ok_or_else(|| format!("no ruleset {name}"))
}

fn case(name: &str) -> Result<Case, String> {
    Case::by_name(name).ok_or_else(|| format!("no case {name}"))
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    trace_log::allow_all_namespaces()?;
    let effort = Effort {
        packets: cli.packets,
        rounds: cli.rounds,
    };
    let rulesets = if cli.ruleset.is_empty() {
        Ruleset::ALL.to_vec()
    } else {
        cli.ruleset.clone()
    };
    let cases = if cli.case.is_empty() {
        let mut cases = Case::ALL.to_vec();
        cases.retain(|case| !case.is_extra());
        cases
    } else {
        cli.case.clone()
    };
    for ruleset in rulesets {
        bench::run(ruleset, &cases, effort, &mut |figure| {
            let line = format!(
                "{}\t{}\t{}\n",
                figure.ruleset, figure.case, figure.instructions_per_packet
            );
            // A closed output shows at the end.
            drop(io::stdout().write_all(line.as_bytes()));
        })
        .with_context(|| format!("failed to measure: {}", ruleset.name()))?;
    }
    io::stdout().flush().context("failed to write")
}
