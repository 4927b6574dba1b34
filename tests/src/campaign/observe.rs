//! Both accounts of what happened: the kernel's log and tracer's output.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::compare::Account;
use super::network::Network;
use crate::command::Running;
use crate::kmsg;
use crate::wait;

const READY_FILE: &str = "/run/oracle-tracer.ready";
const OUTPUT: &str = "/tmp/oracle-tracer.out";
const ERRORS: &str = "/tmp/oracle-tracer.err";

/// Datagrams from the node to itself, by their ports: what is between these is compared. Whatever the rules say, raw's
/// OUTPUT logs at least one line for each.
const FIRST: u16 = 64001;
const LAST: u16 = 64002;

/// A datagram before them, and one after them.
const READY: u16 = 64000;
const END: u16 = 64003;

/// tracer and the kernel's log, at work for a whole campaign.
pub(super) struct Observer {
    log: kmsg::Log,
    kernel: Vec<String>,
    tracer: Running,
    output: File,
    printed: String,
    /// What tracer had counted as lost when it was last asked.
    losses: u64,
}

/// What both sides said of one ruleset.
pub(super) struct Accounts {
    /// The kernel's `TRACE:` lines.
    pub(super) kernel: Account,
    /// tracer's lines.
    pub(super) tracer: Account,
    /// Traversals that tracer has counted as lost meanwhile.
    pub(super) losses: u64,
}

impl Observer {
    /// Starts tracer, and waits until it is ready.
    pub(super) fn start(verify: bool) -> Result<Self> {
        // A ready file that is left over would be taken for the new one.
        drop(fs::remove_file(READY_FILE));
        let created = |path: &str| File::create(path).with_context(|| format!("failed to create: {path}"));
        let mut command = Command::new("tracer");
        command
            .args(["trace", "--format", "log", "--ring-kib", "65536"])
            .args(["--ready-file", READY_FILE])
            .args(verify.then_some("--verify"))
            .stdout(created(OUTPUT)?)
            .stderr(created(ERRORS)?);
        let tracer = Running(command.spawn().context("failed to start: tracer")?);
        let mut observer = Self {
            log: kmsg::Log::from_now()?,
            kernel: Vec::new(),
            tracer,
            output: File::open(OUTPUT).with_context(|| format!("failed to open: {OUTPUT}"))?,
            printed: String::new(),
            losses: 0,
        };
        wait::until("tracer to be ready", || {
            observer.still_there()?;
            Ok(Path::new(READY_FILE).exists())
        })?;
        Ok(observer)
    }

    /// Begins with a ruleset that was loaded. tracer reads rules as they come into force, before it looks at packets
    /// that come later: so once it has told of one, it knows them all and observes what is in them.
    pub(super) fn begin(&mut self, network: &Network) -> Result<()> {
        self.read(network)?;
        self.kernel.clear();
        self.printed.clear();
        self.mark(network, READY)?;
        self.mark(network, FIRST)
    }

    /// Sends a marker, and waits until both sides have seen it.
    fn mark(&mut self, network: &Network, port: u16) -> Result<()> {
        network.node.enter(|| {
            let socket = UdpSocket::bind(("127.0.0.1", port)).context("failed to bind: marker")?;
            // A rule may drop it.
            drop(socket.send_to(b"marker", ("127.0.0.1", port)));
            Ok(())
        })?;
        wait::until("both sides to see the marker", || {
            self.still_there()?;
            self.read(network)?;
            let seen = |mut lines: std::str::Lines<'_>| lines.any(|line| is_marker(line, port));
            Ok(self.kernel.iter().any(|line| is_marker(line, port)) && seen(self.printed.lines()))
        })
        .with_context(|| format!("tracer says: {}", last_words()))
    }

    fn still_there(&mut self) -> Result<()> {
        match self.tracer.0.try_wait().context("failed to wait for tracer")? {
            None => Ok(()),
            Some(status) => bail!("failed to run: tracer: {status}: {}", words()),
        }
    }

    /// Takes what has come; often enough that the kernel's buffer does not wrap around.
    pub(super) fn read(&mut self, network: &Network) -> Result<()> {
        let logged = self.log.read();
        network.check()?;
        let lines = logged?.into_iter();
        self.kernel
            .extend(lines.filter(|line| line.starts_with("TRACE: ")));
        self.output
            .read_to_string(&mut self.printed)
            .with_context(|| format!("failed to read: {OUTPUT}"))?;
        Ok(())
    }

