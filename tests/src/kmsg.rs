//! The kernel's log, read from a mark on.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;

use anyhow::{Context as _, Result, bail};
use nix::libc;

/// The longest record that the kernel hands out.
const RECORD: usize = 8192;

/// The kernel's log from the moment this was made.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    /// Starts to listen: what is logged from now on.
    ///
    /// # Errors
    ///
    /// When the log cannot be opened.
    pub fn from_now() -> Result<Self> {
        let failed = "failed to open: /dev/kmsg";
        let mut log = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg")
            .context(failed)?;
        log.seek(SeekFrom::End(0)).context(failed)?;
        Ok(Self(log))
    }

    /// The texts logged since the last call.
    ///
    /// # Errors
    ///
    /// When the log cannot be read, or records were overwritten before they were read.
    pub fn read(&mut self) -> Result<Vec<String>> {
        let mut texts = Vec::new();
        let mut buffer = [0; RECORD];
        loop {
            match self.0.read(&mut buffer) {
                Ok(count) => texts.extend(text(&buffer[..count])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(texts),
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    bail!("failed to read: /dev/kmsg: records were overwritten before they were read")
                }
                Err(error) => return Err(error).context("failed to read: /dev/kmsg"),
            }
        }
    }
}

/// The text of a record `level,sequence,time,flags;text`, without the lines of properties after it.
fn text(record: &[u8]) -> Option<String> {
    let record = String::from_utf8_lossy(record);
    let (_, text) = record.split_once(';')?;
    Some(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_text_of_a_record() {
        assert_eq!(
            text(b"4,1,2,-;TRACE: a;b\n SUBSYSTEM=net\n").unwrap(),
            "TRACE: a;b"
        );
        assert_eq!(text(b"nothing"), None);
    }
}
