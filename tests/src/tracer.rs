//! Runs `tracer trace` and reads what it shows.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::command::Running;
use crate::traffic;
use crate::wait;

/// Exit codes of `tracer`: scripts rely on them.
pub mod exit {
    /// Done, also when a signal, a limit or a closed pipe ended it.
    pub const DONE: i32 = 0;
    /// Failed while running.
    pub const FAILED: i32 = 1;
    /// Not permitted: not root, or the kernel is locked down.
    pub const NOT_PERMITTED: i32 = 3;
    /// The kernel or the node lacks something.
    pub const UNSUPPORTED: i32 = 4;
    /// A recording ends before its trace did.
    pub const CUT_OFF: i32 = 5;
}

/// The flag that leaves the network namespaces of neighbours out.
pub const THIS_NETNS: &str = "--netns /proc/self/ns/net";

/// A `tracer trace` that runs, with its probes attached. Its output goes to files.
#[derive(Debug)]
pub struct Tracer {
    process: Running,
    files: TempDir,
}

impl Tracer {
    /// Starts it in the current network namespace; the words of the line are its arguments. Returns when
    /// records flow.
    ///
    /// # Errors
    ///
    /// When it ends instead; the error holds what it said.
    pub fn start(arguments: &str) -> Result<Self> {
        let mut tracer = Self::launch(arguments)?;
        tracer.wait_until_ready()?;
        Ok(tracer)
    }

    /// Starts one for each line of arguments. Most of what a start takes is waiting for the kernel, so a few
    /// start at a time.
    ///
    /// # Errors
    ///
    /// When any of them ends instead.
    pub fn start_all(arguments: &[String]) -> Result<Vec<Self>> {
        const AT_A_TIME: usize = 4;

        let mut tracers = Vec::new();
        for some in arguments.chunks(AT_A_TIME) {
            let first = tracers.len();
            for arguments in some {
                tracers.push(Self::launch(arguments)?);
            }
            tracers[first..].iter_mut().try_for_each(Self::wait_until_ready)?;
        }
        Ok(tracers)
    }

    /// Ends them all as `^C` does, once every packet has gone its way, and returns what each showed.
    ///
    /// # Errors
    ///
    /// When one does not end, or fails.
    pub fn stop_all(tracers: Vec<Self>) -> Result<Vec<Report>> {
        traffic::settle()?;
        tracers
            .iter()
            .try_for_each(|tracer| tracer.signal(Signal::SIGINT))?;
        tracers.into_iter().map(Self::wait).collect()
    }

    fn launch(arguments: &str) -> Result<Self> {
        let files = tempfile::tempdir().context("failed to create directory for output")?;
        let create = |name: &str| {
            let path = files.path().join(name);
            File::create(&path).with_context(|| format!("failed to create: {}", path.display()))
        };
        let ready = files.path().join("ready");
        // Scenarios look at each table on its own, unless they say otherwise.
        let by_table = ["--format", "tables"];
        let by_table = by_table
            .iter()
            .filter(|_| !arguments.contains("--format ") && !arguments.contains("--write "));
        let child = Command::new("tracer")
            .arg("trace")
            .args(by_table)
            .args(arguments.split_whitespace())
            .arg("--ready-file")
            .arg(&ready)
            .stdin(Stdio::null())
            .stdout(create("stdout")?)
            .stderr(create("stderr")?)
            .spawn()
            .context("failed to start: tracer")?;
        Ok(Self {
            process: Running(child),
            files,
        })
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let ready = self.ready_file();
        wait::until("tracer to be ready", || {
            if ready.exists() {
                return Ok(true);
            }
            match self.process.0.try_wait().context("failed to wait for tracer")? {
                // With --count or --duration it may be through already.
                Some(status) if !status.success() => {
                    bail!("failed to start: tracer: {status}: {}", self.said()?)
                }
                ended => Ok(ended.is_some()),
            }
        })
    }

    /// Its process id.
    ///
    /// # Errors
    ///
    /// When the number is none.
    pub fn pid(&self) -> Result<Pid> {
        Ok(Pid::from_raw(
            i32::try_from(self.process.0.id()).context("failed to read process id")?,
        ))
    }

