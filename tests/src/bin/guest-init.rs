//! The first process of a test machine: makes the machine usable, runs the job, tells its exit code.
//!
//! The console (ttyS0) gets a hello and exactly one verdict from here, whatever happens. The job writes to
//! ttyS1 (output) and ttyS2 (errors), byte for byte.

use std::ffi::OsStr;
use std::fmt::Arguments;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{BaudRate, SetArg, cfmakeraw, cfsetspeed, tcdrain, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, getpid, setsid};
use tests::job::Job;

/// Type and place of the file systems without which nothing works.
const MOUNTS: [(&str, &str); 5] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
];
/// The same for those that a kernel may lack.
const MORE_MOUNTS: [(&str, &str); 6] = [
    ("devpts", "/dev/pts"),
    ("debugfs", "/sys/kernel/debug"),
    ("tracefs", "/sys/kernel/tracing"),
    ("bpf", "/sys/fs/bpf"),
    ("securityfs", "/sys/kernel/security"),
    ("cgroup2", "/sys/fs/cgroup"),
];
const CONSOLE: &str = "/dev/ttyS0";
const OUTPUT: &str = "/dev/ttyS1";
const ERRORS: &str = "/dev/ttyS2";
/// Where the image holds what the job reads from its standard input.
const STDIN: &str = "/stdin";
/// Exit codes of a shell for a program that cannot be run, and of init's own failure.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
const INIT_FAILED: u8 = 125;

nix::ioctl_write_ptr_bad!(
    /// Sets the size of a terminal.
    set_window_size, libc::TIOCSWINSZ, libc::winsize);
nix::ioctl_write_int_bad!(
    /// Makes a terminal the controlling one of the calling session.
    set_controlling_terminal, libc::TIOCSCTTY);

fn main() {
    if getpid() != Pid::from_raw(1) {
        eprintln!("failed to start: guest-init: only the first process of a test machine");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        mount_all()?;
        prepare()?;
        run_job()
    });
    let code = match outcome {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            say(format_args!("{error:#}"));
            INIT_FAILED
        }
        Err(_) => {
            say(format_args!("panic"));
            INIT_FAILED
        }
    };
    end_all();
    // From here on the kernel is silent except in emergencies, so that the line stays in one piece.
    drop(fs::write("/proc/sys/kernel/printk", "1"));
    say(format_args!("verdict exit={code}"));
    for port in [CONSOLE, OUTPUT, ERRORS] {
        drop(File::options().write(true).open(port).map(|port| tcdrain(&port)));
    }
    let error = reboot(RebootMode::RB_POWER_OFF);
    say(format_args!("failed to power off: {error:?}"));
}

/// Writes a line to the console. The machine has no other place for a complaint about this.
fn say(text: Arguments<'_>) {
    let line = format!("\nguest-init: {text}\n");
    let written = File::options()
        .write(true)
        .open(CONSOLE)
        .and_then(|mut port| port.write_all(line.as_bytes()));
    if written.is_err() {
        // Before /dev is there, standard output is the console.
        print!("{line}");
    }
}

fn mount_all() -> Result<()> {
    for (kind, place) in MOUNTS {
        mount_one(kind, place)?;
    }
    let release =
        fs::read_to_string("/proc/sys/kernel/osrelease").context("failed to read kernel release")?;
    say(format_args!("hello {}", release.trim()));
    for (kind, place) in MORE_MOUNTS {
        if let Err(error) = mount_one(kind, place) {
            say(format_args!("{error:#}"));
        }
    }
    Ok(())
}

fn mount_one(kind: &str, place: &str) -> Result<()> {
    if !Path::new(place).exists() {
        fs::create_dir_all(place).with_context(|| format!("failed to create: {place}"))?;
    }
    match mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>) {
        // The kernel may have mounted /dev itself.
        Ok(()) | Err(Errno::EBUSY) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("failed to mount: {kind} on {place}")),
    }
}

fn prepare() -> Result<()> {
    fs::write("/proc/sys/kernel/hostname", "guest").context("failed to set host name")?;
    // An image without tools (it only says hello) has no ip.
    if Path::new("/usr/bin/ip").exists() || Path::new("/usr/sbin/ip").exists() {
        let status = program("ip")
            .args(["link", "set", "lo", "up"])
            .status()
            .context("failed to run: ip")?;
        if !status.success() {
            bail!("failed to set up: lo: {status}");
        }
    }
    Ok(())
}

/// A command with the environment of this machine.
fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root");
    command
}

fn run_job() -> Result<u8> {
    let job = fs::read("/job").context("failed to read: /job")?;
    let job = Job::decode(&job)?;
    let (name, arguments) = job.argv.split_first().context("failed to read job: no program")?;
    let mut command = program(name);
    command
        .args(arguments)
        .envs(job.env.iter().map(|(name, value)| (name, value)))
        .current_dir("/root");
    let output = open_port(OUTPUT, job.terminal.is_none())?;
    let mut errors = open_port(ERRORS, true)?;
    let copy = |port: &File| port.try_clone().context("failed to copy descriptor");
    if let Some((rows, columns)) = job.terminal {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the descriptor is a terminal of ours and `size` is what this request reads.
        unsafe { set_window_size(std::os::fd::AsRawFd::as_raw_fd(&output), &raw const size) }
            .context("failed to set size of terminal")?;
        command
            .stdin(copy(&output)?)
            .stdout(copy(&output)?)
            .stderr(output);
    } else {
        let input = File::open(STDIN).map_or_else(|_| Stdio::null(), Stdio::from);
        command.stdin(input).stdout(output).stderr(copy(&errors)?);
    }
    let on_terminal = job.terminal.is_some();
    // SAFETY: between fork and exec only system calls are made.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            if on_terminal {
                set_controlling_terminal(libc::STDIN_FILENO, 0)?;
            }
            Ok(())
        });
    }
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = if error.kind() == io::ErrorKind::NotFound {
                NOT_FOUND
            } else {
                NOT_RUN
            };
            writeln!(errors, "failed to run: {}: {error}", name.display()).context("failed to write")?;
            return Ok(code);
        }
    };
    let child = Pid::from_raw(i32::try_from(child.id()).context("failed to read process id")?);
    loop {
        // Orphans come to the first process as well; they only have to be taken note of.
        match waitpid(None, None).context("failed to wait for job")? {
            WaitStatus::Exited(pid, code) if pid == child => {
                return u8::try_from(code).context("failed to read exit code");
            }
            WaitStatus::Signaled(pid, signal, _) if pid == child => {
                return u8::try_from(128 + signal as i32).context("failed to read signal");
            }
            _ => {}
        }
    }
}

fn open_port(path: &str, raw: bool) -> Result<File> {
    let failed = || format!("failed to set up: {path}");
    let port = File::options()
        .read(true)
        .write(true)
        .open(path)
        .with_context(failed)?;
    let mut settings = tcgetattr(&port).with_context(failed)?;
    if raw {
        cfmakeraw(&mut settings);
    }
    cfsetspeed(&mut settings, BaudRate::B115200).with_context(failed)?;
    tcsetattr(&port, SetArg::TCSANOW, &settings).with_context(failed)?;
    Ok(port)
}

/// Ends what the job left behind, so that nothing writes after the verdict.
fn end_all() {
    let _ = kill(Pid::from_raw(-1), Signal::SIGKILL);
    while waitpid(None, None).is_ok() {}
}