    /// Ends with a ruleset: what both sides said of it. tracer tells of a traversal when it is over, the kernel line by
    /// line, so near a marker their order may differ: what is judged of one side may have its partner before the first
    /// marker, or after the last one, of the other side.
    pub(super) fn end(&mut self, network: &Network) -> Result<Accounts> {
        self.mark(network, LAST)?;
        self.mark(network, END)?;
        let kernel = account(std::mem::take(&mut self.kernel), LAST)?;
        let tracer = account(self.printed.lines().map(str::to_owned).collect(), END)?;
        let losses = self.losses()?;
        let before = std::mem::replace(&mut self.losses, losses);
        Ok(Accounts {
            kernel,
            tracer,
            losses: losses.saturating_sub(before),
        })
    }

    /// Asks tracer how many traversals it has lost so far.
    fn losses(&mut self) -> Result<u64> {
        /// What the last line of each answer begins with.
        const LAST_LINE: &str = "probes: ";
        let told = |text: &str| text.lines().filter(|line| line.starts_with(LAST_LINE)).count();
        let before = told(&words());
        kill(self.pid()?, Signal::SIGUSR1).context("failed to ask tracer")?;
        wait::until("tracer to tell its losses", || {
            self.still_there()?;
            Ok(told(&words()) > before)
        })?;
        let text = words();
        let answer = text.rfind(" traversals shown").map_or("", |at| &text[at..]);
        Ok(losses_in(answer))
    }

    fn pid(&self) -> Result<Pid> {
        let pid = i32::try_from(self.tracer.0.id()).context("failed to read process id")?;
        Ok(Pid::from_raw(pid))
    }

    /// Ends tracer; what it says at the end.
    pub(super) fn stop(mut self) -> Result<String> {
        kill(self.pid()?, Signal::SIGINT).context("failed to stop tracer")?;
        let process = &mut self.tracer.0;
        let mut status = None;
        wait::until("tracer to end", || {
            status = process.try_wait().context("failed to wait for tracer")?;
            Ok(status.is_some())
        })?;
        match status {
            Some(status) if !status.success() => bail!("failed to run: tracer: {status}: {}", words()),
            _ => Ok(words()),
        }
    }
}

/// Lines of which those are judged that are between the first marker and this one.
fn account(lines: Vec<String>, last: u16) -> Result<Account> {
    let judged = place(&lines, FIRST)?..place(&lines, last)?;
    Ok(Account { lines, judged })
}

/// Where the first line of a marker is. A copy of it counts as well: there are no others of the marker before.
fn place(lines: &[String], port: u16) -> Result<usize> {
    lines
        .iter()
        .position(|line| is_marker(line, port))
        .with_context(|| format!("failed to find: marker {port}"))
}

fn is_marker(line: &str, port: u16) -> bool {
    line.contains(&format!(" SPT={port} DPT={port} "))
}

/// Traversals that an answer of tracer's says are lost. A return that was not seen is a run that was skipped, where the
/// kernel counts these.
fn losses_in(answer: &str) -> u64 {
    let skips_counted = !answer.contains("does not count probe runs");
    let lost = answer.lines().filter(|line| {
        line.contains("traversals not s")
            && !line.contains("left out to keep a limit")
            && !(skips_counted && line.contains("return not seen"))
    });
    lost.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok())
        .sum()
}

/// The answer that tracer gave last, or all that it said.
fn last_words() -> String {
    let words = words();
    let at = words.rfind("\nprobes: ").map_or(0, |at| at + 1);
    words[at..].to_owned()
}

fn words() -> String {
    fs::read_to_string(ERRORS).unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_read_from_the_summary() {
        let text = " shown; lost:\n         4  return not seen: traversals not shown\n         \
                    3  end of a packet not seen: noticed when its address was used again\n         \
                    5  probe runs skipped by the kernel: traversals not seen\n";
        assert_eq!(losses_in(text), 5);
        let text = " shown; lost: (this kernel does not count probe runs that it skips)\n         \
                    4  return not seen: traversals not shown\n";
        assert_eq!(losses_in(text), 4);
        assert_eq!(losses_in(" shown, nothing lost\n"), 0);
    }
}
