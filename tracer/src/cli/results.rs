//! Where results go: joins what is explained to journeys where a format shows these, writes each format to its
//! place, and sums up.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{self, IsTerminal as _},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::exit::{Exit, Failure};
use crate::{
    event::End,
    explain::Explanation,
    journey::{Journey, Journeys, NodeCounts, Nodes, Tally},
    output::{self, Clock, Context, Format, Homes, Output, Screen, Size, Unit, printable},
    passage::Passage,
    traversal::Traversal,
};

/// Rules listed in the summary, of each kind.
const LISTED_MAX: usize = 10;

/// Where results are to go, as it was typed: `[FORMAT:]FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The format, if it was named or the file's name says it.
    format: Option<Format>,
    /// The file; `None` for standard output.
    file: Option<PathBuf>,
}

impl Destination {
    /// Whether it is standard output.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        self.file.is_none()
    }
}

/// Which file it is, whatever it is called, if it is there.
pub(super) fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino())).ok()
}

/// Refuses destinations that would write over a file that is read or written otherwise.
///
/// # Errors
/// The first of `destinations` that is one of `files`.
pub fn spare(destinations: &[Destination], files: &[&Path]) -> Result<(), Failure> {
    for file in destinations
        .iter()
        .filter_map(|destination| destination.file.as_deref())
    {
        let Some(found) = identity(file) else {
            continue;
        };
        if files.iter().any(|other| identity(other) == Some(found)) {
            return Err(Failure::usage(anyhow!(
                "--output {} would write over that recording",
                file.display()
            )));
        }
    }
    Ok(())
}

/// Refuses a format that no destination would have, for each has another of its own.
fn has_a_place(format: Option<Format>, destinations: &[Destination]) -> Result<(), Failure> {
    let Some(format) = format else { return Ok(()) };
    let mut own = destinations.iter().map(|destination| destination.format);
    if own.any(|own| own.is_none_or(|own| own == format)) {
        return Ok(());
    }
    let name = format.to_possible_value();
    let name = name.as_ref().map_or("", |value| value.get_name());
    Err(Failure::hinted(
        Exit::Usage,
        anyhow!("failed to understand: --format {name}: each --output has a format already"),
        "leave --format out, or name another place for it: --output -",
    ))
}

/// Refuses a destination that is one of those before it, which are open.
fn one_each(before: &[Destination], destination: &Destination) -> Result<(), Failure> {
    let place = |destination: &Destination| destination.file.as_deref().map(identity);
    // A terminal or the null device takes both.
    let takes_one = destination.file.as_deref().is_none_or(Path::is_file);
    if !takes_one || before.iter().all(|other| place(other) != place(destination)) {
        return Ok(());
    }
    let place = destination
        .file
        .as_ref()
        .map_or_else(|| "-".to_owned(), |file| file.display().to_string());
    Err(Failure::hinted(
        Exit::Usage,
        anyhow!("failed to write: {place}: two --output would both go there"),
        "give each a file of its own",
    ))
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (format, file) = match text.split_once(':') {
            Some((name, _)) if name.contains('/') => (None, text),
            Some((name, file)) => match Format::from_str(name, false) {
                Ok(format) => (Some(format), file),
                Err(_) => {
                    return Err(format!(
                        "{name} is no format; what stands before the colon is one of {}; \
                         of a file with a colon in its name say ./{text}",
                        formats()
                    ));
                }
            },
            None => (None, text),
        };
        if file.is_empty() {
            return Err("no file is named; - is standard output".to_owned());
        }
        if format.is_none() && file.ends_with(".pcap") {
            return Err(format!(
                "what Wireshark gets is pcapng: {file}ng, or pcapng:{file}"
            ));
        }
        let file = (file != "-").then(|| PathBuf::from(file));
        let format = format.or_else(|| by_name(file.as_deref()?));
        Ok(Self { format, file })
    }
}

/// Every format by its name.
fn formats() -> String {
    let names = Format::value_variants().iter().filter_map(|format| {
        let value = format.to_possible_value()?;
        (!value.is_hide_set()).then(|| value.get_name().to_owned())
    });
    names.collect::<Vec<_>>().join(", ")
}

