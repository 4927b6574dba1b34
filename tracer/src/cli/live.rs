//! What a running trace does with records: completes them, explains them, shows and keeps them.

use std::{
    io::{self, Write as _},
    os::fd::{AsRawFd as _, RawFd},
    path::Path,
    sync::mpsc::Receiver,
};

use anyhow::{Context as _, anyhow};
use tokio::{
    io::{Interest, unix::AsyncFd},
    time::Instant,
};

use super::{
    exit::Failure,
    filter::netns_inode,
    recorder::Recorder,
    results::{self, Destination, Results, State},
    summary::{CONNECTIONS_FOLLOWED, nothing_matched, paths_summary, probes_summary, summary, undecided},
    trace::TraceArgs,
};
use crate::{
    changed::Changes,
    event::{End as EndOfPacket, Event, Fate},
    explain::{Explainer, Explanation},
    filter::{Selection, Wanted},
    kernel::{
        attach::{Attached, Replacements},
        commits::{Brought, Committed},
        devices::DeviceNames,
        functions::Functions,
        machine::Machine,
        rules::{KernelRules, Reader, Replaced},
    },
    netns::{Netns, places::LivePlaces},
    output::{Clock, Homes, monotonic_ns},
    parts::Parts,
    recording::{DeviceName, FunctionName, Noting},
    traversal::Traversal,
    witness::Witnesses,
};

/// Why a trace ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// A limit or a signal: records that are still in the buffer are wanted.
    Asked,
    /// `--count` is reached.
    Enough,
    /// Nobody reads the output any more.
    OutputClosed,
}

/// Records read before looking at signals and limits again. Each may have its rules read.
const BATCH_MAX: usize = 64;

#[derive(PartialEq, Eq)]
pub(super) enum Drained {
    /// There are no more records for now.
    Empty,
    /// There may be more.
    More,
    /// Nothing more is to be shown.
    Ended(End),
}

/// Takes records, shows and keeps results.
pub(super) struct Live {
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
    /// Whether not every packet is followed.
    filtered: bool,
    /// Whether other packets of their connections are seen too.
    follows_connections: bool,
    /// Where the programs cannot decide all.
    selection: Option<Selection>,
    device_names: DeviceNames,
    functions: Functions,
    places: LivePlaces,
    /// All that happened up to this time, `CLOCK_MONOTONIC`, has been read.
    read_ns: u64,
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

impl Live {
    pub(super) fn new(args: &TraceArgs, wanted: Wanted, machine: &Machine) -> Result<Self, Failure> {
        let own_netns = netns_inode(Path::new("/proc/self/ns/net")).ok();
        let clock = Clock::system();
        let write = args.write.as_deref();
        if write.is_some_and(|path| path.as_os_str() == "-") && to_stdout(args) {
            let error = anyhow!("--write - and results would both go to standard output");
            return Err(Failure::usage(error));
        }
        // One that is there already.
        results::spare(&args.output, write.as_slice())?;
        let only_kept = write.is_some() && args.format.is_none() && args.output.is_empty();
        let context = results::context(Homes::of([own_netns]), clock.clone());
        let results = if only_kept {
            None
        } else {
            let mut results = Results::open(args.format, &args.output, &context, args.count)?;
            if wanted.leaves_out_tables() {
                results.leave_out_tables();
            }
            Some(results)
        };
        // One that an output has made. A recording is the last to be made: where one remained, what failed could not
        // be tried again.
        results::spare(&args.output, write.as_slice())?;
        let recorder = write
            .map(|path| Recorder::create(path, &clock, own_netns))
            .transpose()?;
        let shows_rules =
            recorder.is_some() || args.verify || results.as_ref().is_some_and(Results::show_rules);
        let asks_tools =
            !args.no_tools && (recorder.is_some() || results.as_ref().is_some_and(Results::show_texts));
        Ok(Self {
            kept_max: args.count.filter(|_| results.is_none()),
            results,
            recorder,
            raw: Vec::new(),
            paths: shows_rules.then(|| Paths {
                explainer: Explainer::verifying(args.verify),
                rules: KernelRules::new(asks_tools),
                replacements: None,
                committed: None,
            }),
            witnesses: Witnesses::default(),
            changes: Changes::default(),
            parts: Parts::default(),
            filtered: wanted.is_filter(),
            follows_connections: wanted.follows_connections(),
            selection: wanted.rest.is_some().then(|| Selection::new(wanted)),
            device_names: DeviceNames::default(),
            places: LivePlaces::of(machine.root(), own_netns),
            functions: Functions::of(machine.clone()),
            read_ns: 0,
            traversals: 0,
        })
    }

