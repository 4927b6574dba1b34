//! `tracer show`: what recordings hold, on any machine.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap, HashMap},
    fs,
    io::{self, Read, Write as _},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use anyhow::anyhow;
use clap::Args;

use super::{
    exit::{Exit, Failure},
    filter::{FilterArgs, Subject},
    results::{self, Destination, Results, State},
    summary::{CONNECTIONS_FOLLOWED, paths_summary, summary, undecided},
};
use crate::{
    changed::Changes,
    event::{End, Event},
    explain::{Explainer, Explanation},
    filter::Selection,
    kernel::devices::DeviceNames,
    netns::places::Places,
    output::{Clock, Format, Homes},
    parts::Parts,
    recording::{Counted, Damage, Entry, Host, Item, OpenError, Reader, Recorded},
    traversal::Traversal,
    witness::Witnesses,
};

/// Arguments of `tracer show`.
#[derive(Args, Clone, Debug)]
#[command(mut_arg("netns", |arg| arg.help(
    "Network namespace: net:[INODE], as the machine had it where it was recorded (`netns` of --format json)"
)))]
pub struct ShowArgs {
    /// Recordings of `tracer trace --write`, those of several nodes joined; then which packets to show, in
    /// tcpdump's syntax: it begins with the first word that is no file. - is standard input
    #[arg(value_name = "FILE... [EXPRESSION]", required = true)]
    words: Vec<String>,
    #[command(flatten)]
    filter: FilterArgs,
    /// How to write results [default: tree on a terminal, else line]
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<Format>,
    /// Write results to this file instead of standard output; FORMAT: before it, or its name's end
    /// (.json, .pcapng, .mmd), chooses a format of its own. Can be given several times; - is standard output
    #[arg(long, value_name = "[FORMAT:]FILE")]
    output: Vec<Destination>,
    /// Stop after this many results: packets, with `tables` and `log` alone traversals of a table
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Shows recordings.
///
/// # Errors
/// Flags that make no filter, a file that is no recording, damage within one (after showing what is whole), an
/// output that fails.
pub fn run(args: &ShowArgs) -> Result<Exit, Failure> {
    let (files, expression) = files_and_expression(&args.words);
    let wanted = args
        .filter
        .wanted(expression, Subject::Recording)
        .map_err(|failure| match expression {
            // A file that is not there is no expression either.
            [word, ..]
                if word.contains(['/', '.']) && !word.contains(' ') && word.parse::<IpAddr>().is_err() =>
            {
                failure.or_hint(format!("{word} is no file, so it was read as a filter"))
            }
            _ => failure,
        })?;
    let mut recordings = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let found = identity(file);
        let before = &files[..number];
        if let Some(other) = before
            .iter()
            .find(|other| found.is_some() && identity(other) == found)
        {
            return Err(twice(file, "the same file as", other));
        }
        let reader = open(file)?;
        if let Some(other) = recordings
            .iter()
            .find(|other: &&Recording| other.reader.is_same(&reader))
        {
            return Err(twice(file, "a copy of", &other.file));
        }
        recordings.push(Recording {
            file: file.clone(),
            number: u32::try_from(number).unwrap_or(u32::MAX),
            node: None,
            shift_ns: 0,
            reader,
            selection: Selection::new(wanted.clone()),
            others: false,
            explainer: None,
            recorded: Recorded::default(),
            witnesses: Witnesses::default(),
            changes: Changes::default(),
            parts: Parts::default(),
            device_names: DeviceNames::default(),
            places: Places::default(),
            functions: HashMap::new(),
            traversals: 0,
            matched: 0,
            strange: 0,
            counted: None,
            through: false,
            ended: false,
            cut: false,
            damages: Vec::new(),
        });
    }
    let paths: Vec<&Path> = files.iter().map(Path::new).collect();
    results::spare(&args.output, &paths)?;
    let clock_offset_ns = align(&mut recordings);
    let homes = Homes::of(recordings.iter().map(|recording| recording.host().netns));
    let context = results::context(homes, Clock::with_offset_ns(clock_offset_ns));
    let mut results = Results::open(args.format, &args.output, &context, args.count)?;
    if recordings.len() > 1 {
        results.join_nodes();
    }
    if wanted.leaves_out_tables() || recordings.iter().any(Recording::leaves_out_tables) {
        results.leave_out_tables();
    }
    for recording in &mut recordings {
        recording.others = results.joins_nodes();
    }
    if results.show_rules() {
        for recording in &mut recordings {
            recording.explainer = Some(Explainer::default());
        }
    }
    merge(&mut recordings, &mut results)?;
    tell(&results, &recordings);
    match recordings.iter().find(|recording| !recording.damages.is_empty()) {
        None if recordings.iter().any(Recording::ends_early) => Ok(Exit::CutOff),
        None => Ok(Exit::Done),
        Some(damaged) => Err(Failure::hinted(
            Exit::Failed,
            anyhow!(
                "failed to read: recording {}: damaged: {} (see above)",
                damaged.file,
                match damaged.damages.len() {
                    1 => "once".to_owned(),
                    count => format!("{count} times"),
                }
            ),
            "everything that is whole was shown",
        )),
    }
}

