//! `tracer trace`: follow packets and show their way, until told to stop.

use std::{
    fs,
    io::{self, Write as _},
    os::fd::RawFd,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use clap::Args;
use tokio::{
    io::{
        Interest,
        unix::{AsyncFd, AsyncFdReadyGuard},
    },
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior},
};

use super::{
    doubts::{Present, doubts},
    exit::{Exit, Failure},
    filter::{FilterArgs, Subject},
    guard::{Guard, GuardArgs},
    live::{Drained, End, Live},
    recorder::is_no_capture,
    results::Destination,
};
use crate::{
    filter::Wanted,
    kernel::{
        attach::{Attached, Plan},
        machine::Machine,
        preflight, verify,
    },
    output::Format,
    ruleset::source,
};

/// Arguments of `tracer trace`.
#[derive(Args, Clone, Debug)]
pub struct TraceArgs {
    /// Which packets to follow, in tcpdump's syntax: 'tcp port 80 and host 10.0.0.1'
    #[arg(value_name = "EXPRESSION")]
    expression: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// How to write results [default: tree on a terminal, else line; with --write nothing]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(super) format: Option<Format>,
    /// Write results to this file instead of standard output; FORMAT: before it, or its name's end
    /// (.json, .pcapng, .mmd), chooses a format of its own. Can be given several times; - is standard output
    #[arg(long, value_name = "[FORMAT:]FILE")]
    pub(super) output: Vec<Destination>,
    /// Keep everything in this file for `tracer show`: records and the rules that they met; - is standard output
    #[arg(short, long, value_name = "FILE")]
    pub(super) write: Option<PathBuf>,
    #[command(flatten)]
    guard: GuardArgs,
    /// Stop after this many results: packets, with `tables` and `log` alone traversals of a table
    #[arg(short, long, visible_alias = "max-events", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
    /// Stop after this time: 10s, 500ms, 5m, 1h
    #[arg(long, value_name = "TIME", value_parser = duration)]
    duration: Option<Duration>,
    /// Create this file once every probe is attached and records flow; removed at the end,
    /// but not where tracer is killed
    #[arg(long, value_name = "PATH")]
    ready_file: Option<PathBuf>,
    /// Hold every path against a second source: the steps that the kernel itself takes, seen where it
    /// asks whether to log them. For checking, not for production: it costs a probe for each rule
    /// that any packet of this machine matches, whatever the filter. Where the two differ the path is
    /// partial and says how; where the replay cannot go on, the kernel's steps are told
    #[arg(long)]
    pub(super) verify: bool,
    /// Run no other program: rules are told in tracer's own words, those of nf_tables by their expressions, not as
    /// `iptables-save` and `nft` print them. For nodes with so many rules that the tools take long, or where none may be run
    #[arg(long)]
    pub(super) no_tools: bool,
    /// Size of the buffer between kernel and tracer, in KiB; raise it when records are lost
    #[arg(long, value_name = "KIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    ring_kib: u32,
}

/// Arguments of `tracer drops`.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("format", |arg| arg.help("How to write results [default: drops]")))]
pub struct DropsArgs {
    #[command(flatten)]
    trace: TraceArgs,
    /// Live a table of the rules that drop, renewed each second on a terminal, instead of a line for each packet
    #[arg(long, conflicts_with_all = ["format", "output", "write"])]
    stats: bool,
}

impl DropsArgs {
    /// The trace that shows drops alone.
    #[must_use]
    pub fn as_trace(&self) -> TraceArgs {
        let format = if self.stats { Format::Stats } else { Format::Drops };
        TraceArgs {
            format: self.trace.format.or(Some(format)),
            ..self.trace.clone()
        }
    }
}

/// `500ms`, `10s`, `5m`, `1h`; seconds where there is no unit.
fn duration(text: &str) -> Result<Duration, String> {
    const SAID: &str = "not a time such as 10s, 500ms, 5m or 1h";
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| SAID.to_owned())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(SAID.to_owned()),
    };
    number
        .checked_mul(unit_ms)
        .filter(|ms| *ms > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| SAID.to_owned())
}

/// Traces until a limit, a signal or a closed output ends it.
///
/// # Errors
/// Flags that make no filter, names that promise what is not written, a machine that cannot be traced, a kernel that refuses, an output that fails.
pub fn run(args: &TraceArgs, machine: &Machine) -> Result<(), Failure> {
    args.write.as_deref().map_or(Ok(()), is_no_capture)?;
    let wanted = args.filter.wanted(&args.expression, Subject::Machine)?;
    let mut plan = plan(args, &wanted, machine)?;
    for doubt in doubts(&wanted, Present::of(&wanted, plan.nftables).as_ref()) {
        let _ = writeln!(io::stderr(), "{doubt}");
    }
    args.ready_file.as_deref().map_or(Ok(()), ReadyFile::make_room)?;
    let live = Live::new(args, wanted, machine)?;
    plan.filter.ends = u8::from(live.needs_ends());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start: event loop")?;
    runtime.block_on(trace(args, &plan, live))
}

