//! A terminal that `tracer` writes to, and what is on its screen.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::command::Running;
use crate::wait;

mod request {
    use nix::libc;

    nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);
}

/// A `tracer` on a terminal.
#[derive(Debug)]
pub struct Terminal {
    process: Running,
    master: File,
    written: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
    files: TempDir,
}

impl Terminal {
    /// Starts it with these arguments and variables on a screen of so many columns and rows. Returns when records
    /// flow.
    ///
    /// # Errors
    ///
    /// When it ends instead.
    pub fn start(arguments: &str, variables: &[(&str, &str)], columns: u16, rows: u16) -> Result<Self> {
        let files = tempfile::tempdir().context("failed to create directory for output")?;
        let pty = openpty(Some(&winsize(columns, rows)), None).context("failed to open terminal")?;
        let errors = File::create(files.path().join("stderr")).context("failed to create file for errors")?;
        let ready = files.path().join("ready");
        let child = Command::new("tracer")
            .args(arguments.split_whitespace())
            .arg("--ready-file")
            .arg(&ready)
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(pty.slave)
            .stderr(errors)
            .spawn()
            .context("failed to start: tracer")?;
        let master = File::from(pty.master);
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut from = master.try_clone().context("failed to use terminal")?;
        let reader = thread::spawn({
            let written = Arc::clone(&written);
            move || {
                let mut bytes = [0; 4096];
                // When the last process has closed it there is an error.
                while let Ok(len @ 1..) = from.read(&mut bytes) {
                    written
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(&bytes[..len]);
                }
            }
        });
        let mut terminal = Self {
            process: Running(child),
            master,
            written,
            reader: Some(reader),
            files,
        };
        wait::until("tracer to be ready", || {
            match terminal
                .process
                .0
                .try_wait()
                .context("failed to wait for tracer")?
            {
                Some(status) => bail!("failed to start: tracer: {status}: {}", terminal.said()?),
                None => Ok(ready.exists()),
            }
        })?;
        Ok(terminal)
    }

    /// What it has written so far.
    ///
    /// # Errors
    ///
    /// When it is no text.
    pub fn written(&self) -> Result<String> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8(written.clone()).context("failed to read terminal")
    }

    /// What it has said on standard error.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub fn said(&self) -> Result<String> {
        std::fs::read_to_string(self.files.path().join("stderr")).context("failed to read errors")
    }

    /// Gives the screen another size.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        let size = winsize(columns, rows);
        // SAFETY: the pointer is to a live winsize.
        unsafe { request::set_size(self.master.as_raw_fd(), &raw const size) }
            .context("failed to resize terminal")
            .map(drop)
    }

    /// Ends it as `^C` does, and returns all that it has written.
    ///
    /// # Errors
    ///
    /// When it does not end, or fails.
    pub fn interrupt(mut self) -> Result<String> {
        let pid = i32::try_from(self.process.0.id()).context("failed to read process id")?;
        kill(Pid::from_raw(pid), Signal::SIGINT).context("failed to stop tracer")?;
        let mut status = None;
        wait::until("tracer to end", || {
            status = self.process.0.try_wait().context("failed to wait for tracer")?;
            Ok(status.is_some())
        })?;
        ensure!(status.is_some_and(|status| status.success()), "{}", self.said()?);
        // The slave is closed now, so the reader has come to the end.
        if let Some(reader) = self.reader.take() {
            drop(reader.join());
        }
        self.written()
    }
}

fn winsize(columns: u16, rows: u16) -> Winsize {
    libc::winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// What a screen shows that has so many columns after all of this was written: what the live table needs of a terminal.
///
/// # Errors
///
/// A control sequence that is none of these.
pub fn screen(written: &str, columns: usize) -> Result<Vec<String>> {
    let mut lines: Vec<String> = vec![String::new()];
    let mut row = 0;
    let mut rest = written.chars();
    while let Some(c) = rest.next() {
        match c {
            '\r' => {}
            '\n' => {
                row += 1;
                if row == lines.len() {
                    lines.push(String::new());
                }
            }
            '\x1b' => {
                ensure!(
                    rest.next() == Some('['),
                    "a sequence that is not for screens: {written:?}"
                );
                let mut number = String::new();
                let kind = loop {
                    match rest.next() {
                        Some(digit) if digit.is_ascii_digit() => number.push(digit),
                        kind => break kind,
                    }
                };
                match kind {
                    Some('A') => row = usize::saturating_sub(row, number.parse().unwrap_or(1)),
                    // Below the cursor, which is at the beginning of a line.
                    Some('J') => {
                        lines.truncate(row);
                        lines.push(String::new());
                    }
                    other => bail!("an unexpected sequence: {other:?} in {written:?}"),
                }
            }
            c => {
                let line = &mut lines[row];
                ensure!(
                    width(line) + width_of(c) <= columns,
                    "wider than {columns} columns: {line}{c}"
                );
                line.push(c);
            }
        }
    }
    Ok(lines)
}

fn width(line: &str) -> usize {
    line.chars().map(width_of).sum()
}

/// Columns of a character, of those that these tests use.
fn width_of(c: char) -> usize {
    if c >= '\u{2e80}' { 2 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_shows_what_was_written_last() {
        let lines = screen("one\r\ntwo\r\n\x1b[2A\r\x1b[Jthree\r\n", 5).unwrap();
        assert_eq!(lines, ["three", ""]);
        assert!(screen("默认服务", 7).is_err());
        assert!(screen("\x1b[31m", 7).is_err());
    }
}
