//! `tracer doctor`: says whether this node can be traced, and if not, why and what to do.

mod json;

use std::io::{self, Write};

use anstyle::{AnsiColor, Style};

use anyhow::Context as _;
use clap::Args;

use super::exit::{Exit, Failure};
use crate::kernel::attach::Attached;
use crate::kernel::machine::Machine;
use crate::kernel::preflight::{self, Families, Finding, Outcome, Report};
use crate::kernel::probes::{Form, Place, Probe};
use crate::netns::Netns;
use crate::nftables::source;

const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default().bold();
const BOLD: Style = Style::new().bold();

/// Arguments of `tracer doctor`.
#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// For programs: one JSON object (docs/doctor.schema.json)
    #[arg(long)]
    json: bool,
}

/// Checks `machine` and prints the report to standard output, in colour if that is a terminal.
///
/// # Errors
///
/// If standard output cannot be written.
pub fn run(args: &DoctorArgs, machine: &Machine) -> Result<Exit, Failure> {
    let mut report = preflight::check(machine, Families::ALL);
    report.findings.extend(returns(&report));
    report.findings.extend(not_followed(&report));
    let printed = if args.json {
        let kernel = machine.read("proc/sys/kernel/osrelease").unwrap_or_default();
        json::write(&report, kernel.trim(), &mut io::stdout().lock())
    } else {
        print(&report, &mut anstream::stdout().lock())
    };
    match printed {
        // Whoever closed the pipe has read enough.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("failed to write: standard output")?
        }
        _ => Ok(report.first_obstacle().map_or(Exit::Done, Exit::from)),
    }
}

/// How the returns of functions are seen that no trampoline is on, where they are understood.
fn returns(report: &Report) -> Option<Finding> {
    if report.first_obstacle().is_some() {
        return None;
    }
    let by_kprobe = |probe: &&Probe| probe.form == Form::AtReturns && probe.place.is_found();
    let probes = report.probes.iter().filter(by_kprobe);
    let functions: Vec<&str> = probes.map(|probe| probe.function).collect();
    if functions.is_empty() {
        return None;
    }
    let (offsets, btf) = (report.resolved.as_ref()?.offsets, report.btf.clone()?);
    let unknown = Attached::return_probes(offsets, btf, &functions).ok()?;
    let (seen, outcome) = if unknown.is_empty() {
        ("where the code of these functions returns", Outcome::Ok)
    } else {
        let why: Vec<String> = unknown
            .iter()
            .map(|probe| format!("{}: {}", probe.function, probe.cause))
            .collect();
        let meaning = format!(
            "a packet that REJECT or TEE sends within a table may be missed, and is counted: {}",
            why.join("; ")
        );
        let hint =
            "end other tools that probe the kernel: `cat /sys/kernel/debug/kprobes/list` lists probes".into();
        ("by return probes", Outcome::Warn { meaning, hint })
    };
    Some(Finding {
        name: "returns",
        seen: format!("{seen}: {}", functions.join(", ")),
        outcome,
    })
}

/// Tables of nf_tables in this network namespace that packets pass unseen. Only asked for where nf_tables is loaded, and
/// can be traced at all.
fn not_followed(report: &Report) -> Option<Finding> {
    if !report.traces_nftables() {
        return None;
    }
    let ruleset = source::ruleset(&Netns::current().ok()?).ok()?;
    let tables: Vec<String> = ruleset.not_followed().collect();
    (!tables.is_empty()).then(|| Finding {
        name: "other families",
        seen: tables.join(", "),
        outcome: Outcome::Warn {
            meaning:
                "only tables of the families ip, ip6 and inet are followed; these may drop packets unseen"
                    .into(),
            hint: "`nft list ruleset` shows them".into(),
        },
    })
}

/// Writes the verdict; one line for each check, with explanations under those that are not in order; and the probes.
fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    let warned = |finding: &Finding| matches!(finding.outcome, Outcome::Warn { .. });
    match report.first_obstacle() {
        None if report.findings.iter().any(warned) => writeln!(
            out,
            "{BOLD}this node can be traced{BOLD:#}, with what is marked ! below\n"
        )?,
        None => writeln!(out, "{BOLD}this node can be traced{BOLD:#}\n")?,
        Some(obstacle) => {
            writeln!(out, "{BOLD}this node cannot be traced:{BOLD:#} {obstacle}")?;
            writeln!(out, "{BOLD}hint:{BOLD:#} {}\n", obstacle.hint())?;
        }
    }
    for finding in &report.findings {
        print_finding(finding, out)?;
    }
    writeln!(out, "\n{BOLD}probes{BOLD:#} and where they go")?;
    for probe in &report.probes {
        let (mark, place) = match &probe.place {
            Place::Missing if probe.optional => (
                mark(Style::new(), "-"),
                "not in this kernel, not needed".to_owned(),
            ),
            // That the function is there does not mean that a probe can be put on it.
            place if place.is_found() && report.first_obstacle().is_some() => {
                (mark(Style::new(), "·"), place.to_string())
            }
            place if place.is_found() => (mark(GREEN, "✓"), place.to_string()),
            place => (mark(YELLOW, "!"), place.to_string()),
        };
        writeln!(
            out,
            "{mark} {:<15} {:<22} {place}",
            probe.form.name(),
            probe.function
        )?;
    }
    Ok(())
}

