//! Other tracers, which are measured like tracer: their processes step aside, so that what counts is what the packet itself
//! pays.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::load::step_aside;
use crate::command::Running;
use crate::kernel_state::{Instruments, active_kprobes};
use crate::wait;

/// A tracer at work, in one of the ways in which it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The one-liner for `ipt_do_table`: its arguments and its verdict, for every packet.
    Bpftrace,
    /// All functions of vmlinux that take a packet; it is for other packets.
    PwruNoMatch,
    /// The same for these packets.
    Pwru,
    /// Only `ipt_do_table`, for these packets.
    PwruTable,
}

/// The maps hold what the return prints, as a person would write it who wants to see which packet got which verdict. By
/// number, for the order of the arguments is another on kernels before 5.16.
const LINE: &str = "kprobe:ipt_do_table { @call[tid] = (arg0, arg1, arg2); } \
     kretprobe:ipt_do_table /@call[tid].0/ { \
     printf(\"ipt_do_table(%p, %p, %p) = %d\\n\", @call[tid].0, @call[tid].1, @call[tid].2, retval); \
     delete(@call[tid]); }";
/// Pages of its buffer: room for what a whole measurement prints, as user space is not given the processor meanwhile.
const LINE_BUFFER_PAGES: u32 = 8192;

/// Files for its output.
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

impl Peer {
    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bpftrace => "bpftrace",
            Self::PwruNoMatch => "pwru-no-match",
            Self::Pwru => "pwru",
            Self::PwruTable => "pwru-table",
        }
    }

    /// Whether it tells of the packets that are measured.
    pub(super) fn tells(self) -> bool {
        self != Self::PwruNoMatch
    }

    /// What it needs of a kernel with these modules and does not find.
    pub(super) fn lacks(self) -> Option<&'static str> {
        /// Functions of modules are found by the types that their arguments have.
        const TYPES: &str = "/sys/kernel/btf/ip_tables";

        (self == Self::PwruTable && !Path::new(TYPES).exists()).then_some(TYPES)
    }

    /// Starts it for the packets to a port. Returns when its probes are on.
    pub(super) fn start(self, port: u16) -> Result<Watching> {
        let before = Instruments::now()?;
        let files = tempfile::tempdir().context("failed to create directory for output")?;
        let ready = files.path().join("ready");
        let create = |name: &str| {
            let path = files.path().join(name);
            File::create(&path).with_context(|| format!("failed to create: {}", path.display()))
        };
        let mut command = self.command(port, &ready);
        command.stdin(Stdio::null());
        command.stdout(create(STDOUT)?).stderr(create(STDERR)?);
        let process = command.spawn();
        let process = process.with_context(|| format!("failed to start: {}", self.name()))?;
        let mut watching = Watching {
            peer: self,
            process: Running(process),
            files,
            before,
        };
        wait::until(&format!("{} to be ready", self.name()), || {
            watching.has_not_ended()?;
            Ok(match self {
                // It has no signal of its own; the entry and the return.
                Self::Bpftrace => active_kprobes("ipt_do_table")? == 2,
                Self::PwruNoMatch | Self::Pwru | Self::PwruTable => ready.exists(),
            })
        })?;
        step_aside(watching.pid()?)?;
        Ok(watching)
    }

    fn command(self, port: u16, ready: &Path) -> Command {
        if self == Self::Bpftrace {
            let mut bpftrace = Command::new("bpftrace");
            bpftrace.env("BPFTRACE_PERF_RB_PAGES", LINE_BUFFER_PAGES.to_string());
            bpftrace.args(["-B", "line", "-e", LINE]);
            return bpftrace;
        }
        let mut pwru = Command::new("pwru");
        pwru.arg("--ready-file").arg(ready).arg("--output-tuple");
        if self == Self::PwruTable {
            pwru.args(["--kmods", "ip_tables", "--filter-func", "ipt_do_table"]);
        }
        pwru.arg(format!("udp and dst port {port}"));
        pwru
    }
}

/// A peer at work.
pub(super) struct Watching {
    peer: Peer,
    process: Running,
    files: TempDir,
    /// What was in the kernel before it came.
    before: Instruments,
}

impl Watching {
    /// Ends it as `^C` does, once it has told of each of so many packets. Returns when nothing of it is left in the kernel.
    pub(super) fn stop(mut self, packets: u64) -> Result<()> {
        let name = self.peer.name();
        if self.peer.tells() {
            wait::until(&format!("{name} to tell of {packets} packets"), || {
                self.has_not_ended()?;
                let (told, said) = (self.read(STDOUT)?, self.read(STDERR)?);
                let lost = [&told, &said].iter().any(|text| text.contains("Lost "));
                ensure!(!lost, "{name} lost something: {said}");
                // One function at least for each; most tell of several.
                Ok(told.lines().count() as u64 > packets)
            })?;
        }
        kill(self.pid()?, Signal::SIGINT).with_context(|| format!("failed to end: {name}"))?;
        wait::until(&format!("{name} to end"), || Ok(self.exit_status()?.is_some()))?;
        wait::until(&format!("the probes of {name} to be gone"), || {
            Ok(Instruments::now()?.are_among(&self.before))
        })
    }

    fn pid(&self) -> Result<Pid> {
        let number = i32::try_from(self.process.0.id()).context("failed to read process id")?;
        Ok(Pid::from_raw(number))
    }

    fn exit_status(&mut self) -> Result<Option<ExitStatus>> {
        let status = self.process.0.try_wait();
        status.with_context(|| format!("failed to wait for {}", self.peer.name()))
    }

    fn has_not_ended(&mut self) -> Result<()> {
        if let Some(status) = self.exit_status()? {
            bail!(
                "failed to compare with {}: {status}: {}",
                self.peer.name(),
                self.read(STDERR)?.trim()
            );
        }
        Ok(())
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.files.path().join(name);
        fs::read_to_string(&path).with_context(|| format!("failed to read: {}", path.display()))
    }
}