    /// The most memory that it has had so far (`VmHWM` of `/proc/PID/status`), in KiB.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn memory_peak_kib(&self) -> Result<u64> {
        let status = read(Path::new(&format!("/proc/{}/status", self.pid()?)))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|peak| peak.trim().strip_suffix(" kB")?.parse().ok());
        peak.context("failed to read: memory of tracer")
    }

    /// The file that exists while records flow.
    #[must_use]
    pub fn ready_file(&self) -> PathBuf {
        self.files.path().join("ready")
    }

    /// What it has said on standard error so far.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn said(&self) -> Result<String> {
        read(&self.files.path().join("stderr"))
    }

    /// What it has written to standard output so far.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn shown(&self) -> Result<String> {
        read(&self.files.path().join("stdout"))
    }

    /// What it has written to standard output after its first `from` bytes.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn shown_from(&self, from: u64) -> Result<String> {
        let mut text = String::new();
        File::open(self.files.path().join("stdout"))
            .and_then(|mut file| {
                file.seek(SeekFrom::Start(from))?;
                file.read_to_string(&mut text)
            })
            .context("failed to read output")?;
        Ok(text)
    }

    /// Bytes that it has written to standard output so far.
    ///
    /// # Errors
    ///
    /// When the file cannot be found.
    pub fn shown_len(&self) -> Result<u64> {
        let file = fs::metadata(self.files.path().join("stdout")).context("failed to find output")?;
        Ok(file.len())
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).with_context(|| format!("failed to send: {signal}"))
    }

    /// Takes the processor away from it, until [`Tracer::go_on`].
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn hold(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)?;
        // Its threads stop one after the other.
        waitid(Id::Pid(self.pid()?), WaitPidFlag::WSTOPPED)
            .map(drop)
            .context("failed to wait until tracer is stopped")
    }

    /// Gives it the processor again.
    ///
    /// # Errors
    ///
    /// When the process is gone.
    pub fn go_on(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    /// Ends it as `^C` does, once every packet has gone its way, and returns what it showed.
    ///
    /// # Errors
    ///
    /// When it does not end, or fails.
    pub fn stop(self) -> Result<Report> {
        let Text { shown, said } = self.stop_as_text()?;
        Report::read(&shown, said)
    }

    /// The same for formats other than `tables`.
    ///
    /// # Errors
    ///
    /// As of [`Tracer::stop`].
    pub fn stop_as_text(self) -> Result<Text> {
        traffic::settle()?;
        self.signal(Signal::SIGINT)?;
        self.wait_for_text()
    }

    /// Waits until it ends by itself and returns what it showed.
    ///
    /// # Errors
    ///
    /// When it does not end, or fails.
    pub fn wait(self) -> Result<Report> {
        let Text { shown, said } = self.wait_for_text()?;
        Report::read(&shown, said)
    }

    /// Waits until it ends by itself and returns what it wrote, in any format.
    ///
    /// # Errors
    ///
    /// When it does not end, or fails.
    pub fn wait_for_text(mut self) -> Result<Text> {
        let code = self.wait_for_exit()?;
        ensure!(
            code == Some(exit::DONE),
            "tracer: exit code {code:?}: {}",
            self.said()?
        );
        ensure!(!self.ready_file().exists(), "tracer left its ready file behind");
        Ok(Text {
            shown: self.shown()?,
            said: self.said()?,
        })
    }

    /// Waits until it ends; its exit code, if it has one.
    ///
    /// # Errors
    ///
    /// When it does not end.
    pub fn wait_for_exit(&mut self) -> Result<Option<i32>> {
        let process = &mut self.process.0;
        let mut status = None;
        wait::until("tracer to end", || {
            status = process.try_wait().context("failed to wait for tracer")?;
            Ok(status.is_some())
        })?;
        Ok(status.and_then(|status| status.code()))
    }
}

