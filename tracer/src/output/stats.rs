//! How many packets each rule has dropped: on a terminal a table that is renewed each second, else the table at the
//! end.

use std::{
    fmt::Write as _,
    io::{self, Write},
    time::{Duration, Instant},
};

use super::{
    Context, Output, Screen, Size,
    layout::{columns, shortened},
    words::printable,
};
use crate::journey::{Journey, Tally};

/// How often the table is renewed.
const EVERY: Duration = Duration::from_secs(1);
/// Rules shown on a terminal.
const ROWS_MAX: usize = 20;

pub(super) struct Stats {
    writer: Box<dyn Write>,
    screen: Screen,
    tally: Tally,
    packets: u64,
    /// Columns of each line to go back over.
    shown: Vec<usize>,
    shown_at: Option<Instant>,
}

impl Stats {
    pub(super) fn new(writer: Box<dyn Write>, context: &Context) -> Self {
        Self {
            writer,
            screen: context.screen,
            tally: Tally::default(),
            packets: 0,
            shown: Vec::new(),
            shown_at: None,
        }
    }

    fn table(&self, rows_max: usize) -> String {
        let mut text = format!("{:>10}  dropped by, of {} packets\n", "packets", self.packets);
        let drops = self.tally.drops();
        if drops.is_empty() {
            text.push_str("            no rule, policy or other hook has dropped any\n");
        }
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
        let Some(size) = self.screen.size() else {
            return self.writer.flush();
        };
        if self.shown_at.is_some_and(|shown| shown.elapsed() < EVERY) {
            return Ok(());
        }
        self.shown_at = Some(Instant::now());
        let lines_up = lines_up(&self.shown, size);
        if lines_up > 0 {
            // Up, and clear what is below.
            write!(self.writer, "\x1b[{lines_up}A\r\x1b[J")?;
        }
        // A line for the title, one for what there is no room for, and the one that the cursor is in.
        let table = self.table(size.rows.saturating_sub(3).clamp(1, ROWS_MAX));
        self.shown.clear();
        for line in table.lines() {
            let line = shortened(line, size.columns);
            self.shown.push(columns(&line));
            writeln!(self.writer, "{line}")?;
        }
        self.writer.flush()
    }

    fn finish(&mut self) -> io::Result<()> {
        if self.screen.size().is_some() {
            self.shown_at = None;
            return self.flush();
        }
        let table = self.table(usize::MAX);
        self.writer.write_all(table.as_bytes())?;
        self.writer.flush()
    }
}

/// How many lines of the screen what was shown takes now: a terminal that has become narrower breaks lines anew.
fn lines_up(shown: &[usize], size: Size) -> usize {
    let lines = |columns: &usize| columns.div_ceil(size.columns.max(1)).max(1);
    let lines: usize = shown.iter().map(lines).sum();
    lines.min(size.rows.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrower_screen_has_more_lines_to_go_back_over() {
        let on = |columns, rows| lines_up(&[10, 80, 0], Size { columns, rows });
        assert_eq!(on(80, 24), 3);
        assert_eq!(on(40, 24), 4);
        assert_eq!(on(9, 24), 12);
        // What has left the screen is not to be reached.
        assert_eq!(on(9, 6), 5);
    }
}
