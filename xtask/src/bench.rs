//! `cargo xtask bench`: what tracing costs each packet, counted in a guest whose clock counts instructions.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::setup::Series;
use crate::vm::{Accelerator, Job, Lab, VmOptions};
use crate::workspace::Workspace;

/// Options of `cargo xtask bench`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench                                  everything; takes long, most of it in 10,000 services
  cargo xtask bench --ruleset small --kernel 6.1     one table
  cargo xtask bench --ruleset small --packets 50 --rounds 1    does it work at all?
  cargo xtask bench --json target/cost.json          the figures for a script
  cargo xtask bench --ruleset small --case rules --case match --case bpftrace --case pwru    beside other tracers

A packet is a datagram over loopback, from its sending to its being read. Rounds in which another process got the
processor do not count; after some of them rounds become shorter. Cases:
  no-rules          no table exists
  rules             the ruleset is loaded
  no-match          tracer follows other packets
  verify-no-match   the same with --verify
  match             tracer follows these packets; what the packet pays until its whole path is in the buffer
  match-user-space  what tracer's process pays for it: read, replay, write
  detached          tracer has ended
  trace             a TRACE rule, and the kernel's log
Only where they are asked for:
  programs          what each of tracer's programs takes of match, with the counting itself
  bpftrace          bpftrace prints ipt_do_table's arguments and verdict for every packet
  pwru-table        pwru shows ipt_do_table for these packets
  pwru-no-match     pwru is at all functions that take a packet, for other packets
  pwru              the same for these packets
pwru and bpftrace are Debian's; the first time 67 MB are downloaded to target/vm/peers. Remove that for newer ones.")]
pub(crate) struct Args {
    /// Kernel to measure on; all if there is none
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<Series>,
    /// Rules: small, small-nftables, nodeport, calico, kube-proxy-1000, kube-proxy-10000; all if there is none
    #[arg(long, value_name = "NAME")]
    ruleset: Vec<String>,
    /// Only these cases
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Packets of a round
    #[arg(long, value_name = "N", default_value_t = 500)]
    packets: u16,
    /// Rounds; the middle one counts
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: u16,
    /// Write the figures to this file, as a list of {kernel, ruleset, case, instructions_per_packet}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One figure.
struct Figure {
    kernel: Series,
    ruleset: String,
    case: String,
    instructions_per_packet: u64,
}

/// Counting takes one thread of the host, however many it has: minutes for the largest rulesets.
const LIMIT: Duration = Duration::from_secs(3 * 3600);
const BOOT_LIMIT: Duration = Duration::from_secs(300);
/// For 70,000 rules, in the kernel, in the tools and in tracer.
const MEMORY_MIB: u32 = 3072;

/// Measures, and prints a table for each kernel.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let series = if args.kernel.is_empty() {
        Series::ALL.to_vec()
    } else {
        args.kernel.clone()
    };
    let mut lab = Lab::open(Workspace::find()?, &series)?;
    if args.case.iter().any(|case| needs_peer(case)) {
        lab.add_peers()?;
    }
    let mut figures = Vec::new();
    for kernel in lab.kernels() {
        eprintln!("bench: kernel {}", kernel.release);
        let options = VmOptions {
            memory_mib: MEMORY_MIB,
            processors: 1,
            boot_limit: BOOT_LIMIT,
            ..VmOptions::new(Accelerator::Counting)
        };
        let mut output = Vec::new();
        let outcome = lab.run_with(
            &options,
            kernel,
            Some(LIMIT),
            &job(args),
            &mut output,
            &mut io::stderr(),
        )?;
        let found = read(kernel.series, &String::from_utf8_lossy(&output))?;
        print!("{}", table(&found));
        figures.extend(found);
        if outcome.code != 0 {
            let console = outcome.console.unwrap_or_default();
            bail!(
                "failed to measure: kernel {}: see above; the console is in {}",
                kernel.series,
                console.display()
            );
        }
    }
    if let Some(path) = &args.json {
        fs::write(path, list(&figures)).with_context(|| format!("failed to write: {}", path.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the machine must have other tracers for a case: these begin with the tracer's name.
fn needs_peer(case: &str) -> bool {
    ["bpftrace", "pwru"].iter().any(|peer| case.starts_with(peer))
}

fn job(args: &Args) -> Job {
    let mut job = Job::command(["bench"]);
    let numbers = [("--packets", args.packets), ("--rounds", args.rounds)];
    job.argv.extend(
        numbers
            .into_iter()
            .flat_map(|(name, value)| [name.into(), value.to_string().into()]),
    );
    let names = args.ruleset.iter().map(|name| ("--ruleset", name));
    let names = names.chain(args.case.iter().map(|name| ("--case", name)));
    job.argv
        .extend(names.flat_map(|(option, name)| [option.into(), name.into()]));
    job
}

/// Reads lines of ruleset, case and instructions.
fn read(kernel: Series, text: &str) -> Result<Vec<Figure>> {
    text.lines()
        .map(|line| {
            let mut words = line.split('\t');
            let (Some(ruleset), Some(case), Some(number)) = (words.next(), words.next(), words.next()) else {
                bail!("failed to read figure: {line}");
            };
            Ok(Figure {
                kernel,
                ruleset: ruleset.to_owned(),
                case: case.to_owned(),
                instructions_per_packet: number
                    .parse()
                    .with_context(|| format!("failed to read figure: {line}"))?,
            })
        })
        .collect()
}

/// The figures of a kernel, each with what it adds to the rules alone.
fn table(figures: &[Figure]) -> String {
    let mut text = String::new();
    for figure in figures {
        let rules = figures
            .iter()
            .find(|other| other.ruleset == figure.ruleset && other.case == "rules");
        let added = match (rules, figure.case.as_str()) {
            // What user space takes is another process'.
            (Some(_), "no-rules" | "rules" | "match-user-space") | (None, _) => String::new(),
            (_, case) if case.starts_with("program:") => String::new(),
            (Some(rules), _) => {
                let (now, before) = (
                    i128::from(figure.instructions_per_packet),
                    i128::from(rules.instructions_per_packet),
                );
                format!("{:+}", now - before)
            }
        };
        let _ = writeln!(
            text,
            "{:<5} {:<17} {:<17} {:>10} {added:>10}",
            figure.kernel.to_string(),
            figure.ruleset,
            figure.case,
            figure.instructions_per_packet
        );
    }
    text
}

fn list(figures: &[Figure]) -> String {
    let list: Vec<_> = figures
        .iter()
        .map(|figure| {
            json!({
                "kernel": figure.kernel.to_string(),
                "ruleset": figure.ruleset,
                "case": figure.case,
                "instructions_per_packet": figure.instructions_per_packet,
            })
        })
        .collect();
    format!("{:#}\n", serde_json::Value::from(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_read_and_compared_with_the_rules() {
        let figures = read(Series::V6_1, "small\trules\t11922\nsmall\ttrace\t94447\n").unwrap();
        assert_eq!(
            table(&figures),
            "6.1   small             rules                  11922           \n\
             6.1   small             trace                  94447     +82525\n"
        );
        assert!(list(&figures).contains("\"instructions_per_packet\": 94447"));
        assert!(read(Series::V6_1, "small\trules").is_err());
    }
}