/// Runs `tracer show`; the words of the line are its arguments. Its exit code, and what it wrote.
///
/// # Errors
///
/// When it cannot be run, or writes what is no text.
pub fn show(arguments: &str) -> Result<(Option<i32>, Text)> {
    let output = Command::new("tracer")
        .arg("show")
        .args(arguments.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .context("failed to run: tracer show")?;
    let text = |bytes| String::from_utf8(bytes).context("failed to read output of: tracer show");
    let text = Text {
        shown: text(output.stdout)?,
        said: text(output.stderr)?,
    };
    Ok((output.status.code(), text))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read: {}", path.display()))
}

/// What a finished trace wrote.
#[derive(Clone, Debug)]
pub struct Text {
    /// Standard output.
    pub shown: String,
    /// Standard error.
    pub said: String,
}

/// What a finished trace showed.
#[derive(Clone, Debug)]
pub struct Report {
    /// The lines, in the order in which they were written.
    pub lines: Vec<Line>,
    /// Standard error.
    pub said: String,
}

impl Report {
    /// Reads the output; the sum on standard error must say how many lines there are.
    ///
    /// # Errors
    ///
    /// When a line cannot be read, or the sum is missing or wrong.
    pub fn read(stdout: &str, said: String) -> Result<Self> {
        let lines: Vec<Line> = stdout.lines().map(Line::parse).collect::<Result<_>>()?;
        let last = Summary::last(&said)?;
        ensure!(
            last.shown == lines.len() as u64,
            "{} lines, but tracer says: {said}",
            lines.len()
        );
        Ok(Self { lines, said })
    }

    /// The sum that it ended with.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn summary(&self) -> Result<Summary> {
        Summary::last(&self.said)
    }

    /// The lines, having made sure that nothing was lost and no line has a gap.
    ///
    /// # Errors
    ///
    /// When something was.
    pub fn whole(self) -> Result<Vec<Line>> {
        Summary::whole(&self.said)?;
        if let Some(line) = self.lines.iter().find(|line| !line.remarks.is_empty()) {
            bail!("tracer shows a gap: {}", line.text);
        }
        Ok(self.lines)
    }
}

/// The kernel did not run a probe, because an interrupt came while another one ran on that CPU; tracer has counted
/// it and said so. What it showed then is not all there was, through no fault of its own, so there is nothing to
/// compare: the scenario has to be played again.
#[derive(Clone, Copy, Debug)]
pub struct ProbesSkipped(pub u64);

impl fmt::Display for ProbesSkipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the kernel skipped {} runs of probes, as tracer says itself",
            self.0
        )
    }
}

impl std::error::Error for ProbesSkipped {}

/// What tracer says of runs that the kernel skipped, with what is missing for that.
const SKIPPED: &str = "probe runs skipped by the kernel";

/// How a trace stands: what was shown, and each kind of loss.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Traversals that were shown.
    pub shown: u64,
    /// How many of what were lost.
    pub losses: Vec<(u64, String)>,
}

impl Summary {
    /// The last sum in this text.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn last(said: &str) -> Result<Self> {
        Self::all(said)
            .pop()
            .with_context(|| format!("tracer did not say what it showed: {said}"))
    }

    /// Makes sure that by the last sum in this text no line is missing.
    ///
    /// # Errors
    ///
    /// When something was lost: [`ProbesSkipped`], where it was that.
    pub fn whole(said: &str) -> Result<()> {
        let summary = Self::last(said)?;
        let of = |kind: &str| -> u64 {
            let losses = summary.losses.iter().filter(|(_, what)| what.starts_with(kind));
            losses.map(|(count, _)| count).sum()
        };
        let lost: u64 = summary.losses.iter().map(|(count, _)| count).sum();
        let skipped = of(SKIPPED);
        // A return that is not seen is a run that was skipped, which not every kernel counts.
        let unseen = of("return not seen");
        let counts = !said.contains("this kernel does not");
        if lost > skipped + unseen || (counts && unseen > skipped) {
            bail!("tracer lost something: {said}");
        }
        // The end of a packet that was not seen takes no line away.
        let takes_lines = |(_, what): &&(u64, String)| !what.contains("ends of packets");
        match summary.losses.iter().find(takes_lines) {
            Some((count, _)) => bail!(ProbesSkipped(*count)),
            None => Ok(()),
        }
    }

    /// All sums in this text: one for each SIGUSR1, and the last.
    #[must_use]
    pub fn all(said: &str) -> Vec<Self> {
        let mut sums: Vec<Self> = Vec::new();
        for line in said.lines() {
            let Some((number, rest)) = line.trim_start().split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse() else { continue };
            if !line.starts_with(' ') && rest.starts_with("traversals shown") {
                sums.push(Self {
                    shown: number,
                    losses: Vec::new(),
                });
            } else if let (true, Some(sum)) = (line.starts_with(' '), sums.last_mut()) {
                sum.losses.push((number, rest.trim().to_owned()));
            }
        }
        sums
    }

    /// How many traversals the ring buffer had no room for.
    #[must_use]
    pub fn ring_full(&self) -> u64 {
        self.losses
            .iter()
            .filter(|(_, what)| what.starts_with("ring buffer full"))
            .map(|(count, _)| count)
            .sum()
    }
}