fn print_finding(finding: &Finding, out: &mut impl Write) -> io::Result<()> {
    let Finding { name, seen, outcome } = finding;
    let (mark, more) = match outcome {
        Outcome::Ok => (mark(GREEN, "✓"), None),
        Outcome::Warn { meaning, hint } => (mark(YELLOW, "!"), Some((meaning.clone(), hint.clone()))),
        Outcome::Fail(obstacle) => (mark(RED, "✗"), Some((obstacle.to_string(), obstacle.hint()))),
    };
    writeln!(out, "{mark} {name:<18} {seen}")?;
    if let Some((meaning, hint)) = more {
        writeln!(out, "    {meaning}")?;
        writeln!(out, "    {BOLD}hint:{BOLD:#} {hint}")?;
    }
    Ok(())
}

fn mark(style: Style, sign: &str) -> String {
    format!("{style}{sign}{style:#}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::obstacle::{Obstacle, Privilege};
    use crate::kernel::probes;

    fn text(report: &Report) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        print(report, &mut out).unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    fn without_privileges() -> Report {
        let missing = Privilege::Missing(vec!["CAP_BPF"]);
        Report {
            findings: vec![
                Finding {
                    name: "privileges",
                    seen: "without CAP_BPF".into(),
                    outcome: Outcome::Fail(Obstacle::Privilege(missing)),
                },
                Finding {
                    name: "kprobes",
                    seen: "can be created".into(),
                    outcome: Outcome::Ok,
                },
            ],
            probes: probes::list(&[], None, false),
            preempted: false,
            resolved: None,
            btf: None,
        }
    }

    #[test]
    fn a_failing_check_is_explained() {
        assert_eq!(
            text(&without_privileges()),
            "\
this node cannot be traced: not permitted: tracing needs root, and this process lacks CAP_BPF
hint: run it as root: `sudo tracer …`; in a container, `--privileged`, or add the capabilities named

✗ privileges         without CAP_BPF
    not permitted: tracing needs root, and this process lacks CAP_BPF
    hint: run it as root: `sudo tracer …`; in a container, `--privileged`, or add the capabilities named
✓ kprobes            can be created

probes and where they go
! raw tracepoint  kfree_skb              not found
! raw tracepoint  consume_skb            not found
! kprobe          kfree_skbmem           not found
- kprobe          kfree_skb_partial      not in this kernel, not needed
- kprobe          skb_attempt_defer_free not in this kernel, not needed
! kprobe          xt_free_table_info     not found
! kretprobe       xt_alloc_table_info    not found
- kprobe          xt_replace_table       not in this kernel, not needed
! kretprobe       xt_find_table_lock     not found
! kprobe          xt_find_table_lock     not found
! kretprobe       ipt_do_table           not found
! kprobe          ipt_do_table           not found
! kretprobe       ip6t_do_table          not found
! kprobe          ip6t_do_table          not found
! kretprobe       nf_tables_commit       not found
! kprobe          nf_tables_commit       not found
! kprobe          __nft_trace_packet     not found
! kretprobe       nft_do_chain           not found
! kprobe          nft_do_chain           not found
"
        );
    }

    #[test]
    fn the_verdict_comes_first() {
        let warn = Outcome::Warn {
            meaning: "something".into(),
            hint: "something".into(),
        };
        let mut report = without_privileges();
        for (outcome, verdict) in [
            (Outcome::Ok, "this node can be traced\n\n"),
            (warn, "this node can be traced, with what is marked ! below\n\n! "),
        ] {
            report.findings[0].outcome = outcome;
            let text = text(&report);
            assert!(text.starts_with(verdict), "{text}");
        }
    }

    #[test]
    fn json_is_what_the_schema_says() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../../docs/doctor.schema.json")).unwrap();
        let mut schemas = boon::Schemas::new();
        let mut compiler = boon::Compiler::new();
        compiler.add_resource("doctor.schema.json", schema).unwrap();
        let schema = compiler.compile("doctor.schema.json", &mut schemas).unwrap();
        let mut report = without_privileges();
        for traceable in [false, true] {
            if traceable {
                report.findings.remove(0);
            }
            let mut bytes = Vec::new();
            json::write(&report, "6.12.0", &mut bytes).unwrap();
            let mut object: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            schemas
                .validate(&object, schema)
                .unwrap_or_else(|error| panic!("{error}\n{object:#}"));
            assert_eq!(object["traceable"], traceable);
            assert_eq!(object["exit_code"], if traceable { 0 } else { 3 });
            // The schema does look.
            object["checks"][0]["surprise"] = 1.into();
            assert!(schemas.validate(&object, schema).is_err());
        }
    }
}
