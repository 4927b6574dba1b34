//! Both accounts of what happened: the kernel's log and tracer's output.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::network::{NODE, Network};
use crate::command::Running;
use crate::kmsg;
use crate::wait;

const READY_FILE: &str = "/run/oracle-tracer.ready";
const OUTPUT: &str = "/tmp/oracle-tracer.out";
const ERRORS: &str = "/tmp/oracle-tracer.err";

/// Datagrams from the node to itself: what is between these ports on both sides is compared. Whatever the rules
/// say, raw's OUTPUT logs at least one line for each.
const FIRST: u16 = 64001;
const LAST: u16 = 64002;

/// tracer and the kernel's log, at work.
pub(super) struct Observer {
    log: kmsg::Log,
    kernel: Vec<String>,
    tracer: Running,
    output: File,
    printed: String,
}

/// What both sides said.
pub(super) struct Accounts {
    /// The kernel's `TRACE:` lines; there may be more after the last that must have a partner.
    pub(super) kernel: Vec<String>,
    /// How many of them must have one.
    pub(super) kernel_len: usize,
    /// tracer's lines.
    pub(super) tracer: Vec<String>,
    /// What tracer said on standard error.
    pub(super) words: String,
}

impl Observer {
    /// Starts tracer on the node, and waits until it is ready.
    pub(super) fn start(network: &Network) -> Result<Self> {
        // A ready file that is left over would be taken for the new one.
        drop(fs::remove_file(READY_FILE));
        let created = |path: &str| File::create(path).with_context(|| format!("failed to create: {path}"));
        let mut command = Command::new("tracer");
        command
            .args(["trace", "--format", "log", "--netns", NODE, "--ring-kib", "16384"])
            .args(["--ready-file", READY_FILE])
            .stdout(created(OUTPUT)?)
            .stderr(created(ERRORS)?);
        let mut tracer = Running(command.spawn().context("failed to start: tracer")?);
        wait::until("tracer to be ready", || match tracer.0.try_wait()? {
            Some(status) => bail!("failed to start: tracer: {status}: {}", words()),
            None => Ok(Path::new(READY_FILE).exists()),
        })?;
        let mut observer = Self {
            log: kmsg::Log::from_now()?,
            kernel: Vec::new(),
            tracer,
            output: File::open(OUTPUT).with_context(|| format!("failed to open: {OUTPUT}"))?,
            printed: String::new(),
        };
        observer.mark(network, FIRST)?;
        Ok(observer)
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
            self.read()?;
            let seen = |mut lines: std::str::Lines<'_>| lines.any(|line| is_marker(line, port));
            Ok(self.kernel.iter().any(|line| is_marker(line, port)) && seen(self.printed.lines()))
        })
        .with_context(|| format!("tracer says: {}", words()))
    }

    /// Takes what has come; often enough that the kernel's buffer does not wrap around.
    pub(super) fn read(&mut self) -> Result<()> {
        self.kernel.extend(
            self.log
                .read()?
                .into_iter()
                .filter(|line| line.starts_with("TRACE: ")),
        );
        self.output
            .read_to_string(&mut self.printed)
            .with_context(|| format!("failed to read: {OUTPUT}"))?;
        Ok(())
    }

    /// Waits until no line has come for a while.
    fn settle(&mut self) -> Result<()> {
        const QUIET_MS: u64 = 40;
        for _ in 0..25 {
            let before = self.kernel.len();
            std::thread::sleep(std::time::Duration::from_millis(QUIET_MS));
            self.read()?;
            if self.kernel.len() == before {
                break;
            }
        }
        Ok(())
    }

    /// Sends the last marker and ends tracer.
    pub(super) fn finish(mut self, network: &Network) -> Result<Accounts> {
        self.settle()?;
        self.mark(network, LAST)?;
        let pid = i32::try_from(self.tracer.0.id()).context("failed to read process id")?;
        kill(Pid::from_raw(pid), Signal::SIGINT).context("failed to stop tracer")?;
        wait::until("tracer to end", || {
            Ok(self
                .tracer
                .0
                .try_wait()
                .context("failed to wait for tracer")?
                .is_some())
        })?;
        let status = self.tracer.0.wait().context("failed to wait for tracer")?;
        if !status.success() {
            bail!("failed to run: tracer: {status}: {}", words());
        }
        self.read()?;
        let tracer: Vec<String> = self.printed.lines().map(str::to_owned).collect();
        let (kernel_from, kernel_to) = between(&self.kernel)?;
        let (tracer_from, tracer_to) = between(&tracer)?;
        Ok(Accounts {
            kernel_len: kernel_to - kernel_from,
            kernel: self.kernel.split_off(kernel_from),
            tracer: tracer[tracer_from..tracer_to].to_vec(),
            words: words(),
        })
    }
}

/// From the first marker to the last one's end in raw, where nothing else can be.
fn between(lines: &[String]) -> Result<(usize, usize)> {
    let first = lines
        .iter()
        .position(|line| is_marker(line, FIRST))
        .context("failed to find: first marker")?;
    let last = lines
        .iter()
        .position(|line| is_marker(line, LAST))
        .context("failed to find: last marker")?;
    let len = lines[last..]
        .iter()
        .take_while(|line| is_marker(line, LAST) && line.contains(" IN= ") && line.starts_with("TRACE: raw:"))
        .count();
    Ok((first, last + len))
}

fn is_marker(line: &str, port: u16) -> bool {
    line.contains(&format!(" SPT={port} DPT={port} "))
}

fn words() -> String {
    fs::read_to_string(ERRORS).unwrap_or_default().trim().to_owned()
}