/// The format that a file's name asks for.
fn by_name(file: &Path) -> Option<Format> {
    Some(match file.extension()?.to_str()? {
        "json" | "jsonl" | "ndjson" => Format::Json,
        "pcapng" => Format::Pcapng,
        "mmd" | "mermaid" => Format::Mermaid,
        _ => return None,
    })
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// More is wanted.
    Open,
    /// So many results as were asked for were written.
    Enough,
    /// Nobody reads the output any more.
    Closed,
}

/// Takes what was explained, writes results.
pub struct Results {
    sinks: Vec<Sink>,
    /// Where a format shows journeys.
    journeys: Option<Journeys>,
    /// Where those of several nodes are shown together.
    nodes: Option<Joining>,
    tally: Tally,
    shown: u64,
    shown_max: Option<u64>,
    state: State,
}

/// What it takes to join what several nodes have recorded.
#[derive(Default)]
struct Joining {
    nodes: Nodes,
    /// What was handed out, whole and not.
    complete: u64,
    partial: u64,
    /// Of packets that were not asked for: they may be parts of those that were.
    others: Journeys,
}

struct Sink {
    format: Format,
    output: Box<dyn Output>,
    place: String,
    is_stdout: bool,
}

impl Results {
    /// Opens every destination; without any, standard output in this format, or in the one for a terminal or a pipe.
    ///
    /// # Errors
    /// A file that cannot be created, or bytes for a terminal.
    pub fn open(
        format: Option<Format>,
        destinations: &[Destination],
        context: &Context,
        shown_max: Option<u64>,
    ) -> Result<Self, Failure> {
        let stdout_alone = [Destination {
            format: None,
            file: None,
        }];
        let destinations = if destinations.is_empty() {
            &stdout_alone
        } else {
            destinations
        };
        has_a_place(format, destinations)?;
        let mut sinks = Vec::new();
        for (index, destination) in destinations.iter().enumerate() {
            sinks.push(Sink::open(destination, format, context.clone())?);
            one_each(&destinations[..index], destination)?;
        }
        let of_journeys = |sink: &Sink| sink.format.shows() == Unit::Journey;
        let journeys = sinks.iter().any(of_journeys).then(Journeys::default);
        Ok(Self {
            sinks,
            journeys,
            nodes: None,
            tally: Tally::default(),
            shown: 0,
            shown_max,
            state: State::Open,
        })
    }

    /// Some tables are left out, so they say nothing of what became of a packet.
    pub fn leave_out_tables(&mut self) {
        let others = self.nodes.as_mut().map(|nodes| &mut nodes.others);
        for journeys in self.journeys.iter_mut().chain(others) {
            journeys.leave_out_tables();
        }
    }

    /// Joins journeys of several nodes: they are written when nothing comes any more.
    pub fn join_nodes(&mut self) {
        self.nodes = self.journeys.is_some().then(Joining::default);
    }

    /// Whether journeys of several nodes are joined.
    #[must_use]
    pub fn joins_nodes(&self) -> bool {
        self.nodes.is_some()
    }

    /// Whether any format shows rules.
    #[must_use]
    pub fn show_rules(&self) -> bool {
        self.sinks.iter().any(|sink| sink.format.shows_rules())
    }

    /// Whether any format shows the rules' texts.
    #[must_use]
    pub fn show_texts(&self) -> bool {
        self.sinks.iter().any(|sink| sink.format.shows_texts())
    }

    /// Whether ends of packets are needed.
    #[must_use]
    pub fn need_ends(&self) -> bool {
        self.journeys.is_some()
    }

    /// What is wanted yet.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Who dropped what, and which NAT rules were used.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes a traversal with its path.
    ///
    /// # Errors
    /// What a writer says.
    pub fn traversal(
        &mut self,
        traversal: Traversal,
        explanation: Option<&Explanation>,
    ) -> anyhow::Result<()> {
        self.write(Unit::Traversal, |output| {
            output.traversal(&traversal, explanation)
        })?;
        if self.journeys.is_none() {
            self.count();
            return Ok(());
        }
        self.passage(Passage::of(traversal, explanation));
        Ok(())
    }

