//! One line for each packet that netfilter dropped or rejected; other packets are passed over:
//!
//! ```text
//! 11:02:03.123456 #1 DROP ICMP 10.0.0.1 > 10.0.0.2 type 8 code 0 len=84 FORWARD(eth0>cali1) by
//!     filter:cali-tw-cali1:rule:8  -A cali-tw-cali1 … -j DROP  (FORWARD > cali-FORWARD > cali-to-wl-dispatch > …)
//! ```
//!
//! (on one line). The packet as it was first seen, the hook where it ended, the rule with its text and what it is
//! for, and the chains that led there.

use std::{
    fmt::Write as _,
    io::{self, Write},
};

use super::{
    Context, Output,
    line::start,
    words::{device, fate, printable},
};
use crate::journey::{Journey, Outcome};

pub(super) struct Drops {
    writer: Box<dyn Write>,
    context: Context,
}

impl Drops {
    pub(super) fn new(writer: Box<dyn Write>, context: Context) -> Self {
        Self { writer, context }
    }
}

impl Output for Drops {
    fn journey(&mut self, journey: &Journey) -> io::Result<()> {
        if !journey.outcome.is_drop() {
            return Ok(());
        }
        writeln!(self.writer, "{}", render(journey, &self.context))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn render(journey: &Journey, context: &Context) -> String {
    let mut line = start(journey, context);
    let last = &journey.last().traversal;
    for (key, known) in [("in", &last.in_device), ("out", &last.out_device)] {
        if let Some(known) = known {
            // Writing to a string cannot fail.
            let _ = write!(line, " {key}={}", device(known));
        }
    }
    match (&journey.outcome, journey.dropped_by()) {
        (Outcome::Dropped { passage, .. }, Some(rule)) => {
            let passage = &journey.passages[*passage];
            let what = if passage.hotdrop.is_some() {
                " by a match of"
            } else {
                " by"
            };
            let _ = write!(line, "{what} {}", printable(&rule.to_string()));
            if let Some(text) = &rule.text {
                let _ = write!(line, "  {}", printable(text));
            }
            let meaning = passage.decided_by().and_then(|step| step.meaning.as_ref());
            if let Some(meaning) = meaning {
                let _ = write!(line, "  # {}", printable(meaning));
            }
            let _ = write!(line, "  ({})", printable(&passage.chain_path().join(" > ")));
        }
        (Outcome::Dropped { passage, .. }, None) => {
            let traversal = &journey.passages[*passage].traversal;
            let _ = write!(
                line,
                " by {}:{}, it is not known which rule",
                printable(&traversal.table_in_words()),
                traversal.hook
            );
        }
        _ => {
            let _ = write!(line, " {}", fate(journey));
            if let Some(rule) = journey.queued_by() {
                let _ = write!(line, ", sent there by {}", printable(&rule.to_string()));
                if let Some(text) = &rule.text {
                    let _ = write!(line, "  {}", printable(text));
                }
            }
        }
    }
    for why in &journey.partial {
        let _ = write!(line, " [partial: {}]", printable(why));
    }
    line
}
