//! Processors of the test machine: how many there are, and who gets them.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;

/// Leaves one processor while it lives: then what happens has one order, also in softirqs and timers.
#[derive(Debug)]
pub struct OneProcessor(Vec<PathBuf>);

impl OneProcessor {
    /// Switches all others off.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn new() -> Result<Self> {
        let mut off = Self(Vec::new());
        // The first has no such file, or cannot go.
        for number in 1.. {
            let path = PathBuf::from(format!("/sys/devices/system/cpu/cpu{number}/online"));
            if !path.exists() {
                break;
            }
            fs::write(&path, "0").with_context(|| format!("failed to write: {}", path.display()))?;
            off.0.push(path);
        }
        Ok(off)
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        for path in &self.0 {
            // The machine goes on with fewer.
            drop(fs::write(path, "1"));
        }
    }
}

/// Has softirqs look at the time after each packet while it lives.
///
/// Where packets go round without end, one softirq follows the other, and ordinary processes get what the time limit of
/// one leaves them until the next tick (`handle_softirqs`, `kernel/softirq.c`). The time is looked at only after
/// as many packets as these settings say (`net_rx_action` and `process_backlog`, `net/core/dev.c`).
#[derive(Debug)]
pub struct SoftirqTurns(Vec<(&'static str, String)>);

/// What is set, to one packet.
const PACKETS_A_TURN: [&str; 2] = [
    "/proc/sys/net/core/dev_weight",
    "/proc/sys/net/core/netdev_budget",
];

impl SoftirqTurns {
    /// Changes the settings.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn new() -> Result<Self> {
        let mut before = Self(Vec::new());
        for path in PACKETS_A_TURN {
            let value = fs::read_to_string(path).with_context(|| format!("failed to read: {path}"))?;
            fs::write(path, "1").with_context(|| format!("failed to write: {path}"))?;
            before.0.push((path, value));
        }
        Ok(before)
    }
}

impl Drop for SoftirqTurns {
    fn drop(&mut self) {
        for (path, value) in &self.0 {
            // The machine goes on with shorter turns.
            drop(fs::write(path, value));
        }
    }
}

/// Gives a thread, zero for the calling one, another scheduling policy.
///
/// # Errors
///
/// What the kernel says.
pub fn schedule(thread: libc::pid_t, policy: libc::c_int, priority: libc::c_int) -> Result<(), Errno> {
    let parameters = libc::sched_param {
        sched_priority: priority,
    };
    // SAFETY: the kernel reads the parameters during the call only.
    let result = unsafe { libc::sched_setscheduler(thread, policy, &raw const parameters) };
    Errno::result(result).map(drop)
}