/// The first word is a file, and so is every further one that is there; what follows is an expression.
fn files_and_expression(words: &[String]) -> (&[String], &[String]) {
    let is_file = |word: &String| word == "-" || Path::new(word).exists();
    let further = words.iter().skip(1).take_while(|word| is_file(word)).count();
    words.split_at((1 + further).min(words.len()))
}

/// Which file it is, whatever it is called.
fn identity(file: &str) -> Option<(u64, u64)> {
    results::identity(Path::new(if file == "-" { "/dev/stdin" } else { file }))
}

/// One recording was named twice.
fn twice(file: &str, how: &str, other: &str) -> Failure {
    Failure::hinted(
        Exit::Usage,
        anyhow!("failed to open: recording {file}: {how} {other}"),
        "leave out one of them, the shorter one if they differ: every packet would be counted twice",
    )
}

fn open(file: &str) -> Result<Reader<Box<dyn Read>>, Failure> {
    let from: io::Result<Box<dyn Read>> = match file {
        "-" => Ok(Box::new(io::stdin())),
        path => fs::File::open(Path::new(path)).map(|file| Box::new(file) as Box<dyn Read>),
    };
    let opened = from.map_err(OpenError::from).and_then(Reader::open);
    opened.map_err(|error| {
        let hint = match &error {
            OpenError::Empty => Some("its trace wrote nothing: was there room, and did it begin?"),
            OpenError::NoRecording => Some("`tracer trace --write FILE` makes one"),
            OpenError::Version(_) | OpenError::Layout { .. } => {
                Some("show it with the version of tracer that made it")
            }
            OpenError::Machine(_) => Some("show it on a machine of that kind"),
            OpenError::Io(error) if error.kind() == io::ErrorKind::NotFound => {
                Some("recordings come first, then the filter: `tracer show FILE tcp port 80`")
            }
            OpenError::Io(_) | OpenError::NoHost => None,
        };
        let error = anyhow!("failed to open: recording {file}: {error}");
        match hint {
            Some(hint) => Failure::hinted(Exit::Failed, error, hint),
            None => error.into(),
        }
    })
}

/// Gives the clocks of all recordings the offset of the first, which is returned, and where there are several gives
/// each the name of its machine.
fn align(recordings: &mut [Recording]) -> i64 {
    let Some(first) = recordings.first() else {
        return 0;
    };
    let offset_ns = first.host().clock_offset_ns;
    if recordings.len() > 1 {
        let nodes = node_names(recordings);
        for (recording, node) in recordings.iter_mut().zip(nodes) {
            recording.node = Some(node.as_str().into());
            recording.shift_ns = recording.host().clock_offset_ns.saturating_sub(offset_ns);
        }
    }
    offset_ns
}

/// What to call each machine: by its name, or where several have the same one by the file's name, or its path.
fn node_names(recordings: &[Recording]) -> Vec<String> {
    let all = |name: fn(&Recording) -> String| recordings.iter().map(name).collect::<Vec<String>>();
    let are_different = |names: &[String]| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let hosts = all(|recording| recording.host().name.clone());
    if are_different(&hosts) {
        return hosts;
    }
    let files = all(|recording| {
        let name = Path::new(&recording.file).file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    });
    if are_different(&files) {
        return files;
    }
    all(|recording| recording.file.clone())
}

/// A recording that is being read.
struct Recording {
    file: String,
    number: u32,
    /// What the machine is called where there are several.
    node: Option<Arc<str>>,
    /// From its clock to the first recording's.
    shift_ns: i64,
    reader: Reader<Box<dyn Read>>,
    selection: Selection,
    /// Whether what was not asked for may be a part of what was.
    others: bool,
    /// Where the format shows rules.
    explainer: Option<Explainer>,
    recorded: Recorded,
    witnesses: Witnesses,
    changes: Changes,
    parts: Parts,
    device_names: DeviceNames,
    places: Places,
    /// Names of functions that dropped packets, by an address within.
    functions: HashMap<u64, Option<String>>,
    traversals: u64,
    /// Traversals that were asked for.
    matched: u64,
    /// Records that are none.
    strange: u64,
    /// How the counters stood last.
    counted: Option<Counted>,
    /// Whether it was read as far as it goes, and not only as far as was wanted.
    through: bool,
    /// Whether the end was there.
    ended: bool,
    /// Whether it ends within a frame.
    cut: bool,
    damages: Vec<Damage>,
}

