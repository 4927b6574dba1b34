//! `tracer trace`: follow packets and show their way, until told to stop.

use std::{
    fs,
    io::{self, Write as _},
    os::fd::{AsRawFd as _, RawFd},
    path::{Path, PathBuf},
    sync::mpsc::Receiver,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use clap::Args;
use tokio::{
    io::{
        Interest,
        unix::{AsyncFd, AsyncFdReadyGuard},
    },
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, MissedTickBehavior},
};
use tracer_common::{CONNECTIONS_MAX, Counter};

use super::{
    exit::{Exit, Failure},
    filter::{FilterArgs, netns_inode},
    guard::{Guard, GuardArgs},
    recorder::Recorder,
    results::{self, Destination, Results, State},
};
use crate::{
    changed::Changes,
    event::{End as EndOfPacket, Event, Fate},
    explain::{Explainer, Explanation},
    filter::{Selection, Wanted},
    kernel::{
        attach::{Attached, Counts, Forms, Plan, Replacements, ReturnProbe},
        commits::{Brought, Committed},
        devices::DeviceNames,
        functions::Functions,
        machine::Machine,
        preflight,
        rules::{KernelRules, Reader, Replaced},
        verify,
    },
    netns::{Netns, places::LivePlaces},
    output::{Clock, Format, Homes, monotonic_ns},
    parts::Parts,
    recording::{DeviceName, FunctionName, Noting},
    ruleset::source,
    traversal::Traversal,
    witness::Witnesses,
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
    format: Option<Format>,
    /// Write results to this file instead of standard output; FORMAT: before it, or its name's end
    /// (.json, .pcapng, .mmd), chooses a format of its own. Can be given several times; - is standard output
    #[arg(long, value_name = "[FORMAT:]FILE")]
    output: Vec<Destination>,
    /// Keep everything in this file for `tracer show`: records and the rules that they met; - is standard output
    #[arg(short, long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    guard: GuardArgs,
    /// Stop after this many results: packets, with `tables` and `log` alone traversals of a table
    #[arg(long, visible_alias = "max-events", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
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
    verify: bool,
    /// Size of the buffer between kernel and tracer, in KiB; raise it when records are lost
    #[arg(long, value_name = "KIB", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(4..=1_048_576))]
    ring_kib: u32,
}