/// One line: a packet's way through one table.
#[derive(Clone, PartialEq, Eq)]
pub struct Line {
    /// The whole line.
    pub text: String,
    /// Time of day of the entry, fit to be compared as text.
    pub time: String,
    /// Number of the packet.
    pub packet: u64,
    /// The family of a table of nf_tables, empty of a legacy one.
    pub table_family: String,
    /// `nat`, …
    pub table: String,
    /// `PREROUTING`, …
    pub chain: String,
    /// `ACCEPT`, `DROP`, …
    pub verdict: String,
    /// In device, empty without one.
    pub in_device: String,
    /// Out device, empty without one.
    pub out_device: String,
    /// `TCP`, …
    pub protocol: String,
    /// Source.
    pub source: Endpoint,
    /// Destination.
    pub destination: Endpoint,
    /// What comes after the destination: TCP flags, ICMP type and code, place of a fragment.
    pub detail: String,
    /// Bytes.
    pub len: u32,
    /// State of the connection, empty without one.
    pub conntrack: String,
    /// Packet mark before and after.
    pub mark: (u32, u32),
    /// `uid` and `gid` of the owner.
    pub owner: Option<(u32, u32)>,
    /// Network namespace, where it is not tracer's own.
    pub netns: Option<u32>,
    /// What is in brackets: gaps.
    pub remarks: String,
}

/// The line as it was written: failed scenarios show many.
impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Line {
    /// Reads a line.
    ///
    /// # Errors
    ///
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).with_context(|| format!("failed to read line of tracer: {text}"))
    }

    /// What the table said, where.
    #[must_use]
    pub fn step(&self) -> String {
        format!("{}:{} {}", self.table, self.chain, self.verdict)
    }

    /// Whether either side has the port.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.source.port == Some(port) || self.destination.port == Some(port)
    }

    fn read(text: &str) -> Option<Self> {
        let (words, remarks) = text
            .split_once(" [incomplete")
            .or_else(|| text.split_once(" [headers cut"))
            .or_else(|| text.split_once(" [not followed"))
            .unwrap_or((text, ""));
        let words = without_owners(words);
        let mut words = words.split(' ').peekable();
        let time = words.next()?.to_owned();
        let packet = words.next()?.strip_prefix('#')?.parse().ok()?;
        let table_family = match words.next_if_eq(&"nft") {
            Some(_) => words.next()?.to_owned(),
            None => String::new(),
        };
        let (table, chain) = words.next()?.split_once(':')?;
        let verdict = words.next()?;
        let mut value = |key: &str| {
            words
                .next_if(|word| word.starts_with(key))
                .map_or(String::new(), |word| word[key.len()..].to_owned())
        };
        let (in_device, out_device) = (value("in="), value("out="));
        let protocol = words.next()?.to_owned();
        let source = Endpoint::parse(words.next()?)?;
        if words.next()? != ">" {
            return None;
        }
        let destination = Endpoint::parse(words.next()?)?;
        let mut detail = Vec::new();
        while let Some(word) = words.next_if(|word| !word.starts_with("len=")) {
            detail.push(word);
        }
        let mut line = Self {
            text: text.to_owned(),
            time,
            packet,
            table_family,
            table: table.to_owned(),
            chain: chain.to_owned(),
            verdict: verdict.to_owned(),
            in_device,
            out_device,
            protocol,
            source,
            destination,
            detail: detail.join(" "),
            len: words.next()?.strip_prefix("len=")?.parse().ok()?,
            conntrack: String::new(),
            mark: (0, 0),
            owner: None,
            netns: None,
            remarks: remarks.to_owned(),
        };
        let (mut uid, mut gid) = (None, None);
        for word in words {
            match word.split_once('=')? {
                ("ct", state) => line.conntrack = state.to_owned(),
                ("mark", marks) => {
                    let (before, after) = marks.split_once('>').unwrap_or((marks, marks));
                    line.mark = (hex(before)?, hex(after)?);
                }
                ("uid", number) => uid = Some(number.parse().ok()?),
                ("gid", number) => gid = Some(number.parse().ok()?),
                ("netns", number) => line.netns = Some(number.parse().ok()?),
                ("physin" | "physout", _) => {}
                _ => return None,
            }
        }
        line.owner = uid.zip(gid);
        Some(line)
    }
}