/// What is to be shown.
enum Shown {
    /// A traversal with its path; and whether it was asked for.
    Traversal(Box<Traversal>, Option<Explanation>, bool),
    /// The end of a packet, as it is for what was asked for, and as it is for what was not.
    End(Option<End>, End),
}

impl Shown {
    /// When it was sent.
    fn time_ns(&self) -> u64 {
        match self {
            Self::Traversal(traversal, ..) => traversal.left_ns,
            Self::End(_, end) => end.ended_ns,
        }
    }
}

impl Recording {
    fn host(&self) -> &Host {
        self.reader.host()
    }

    /// Whether the trace left out tables: its flags said so.
    fn leaves_out_tables(&self) -> bool {
        let flags = ["--hook", "--table", "-t"];
        let mut words = self.host().command.iter();
        words.any(|word| flags.iter().any(|flag| word.starts_with(flag)))
    }

    /// The next traversal or end that is to be shown. A traversal is explained at once: what the recording knows of rules is what
    /// was read up to here.
    fn next(&mut self) -> Option<Shown> {
        loop {
            let Some(item) = self.reader.next() else {
                self.through = true;
                return None;
            };
            let entry = match item {
                Item::Entry(entry) => entry,
                Item::Damage(Damage::Cut { .. }) => {
                    self.cut = true;
                    continue;
                }
                Item::Damage(damage) => {
                    self.recorded.damaged();
                    self.damages.push(damage);
                    continue;
                }
            };
            match entry {
                Entry::Record(bytes) => {
                    let mut traversal = match Event::decode(&bytes) {
                        Ok(Event::Traversal(part)) => match self.parts.join(*part) {
                            Some(whole) => Box::new(whole),
                            None => continue,
                        },
                        Ok(Event::End(mut end)) => {
                            let mut taken = end;
                            let takes = self.selection.takes_end(&mut taken);
                            if !takes && !self.others {
                                continue;
                            }
                            end.packet = end.packet.of_recording(self.number);
                            end.ended_ns = end.ended_ns.saturating_add_signed(self.shift_ns);
                            let taken = takes.then_some(End {
                                passes: taken.passes,
                                ..end
                            });
                            return Some(Shown::End(taken, end));
                        }
                        Ok(Event::Changed(changed)) => {
                            self.changes.keep(changed);
                            continue;
                        }
                        Ok(Event::Witness(witness)) => {
                            self.witnesses.keep(witness);
                            if let Some(explainer) = &mut self.explainer {
                                explainer.verification.get_or_insert_default();
                            }
                            continue;
                        }
                        Err(_) => {
                            self.strange += 1;
                            continue;
                        }
                    };
                    self.traversals += 1;
                    self.witnesses.complete(&mut traversal);
                    self.changes.complete(&mut traversal);
                    let (first, pass) = (traversal.first, traversal.pass);
                    let takes = self.selection.takes(&mut traversal);
                    self.matched += u64::from(takes);
                    if !takes {
                        if !self.others {
                            continue;
                        }
                        (traversal.first, traversal.pass) = (first, pass);
                    }
                    self.device_names.recall(&mut traversal);
                    self.places.recall(&mut traversal);
                    let explainer = self.explainer.as_mut();
                    let explanation =
                        explainer.map(|explainer| explainer.explain(&traversal, &mut self.recorded));
                    traversal.place(self.number, self.node.clone(), self.shift_ns);
                    return Some(Shown::Traversal(traversal, explanation, takes));
                }
                Entry::Table(table) => {
                    self.recorded.table(&table);
                    if let Some(explainer) = &mut self.explainer {
                        explainer.learn(table.netns, table.generation, table.rules);
                    }
                }
                Entry::Nftables(read) => {
                    self.recorded.nftables(read.netns);
                    if let Some(explainer) = &mut self.explainer {
                        explainer.learn_nftables(read.netns, read.generation, read.rules);
                    }
                }
                Entry::Unread(unread) => self.recorded.unread(unread),
                Entry::Device(device) => {
                    self.device_names.learn(device.netns, device.ifindex, device.name);
                }
                Entry::Place(place) => {
                    self.places.learn(&place.into());
                }
                Entry::Function(function) => {
                    self.functions.insert(function.address, function.name);
                }
                Entry::Counted(counted) => self.counted = Some(counted),
                Entry::End(end) => {
                    self.counted = Some(end.counted);
                    self.ended = true;
                }
                // The reader yields neither.
                Entry::Host(_) | Entry::Unknown(_) => {}
            }
        }
    }

