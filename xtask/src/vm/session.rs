//! One run of one job in one guest: what the three serial ports say, within limits.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::console::{self, Meaning};
use super::image::Image;
use super::job::Job;
use super::qemu::{Ports, Qemu, VmOptions};
use super::terminal;
use crate::setup::{Kernel, VmTools};
use crate::workspace::Workspace;

/// How long a kernel that is lost may go on to say why.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long a guest may take from its verdict to its end.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(30);

/// The key `^]`, as in telnet.
const LEAVE: u8 = 0x1d;

/// Everything that is needed to run jobs.
pub(crate) struct Session<'a> {
    pub(crate) ws: &'a Workspace,
    pub(crate) tools: &'a VmTools,
    pub(crate) kernel: &'a Kernel,
    pub(crate) image: &'a Image,
    pub(crate) options: VmOptions,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The exit code of the job's program; 128 and the signal where one killed it.
    pub(crate) code: u8,
    /// From the start of QEMU to init's first line.
    pub(crate) boot_time: Duration,
    /// The kept console, where the code is not 0.
    pub(crate) console: Option<PathBuf>,
}

/// A job without an end that counts: the guest, QEMU or the set-up failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) cause: anyhow::Error,
    /// Where the console was kept.
    pub(crate) place: Option<PathBuf>,
}

impl Failure {
    /// Removes the console that was kept.
    pub(crate) fn forget(self) {
        if let Some(place) = self.place {
            drop(fs::remove_dir_all(place));
        }
    }
}

impl Session<'_> {
    /// Boots the guest, runs the job, and hands on what it writes. `typed` is copied to the job's terminal.
    pub(crate) fn run(
        &self,
        job: &Job,
        stdout: &mut (dyn Write + Send),
        stderr: &mut (dyn Write + Send),
        typed: Option<Box<dyn Read + Send>>,
    ) -> Result<Outcome, Failure> {
        let early = |cause| Failure { cause, place: None };
        let runs = self.ws.vm().join("run");
        let place = fs::create_dir_all(&runs)
            .and_then(|()| {
                tempfile::Builder::new()
                    .prefix(&format!("{}-", self.kernel.series))
                    .tempdir_in(&runs)
            })
            .with_context(|| format!("failed to create directory in: {}", runs.display()))
            .map_err(early)?;
        match self.run_in(place.path(), job, stdout, stderr, typed) {
            Ok(mut outcome) => {
                if outcome.code != 0 {
                    outcome.console = Some(place.keep().join("console.log"));
                }
                Ok(outcome)
            }
            Err(cause) => Err(Failure {
                cause,
                place: Some(place.keep()),
            }),
        }
    }

    fn run_in(
        &self,
        place: &Path,
        job: &Job,
        stdout: &mut (dyn Write + Send),
        stderr: &mut (dyn Write + Send),
        typed: Option<Box<dyn Read + Send>>,
    ) -> Result<Outcome> {
        let log = place.join("console.log");
        let log = File::create(&log).with_context(|| format!("failed to create: {}", log.display()))?;
        let initrd = self.image.assemble(job, place)?;
        let started = Instant::now();
        let (mut qemu, ports) = Qemu::start(self.tools, self.kernel, &initrd, &self.options, place)?;
        let Ports {
            console,
            output,
            errors,
        } = ports;
        if let Some(typed) = typed {
            forward(typed, output.try_clone().context("failed to copy socket")?);
        }
        let (sender, receiver) = mpsc::channel();
        let (course, status, written) = thread::scope(|scope| {
            let lines = scope.spawn(move || read_console(console, log, &sender));
            let out = scope.spawn(move || copy(output, stdout));
            let err = scope.spawn(move || copy(errors, stderr));
            let course = Course::follow(&receiver, started, &self.options);
            if course.stopped.is_some() {
                qemu.kill();
            }
            let status = qemu.wait();
            let ended = [lines, out, err].map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a reader of the guest panicked")))
            });
            (course, status, ended.into_iter().collect::<io::Result<()>>())
        });
        let code = course.judge(status?, &qemu.words())?;
        written.context("failed to hand on what the guest wrote")?;
        Ok(Outcome {
            code,
            boot_time: course.boot_time.unwrap_or_default(),
            console: None,
        })
    }
}

/// What was seen of a run.
#[derive(Default)]
struct Course {
    boot_time: Option<Duration>,
    verdicts: Vec<u8>,
    /// Why the guest was stopped before it ended by itself.
    stopped: Option<String>,
}

