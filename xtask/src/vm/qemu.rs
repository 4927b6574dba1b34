//! Starts QEMU: its command line, its file descriptors, and its end with ours.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use super::image::{Image, Programs};
use super::job::Job;
use super::session::Session;
use crate::progress::Step;
use crate::setup::{Kernel, VmTools};
use crate::workspace::Workspace;

/// I/O address and interrupt of the serial ports. Each has its own interrupt line, unlike on old hardware:
/// a shared one loses interrupts when two ports are busy. The kernel learns the lines from ACPI.
const SERIAL_PORTS: [(&str, &str, &str); 3] = [
    ("console", "0x3f8", "4"),
    ("output", "0x2f8", "3"),
    ("errors", "0x3e8", "5"),
];

/// Settings of the guest kernel: console, no waiting after a panic, every oops is a panic, patience where
/// other machines compete for the processor (the check of the timer counts ticks against a loop, and a 5.10 that was not
/// given the processor meanwhile does not boot), and a log large enough that no TRACE line is overwritten.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 8250.nr_uarts=4 loglevel=4 panic=-1 oops=panic no_timer_check \
     watchdog_thresh=30 rcupdate.rcu_cpu_stall_timeout=60 log_buf_len=32M printk.devkmsg=on mitigations=off";

/// Everything that can be emulated, but for what makes guests copy and clear memory by instructions of which each byte
/// is a turn of a loop in the emulator.
const TCG_PROCESSOR: &str = "max,-erms,-fsrm,-fzrm,-fsrs";

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor itself.
    Kvm,
    /// Software emulation.
    Tcg,
    /// Software emulation whose clock counts instructions: one nanosecond each, none while nothing runs. Takes one
    /// processor.
    Counting,
}

impl Accelerator {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::Kvm => &["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => &["-accel", "tcg,thread=multi", "-cpu", TCG_PROCESSOR],
            Self::Counting => &[
                "-accel",
                "tcg,thread=single",
                "-icount",
                "shift=0,sleep=off",
                "-cpu",
                "max",
            ],
        }
    }
}

/// How a machine is built and how long it may take.
#[derive(Clone, Debug)]
pub(crate) struct VmOptions {
    pub(crate) accelerator: Accelerator,
    pub(crate) memory_mib: u32,
    pub(crate) processors: u32,
    /// From the start to init's first line.
    pub(crate) boot_limit: Duration,
    /// For everything; `None` for a person at a shell.
    pub(crate) time_limit: Option<Duration>,
}

impl VmOptions {
    /// The ordinary machine.
    pub(crate) fn new(accelerator: Accelerator) -> Self {
        Self {
            accelerator,
            memory_mib: 2048,
            processors: 2,
            boot_limit: Duration::from_secs(120),
            time_limit: Some(Duration::from_secs(300)),
        }
    }
}

/// The host's ends of the guest's serial ports.
pub(crate) struct Ports {
    pub(crate) console: UnixStream,
    pub(crate) output: UnixStream,
    pub(crate) errors: UnixStream,
}

/// A running QEMU. It ends when this is dropped, and when the thread that started it ends.
pub(crate) struct Qemu {
    child: Child,
    talk: PathBuf,
}

