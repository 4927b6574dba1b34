//! Packets that go round without end: a rule copies what comes in, say, and the copy is routed to the machine itself.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::libc;

use crate::netns::{self, Namespace};
use crate::processors::schedule;

/// Packets that the node's devices sent; a ruleset's traffic makes some hundreds.
const PACKETS_MAX: u64 = 3000;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// The node's devices.
const DEVICES: [&str; 3] = ["lo", "left", "right"];

/// The kernel does not come to an end with the packets of a ruleset.
#[derive(Debug)]
pub(super) struct Endless;

impl fmt::Display for Endless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("packets go round without end")
    }
}

impl std::error::Error for Endless {}

/// Counts the packets of a node while it lives, and sets its devices down when there are too many: what goes round
/// leaves little of the processor to anybody else, so this comes before everybody else. It only looks, so nothing is
/// sent in another order than without it.
#[derive(Debug)]
pub(super) struct Watch {
    has_cut: Arc<AtomicBool>,
    /// Dropped to end the thread.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(super) fn start(node: &Namespace) -> Result<Self> {
        let has_cut = Arc::new(AtomicBool::new(false));
        let (end, ended) = mpsc::channel();
        let (says, ready) = mpsc::channel();
        let door = node.door()?;
        let cuts = Arc::clone(&has_cut);
        let thread = thread::spawn(move || {
            let start = door
                .enter()
                .and_then(|()| schedule(0, libc::SCHED_FIFO, 1).context("failed to set: scheduler"));
            let is_ready = start.is_ok();
            drop(says.send(start));
            while is_ready && ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                if !cuts.load(Ordering::Relaxed) && packets().is_ok_and(|packets| packets > PACKETS_MAX) {
                    cut();
                    cuts.store(true, Ordering::Relaxed);
                }
            }
            // A namespace is not gone before its packets are.
            cut();
        });
        let watch = Self {
            has_cut,
            end: Some(end),
            thread: Some(thread),
        };
        ready
            .recv()
            .context("failed to watch for packets without end")??;
        Ok(watch)
    }

    /// An error once there were too many.
    pub(super) fn check(&self) -> Result<(), Endless> {
        if self.has_cut.load(Ordering::Relaxed) {
            return Err(Endless);
        }
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to tell.
            drop(thread.join());
        }
    }
}

/// Sets the devices of the current network namespace down.
pub(super) fn cut() {
    for device in DEVICES {
        // A network that was not finished may lack some.
        drop(netns::set_down(device));
    }
}

/// What all devices of the current network namespace have sent.
fn packets() -> Result<u64> {
    let path = "/proc/thread-self/net/dev";
    let text = fs::read_to_string(path).with_context(|| format!("failed to read: {path}"))?;
    Ok(sent(&text))
}

fn sent(text: &str) -> u64 {
    /// Among the numbers of a device: bytes, packets, and six others received; bytes, packets, and others sent.
    const PACKETS_SENT: usize = 9;

    let of_device = |line: &str| {
        let (_, numbers) = line.split_once(':')?;
        numbers.split_whitespace().nth(PACKETS_SENT)?.parse::<u64>().ok()
    };
    text.lines().filter_map(of_device).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_sent_are_counted() {
        let text = "Inter-|   Receive                  |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs\n    \
                    lo:     252       3    0    0    0     0          0         0      252       4    0\n  \
                    left:       0       0    0    0    0     0          0         0     1006      10    0\n";
        assert_eq!(sent(text), 14);
    }
}
