//! What is measured: the packet alone, with rules, with a tool looking on.

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::sys::time::TimeValLike as _;

use tracer::nftables::key::TraceKey;

use super::load::{Effort, step_aside};
use super::peers::Peer;
use super::programs;
use super::rulesets::Scene;
use crate::command;
use crate::trace_log;
use crate::tracer::{Summary, Tracer};

/// One situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// No table at all.
    NoRules,
    /// The rules.
    Rules,
    /// The kernel makes its trace calls of nf_tables, and nobody looks.
    TraceKey,
    /// Tracer follows other packets.
    NoMatch,
    /// The same with a second source of steps.
    Verify,
    /// Tracer follows the packets; also gives what its process took for each packet.
    Match,
    /// Tracer has ended.
    Detached,
    /// A TRACE rule, and the kernel's log.
    Trace,
    /// Tracer follows the packets; gives what each of its programs takes for a packet.
    Programs,
    /// Another tracer is at work.
    Peer(Peer),
}

/// Tells a figure: the name of the case, and instructions for each packet.
pub(super) type Found<'a> = &'a mut dyn FnMut(&str, u64);

/// Room for the records of all packets, as user space is not given the processor while packets are sent.
const RING_KIB: u32 = 131_072;
/// Nobody sends there.
const OTHER_PORT: u16 = 9;

impl Case {
    /// All, in an order that makes sense: rules stay, once loaded.
    pub const ALL: [Self; 13] = [
        Self::NoRules,
        Self::Rules,
        Self::TraceKey,
        Self::NoMatch,
        Self::Verify,
        Self::Match,
        Self::Detached,
        Self::Trace,
        Self::Programs,
        Self::Peer(Peer::Bpftrace),
        Self::Peer(Peer::PwruTable),
        Self::Peer(Peer::PwruNoMatch),
        Self::Peer(Peer::Pwru),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoRules => "no-rules",
            Self::Rules => "rules",
            Self::TraceKey => "trace-key",
            Self::NoMatch => "no-match",
            Self::Verify => "verify-no-match",
            Self::Match => "match",
            Self::Detached => "detached",
            Self::Trace => "trace",
            Self::Programs => "programs",
            Self::Peer(peer) => peer.name(),
        }
    }

    /// Whether it is only measured where it is asked for by name.
    #[must_use]
    pub fn is_extra(self) -> bool {
        matches!(self, Self::Programs | Self::Peer(_))
    }

    /// The case of a name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|case| case.name() == name)
    }

    pub(super) fn measure(self, scene: &Scene, effort: Effort, found: Found<'_>) -> Result<()> {
        match self {
            Self::NoRules => found(self.name(), scene.plain.measure_settled(effort)?),
            Self::Rules => {
                scene.load_rules()?;
                // The first packets in a fresh namespace take longer, for a while.
                found(self.name(), scene.load.measure_settled(effort)?);
            }
            // Only nf_tables has such a key, and the others are for legacy tables alone.
            Self::TraceKey if !scene.nftables => {}
            Self::Verify | Self::Trace | Self::Peer(_) if scene.nftables => {}
            Self::TraceKey => {
                scene.load_rules()?;
                let key = TraceKey::turn().context("failed to turn on: trace calls")?;
                found(self.name(), scene.load.measure(effort)?.instructions);
                drop(key);
            }
            Self::Detached => {
                scene.load_rules()?;
                found(self.name(), scene.load.measure(effort)?.instructions);
            }
            Self::NoMatch => {
                scene.load_rules()?;
                let (tracer, _) = start(OTHER_PORT, "")?;
                found(self.name(), scene.load.measure(effort)?.instructions);
                stop(tracer, 0)?;
            }
            Self::Verify => {
                scene.load_rules()?;
                let (tracer, _) = start(OTHER_PORT, "--verify")?;
                found(self.name(), scene.load.measure(effort)?.instructions);
                stop(tracer, 0)?;
            }
            Self::Match => {
                scene.load_rules()?;
                let (tracer, before) = start(scene.port, "")?;
                let measured = scene.load.measure(effort)?;
                let after = stop(tracer, measured.packets)?;
                found(self.name(), measured.instructions);
                // What it takes to start and to read the rules is not to be blamed on packets.
                let (tracer, idle_before) = start(OTHER_PORT, "")?;
                let idle = stop(tracer, 0)? - idle_before;
                found(
                    "match-user-space",
                    (after - before).saturating_sub(idle) / measured.packets,
                );
            }
            Self::Trace => {
                scene.load_rules()?;
                trace_log::enable()?;
                let rule = format!("-p udp --dport {} -j TRACE", scene.port);
                for chain in ["PREROUTING", "OUTPUT"] {
                    command::run(&format!("iptables-legacy -w -t raw -I {chain} {rule}"))?;
                }
                found(self.name(), scene.load.measure(effort)?.instructions);
                for chain in ["PREROUTING", "OUTPUT"] {
                    command::run(&format!("iptables-legacy -w -t raw -D {chain} {rule}"))?;
                }
            }
            Self::Peer(peer) => {
                scene.load_rules()?;
                if let Some(lacking) = peer.lacks() {
                    eprintln!("not measured: {}: this kernel has no {lacking}", self.name());
                    return Ok(());
                }
                let port = if peer.tells() { scene.port } else { OTHER_PORT };
                let watching = peer.start(port)?;
                let measured = scene.load.measure(effort)?;
                watching.stop(measured.packets)?;
                found(self.name(), measured.instructions);
            }
            Self::Programs => {
                scene.load_rules()?;
                let (tracer, _) = start(scene.port, "")?;
                let counting = programs::Counting::start()?;
                let measured = scene.load.measure(effort)?;
                let took = programs::took(tracer.pid()?)?;
                drop(counting);
                stop(tracer, measured.packets)?;
                for (program, instructions) in took {
                    found(&format!("program:{program}"), instructions / measured.packets);
                }
            }
        }
        Ok(())
    }
}

/// Starts tracer for a port, with more flags, and tells what processes that have ended took so far.
fn start(port: u16, flags: &str) -> Result<(Tracer, u64)> {
    let before = ended_ns()?;
    let tracer = Tracer::start(&format!(
        "--format log --proto udp --port {port} --ring-kib {RING_KIB} {flags}"
    ))?;
    step_aside(tracer.pid()?)?;
    Ok((tracer, before))
}

/// Stops it. It must have delivered something for each of so many packets, and lost nothing.
fn stop(tracer: Tracer, packets: u64) -> Result<u64> {
    tracer.signal(Signal::SIGINT)?;
    let text = tracer.wait_for_text()?;
    let summary = Summary::last(&text.said)?;
    ensure!(
        summary.losses.is_empty() && summary.shown >= packets,
        "tracer did not deliver everything: {}",
        text.said
    );
    // How long it took to attach, among others: where instructions are the clock, a million is a millisecond.
    if let Some(probes) = text.said.lines().find(|line| line.starts_with("probes:")) {
        eprintln!("{probes}");
    }
    let complete = packets == 0 || text.said.contains(" complete, 0 partial");
    ensure!(complete, "tracer was not certain: {}", text.said);
    ended_ns()
}

/// Processor time of processes that have ended.
fn ended_ns() -> Result<u64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("failed to read processor time")?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(u64::try_from(micros)? * 1000)
}