impl Qemu {
    /// Starts a machine. `place` receives what QEMU itself has to say.
    pub(crate) fn start(
        tools: &VmTools,
        kernel: &Kernel,
        initrd: &File,
        options: &VmOptions,
        place: &Path,
    ) -> Result<(Self, Ports)> {
        let pair = || UnixStream::pair().context("failed to create socket pair");
        let ((console, console_end), (output, output_end), (errors, errors_end)) =
            (pair()?, pair()?, pair()?);
        let ends = [&console_end, &output_end, &errors_end];

        let talk = place.join("qemu.log");
        let log = File::create(&talk).with_context(|| format!("failed to create: {}", talk.display()))?;
        let mut command = Command::new(&tools.qemu);
        command
            .args([
                "-nodefaults",
                "-no-user-config",
                "-display",
                "none",
                "-no-reboot",
                "-machine",
                "pc",
            ])
            .args(options.accelerator.arguments())
            .args([
                "-m",
                &format!("{}M", options.memory_mib),
                "-smp",
                &options.processors.to_string(),
            ])
            .arg("-kernel")
            .arg(&kernel.vmlinuz)
            .args(["-initrd", &format!("/proc/self/fd/{}", initrd.as_raw_fd())])
            .args(["-append", KERNEL_ARGUMENTS]);
        for ((name, address, interrupt), end) in SERIAL_PORTS.into_iter().zip(ends) {
            command.args(["-chardev", &format!("socket,id={name},fd={}", end.as_raw_fd())]);
            command.args([
                "-device",
                &format!("isa-serial,chardev={name},iobase={address},irq={interrupt}"),
            ]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let passed = [
            initrd.as_raw_fd(),
            ends[0].as_raw_fd(),
            ends[1].as_raw_fd(),
            ends[2].as_raw_fd(),
        ];
        let parent = nix::unistd::getpid();
        // SAFETY: between fork and exec only system calls are made; no memory is allocated, no lock taken.
        unsafe {
            command.pre_exec(move || prepare_child(&passed, parent));
        }
        let child = command
            .spawn()
            .with_context(|| format!("failed to start: {}", tools.qemu.display()))?;
        Ok((
            Self { child, talk },
            Ports {
                console,
                output,
                errors,
            },
        ))
    }

    /// Ends QEMU at once.
    pub(crate) fn kill(&mut self) {
        // Fails only when it has ended already.
        drop(self.child.kill());
    }

    /// Waits for QEMU's end.
    pub(crate) fn wait(&mut self) -> Result<ExitStatus> {
        self.child.wait().context("failed to wait for qemu")
    }

    /// What QEMU wrote to its standard error.
    pub(crate) fn words(&self) -> String {
        fs::read_to_string(&self.talk)
            .unwrap_or_default()
            .trim()
            .to_owned()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
        drop(self.child.wait());
    }
}

/// Runs in the child: it keeps the files that are meant for it, and dies with its parent.
fn prepare_child(passed: &[RawFd], parent: nix::unistd::Pid) -> io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if nix::unistd::getppid() != parent {
        return Err(io::ErrorKind::Interrupted.into());
    }
    for fd in passed {
        // SAFETY: the parent holds these descriptors open across the fork.
        let fd = unsafe { BorrowedFd::borrow_raw(*fd) };
        fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    Ok(())
}

/// Finds out, once per boot of this machine, what can run a guest.
///
/// `/dev/kvm` alone proves nothing: on some machines a guest hangs at its first instruction. So a small
/// guest is booted with it; the answer is remembered.
pub(crate) fn accelerator(
    ws: &Workspace,
    tools: &VmTools,
    kernel: &Kernel,
    programs: &Programs,
) -> Result<Accelerator> {
    if File::options().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Accelerator::Tcg);
    }
    let memory = ws.vm().join("kvm");
    let key = ["/proc/sys/kernel/osrelease", "/proc/sys/kernel/random/boot_id"]
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .concat();
    let known = fs::read_to_string(&memory).unwrap_or_default();
    let works = match known.strip_prefix(&key) {
        Some("yes") => true,
        Some("no") => false,
        _ => {
            let step = Step::begin("kvm");
            step.now("trying whether a guest boots (once, 15 s at most)");
            let works = boots_under_kvm(ws, tools, kernel, programs)?;
            let answer = if works { "yes" } else { "no" };
            step.done(if works {
                "used"
            } else {
                "not used: guests do not boot"
            });
            fs::write(&memory, format!("{key}{answer}"))
                .with_context(|| format!("failed to write: {}", memory.display()))?;
            works
        }
    };
    Ok(if works { Accelerator::Kvm } else { Accelerator::Tcg })
}

fn boots_under_kvm(ws: &Workspace, tools: &VmTools, kernel: &Kernel, programs: &Programs) -> Result<bool> {
    let image = Image::minimal(ws, programs)?;
    let mut options = VmOptions::new(Accelerator::Kvm);
    options.boot_limit = Duration::from_secs(12);
    options.time_limit = Some(Duration::from_secs(15));
    let session = Session {
        ws,
        tools,
        kernel,
        image: &image,
        options,
    };
    // The image has no programs: init says hello, cannot run the job, and gives its verdict.
    match session.run(&Job::command(["none"]), &mut io::sink(), &mut io::sink(), None) {
        Ok(_) => Ok(true),
        Err(failure) => {
            failure.forget();
            Ok(false)
        }
    }
}
