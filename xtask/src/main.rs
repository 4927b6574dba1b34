//! Development commands of tracer: `cargo xtask <command>`.
//!
//! Every command finds or installs just what it needs first, so any of them works in a fresh clone.

mod build;
mod error;
mod process;
mod progress;
mod run;
mod setup;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Development commands of tracer"
)]
#[command(after_help = "\
Examples:
  cargo xtask run                      build tracer and trace packets on this machine
  cargo xtask run -- trace --help      any other arguments go to tracer
  cargo xtask setup                    get everything that any command needs, once

Nothing is installed outside target/ and the toolchain without root; where root is needed, the
command to type is printed.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Find or install what the other commands need: toolchain, bpf-linker, QEMU, test kernels
    Setup(setup::Args),
    /// Build the eBPF programs and tracer; print the path of the binary
    Build(build::Args),
    /// Build tracer as you, then run it as root on this machine's kernel
    Run(run::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(args) => setup::command(&args),
        Command::Build(args) => build::command(&args),
        Command::Run(args) => run::command(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error::report(&error);
            ExitCode::FAILURE
        }
    }
}