    /// Whether the programs are to tell the ends of packets.
    pub(super) fn needs_ends(&self) -> bool {
        self.recorder.is_some() || self.results.as_ref().is_some_and(Results::need_ends)
    }

    /// Shows what is over; why nothing more is to be shown. What is over is known up to the time that records were read to:
    /// on a busy machine those of packets that seem to have gone may still be in the buffer.
    fn moment(&mut self) -> Result<Option<End>, Failure> {
        let Some(results) = &mut self.results else {
            return Ok((self.kept_max == Some(self.traversals)).then_some(End::Enough));
        };
        results.at(self.read_ns)?;
        results.flush()?;
        Ok(match results.state() {
            State::Open => None,
            State::Enough => Some(End::Enough),
            State::Closed => Some(End::OutputClosed),
        })
    }

    /// Shows what is left when nothing comes any more.
    pub(super) fn rest(&mut self) -> Result<(), Failure> {
        match &mut self.results {
            Some(results) => Ok(results.finish()?),
            None => Ok(()),
        }
    }

    /// Reads the rules that there are before the first packet comes.
    pub(super) fn survey(&mut self, attached: &mut Attached) {
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
    pub(super) fn take_replacements(&mut self, attached: &mut Attached) -> io::Result<()> {
        if let Some(paths) = &mut self.paths {
            paths.replacements = attached.take_replacements();
            paths.committed = attached.take_committed().map(Committed::read_rules).transpose()?;
        }
        Ok(())
    }

    /// Becomes readable when rules were replaced that paths are shown through.
    pub(super) fn watch_replacements(&self) -> io::Result<Option<AsyncFd<RawFd>>> {
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
    pub(super) fn keep_up(&mut self, attached: &mut Attached) {
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
                explainer.learn_nftables(netns, generation, rules.without_texts(attached, ruleset));
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
    pub(super) fn drain(&mut self, attached: &mut Attached) -> Result<Drained, Failure> {
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
                self.read_ns = self.read_ns.max(began_ns);
                drained = Drained::Empty;
                break;
            };
            let event = event.context("failed to decode: record")?;
            self.read_ns = self.read_ns.max(event.over_ns());
            match event {
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
    pub(super) fn flush_due(&self) -> Option<Instant> {
        self.recorder.as_ref()?.due()
    }

    /// Writes what is kept, where that is due.
    pub(super) fn flush(&mut self, attached: &Attached) -> Result<(), Failure> {
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
    pub(super) fn finish(&mut self, attached: &Attached) -> Result<(), Failure> {
        let blind = self.paths.as_ref().map_or(&[][..], |paths| &paths.rules.blind);
        match self.recorder.take() {
            Some(recorder) => recorder.finish(attached, blind),
            None => Ok(()),
        }
    }

    /// Says how the trace stands, on standard error. Nobody may be reading that; then there is nobody to tell.
    pub(super) fn tell(&self, attached: &Attached, is_well: bool) {
        let done = match &self.results {
            Some(results) => results.shown(),
            None => format!("{} traversals recorded", self.traversals),
        };
        // What came after a failure is lost as well; the error that comes next says why.
        let span = if is_well { "" } else { " until the trace failed" };
        let mut text = match attached.counts() {
            Ok(counts) => summary(&done, span, &counts),
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
        if self.filtered && self.traversals == 0 {
            text.push_str(&nothing_matched());
        } else if self.follows_connections {
            text.push_str(CONNECTIONS_FOLLOWED);
        }
        text.push_str(&probes_summary(&attached.forms()));
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Whether results go to standard output.
fn to_stdout(args: &TraceArgs) -> bool {
    if args.output.is_empty() {
        args.format.is_some()
    } else {
        args.output.iter().any(Destination::is_stdout)
    }
}
