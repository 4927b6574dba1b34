//! The command line: what was typed, what will be done, and the exit code.

pub mod doctor;
mod doubts;
pub mod exit;
pub mod filter;
mod guard;
mod habits;
mod live;
mod recorder;
pub mod results;
pub mod show;
mod summary;
pub mod trace;

use std::{
    env,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser, Subcommand};

use self::exit::{Exit, Failure};
use crate::kernel::machine::Machine;

/// Shows which iptables rules a packet hits, without touching the node
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
  tracer trace --port 32275              packets of this port, also after NAT
  tracer trace 'tcp and not port 22'     a filter in tcpdump's syntax
  tracer trace -p icmp --duration 10s    ten seconds of pings
  tracer trace -t filter --hook FORWARD  what filter says of forwarded packets
  tracer drops                           which rule drops packets?
  tracer trace --write node.rec          keep it all; tracer show node.rec

Exit codes:
  0  done
  1  failed while running
  2  wrong command line
  3  not permitted: not root, or the kernel is locked down
  4  the kernel or the node lacks something: BTF, ring buffer, legacy iptables
  5  a recording ends before its trace did; all that is in it was shown";

#[derive(Subcommand, Debug)]
enum Command {
    /// Say whether this node can be traced, and if not, why and what to do
    Doctor(doctor::DoctorArgs),
    /// Follow packets through the tables and print their path
    #[command(after_help = TRACE_HELP)]
    Trace(Box<trace::TraceArgs>),
    /// Print the packets that netfilter drops or rejects, each with the rule that did
    ///
    /// The same as `trace --format drops`; with --stats a table of the rules that drop.
    #[command(after_help = DROPS_HELP)]
    Drops(Box<trace::DropsArgs>),
    /// Show what a trace has kept in a file, on any machine
    #[command(after_help = SHOW_HELP)]
    Show(Box<show::ShowArgs>),
}

impl Command {
    fn name(&self) -> &'static str {
        match self {
            Self::Doctor(_) => "doctor",
            Self::Trace(_) => "trace",
            Self::Drops(_) => "drops",
            Self::Show(_) => "show",
        }
    }
}

/// What is said of filters where they can be given.
macro_rules! expressions {
    () => {
        "\
Expressions:
  As of tcpdump: host, net, port, portrange, proto with src or dst before them;
  ip, ip6, tcp, udp, icmp, icmp6, sctp, esp, ah, gre; less, greater, len;
  tcp[13], ip[2:2], tcp[tcpflags] & tcp-syn != 0; and, or, not, parentheses.
  `and` and `or` bind alike, from left to right. Quote what the shell would eat.
  Lengths count from the IP header. Names are not looked up.

  A packet that satisfies the filter at some table is followed to its end, and
  where conntrack knows its connection, so are all packets of it from then on:
  after NAT, and the replies. So `dst port 80` also shows what comes back, and
  the packet after DNAT to another port. --no-connections follows only what
  matches itself."
    };
}

const DROPS_HELP: &str = concat!(
    expressions!(),
    "

Examples:
  tracer drops                  every packet that a rule, a policy or another hook
                                function drops
  tracer drops 'tcp port 443'   only of these packets
  tracer drops --stats          a live table: how many packets each rule dropped

A line has: time, #packet, DROP or REJECT, the packet, devices, the rule with its
text, and the chains that led to it. What the kernel drops outside of netfilter is
not shown; `tracer trace` shows it."
);

const TRACE_HELP: &str = concat!(
    "\
Formats:
  tree    every packet's whole way: its tables, in each the rules that it met
          with their text, what changed it, how it ended; indented below a rule
          is what it jumped to
  line    one line for each packet: time, #packet, verdict, the packet, the hooks
          that it passed with their devices, what changed it and which rule did
  drops   one line for each packet that netfilter dropped or rejected, with the
          rule and the chains that led to it
  json    one object for each packet, for programs (docs/json.md)
  diagram a drawing of each packet's way from chain to chain; mermaid the same
          for Markdown
  pcapng  the packets with their path as comment, for Wireshark and tshark
  tables  one line for each table: time, #packet (the same number at each of its
          tables), table:CHAIN, verdict, devices, the packet, len, physin and
          physout (bridge ports), ct (conntrack state), mark (before>after where
          it changed), owner of the socket, netns where it is not yours
  log     the lines that the kernel's TRACE target would log; what is not certain
          is in lines that begin with PARTIAL:

tables and log show each table at once, the others a packet when its way is over.
Behind a device stands in parentheses what has its other end, where this machine
knows: a pod, a container, a namespace with a name.

",
    expressions!(),
    "

  Protocol, addresses and ports that all must hold are decided in the kernel,
  like the flags, at next to no cost for other packets. Whatever has or, not or
  a comparison in it is decided by tracer, exactly, on the packets that are
  left: then a narrower part in front of it (tcp and …) keeps the load low.

Ends with ^C, SIGTERM, --count or --duration, and then says on standard error
what was lost, if anything was. SIGUSR1 says so while it runs."
);

const SHOW_HELP: &str = concat!(
    expressions!(),
    "

Needs no root, no eBPF and none of the rules: the recording has everything.
Formats are those of `tracer trace --help`.

Of several recordings, a packet that left one node and came to another is one
journey, by what NAT and tunnels leave alone of it; the nodes' clocks are not
compared. What cannot be told apart is not joined, and says so. What one node's
part satisfies the filter is shown with the parts of all. `tables` and `log` are
merged by time of day.

A recording that was cut off is shown as far as it was written, and a damaged
one as far as it is whole; both are said on standard error, and the exit code is
5, or 1 where it is damaged.

Examples:
  tracer trace --port 32275 --write node.rec   on the node
  tracer show node.rec                         anywhere
  tracer show node.rec tcp --format log        some of it, in another format
  tracer show a.rec b.rec                      two nodes: each packet over both"
);

/// The command line, for what is made of it: man pages, completions.
#[must_use]
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the command that was typed.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let words: Vec<String> = env::args().skip(1).collect();
            if let Some(failure) = habits::instead(&error, &words) {
                return report(&failure).into();
            }
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
        Command::Doctor(args) => doctor::run(args, &machine),
        Command::Trace(args) => trace::run(args, &machine).map(|()| Exit::Done),
        Command::Drops(args) => trace::run(&args.as_trace(), &machine).map(|()| Exit::Done),
        Command::Show(args) => show::run(args),
    };
    let result = result.map_err(|failure| failure.of_command(cli.command.name()));
    result.unwrap_or_else(|failure| report(&failure)).into()
}

fn report(failure: &Failure) -> Exit {
    let _ = writeln!(io::stderr(), "{failure}");
    failure.exit()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn flags_do_not_collide() {
        Cli::command().debug_assert();
    }
}
