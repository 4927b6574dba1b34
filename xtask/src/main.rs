//! Development commands of tracer: `cargo xtask <command>`.
//!
//! Every command finds or installs just what it needs first, so any of them works in a fresh clone.

mod bench;
mod build;
mod demo;
mod dist;
mod error;
mod golden;
mod interrupts;
mod lint;
mod oracle;
mod process;
mod progress;
mod run;
mod setup;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
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
  cargo xtask demo                     see it at work on a Kubernetes node in a test machine
  cargo xtask test                     all tests; `unit` or `vm` for one part of them
  cargo xtask oracle                   random rulesets and packets, held against the kernel's TRACE
  cargo xtask bench                    what tracing costs each packet
  cargo xtask vm                       a shell in a test machine
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
    /// Show tracer at work on a node in a test machine
    Demo(demo::Args),
    /// Make a release archive: a static binary, man pages, completions
    Dist(dist::Args),
    /// Check format and lints, also of the eBPF programs
    Lint(lint::Args),
    /// Make anew what `tracer show` is held against: a recording, and what each format shows of it
    Golden(golden::Args),
    /// Run the tests: unit tests here, scenarios in a test machine of each kernel
    Test(test::Args),
    /// Hold tracer against the kernel's TRACE with random rulesets and packets
    Oracle(oracle::Args),
    /// Count what tracing costs each packet, in instructions of a test machine
    Bench(bench::Args),
    /// Run a command or a shell in a test machine
    Vm(vm::Args),
}

fn main() -> ExitCode {
    match run_command(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            error::report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run_command(command: Command) -> Result<ExitCode> {
    interrupts::watch()?;
    let done = |()| ExitCode::SUCCESS;
    match command {
        Command::Setup(args) => setup::command(&args).map(done),
        Command::Build(args) => build::command(&args).map(done),
        Command::Run(args) => run::command(&args).map(done),
        Command::Demo(args) => demo::command(args),
        Command::Dist(args) => dist::command(&args).map(done),
        Command::Lint(args) => lint::command(&args).map(done),
        Command::Golden(args) => golden::command(&args),
        Command::Test(args) => test::command(&args),
        Command::Oracle(args) => oracle::command(&args),
        Command::Bench(args) => bench::command(&args),
        Command::Vm(args) => vm::command(args),
    }
}