/// Looks at the flags and the machine, and decides what to attach.
fn plan(args: &TraceArgs, wanted: &Wanted, machine: &Machine) -> Result<Plan, Failure> {
    let report = preflight::check(machine, wanted.families);
    let families = report.traceable(wanted.families);
    let nftables = report.traces_nftables();
    let absent = report.absent();
    let preempted = report.preempted;
    let (resolved, btf) = report.into_resolved()?;
    let ring_bytes = (args.ring_kib * 1024).next_power_of_two();
    let mut plan = Plan {
        offsets: resolved.offsets,
        btf,
        preempted,
        filter: wanted.for_programs(),
        families,
        nftables,
        absent,
        skips_counted: resolved.skips_counted,
        witness: None,
        guarded: args.guard.any(),
        wake_at_bytes: ring_bytes / WAKE_SHARE,
        ring_bytes,
    };
    if args.verify {
        plan.witness = Some(second_source(machine, &plan, resolved.trace_bit)?);
    }
    Ok(plan)
}

/// Finds and tries the second source of steps. Says which family has none; that is a failure if no family has one.
fn second_source(machine: &Machine, plan: &Plan, trace_bit: Option<u32>) -> Result<verify::Places, Failure> {
    let verify::Prepared { places, unavailable } = verify::prepare(machine, plan, trace_bit);
    let reasons: Vec<String> = unavailable
        .into_iter()
        .map(|(family, why)| {
            let tool = source::command(family);
            format!(
                "{tool} has no second source of steps: {:#}",
                anyhow::Error::from(why)
            )
        })
        .collect();
    if reasons.is_empty() && places.is_empty() {
        return Err(Failure::hinted(
            Exit::Lacking,
            anyhow!("failed to verify: there are no legacy tables, and only their paths are replayed"),
            "trace without --verify: the steps of nf_tables are the kernel's own",
        ));
    }
    if places.is_empty() {
        return Err(Failure::hinted(
            Exit::Lacking,
            anyhow!("failed to verify: {}", reasons.join("; ")),
            "without --verify paths are replayed and cross-checked all the same",
        ));
    }
    for reason in reasons {
        let _ = writeln!(io::stderr(), "not verified: {reason}");
    }
    Ok(places)
}

/// The programs wake us when this share of the buffer is full, for that costs a packet more than all else.
const WAKE_SHARE: u32 = 4;
/// So we look ourselves this often: nobody waits longer to see a packet, or that one is over of which nothing comes any more.
const LOOK_EVERY: Duration = Duration::from_millis(50);

async fn trace(args: &TraceArgs, plan: &Plan, mut live: Live) -> Result<(), Failure> {
    // Before attaching, so that a signal at any later moment ends the trace in order.
    let mut signals = Signals::new().context("failed to start: signal handling")?;
    let mut attached = Attached::attach(plan)?;
    live.take_replacements(&mut attached)
        .context("failed to start: reader of rules")?;
    live.survey(&mut attached);
    let mut guard = Guard::new(args.guard, &mut attached)?;
    // SAFETY: the descriptor is the ring buffer's, which `Attached` owns and never replaces.
    let attached = unsafe { AsyncFd::register_with_interest(attached, Interest::READABLE) };
    let mut attached =
        attached.map_err(|error| anyhow!(io::Error::from(error)).context("failed to watch: ring buffer"))?;
    let replaced = live
        .watch_replacements()
        .context("failed to watch: replacements of rules")?;
    let _ready = args.ready_file.as_deref().map(ReadyFile::create).transpose()?;
    let deadline = args.duration.map(|duration| Instant::now() + duration);

    let ended = follow(
        &mut live,
        &mut attached,
        replaced.as_ref(),
        &mut signals,
        &mut guard,
        deadline,
    )
    .await;
    let mut attached = attached.into_inner();
    attached.detach();
    let drained = match ended {
        Ok(End::Asked) => drain(&mut live, &mut attached, &mut signals).await,
        Ok(End::Enough | End::OutputClosed) => Ok(()),
        Err(failure) => Err(failure),
    };
    let drained = drained.and_then(|()| live.rest());
    let ended = drained.and(live.finish(&attached));
    live.tell(&attached, ended.is_ok());
    ended
}