impl Course {
    /// Follows the console until QEMU closes it, the kernel is lost, or a limit is reached.
    fn follow(lines: &Receiver<Meaning>, started: Instant, options: &VmOptions) -> Self {
        let mut course = Self::default();
        let end = options.time_limit.map(|limit| started + limit);
        let mut phase_end = Some(started + options.boot_limit);
        loop {
            let until = [end, phase_end].into_iter().flatten().min();
            let received = match until {
                Some(until) => lines.recv_timeout(until.saturating_duration_since(Instant::now())),
                None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(Meaning::Hello(_)) => {
                    course.boot_time.get_or_insert_with(|| started.elapsed());
                    phase_end = None;
                }
                Ok(Meaning::Verdict(code)) => {
                    course.verdicts.push(code);
                    phase_end = Some(Instant::now() + POWER_OFF_LIMIT);
                }
                Ok(Meaning::Lost(mark)) if course.stopped.is_none() => {
                    course.stopped = Some(format!("the guest's kernel is lost: {mark}"));
                    phase_end = Some(Instant::now() + LAST_WORDS);
                }
                Ok(Meaning::Lost(_) | Meaning::Talk) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let overdue = course.overdue(options);
                    course.stopped.get_or_insert(overdue);
                    return course;
                }
                Err(RecvTimeoutError::Disconnected) => return course,
            }
        }
    }

    fn overdue(&self, options: &VmOptions) -> String {
        if !self.verdicts.is_empty() {
            return format!(
                "the guest did not end within {} s after its verdict",
                POWER_OFF_LIMIT.as_secs()
            );
        }
        if self.boot_time.is_none() {
            return format!("the guest did not boot within {} s", options.boot_limit.as_secs());
        }
        let limit = options.time_limit.unwrap_or_default();
        format!("the time limit of {} s is reached", limit.as_secs())
    }

    /// The exit code, if exactly one was told and nothing else went wrong.
    fn judge(&self, status: ExitStatus, words: &str) -> Result<u8> {
        let failed = |cause: &str| Err(anyhow!("failed to run in guest: {cause}"));
        if let Some(cause) = &self.stopped {
            return failed(cause);
        }
        if !status.success() {
            return failed(&format!("qemu crashed: {status}: {words}"));
        }
        match self.verdicts.as_slice() {
            [code] => Ok(*code),
            [] => failed("the guest ended without a verdict"),
            verdicts => failed(&format!("{} verdicts instead of one", verdicts.len())),
        }
    }
}

fn read_console(mut console: UnixStream, mut log: File, lines: &Sender<Meaning>) -> io::Result<()> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let count = read_some(&mut console, &mut buffer)?;
        let piece = &buffer[..count];
        log.write_all(piece)?;
        for byte in piece {
            match byte {
                b'\n' => {
                    // The receiver may have seen enough.
                    drop(lines.send(console::judge(String::from_utf8_lossy(&line).trim_end())));
                    line.clear();
                }
                byte => line.push(*byte),
            }
        }
        if count == 0 {
            return Ok(());
        }
    }
}

fn copy(mut from: UnixStream, to: &mut (dyn Write + Send)) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut result = Ok(());
    loop {
        let count = read_some(&mut from, &mut buffer)?;
        if count == 0 {
            return result;
        }
        // After an error the rest is still read: a guest that cannot write would never end.
        if result.is_ok() {
            result = to
                .write_all(&buffer[..count])
                .and_then(|()| to.flush())
                .or_else(|error| match error.kind() {
                    io::ErrorKind::BrokenPipe => Ok(()),
                    _ => Err(error),
                });
        }
    }
}

/// Reads; a peer that is gone is the end.
fn read_some(from: &mut UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(0),
            other => return other,
        }
    }
}

/// Copies what is typed, in a thread of its own that nobody waits for: it may sit in a read for ever.
/// One key ends everything, as a guest that hangs would otherwise hold the terminal.
fn forward(mut typed: Box<dyn Read + Send>, mut to: UnixStream) {
    thread::spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(count @ 1..) = typed.read(&mut buffer) {
            if buffer[..count].contains(&LEAVE) {
                terminal::restore();
                std::process::exit(130);
            }
            if to.write_all(&buffer[..count]).is_err() {
                return;
            }
        }
    });
}
