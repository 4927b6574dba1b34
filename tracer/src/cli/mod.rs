//! What was typed, what is done about it, and how it ends.

pub mod doctor;
pub mod exit;

use std::io;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::exit::Exit;
use crate::kernel::machine::Machine;

/// Shows which iptables tables, chains and rules a packet passes, without touching the node.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says whether this node can be traced, and if not, why and what to do.
    Doctor,
}

/// Runs what was typed and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Doctor => doctor::run(&Machine::this()),
    };
    let exit = match result {
        Ok(exit) => exit,
        // Whoever read the output has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
        Err(error) => {
            anstream::eprintln!("error: failed to write the report: {error}");
            Exit::Failed
        }
    };
    exit.into()
}
