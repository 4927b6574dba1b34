//! `tracer trace --write`: the recording of a trace that runs.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use tokio::time::Instant;

use tracer_common::{End as RecordOfEnd, Traversal as Record, flags};

use super::exit::{Exit, Failure};
use crate::{
    event,
    kernel::attach::Attached,
    output::Clock,
    recording::{Counted, CreateError, End, File, Host, RecordLayout, Writer},
    traversal::Traversal,
};

/// Refuses a name that says that Wireshark can read it.
pub(super) fn is_no_capture(path: &Path) -> Result<(), Failure> {
    if !path
        .extension()
        .is_some_and(|end| end == "pcap" || end == "pcapng")
    {
        return Ok(());
    }
    Err(Failure::hinted(
        Exit::Usage,
        anyhow!(
            "failed to create: recording {}: a recording is no pcap file",
            path.display()
        ),
        "`--output FILE.pcapng` is for Wireshark, `--write FILE.rec` for `tracer show`",
    ))
}

/// A recording that is being written.
pub(super) struct Recorder {
    path: PathBuf,
    file: Writer<File>,
    traversals: u64,
}

impl Recorder {
    /// Creates the file; `-` is standard output. `clock` is the one that times are told by.
    pub(super) fn create(path: &Path, clock: &Clock, own_netns: Option<u32>) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| {
            anyhow!("failed to create: recording {}: {error}", path.display())
        };
        let file = if path.as_os_str() == "-" {
            if io::stdout().is_terminal() {
                let error = failed(&"standard output is a terminal");
                return Err(Failure::hinted(Exit::Usage, error, "give the name of a file"));
            }
            File::stdout().map_err(CreateError::from)
        } else {
            File::create(path)
        };
        let file = file.map_err(|error| match error {
            CreateError::Exists => Failure::hinted(
                Exit::Failed,
                failed(&error),
                "give another name, or remove the file first: it may be the only recording of its trace",
            ),
            CreateError::Io(_) => failed(&error).into(),
        })?;
        let file = Writer::new(file, &host(clock, own_netns)).map_err(|error| lost(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            traversals: 0,
        })
    }

    /// Keeps a traversal as the programs sent it, but for its number among those of its packet: it counts those that
    /// are kept.
    pub(super) fn traversal(&mut self, bytes: &[u8], traversal: &Traversal) {
        self.traversals += 1;
        match Record::from_bytes(bytes) {
            Some(mut record) if record.pass != traversal.pass => {
                record.pass = traversal.pass;
                record.flags &= !flags::FIRST;
                record.flags |= if traversal.first { flags::FIRST } else { 0 };
                self.file.record(record.bytes());
            }
            _ => self.file.record(bytes),
        }
    }

    /// Keeps the end of a packet, with the number of its traversals that were to be kept.
    pub(super) fn end(&mut self, bytes: &[u8], end: &event::End) {
        match RecordOfEnd::from_bytes(bytes) {
            Some(mut record) if record.passes != end.passes => {
                record.passes = end.passes;
                self.file.record(record.bytes());
            }
            _ => self.file.record(bytes),
        }
    }

    /// Keeps a record of another kind: the steps of a traversal.
    pub(super) fn other(&mut self, bytes: &[u8]) {
        self.file.record(bytes);
    }

    /// Where entries are noted.
    pub(super) fn file(&mut self) -> &mut Writer<File> {
        &mut self.file
    }

    /// When [`Recorder::flush`] is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.file.due().map(Instant::from_std)
    }

    /// Writes what is due to be written, and how the counters stand.
    pub(super) fn flush_if_due(&mut self, attached: &Attached, blind: &[String]) -> Result<(), Failure> {
        if self.due().is_none_or(|due| due > Instant::now()) {
            return Ok(());
        }
        if let Some(counted) = self.counted(attached, blind) {
            self.file.counted(&counted);
        }
        self.file.flush().map_err(|error| lost(&self.path, error))
    }

    /// Writes the end.
    pub(super) fn finish(self, attached: &Attached, blind: &[String]) -> Result<(), Failure> {
        let counted = self.counted(attached, blind).unwrap_or_default();
        let Self { path, file, .. } = self;
        let finished = file.finish(&End { counted }).and_then(|file| file.sync());
        finished.map_err(|error| lost(&path, error))
    }

    fn counted(&self, attached: &Attached, blind: &[String]) -> Option<Counted> {
        let counts = attached.counts().ok()?;
        Some(Counted::new(self.traversals, &counts, blind))
    }
}

/// The recording ends here, for a reason that is not the user's wish.
fn lost(path: &Path, error: io::Error) -> Failure {
    let path = path.display();
    let hint = format!("`tracer show {path}` shows what was written before");
    Failure::hinted(
        Exit::Failed,
        anyhow::Error::from(error).context(format!("failed to write: recording {path}")),
        hint,
    )
}

fn host(clock: &Clock, own_netns: Option<u32>) -> Host {
    let kernel_says = |name: &str| {
        let said = fs::read_to_string(Path::new("/proc/sys/kernel").join(name));
        said.map_or_else(|_| "unknown".to_owned(), |said| said.trim_end().to_owned())
    };
    Host {
        tracer: env!("CARGO_PKG_VERSION").to_owned(),
        name: kernel_says("hostname"),
        kernel: kernel_says("osrelease"),
        machine: std::env::consts::ARCH.to_owned(),
        command: std::env::args_os()
            .map(|word| word.to_string_lossy().into_owned())
            .collect(),
        record: RecordLayout::OWN,
        clock_offset_ns: clock.offset_ns(),
        netns: own_netns,
    }
}
