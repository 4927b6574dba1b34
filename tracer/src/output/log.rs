//! The lines that the kernel's TRACE target would have logged, for whatever reads such logs today:
//!
//! ```text
//! TRACE: raw:OUTPUT:policy:2 IN= OUT=lo SRC=192.168.199.34 DST=192.168.199.34 LEN=60 TOS=0x00 … SYN URGP=0 …
//! ```
//!
//! What is not certain is said in a line of its own, which does not begin with `TRACE: `:
//!
//! ```text
//! PARTIAL: filter:INPUT: ruleset replaced before it could be read
//! ```

use std::io::{self, Write};

use super::{Output, kernel_log, words::printable};
use crate::{
    explain::{Explanation, Rules},
    replay::Path,
    traversal::Traversal,
};

pub(super) struct Log {
    writer: Box<dyn Write>,
    line: String,
}

impl Log {
    pub(super) fn new(writer: Box<dyn Write>) -> Self {
        Self {
            writer,
            line: String::new(),
        }
    }

    fn steps(&mut self, traversal: &Traversal, rules: &Rules, path: &Path) -> io::Result<()> {
        for step in &path.steps {
            let Some(label) = rules.labels.of(traversal.hook, step.offset) else {
                continue;
            };
            let packet = (&*step.headers, step.packet_len);
            self.step(traversal, &label.to_string(), packet, step.mark)?;
        }
        Ok(())
    }

    fn step(
        &mut self,
        traversal: &Traversal,
        label: &str,
        (headers, len): (&[u8], u32),
        mark: u32,
    ) -> io::Result<()> {
        let prefix = format!("{}:{label}", traversal.table);
        self.line.clear();
        let cut = kernel_log::line(&mut self.line, &prefix, traversal, headers, len, mark);
        writeln!(self.writer, "{}", self.line)?;
        match cut {
            Ok(()) => Ok(()),
            Err(cut) => self.partial(traversal, &cut),
        }
    }

    fn partial(&mut self, traversal: &Traversal, why: &dyn std::fmt::Display) -> io::Result<()> {
        writeln!(
            self.writer,
            "PARTIAL: {}:{}: {why}",
            printable(&traversal.table),
            printable(&traversal.chain)
        )
    }
}

impl Output for Log {
    fn traversal(&mut self, traversal: &Traversal, explanation: Option<&Explanation>) -> io::Result<()> {
        let Some(explanation) = explanation else {
            return Ok(());
        };
        match explanation {
            Explanation::Path { rules, path } => self.steps(traversal, rules, path)?,
            Explanation::Nftables(explained) => {
                for step in &explained.steps {
                    let packet = (&*step.headers, step.packet_len);
                    self.step(traversal, &step.label(), packet, step.mark)?;
                }
            }
            Explanation::Nothing(_) => {}
        }
        match explanation.partial() {
            Some(why) => self.partial(traversal, &why),
            None => Ok(()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
