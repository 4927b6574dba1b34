//! The host's terminal, while a person works in the guest's shell.

use std::io::{self, IsTerminal as _};
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::job::Size;

/// The settings to go back to. Global, because a signal or a panic must find them.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether a person sits at both ends.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// The size of the terminal.
pub(crate) fn size() -> Size {
    nix::ioctl_read_bad!(window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);
    let mut found = nix::libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: the descriptor is open and `found` is what this request fills.
    match unsafe { window_size(nix::libc::STDOUT_FILENO, &raw mut found) } {
        Ok(_) if found.ws_row > 0 && found.ws_col > 0 => Size {
            rows: found.ws_row,
            columns: found.ws_col,
        },
        _ => Size {
            rows: 24,
            columns: 80,
        },
    }
}

/// Hands every key to the guest until dropped.
pub(crate) struct RawMode(());

impl RawMode {
    /// Switches the terminal of standard input.
    pub(crate) fn enter() -> Result<Self> {
        let before = tcgetattr(io::stdin()).context("failed to read terminal settings")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        if let Ok(mut saved) = SAVED.lock() {
            *saved = Some(before);
        }
        tcsetattr(io::stdin(), SetArg::TCSANOW, &raw).context("failed to change terminal settings")?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back, if it was changed. Called by signals and panics as well.
pub(crate) fn restore() {
    let saved = SAVED.lock().ok().and_then(|mut saved| saved.take());
    if let Some(before) = saved {
        // Nothing can be done where the terminal is gone.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &before);
    }
}
