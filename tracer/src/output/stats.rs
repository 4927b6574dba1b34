//! How many packets each rule has dropped: on a terminal a table that is renewed each second, else the table at the
//! end.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::{Duration, Instant},
};

use super::{Context, Output, layout::shortened, words::printable};
use crate::journey::{Journey, Tally};

/// How often the table is renewed.
const EVERY: Duration = Duration::from_secs(1);
/// Rules shown on a terminal.
const ROWS_MAX: usize = 20;

pub(super) struct Stats {
    writer: Box<dyn Write>,
    /// Columns of the terminal; none without one.
    width: Option<usize>,
    tally: Tally,
    packets: u64,
    /// Lines to go back over.
    shown_lines: usize,
    shown_at: Option<Instant>,
}

impl Stats {
    pub(super) fn new(writer: Box<dyn Write>, context: &Context) -> Self {
        Self {
            writer,
            width: context.width,
            tally: Tally::default(),
            packets: 0,
            shown_lines: 0,
            shown_at: None,
        }
    }

    fn table(&self, rows_max: usize) -> String {
        let mut text = format!("{:>10}  dropped by, of {} packets\n", "packets", self.packets);
        let drops = self.tally.drops();
        for (count, who) in drops.iter().take(rows_max) {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{count:>10}  {}", printable(&who.to_string()));
        }
        if let Some(more) = drops.len().checked_sub(rows_max).filter(|more| *more > 0) {
            let _ = writeln!(text, "            and {more} more rules");
        }
        text
    }
}

impl Output for Stats {
    fn journey(&mut self, journey: &Journey) -> io::Result<()> {
        self.packets += 1;
        self.tally.add(journey);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(width) = self.width else {
            return self.writer.flush();
        };
        if self.shown_at.is_some_and(|shown| shown.elapsed() < EVERY) {
            return Ok(());
        }
        self.shown_at = Some(Instant::now());
        let table = self.table(ROWS_MAX);
        if self.shown_lines > 0 {
            // Up, and clear what is below.
            write!(self.writer, "\x1b[{}A\x1b[J", self.shown_lines)?;
        }
        self.shown_lines = table.lines().count();
        for line in table.lines() {
            writeln!(self.writer, "{}", shortened(line, width))?;
        }
        self.writer.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.width.is_some() {
            self.shown_at = None;
            return self.flush();
        }
        let table = self.table(usize::MAX);
        self.writer.write_all(table.as_bytes())?;
        self.writer.flush()
    }
}