    /// Takes a passage of any backend for its journey.
    pub fn passage(&mut self, passage: Passage) {
        if let Some(journeys) = &mut self.journeys {
            journeys.passage(passage);
        }
    }

    /// Takes the end of a packet; `function` tells what lies at an address.
    pub fn end(&mut self, end: &End, function: impl FnOnce(u64) -> Option<String>) {
        if let Some(journeys) = &mut self.journeys {
            journeys.end(end, function);
        }
    }

    /// Takes a traversal that was not asked for, should it be of a packet that another node was asked for.
    pub fn other_traversal(&mut self, traversal: Traversal, explanation: Option<&Explanation>) {
        if let Some(joining) = &mut self.nodes {
            joining.others.passage(Passage::of(traversal, explanation));
        }
    }

    /// The same for the end of a packet.
    pub fn other_end(&mut self, end: &End, function: impl FnOnce(u64) -> Option<String>) {
        if let Some(joining) = &mut self.nodes {
            joining.others.end(end, function);
        }
    }

    /// Writes the journeys that are over at this time, `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// What a writer says.
    pub fn at(&mut self, now_ns: u64) -> anyhow::Result<()> {
        let over = self.journeys.as_mut().map(|journeys| journeys.over(now_ns));
        let Some(joining) = &mut self.nodes else {
            return self.journeys_over(over.unwrap_or_default());
        };
        let others = joining.others.over(now_ns);
        if joining.take(over.unwrap_or_default(), others) {
            let joined = joining.join();
            return self.journeys_over(joined);
        }
        Ok(())
    }

    /// Writes what is left: nothing comes any more.
    ///
    /// # Errors
    /// What a writer says.
    pub fn finish(&mut self) -> anyhow::Result<()> {
        let mut rest = self.journeys.as_mut().map(Journeys::rest).unwrap_or_default();
        if let Some(joining) = &mut self.nodes {
            let others = joining.others.rest();
            joining.take(rest, others);
            rest = joining.join();
        }
        self.journeys_over(rest)?;
        for index in 0..self.sinks.len() {
            let written = self.sinks[index].output.finish();
            self.written(index, written)?;
        }
        Ok(())
    }

    /// Hands what was written to the operating system, and learns whether anybody is there to read it.
    ///
    /// # Errors
    /// What a writer says.
    pub fn flush(&mut self) -> anyhow::Result<()> {
        for index in 0..self.sinks.len() {
            let written = self.sinks[index].output.flush();
            self.written(index, written)?;
        }
        // A write would say so as well, but the next result may be long in coming.
        if self.state == State::Open && self.sinks.iter().any(|sink| sink.is_stdout) && is_stdout_closed() {
            self.state = State::Closed;
        }
        Ok(())
    }

    fn journeys_over(&mut self, over: Vec<Journey>) -> anyhow::Result<()> {
        for journey in over {
            if self.state != State::Open {
                return Ok(());
            }
            self.tally.add(&journey);
            self.write(Unit::Journey, |output| output.journey(&journey))?;
            // Of packets that no format shows none counts.
            let mut formats = self.sinks.iter().map(|sink| sink.format);
            if journey.outcome.is_drop() || !formats.all(|format| format == Format::Drops) {
                self.count();
            }
        }
        Ok(())
    }

    fn count(&mut self) {
        self.shown += 1;
        if self.shown_max == Some(self.shown) && self.state == State::Open {
            self.state = State::Enough;
        }
    }

    fn write(&mut self, unit: Unit, write: impl Fn(&mut dyn Output) -> io::Result<()>) -> anyhow::Result<()> {
        for index in 0..self.sinks.len() {
            if self.sinks[index].format.shows() == unit {
                let written = write(&mut *self.sinks[index].output);
                self.written(index, written)?;
            }
        }
        Ok(())
    }