    /// Whether it was read to where it ends, and the end of its trace is not there.
    fn ends_early(&self) -> bool {
        self.through && !self.ended
    }

    /// What there is to say of it when it was read to its end.
    fn tell(&self, text: &mut String) {
        let mut say = |line: std::fmt::Arguments<'_>| text.push_str(&format!("{line}\n"));
        if !self.through {
            say(format_args!("{}: the rest was not read", self.file));
        }
        match &self.counted {
            Some(counted) => {
                // Without the end it is known only as it stood when it was counted last.
                let (recorded, span) = if self.ended {
                    ("recorded", " while recording")
                } else {
                    ("recorded when they were counted last", " until then")
                };
                let mut done = format!("{} traversals {recorded}", counted.traversals);
                if self.through && self.traversals < counted.traversals {
                    done.push_str(&format!(" ({} of them whole in this file)", self.traversals));
                }
                let sum = summary(&done, span, &counted.counts());
                say(format_args!("{}: {}", self.file, sum.trim_end()));
                if !counted.blind.is_empty() {
                    say(format_args!(
                        "not observed on this kernel: {}",
                        counted.blind.join(", ")
                    ));
                }
            }
            None if !self.through => {}
            None => say(format_args!(
                "{}: what was lost while it was recorded is not known",
                self.file
            )),
        }
        if self.strange > 0 {
            say(format_args!("{} records are not understood", self.strange));
        }
        for (tag, count) in self.reader.unknown() {
            say(format_args!(
                "{count} entries of kind {tag} skipped: made by a newer tracer"
            ));
        }
        text.push_str(&undecided(&self.selection));
        let mut say = |line: std::fmt::Arguments<'_>| text.push_str(&format!("{line}\n"));
        for damage in &self.damages {
            say(format_args!("{}: damaged: {damage}", self.file));
        }
        if self.ends_early() {
            let place = if self.cut { ", within a frame" } else { "" };
            say(format_args!(
                "{} ends before its trace did{place}: the writer was killed or had no room, or the file was cut off \
                 later; what came after is not in it",
                self.file
            ));
        }
    }
}

/// Shows what all recordings hold in the order of its time.
fn merge(recordings: &mut [Recording], results: &mut Results) -> Result<(), Failure> {
    let mut heads: Vec<Option<Shown>> = recordings.iter_mut().map(Recording::next).collect();
    let order = |head: &Shown, place| Reverse((head.time_ns(), place));
    let mut heap: BinaryHeap<_> = heads
        .iter()
        .enumerate()
        .filter_map(|(place, head)| head.as_ref().map(|head| order(head, place)))
        .collect();
    while let Some(Reverse((time_ns, place))) = heap.pop() {
        match heads[place].take() {
            Some(Shown::Traversal(traversal, explanation, true)) => {
                results.traversal(*traversal, explanation.as_ref())?;
            }
            Some(Shown::Traversal(traversal, explanation, false)) => {
                results.other_traversal(*traversal, explanation.as_ref());
            }
            Some(Shown::End(taken, end)) => {
                let functions = &recordings[place].functions;
                let function = |address: u64| functions.get(&address).cloned().flatten();
                results.other_end(&end, function);
                if let Some(end) = taken {
                    results.end(&end, function);
                }
            }
            None => continue,
        }
        results.at(time_ns)?;
        if results.state() != State::Open {
            return Ok(results.flush()?);
        }
        heads[place] = recordings[place].next();
        if let Some(head) = &heads[place] {
            heap.push(order(head, place));
        }
    }
    Ok(results.finish()?)
}

/// Says what was shown and what is missing, on standard error. Nobody may be reading that.
fn tell(results: &Results, recordings: &[Recording]) {
    let recorded: u64 = recordings.iter().map(|recording| recording.traversals).sum();
    let mut text = format!("{}, of {recorded} traversals read\n", results.shown());
    if recorded > 0 && recordings.iter().all(|recording| recording.matched == 0) {
        text.push_str("nothing matches; without a filter all of it is shown\n");
    } else if recordings
        .iter()
        .any(|recording| recording.selection.follows_connections())
    {
        text.push_str(CONNECTIONS_FOLLOWED);
    }
    for recording in recordings {
        if let Some(explainer) = &recording.explainer {
            if recordings.len() > 1 {
                text.push_str(&format!("{}: ", recording.file));
            }
            text.push_str(&paths_summary(explainer));
        }
        recording.tell(&mut text);
    }
    text.push_str(&results.summary());
    let _ = io::stderr().write_all(text.as_bytes());
}