/// Arguments of `tracer drops`.
#[derive(Args, Clone, Debug)]
pub struct DropsArgs {
    #[command(flatten)]
    trace: TraceArgs,
    /// Show a table of the rules that drop, renewed each second on a terminal, instead of a line for each packet
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
/// Flags that make no filter, a machine that cannot be traced, a kernel that refuses, an output that fails.
pub fn run(args: &TraceArgs, machine: &Machine) -> Result<(), Failure> {
    let wanted = args.filter.wanted(&args.expression)?;
    let mut plan = plan(args, &wanted, machine)?;
    let show = Show::new(args, wanted, machine)?;
    plan.filter.ends = u8::from(show.needs_ends());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("failed to start: event loop")?;
    runtime.block_on(trace(args, &plan, show))
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
/// So we look ourselves this often: nobody waits longer to see a packet.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why a trace ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// A limit or a signal: records that are still in the buffer are wanted.
    Asked,
    /// `--count` is reached.
    Enough,
    /// Nobody reads the output any more.
    OutputClosed,
}

async fn trace(args: &TraceArgs, plan: &Plan, mut show: Show) -> Result<(), Failure> {
    // Before attaching, so that a signal at any later moment ends the trace in order.
    let mut signals = Signals::new().context("failed to start: signal handling")?;
    let mut attached = Attached::attach(plan)?;
    show.take_replacements(&mut attached)
        .context("failed to start: reader of rules")?;
    show.survey(&mut attached);
    let mut guard = Guard::new(args.guard, &mut attached)?;
    // SAFETY: the descriptor is the ring buffer's, which `Attached` owns and never replaces.
    let attached = unsafe { AsyncFd::register_with_interest(attached, Interest::READABLE) };
    let mut attached =
        attached.map_err(|error| anyhow!(io::Error::from(error)).context("failed to watch: ring buffer"))?;
    let replaced = show
        .watch_replacements()
        .context("failed to watch: replacements of rules")?;
    let _ready = args.ready_file.as_deref().map(ReadyFile::create).transpose()?;
    let deadline = args.duration.map(|duration| Instant::now() + duration);

    let ended = follow(
        &mut show,
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
        Ok(End::Asked) => drain(&mut show, &mut attached, &mut signals).await,
        Ok(End::Enough | End::OutputClosed) => Ok(()),
        Err(failure) => Err(failure),
    };
    let drained = drained.and_then(|()| show.rest());
    show.tell(&attached);
    let finished = show.finish(&attached);
    drained.and(finished)
}

/// Shows what comes, until something ends it.
async fn follow(
    show: &mut Show,
    attached: &mut AsyncFd<Attached>,
    replaced: Option<&AsyncFd<RawFd>>,
    signals: &mut Signals,
    guard: &mut Guard,
    deadline: Option<Instant>,
) -> Result<End, Failure> {
    let mut moments = tokio::time::interval(MOMENT);
    moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            request = signals.next() => match request {
                Request::Stop => return Ok(End::Asked),
                Request::Tell => show.tell(attached.get_ref()),
            },
            () = at(deadline) => return Ok(End::Asked),
            () = at(show.flush_due()) => show.flush(attached.get_ref())?,
            _ = moments.tick(), if show.waits() => {
                if let Some(end) = show.moment()? {
                    return Ok(end);
                }
            }
            ready = readable(replaced) => {
                show.keep_up(attached.get_mut());
                ready.context("failed to watch: replacements of rules")?.clear_ready();
            }
            () = at(guard.due().map(Instant::from_std)) => guard.look(attached.get_mut())?,
            ready = attached.readable_mut() => {
                let mut ready = ready.context("failed to watch: ring buffer")?;
                match show.drain(ready.get_inner_mut())? {
                    Drained::Empty => ready.clear_ready(),
                    // Signals and time reach us only when we yield, and a flood of records never lets us wait.
                    Drained::More => tokio::task::yield_now().await,
                    Drained::Ended(end) => return Ok(end),
                }
            }
            _ = look.tick() => match show.drain(attached.get_mut())? {
                Drained::Empty => {}
                // At once again.
                Drained::More => look.reset_immediately(),
                Drained::Ended(end) => return Ok(end),
            },
        }
    }
}

