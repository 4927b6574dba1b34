//! What happens on ^C and its like: the terminal is put back, and everything ends.
//!
//! Guests need no care here: each QEMU dies with the thread that started it.

use std::process;
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::vm::restore_terminal;

/// Starts to watch for signals that ask us to end.
pub(crate) fn watch() -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("failed to watch for signals")?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            restore_terminal();
            process::exit(128 + signal);
        }
    });
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore_terminal();
        report(panic);
    }));
    Ok(())
}