/// The line without what is at the other ends of its devices: `out=veth1 (pod default/web)`.
fn without_owners(line: &str) -> String {
    let mut inside = false;
    let words = line.split(' ').filter(|word| {
        let skipped = inside || word.starts_with('(');
        inside = skipped && !word.ends_with(')');
        !skipped
    });
    words.collect::<Vec<_>>().join(" ")
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// Address and, where the protocol has them and they are known, port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Address.
    pub address: IpAddr,
    /// Port.
    pub port: Option<u16>,
}

impl Endpoint {
    fn parse(text: &str) -> Option<Self> {
        match text.parse::<SocketAddr>() {
            Ok(socket) => Some(Self {
                address: socket.ip(),
                port: Some(socket.port()),
            }),
            Err(_) => Some(Self {
                address: text.parse().ok()?,
                port: None,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_skipped_is_no_fault() {
        let said = |how: &str, losses: &[&str]| {
            let losses: String = losses.iter().map(|loss| format!("         {loss}\n")).collect();
            format!("14 traversals shown; lost:{how}\n{losses}paths: 14 complete, 0 partial\n")
        };
        let skips = |text: &str| Summary::whole(text).is_err_and(|error| error.is::<ProbesSkipped>());
        let skipped = "4  probe runs skipped by the kernel: traversals not seen";
        let unseen = "3  return not seen: traversals not shown";
        assert!(Summary::whole("14 traversals shown, nothing lost\n").is_ok());
        assert!(skips(&said("", &[skipped])));
        assert!(skips(&said("", &[unseen, skipped])));
        // Nobody skipped it, as far as the kernel counts.
        assert!(!skips(&said("", &[unseen])));
        assert!(skips(&said(
            " (this kernel does not count probe runs that it skips)",
            &[unseen]
        )));
        assert!(!skips(&said(
            "",
            &[skipped, "1  ring buffer full: traversals not shown"]
        )));
    }

    #[test]
    fn reads_every_part_of_a_line() {
        let line = Line::parse(
            "11:02:03.123456 #7 nat:PREROUTING ACCEPT in=eth0 out=lo (pod default/web) TCP [fd00::1]:44522 > [fd00::2]:80 ACK SYN \
             len=60 ct=ESTABLISHED,reply mark=0x0>0x4000 uid=7 gid=8 netns=9",
        )
        .unwrap();
        assert_eq!((line.packet, line.step().as_str()), (7, "nat:PREROUTING ACCEPT"));
        assert_eq!(
            (line.in_device.as_str(), line.out_device.as_str()),
            ("eth0", "lo")
        );
        assert_eq!((line.source.port, line.detail.as_str()), (Some(44522), "ACK SYN"));
        assert_eq!((line.len, line.mark, line.owner), (60, (0, 0x4000), Some((7, 8))));
        assert_eq!(
            (line.conntrack.as_str(), line.netns),
            ("ESTABLISHED,reply", Some(9))
        );
    }

    #[test]
    fn reads_a_short_line_and_refuses_others() {
        let line = Line::parse("1 #1 raw:OUTPUT DROP ICMP 10.0.0.1 > 10.0.0.2 type 8 code 0 len=84").unwrap();
        assert_eq!((line.detail.as_str(), line.mark), ("type 8 code 0", (0, 0)));
        assert_eq!(line.table_family, "");
        let line =
            Line::parse("1 #1 nft inet raw:out DROP ICMP 10.0.0.1 > 10.0.0.2 type 8 code 0 len=84").unwrap();
        assert_eq!(
            (line.table_family.as_str(), line.step().as_str()),
            ("inet", "raw:out DROP")
        );
        assert!(Line::parse("1 #1 raw:OUTPUT DROP (no readable IP header) len=84").is_err());
    }

    #[test]
    fn reads_sums() {
        let said = "3 traversals shown, nothing lost\n12 traversals shown; lost:\n         5  ring buffer full: traversals not shown\n";
        let sums = Summary::all(said);
        assert_eq!(sums.len(), 2);
        assert_eq!((sums[1].shown, sums[1].ring_full()), (12, 5));
        assert!(sums[0].losses.is_empty());
    }
}