/// Shows what comes, until something ends it.
async fn follow(
    live: &mut Live,
    attached: &mut AsyncFd<Attached>,
    replaced: Option<&AsyncFd<RawFd>>,
    signals: &mut Signals,
    guard: &mut Guard,
    deadline: Option<Instant>,
) -> Result<End, Failure> {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            request = signals.next() => match request {
                Request::Stop => return Ok(End::Asked),
                Request::Tell => live.tell(attached.get_ref(), true),
            },
            () = at(deadline) => return Ok(End::Asked),
            () = at(live.flush_due()) => live.flush(attached.get_ref())?,
            ready = readable(replaced) => {
                live.keep_up(attached.get_mut());
                ready.context("failed to watch: replacements of rules")?.clear_ready();
            }
            () = at(guard.due().map(Instant::from_std)) => guard.look(attached.get_mut())?,
            ready = attached.readable_mut() => {
                let mut ready = ready.context("failed to watch: ring buffer")?;
                match live.drain(ready.get_inner_mut())? {
                    Drained::Empty => ready.clear_ready(),
                    // Signals and time reach us only when we yield, and a flood of records never lets us wait.
                    Drained::More => tokio::task::yield_now().await,
                    Drained::Ended(end) => return Ok(end),
                }
            }
            _ = look.tick() => match live.drain(attached.get_mut())? {
                Drained::Empty => {}
                // At once again.
                Drained::More => look.reset_immediately(),
                Drained::Ended(end) => return Ok(end),
            },
        }
    }
}

/// Shows what is still in the buffer.
async fn drain(live: &mut Live, attached: &mut Attached, signals: &mut Signals) -> Result<(), Failure> {
    while live.drain(attached)? == Drained::More {
        // Who asks again does not want the rest.
        let again = tokio::time::timeout(Duration::ZERO, signals.next()).await;
        if matches!(again, Ok(Request::Stop)) {
            break;
        }
    }
    Ok(())
}

/// What a signal asks for.
enum Request {
    /// The trace is to end.
    Stop,
    /// The user wants to know how it stands.
    Tell,
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::Stop,
            _ = self.terminate.recv() => Request::Stop,
            _ = self.hangup.recv() => Request::Stop,
            _ = self.user.recv() => Request::Tell,
        }
    }
}

/// Ready when there are replacements; never, where nobody wants to know.
async fn readable(fd: Option<&AsyncFd<RawFd>>) -> io::Result<AsyncFdReadyGuard<'_, RawFd>> {
    match fd {
        Some(fd) => fd.readable().await,
        None => std::future::pending().await,
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// A file that exists while records flow.
struct ReadyFile<'a>(&'a Path);

impl<'a> ReadyFile<'a> {
    /// Removes the file that an earlier run left, when it was killed: until there is one again, nothing is ready. Any
    /// other file is somebody's.
    fn make_room(path: &'a Path) -> Result<(), Failure> {
        let is_ours = match fs::read(path) {
            Ok(text) => text
                .strip_suffix(b"\n")
                .is_some_and(|id| !id.is_empty() && id.iter().all(u8::is_ascii_digit)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(_) => false,
        };
        if !is_ours {
            return Err(Failure::hinted(
                Exit::Usage,
                anyhow!(
                    "failed to create: ready file {}: it exists, and no trace made it",
                    path.display()
                ),
                "it is created when the trace is ready and removed at its end: name a file that does not exist",
            ));
        }
        fs::remove_file(path)
            .with_context(|| format!("failed to remove: ready file {}", path.display()))
            .map_err(Failure::from)
    }

    /// Creates the file whole, so that whoever sees it can rely on it.
    fn create(path: &'a Path) -> anyhow::Result<Self> {
        ensure!(
            !path.exists(),
            "failed to create: ready file {}: something else is written there",
            path.display()
        );
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let said = || format!("failed to create: ready file {}", path.display());
        fs::write(&partial, format!("{}\n", std::process::id())).with_context(said)?;
        fs::rename(&partial, path).with_context(said)?;
        Ok(Self(path))
    }
}

impl Drop for ReadyFile<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ready_file_takes_the_place_of_one_that_a_trace_left_and_of_no_other_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ready");
        ReadyFile::make_room(&path).unwrap();
        drop(ReadyFile::create(&path).unwrap());
        assert!(!path.exists());

        fs::write(&path, "4711\n").unwrap();
        ReadyFile::make_room(&path).unwrap();
        assert!(!path.exists());

        for text in ["precious\n", "4711", ""] {
            fs::write(&path, text).unwrap();
            assert!(ReadyFile::make_room(&path).is_err(), "{text}");
            assert!(ReadyFile::create(&path).is_err(), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