    /// A closed pipe (`tracer trace | head`) is a way to say enough; anything else is an error.
    fn written(&mut self, index: usize, written: io::Result<()>) -> anyhow::Result<()> {
        match written {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.state = State::Closed;
                Ok(())
            }
            Err(error) => Err(error).context(format!("failed to write: {}", self.sinks[index].place)),
        }
    }

    /// What was shown: `12 packets`, or `40 traversals` where no format joins them.
    #[must_use]
    pub fn shown(&self) -> String {
        let unit = if self.journeys.is_some() {
            "packets"
        } else {
            "traversals"
        };
        format!("{} {unit} shown", self.shown)
    }

    /// What came together: journeys, drops by rule, NAT rules; a line for each, empty where no format joins journeys.
    #[must_use]
    pub fn summary(&self) -> String {
        let Some(journeys) = &self.journeys else {
            return String::new();
        };
        let counts = journeys.counts();
        let (mut text, complete, partial) = match &self.nodes {
            Some(joining) => (joining.summary(), joining.complete, joining.partial),
            None => (String::new(), counts.journeys - counts.partial, counts.partial),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "journeys: {complete} complete, {partial} partial");
        if counts.cut > 0 {
            let _ = write!(text, " ({} cut, too many at once)", counts.cut);
        }
        text.push('\n');
        if self.tally.dropped > 0 {
            let _ = writeln!(text, "dropped or rejected: {}", self.tally.dropped);
            let drops = self.tally.drops();
            list(
                &mut text,
                drops.iter().map(|(count, who)| (*count, who.to_string())),
            );
        }
        let nat = self.tally.nat();
        if !nat.is_empty() {
            text.push_str("NAT decided by:\n");
            list(
                &mut text,
                nat.iter().map(|(count, rule)| {
                    let rule_text = rule.text.as_deref().unwrap_or_default();
                    (*count, format!("{rule}  {rule_text}"))
                }),
            );
        }
        text
    }
}

impl Joining {
    /// True where it is time to join.
    fn take(&mut self, over: Vec<Journey>, others: Vec<Journey>) -> bool {
        let mut full = false;
        for journey in over {
            full |= self.nodes.take(journey);
        }
        for journey in others {
            full |= self.nodes.take_other(journey);
        }
        full
    }

    /// Joins what was taken.
    fn join(&mut self) -> Vec<Journey> {
        let joined = self.nodes.join();
        for journey in &joined {
            let count = if journey.partial.is_empty() {
                &mut self.complete
            } else {
                &mut self.partial
            };
            *count += 1;
        }
        joined
    }

    /// What joining has found; a line for each.
    fn summary(&self) -> String {
        let NodeCounts {
            joined,
            ambiguous,
            batches,
        } = self.nodes.counts;
        let mut text = format!("joined over nodes or tunnels: {joined}\n");
        // Writing to a string cannot fail.
        if ambiguous > 0 {
            let _ = writeln!(
                text,
                "not joined, for nothing tells them apart from others: {ambiguous}"
            );
        }
        if batches > 1 {
            let _ = writeln!(
                text,
                "too many packets to compare at once: compared in {batches} parts (a narrower filter helps)"
            );
        }
        text
    }
}

fn list(text: &mut String, entries: impl ExactSizeIterator<Item = (u64, String)>) {
    let more = entries.len().saturating_sub(LISTED_MAX);
    for (count, entry) in entries.take(LISTED_MAX) {
        let entry = printable(entry.trim_end());
        let _ = writeln!(text, "  {count:>8}  {entry}");
    }
    if more > 0 {
        let _ = writeln!(text, "            and {more} more rules");
    }
}