/// Shows what is still in the buffer.
async fn drain(show: &mut Show, attached: &mut Attached, signals: &mut Signals) -> Result<(), Failure> {
    while show.drain(attached)? == Drained::More {
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

/// How often it is seen whether journeys are over for which nothing comes any more.
const MOMENT: Duration = Duration::from_millis(50);

/// Records read before looking at signals and limits again. Each may have its rules read.
const BATCH_MAX: usize = 64;

#[derive(PartialEq, Eq)]
enum Drained {
    /// There are no more records for now.
    Empty,
    /// There may be more.
    More,
    /// Nothing more is to be shown.
    Ended(End),
}

/// Takes records, shows and keeps results.
struct Show {
    /// Not where they are only kept.
    results: Option<Results>,
    recorder: Option<Recorder>,
    /// The record at hand, as the programs sent it, where it is kept.
    raw: Vec<u8>,
    /// Where the format shows rules, or they are kept.
    paths: Option<Paths>,
    witnesses: Witnesses,
    changes: Changes,
    parts: Parts,
    /// Where the programs cannot decide all.
    selection: Option<Selection>,
    device_names: DeviceNames,
    functions: Functions,
    places: LivePlaces,
    /// Traversals that came.
    traversals: u64,
    /// How many of them are kept, where they are only kept.
    kept_max: Option<u64>,
}

/// What it takes to know paths.
struct Paths {
    explainer: Explainer,
    rules: KernelRules,
    replacements: Option<Replacements>,
    committed: Option<Receiver<Brought>>,
}

impl Show {
    fn new(args: &TraceArgs, wanted: Wanted, machine: &Machine) -> Result<Self, Failure> {
        let own_netns = netns_inode(Path::new("/proc/self/ns/net")).ok();
        let clock = Clock::system();
        let recorder = match &args.write {
            Some(path) if path.as_os_str() == "-" && to_stdout(args) => {
                let error = anyhow!("--write - and results would both go to standard output");
                return Err(Failure::usage(error));
            }
            Some(path) => Some(Recorder::create(path, &clock, own_netns)?),
            None => None,
        };
        let only_kept = recorder.is_some() && args.format.is_none() && args.output.is_empty();
        let context = results::context(Homes::of([own_netns]), clock);
        let results = if only_kept {
            None
        } else {
            Some(Results::open(args.format, &args.output, &context, args.count)?)
        };
        let shows_rules =
            recorder.is_some() || args.verify || results.as_ref().is_some_and(Results::show_rules);
        let shows_texts = recorder.is_some() || results.as_ref().is_some_and(Results::show_texts);
        Ok(Self {
            kept_max: args.count.filter(|_| results.is_none()),
            results,
            recorder,
            raw: Vec::new(),
            paths: shows_rules.then(|| Paths {
                explainer: Explainer::verifying(args.verify),
                rules: KernelRules::new(shows_texts),
                replacements: None,
                committed: None,
            }),
            witnesses: Witnesses::default(),
            changes: Changes::default(),
            parts: Parts::default(),
            selection: wanted.rest.is_some().then(|| Selection::new(wanted)),
            device_names: DeviceNames::default(),
            places: LivePlaces::of(machine.root(), own_netns),
            functions: Functions::of(machine.root().join("proc/kallsyms")),
            traversals: 0,
        })
    }

    /// Whether the programs are to tell the ends of packets.
    fn needs_ends(&self) -> bool {
        self.recorder.is_some() || self.results.as_ref().is_some_and(Results::need_ends)
    }

    /// Whether time alone can bring results.
    fn waits(&self) -> bool {
        self.results.as_ref().is_some_and(Results::wait)
    }

    /// Shows what is over by now; why nothing more is to be shown.
    fn moment(&mut self) -> Result<Option<End>, Failure> {
        let Some(results) = &mut self.results else {
            return Ok((self.kept_max == Some(self.traversals)).then_some(End::Enough));
        };
        results.at(monotonic_ns())?;
        results.flush()?;
        Ok(match results.state() {
            State::Open => None,
            State::Enough => Some(End::Enough),
            State::Closed => Some(End::OutputClosed),
        })
    }

    /// Shows what is left when nothing comes any more.
    fn rest(&mut self) -> Result<(), Failure> {
        match &mut self.results {
            Some(results) => Ok(results.finish()?),
            None => Ok(()),
        }
    }

    /// Reads the rules that there are before the first packet comes.
    fn survey(&mut self, attached: &mut Attached) {
        let Some(Paths { explainer, rules, .. }) = &mut self.paths else {
            return;
        };
        let mut recorder = self.recorder.as_mut();
        let namespaces = Netns::all();
        rules.survey(attached, &namespaces, &mut |netns, generation, rules| {
            if let Some(recorder) = &mut recorder {
                recorder.file().table(netns, generation, &rules);
            }
            explainer.learn(netns, generation, rules);
        });
        rules.survey_nftables(attached, &namespaces, &mut |netns, generation, rules| {
            if let Some(recorder) = &mut recorder {
                recorder.file().nftables(netns, generation, &rules);
            }
            explainer.learn_nftables(netns, generation, rules);
        });
    }

    /// Takes it on to keep up with rules that are replaced, where paths are shown through them.
    fn take_replacements(&mut self, attached: &mut Attached) -> io::Result<()> {
        if let Some(paths) = &mut self.paths {
            paths.replacements = attached.take_replacements();
            paths.committed = attached.take_committed().map(Committed::read_rules).transpose()?;
        }
        Ok(())
    }

    /// Becomes readable when rules were replaced that paths are shown through.
    fn watch_replacements(&self) -> io::Result<Option<AsyncFd<RawFd>>> {
        let replacements = self.paths.as_ref().and_then(|paths| paths.replacements.as_ref());
        replacements
            .map(|replacements| {
                // SAFETY: the descriptor is the ring buffer's, which stays in `paths` as long as this lives.
                unsafe { AsyncFd::register_with_interest(replacements.as_raw_fd(), Interest::READABLE) }
            })
            .transpose()
            .map_err(io::Error::from)
    }

    /// Takes rules that commits have brought, and reads legacy tables that have been replaced.
    fn keep_up(&mut self, attached: &mut Attached) {
        let Some(Paths {
            explainer,
            rules,
            replacements,
            committed,
        }) = &mut self.paths
        else {
            return;
        };
        for (netns, generation, ruleset) in committed.iter().flat_map(Receiver::try_iter) {
            if !explainer.knows_nftables(netns, generation) {
                explainer.learn_nftables(netns, generation, rules.without_texts(ruleset));
            }
        }
        let Some(replacements) = replacements else { return };
        for replaced in Replaced::latest(replacements) {
            let Replaced {
                netns,
                family,
                table,
                generation,
            } = &replaced;
            if explainer.knows(*netns, *family, table, *generation) {
                continue;
            }
            if let Some((generation, read)) = rules.read_replaced(attached, &replaced) {
                if let Some(recorder) = &mut self.recorder {
                    recorder.file().table(*netns, generation, &read);
                }
                explainer.learn(*netns, generation, read);
            }
        }
    }

    /// Shows a batch of the records that are in the buffer.
    fn drain(&mut self, attached: &mut Attached) -> Result<Drained, Failure> {
        let mut drained = Drained::More;
        let began_ns = monotonic_ns();
        for _ in 0..BATCH_MAX {
            // First what packets will meet, then those that have met it.
            self.keep_up(attached);
            let keep = self.recorder.is_some().then_some(&mut self.raw);
            let event = attached.with_next_record(|bytes| {
                if let Some(raw) = keep {
                    raw.clear();
                    raw.extend_from_slice(bytes);
                }
                Event::decode(bytes)
            });
            let Some(event) = event else {
                if let Some(paths) = &mut self.paths {
                    paths.explainer.seen(began_ns);
                }
                drained = Drained::Empty;
                break;
            };
            match event.context("failed to decode: record")? {
                Event::Traversal(part) => match self.parts.join(*part) {
                    Some(whole) => self.traversal(whole, attached)?,
                    None => self.record(),
                },
                Event::End(end) => self.end(end),
                Event::Witness(witness) => {
                    self.record();
                    self.witnesses.keep(witness);
                }
                Event::Changed(changed) => {
                    self.record();
                    self.changes.keep(changed);
                }
            }
            let enough = match &self.results {
                Some(results) => results.state() != State::Open,
                None => self.kept_max == Some(self.traversals),
            };
            if enough {
                break;
            }
        }
        self.flush(attached)?;
        Ok(self.moment()?.map_or(drained, Drained::Ended))
    }

    /// Keeps the record just read in the recording, if there is one.
    fn record(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.other(&self.raw);
        }
    }

    /// The end of a packet; of one that was dropped the name of the function that did it is kept with it.
    fn end(&mut self, mut end: EndOfPacket) {
        let selection = self.selection.as_mut();
        if !selection.is_none_or(|selection| selection.takes_end(&mut end)) {
            return;
        }
        if let Some(recorder) = &mut self.recorder {
            if let Fate::Dropped { location } = end.fate
                && !self.functions.knows(location)
            {
                recorder.file().function(&FunctionName {
                    address: location,
                    name: self.functions.at(location),
                });
            }
            recorder.end(&self.raw, &end);
        }
        if let Some(results) = &mut self.results {
            results.end(&end, |address| self.functions.at(address));
        }
    }

    fn traversal(&mut self, mut traversal: Traversal, attached: &mut Attached) -> Result<(), Failure> {
        self.witnesses.complete(&mut traversal);
        self.changes.complete(&mut traversal);
        if let Some(selection) = &mut self.selection
            && !selection.takes(&mut traversal)
        {
            return Ok(());
        }
        if self.needs_ends() {
            self.places.complete(&mut traversal, &mut |named| {
                if let Some(recorder) = &mut self.recorder {
                    recorder.file().place(&named.into());
                }
            });
        }
        let explanation = self.explain(&mut traversal, attached);
        self.traversals += 1;
        match &mut self.results {
            Some(results) => Ok(results.traversal(traversal, explanation.as_ref())?),
            None => Ok(()),
        }
    }

    /// Completes a traversal with what has to be asked for, finds its path where one is to be shown, and keeps all
    /// of it where it is to be kept: first what belongs to the record, then the record.
    fn explain(&mut self, traversal: &mut Traversal, attached: &mut Attached) -> Option<Explanation> {
        let mut recorder = self.recorder.as_mut();
        self.device_names
            .complete(traversal, &mut |netns, ifindex, name| {
                if let Some(recorder) = &mut recorder {
                    recorder.file().device(&DeviceName {
                        netns,
                        ifindex,
                        name: name.to_owned(),
                    });
                }
            });
        let Paths { explainer, rules, .. } = self.paths.as_mut()?;
        let source = &mut Reader { rules, attached };
        let Some(recorder) = recorder else {
            return Some(explainer.explain(traversal, source));
        };
        let noting = &mut Noting {
            source,
            writer: recorder.file(),
        };
        let explanation = match self.results {
            Some(_) => Some(explainer.explain(traversal, noting)),
            None => {
                explainer.know(traversal, noting);
                None
            }
        };
        recorder.traversal(&self.raw, traversal);
        explanation
    }

    /// When something that is kept has to be written.
    fn flush_due(&self) -> Option<Instant> {
        self.recorder.as_ref()?.due()
    }

    /// Writes what is kept, where that is due.
    fn flush(&mut self, attached: &Attached) -> Result<(), Failure> {
        let Some(recorder) = &mut self.recorder else {
            return Ok(());
        };
        let blind = self.paths.as_ref().map_or(&[][..], |paths| &paths.rules.blind);
        let flushed = recorder.flush_if_due(attached, blind);
        if flushed.is_err() {
            self.recorder = None;
        }
        flushed
    }

    /// Ends the recording, if there is one.
    fn finish(&mut self, attached: &Attached) -> Result<(), Failure> {
        let blind = self.paths.as_ref().map_or(&[][..], |paths| &paths.rules.blind);
        match self.recorder.take() {
            Some(recorder) => recorder.finish(attached, blind),
            None => Ok(()),
        }
    }

    /// Says how the trace stands, on standard error. Nobody may be reading that; then there is nobody to tell.
    fn tell(&self, attached: &Attached) {
        let done = match &self.results {
            Some(results) => results.shown(),
            None => format!("{} traversals recorded", self.traversals),
        };
        let mut text = match attached.counts() {
            Ok(counts) => summary(&done, &counts),
            Err(error) => format!("{done}; losses unknown: {error}\n"),
        };
        if let Some(selection) = &self.selection {
            text.push_str(&undecided(selection));
        }
        if let Some(Paths { explainer, rules, .. }) = &self.paths {
            if self.results.is_some() {
                text.push_str(&paths_summary(explainer));
            }
            if !rules.not_followed.is_empty() {
                let tables: Vec<_> = rules.not_followed.iter().map(String::as_str).collect();
                text.push_str(&format!(
                    "not followed, of nf_tables' other families: {}\n",
                    tables.join(", ")
                ));
            }
            if !rules.blind.is_empty() {
                text.push_str(&format!(
                    "not observed on this kernel: {}\n",
                    rules.blind.join(", ")
                ));
            }
        }
        if let Some(results) = &self.results {
            text.push_str(&results.summary());
        }
        text.push_str(&probes_summary(&attached.forms()));
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// How the kernel is looked at.
fn probes_summary(forms: &Forms) -> String {
    let Forms {
        trampolines,
        sessions,
        kprobes,
        tracepoints,
        refusal,
        return_probes,
        took,
    } = forms;
    let mut text = format!(
        "probes: {trampolines} trampolines, {sessions} by the function tracer, {kprobes} kprobes, {tracepoints} tracepoints, attached in {} ms\n",
        took.as_millis()
    );
    if let Some(refusal) = refusal {
        let first = refusal.lines().next().unwrap_or_default();
        text.push_str(&format!("tables are seen by kprobes, which cost more: {first}\n"));
    }
    for ReturnProbe { function, cause } in return_probes {
        text.push_str(&format!(
            "{function} is seen to return by a return probe, which may miss calls within calls: {cause}\n"
        ));
    }
    text
}

/// Whether results go to standard output.
fn to_stdout(args: &TraceArgs) -> bool {
    if args.output.is_empty() {
        args.format.is_some()
    } else {
        args.output.iter().any(Destination::is_stdout)
    }
}

/// What the filter could not decide, if anything.
pub(super) fn undecided(selection: &Selection) -> String {
    match selection.undecided {
        0 => String::new(),
        count => format!("{count} packets followed although too little of them was recorded to decide\n"),
    }
}

/// How many paths are certain, and how they compare with the kernel's own steps.
pub(super) fn paths_summary(explainer: &Explainer) -> String {
    let paths = format!(
        "paths: {} complete, {} partial\n",
        explainer.complete, explainer.partial
    );
    match &explainer.verification {
        Some(verification) => format!("{paths}{verification}"),
        None => paths,
    }
}

/// What was done with so many results, and everything that was lost on the way.
pub(super) fn summary(done: &str, counts: &Counts) -> String {
    let lost = [
        (
            Counter::RingFull,
            "ring buffer full: traversals not shown (a larger --ring-kib or a narrower filter helps)",
        ),
        (
            Counter::FramesFull,
            "too many traversals under way at once: traversals not shown",
        ),
        (Counter::ExitMissed, "return not seen: traversals not shown"),
        (
            Counter::TraversalsShed,
            "left out to keep a limit: traversals not shown, of whole packets (--max-rate, --max-cpu)",
        ),
        (
            Counter::PacketsFull,
            "too many packets at once: packets not followed beyond one table",
        ),
        (
            Counter::ReadFailed,
            "reads of kernel memory failed: a traversal is incomplete or missing for each",
        ),
        (
            Counter::GenerationsFull,
            "too many tables at once: paths are not certain once one of them is replaced",
        ),
        (
            Counter::EndMissed,
            "end of a packet not seen: noticed when its address was used again",
        ),
        (Counter::EndRingFull, "ring buffer full: ends of packets not told"),
        (
            Counter::HeadersFull,
            "ring buffer full: headers after a target not seen, the path is partial (a larger --ring-kib helps)",
        ),
    ];
    let mut text = done.to_owned();
    let mut losses: Vec<String> = lost
        .into_iter()
        .filter(|(counter, _)| counts.get(*counter) > 0)
        .map(|(counter, meaning)| format!("  {:>8}  {meaning}\n", counts.get(counter)))
        .collect();
    let skipped = counts.skipped.unwrap_or_default();
    for (runs, meaning) in [
        (skipped.tables, "traversals not seen"),
        (
            skipped.extensions,
            "answers of matches or targets not seen, their paths are partial",
        ),
        (skipped.steps, "steps not witnessed, their paths are not verified"),
        (
            skipped.rules,
            "replacements of rules not seen, paths are not certain",
        ),
        (
            skipped.life,
            "ends of packets perhaps not seen, the next packet at the address is told by its headers",
        ),
    ] {
        if runs > 0 {
            losses.push(format!(
                "  {runs:>8}  probe runs skipped by the kernel: {meaning}\n"
            ));
        }
    }
    let forgotten = counts
        .get(Counter::ConnectionsFollowed)
        .saturating_sub(u64::from(CONNECTIONS_MAX));
    if forgotten > 0 {
        losses.push(format!(
            "  {forgotten:>8}  connections forgotten that were not used for long: their replies may not be shown\n"
        ));
    }
    text.push_str(if losses.is_empty() {
        ", nothing lost"
    } else {
        "; lost:"
    });
    if counts.skipped.is_none() {
        text.push_str(" (this kernel does not count probe runs that it skips)");
    } else if counts.skips_uncounted {
        text.push_str(" (of some kprobes this kernel does not tell the runs that it skips)");
    }
    text.push('\n');
    text.extend(losses);
    text
}

/// A file that exists while records flow.
struct ReadyFile<'a>(&'a Path);

impl<'a> ReadyFile<'a> {
    /// Creates the file whole, so that whoever sees it can rely on it. Replaces one that an earlier run left.
    fn create(path: &'a Path) -> anyhow::Result<Self> {
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
