//! Writes entries, frame by frame.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use tracer_common::Generation;

use super::{
    MAGIC, VERSION,
    entry::{self, Counted, DeviceName, End, FunctionName, Host, PlaceName, Unread, tag},
    frame,
};
use crate::{explain::Rules, nftables::explain::Rules as NftablesRules};

/// Entries that are written together: what a writer that is killed takes with it, and what one damaged spot costs.
const FRAME_LEN: usize = 256 << 10;
/// Nothing waits longer than this to be written.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// Writes a recording. Entries are kept until [`Writer::flush`], which is due when there are enough of them or the
/// oldest has waited long enough; only that, and the beginning and end, write.
#[derive(Debug)]
pub struct Writer<W: Write> {
    to: W,
    pending: Vec<u8>,
    /// When the first of the pending entries came.
    since: Option<Instant>,
    frames: u32,
}

impl<W: Write> Writer<W> {
    /// Begins a recording.
    ///
    /// # Errors
    /// What the writer says.
    pub fn new(mut to: W, host: &Host) -> io::Result<Self> {
        to.write_all(&[&MAGIC[..], &VERSION.to_le_bytes()].concat())?;
        let mut writer = Self {
            to,
            pending: Vec::new(),
            since: None,
            frames: 0,
        };
        entry::put_json(&mut writer.pending, tag::HOST, host);
        writer.flush()?;
        Ok(writer)
    }

    /// Notes a record, as the programs sent it.
    pub fn record(&mut self, bytes: &[u8]) {
        entry::put(self.pending(), tag::RECORD, &[bytes]);
    }

    /// Notes the rules of a table.
    pub fn table(&mut self, netns: u32, generation: Generation, rules: &Rules) {
        entry::put_table(self.pending(), netns, generation, rules);
    }

    /// Notes the rules of nf_tables in a network namespace.
    pub fn nftables(&mut self, netns: u32, generation: Generation, rules: &NftablesRules) {
        entry::put_nftables(self.pending(), netns, generation, rules);
    }

    /// Notes that a table could not be read.
    pub fn unread(&mut self, unread: &Unread) {
        entry::put_json(self.pending(), tag::UNREAD, unread);
    }

    /// Notes the name of a device.
    pub fn device(&mut self, device: &DeviceName) {
        entry::put_json(self.pending(), tag::DEVICE, device);
    }

    /// Notes the name of a network namespace; before the first record that it goes with.
    pub fn place(&mut self, place: &PlaceName) {
        entry::put_json(self.pending(), tag::PLACE, place);
    }

    /// Notes the name of a function; before the first end of a packet that has its address.
    pub fn function(&mut self, function: &FunctionName) {
        entry::put_json(self.pending(), tag::FUNCTION, function);
    }

    /// Notes how the counters stand.
    pub fn counted(&mut self, counted: &Counted) {
        entry::put_json(self.pending(), tag::COUNTED, counted);
    }

    /// Notes an entry that no reader knows.
    #[cfg(test)]
    pub(super) fn unknown(&mut self, tag: u32) {
        entry::put(self.pending(), tag, &[b"of the future"]);
    }

    fn pending(&mut self) -> &mut Vec<u8> {
        self.since.get_or_insert_with(Instant::now);
        &mut self.pending
    }

    /// When [`Writer::flush`] is due at the latest; `None` while there is nothing to write.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let since = self.since?;
        Some(if self.pending.len() >= FRAME_LEN {
            since
        } else {
            since + WAIT_MAX
        })
    }

    /// Writes what is pending.
    ///
    /// # Errors
    /// What the writer says. What was written before can be read, and so can what a later flush writes.
    pub fn flush(&mut self) -> io::Result<()> {
        self.since = None;
        if self.pending.is_empty() {
            return Ok(());
        }
        let frame = frame::make(self.frames, &self.pending);
        let frame = frame.ok_or_else(|| io::Error::other("more than 4 GiB at once"))?;
        // The number counts the frames that should be there: one that could not be written is missed.
        self.frames = self.frames.wrapping_add(1);
        self.pending.clear();
        self.pending.shrink_to(4 * FRAME_LEN);
        self.to.write_all(&frame)?;
        self.to.flush()
    }

    /// Writes the end.
    ///
    /// # Errors
    /// What the writer says.
    pub fn finish(mut self, end: &End) -> io::Result<W> {
        entry::put_json(&mut self.pending, tag::END, end);
        self.flush()?;
        Ok(self.to)
    }
}