impl Sink {
    fn open(
        destination: &Destination,
        format: Option<Format>,
        mut context: Context,
    ) -> Result<Self, Failure> {
        let terminal = destination.file.is_none() && io::stdout().is_terminal();
        let by_default = if terminal { Format::Tree } else { Format::Line };
        let format = destination.format.or(format).unwrap_or(by_default);
        let (writer, place): (Box<dyn io::Write>, String) = match &destination.file {
            Some(file) => {
                let place = file.display().to_string();
                let created = File::create(file).with_context(|| format!("failed to create: {place}"))?;
                (to_file(created, format), place)
            }
            None if terminal && format.is_binary() => {
                return Err(Failure::hinted(
                    Exit::Usage,
                    anyhow!("failed to write: standard output: it is a terminal, and the format is no text"),
                    "name a file: --output FILE.pcapng",
                ));
            }
            None => (stdout(format), "standard output".to_owned()),
        };
        let is_dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
        if !terminal || format == Format::Stats && is_dumb {
            context.screen = Screen::None;
        }
        let output =
            output::new(format, writer, context).with_context(|| format!("failed to write: {place}"))?;
        Ok(Self {
            format,
            output,
            place,
            is_stdout: destination.is_stdout(),
        })
    }
}

/// Whether nobody is left at the other end of standard output, which `poll` tells unasked.
fn is_stdout_closed() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    let gone = PollFlags::POLLERR | PollFlags::POLLHUP;
    poll(&mut polled, PollTimeout::ZERO).is_ok()
        && polled[0].revents().is_some_and(|events| events.intersects(gone))
}

/// Files have no colours.
fn to_file(file: File, format: Format) -> Box<dyn io::Write> {
    if format.is_binary() {
        Box::new(io::BufWriter::new(file))
    } else {
        Box::new(io::BufWriter::new(anstream::StripStream::new(file)))
    }
}

fn stdout(format: Format) -> Box<dyn io::Write> {
    let stdout = io::stdout();
    let plain = anstream::AutoStream::choice(&stdout) == anstream::ColorChoice::Never;
    // The live table has no colours, but goes back over what it has written.
    if plain && !format.is_binary() && format != Format::Stats {
        Box::new(io::BufWriter::new(anstream::StripStream::new(stdout)))
    } else {
        Box::new(io::BufWriter::new(stdout))
    }
}

/// How large the terminal at standard output is now. One that does not tell is as those of old were.
fn screen_size() -> Size {
    let (columns, rows) = terminal_size::terminal_size_of(io::stdout())
        .map_or((80, 24), |(width, height)| {
            (usize::from(width.0), usize::from(height.0))
        });
    Size { columns, rows }
}

/// What is the same for all formats: the network namespaces that need no mention, and the clock of the machine where it
/// happened.
#[must_use]
pub fn context(homes: Homes, clock: Clock) -> Context {
    Context {
        homes,
        clock,
        screen: Screen::Terminal(screen_size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn destination(text: &str) -> Destination {
        text.parse().unwrap()
    }

    #[test]
    fn a_destination_has_a_format_of_its_own_or_by_its_name() {
        let plain = destination("/tmp/a.txt");
        assert_eq!((plain.format, plain.file), (None, Some("/tmp/a.txt".into())));
        let named = destination("json:/tmp/a.txt");
        assert_eq!(
            (named.format, named.file),
            (Some(Format::Json), Some("/tmp/a.txt".into()))
        );
        assert_eq!(destination("a.json").format, Some(Format::Json));
        assert_eq!(destination("tree:-").file, None);
        assert_eq!(destination("./10:20").file, Some("./10:20".into()));
        for (text, said) in [
            ("json:", "no file is named"),
            (
                "foo:x",
                "foo is no format; what stands before the colon is one of tree, line, ",
            ),
            ("10:20", "say ./10:20"),
            ("x.pcap", "x.pcapng, or pcapng:x.pcap"),
        ] {
            let error = Destination::from_str(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
        assert_eq!(destination("pcapng:x.pcap").format, Some(Format::Pcapng));
    }

    #[test]
    fn a_format_that_no_output_would_have_is_refused_before_any_file_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a.json");
        let its = [destination(file.to_str().unwrap())];
        let context = context(Homes::of([]), Clock::system());
        let refused = Results::open(Some(Format::Line), &its, &context, None);
        assert!(refused.is_err_and(|failure| format!("{failure:?}").contains("--format line")));
        assert!(!file.exists());
        for format in [None, Some(Format::Json)] {
            assert!(Results::open(format, &its, &context, None).is_ok());
        }
    }
}
