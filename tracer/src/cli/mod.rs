//! The command line: what was typed, what will be done, and the exit code.

pub mod doctor;
pub mod exit;
pub mod filter;
pub mod trace;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use self::exit::{Exit, Failure};
use crate::kernel::machine::Machine;

/// Shows which iptables tables a packet passes, and what each said, without touching the node
///
/// No rule, chain, sysctl, module or logger is added or changed, and nothing remains after exit.
#[derive(Parser, Debug)]
#[command(name = "tracer", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tracer doctor                          can this machine be traced?
  tracer trace --port 32275              packets from or to port 32275, also after NAT
  tracer trace -p icmp --duration 10s    ten seconds of pings
  tracer trace -t filter --hook FORWARD  what the filter table says about forwarded packets

Exit codes: 0 done, 1 failed while running, 2 wrong command line, 3 not permitted (not root, kernel locked
down), 4 the kernel or node lacks something (BTF, ring buffer, legacy iptables).";

#[derive(Subcommand, Debug)]
enum Command {
    /// Say whether this node can be traced, and if not, why and what to do
    Doctor,
    /// Follow packets through the tables and print what each table said
    #[command(after_help = TRACE_HELP)]
    Trace(Box<trace::TraceArgs>),
}

const TRACE_HELP: &str = "\
Each line: time, number of the packet (the same at each of its tables), table:CHAIN, verdict, devices, the
packet, length, conntrack state, mark (before>after where it changed), owner of the socket, network namespace
where it is another one than yours.

Ends with ^C, SIGTERM, --count or --duration, and then says on standard error what was lost, if anything was.
SIGUSR1 says so while it runs.";

/// Runs the command that was typed.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows which goes where. A closed pipe is nobody's loss.
            let _ = error.print();
            return if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            }
            .into();
        }
    };
    let machine = Machine::this();
    let result = match &cli.command {
        Command::Doctor => doctor::run(&machine),
        Command::Trace(args) => trace::run(args, &machine).map(|()| Exit::Done),
    };
    result.unwrap_or_else(|failure| report(&failure)).into()
}

fn report(failure: &Failure) -> Exit {
    let _ = writeln!(io::stderr(), "{failure}");
    failure.exit()
}
