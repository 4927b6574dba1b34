//! `tracer` on a terminal: the live table, narrow screens, colours.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::neighbours::Family;
use crate::terminal::{Terminal, screen};
use crate::tracer::THIS_NETNS;
use crate::traffic::{Place, send, settle};
use crate::wait;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("terminals::a_table_that_is_renewed", a_table_that_is_renewed),
        trial("terminals::colours_are_asked_for", colours_are_asked_for),
    ]
}

/// A comment of wide characters, which take two columns each.
const RULES: &str =
    "*filter\n-A INPUT -p udp --dport 4444 -m comment --comment \"默认拒绝所有数据包\" -j DROP\nCOMMIT\n";

fn datagrams(count: usize) -> Result<()> {
    let loopback = Family::V4.loopback();
    let sender = Place::Here.udp(loopback, 0)?;
    for _ in 0..count {
        send(&sender, (loopback, 4444).into(), 10)?;
    }
    settle()
}

/// The table goes over itself, also on a screen that becomes narrower; ^C leaves it there once, and nothing else.
fn a_table_that_is_renewed() -> Result<()> {
    const WIDE: u16 = 100;
    const NARROW: u16 = 40;

    Family::V4.restore(RULES)?;
    // Without colours it is the same table.
    for variables in [&[][..], &[("NO_COLOR", "1")]] {
        let terminal = Terminal::start(&format!("drops --stats {THIS_NETNS}"), variables, WIDE, 12)?;
        let shows = |count: usize, columns: u16| {
            wait::until("the table to show the drops", || {
                let lines = screen(&terminal.written()?, columns.into())?;
                Ok(lines
                    .iter()
                    .any(|line| line.starts_with(&format!("{count:>10}  filter"))))
            })
        };
        datagrams(3)?;
        shows(3, WIDE)?;
        terminal.resize(NARROW, 12)?;
        let wide_len = terminal.written()?.len();
        datagrams(2)?;
        shows(5, WIDE)?;
        let written = terminal.interrupt()?;
        let narrow = written.get(wide_len..).context("less was written")?;
        // Each line of the wide table takes as many of the narrow screen as it needs.
        ensure!(narrow.starts_with("\x1b["), "{narrow:?}");
        for line in narrow.split("\r\n") {
            let text = line.rsplit("\x1b[J").next().unwrap_or(line);
            screen(text, NARROW.into())?;
        }
        let lines = screen(&written, WIDE.into())?;
        let titles = lines
            .iter()
            .filter(|line| line.contains("dropped by, of"))
            .count();
        let last = lines.last().context("nothing was written")?;
        ensure!(titles >= 1 && last.is_empty(), "{lines:#?}");
        ensure!(
            lines.iter().rev().nth(1).is_some_and(|line| line.contains('…')),
            "not shortened: {lines:#?}"
        );
    }
    Ok(())
}

/// On a terminal there are colours, unless `NO_COLOR` says otherwise or the terminal has none.
fn colours_are_asked_for() -> Result<()> {
    Family::V4.restore(RULES)?;
    let variables: [&[(&str, &str)]; 3] = [&[], &[("NO_COLOR", "1")], &[("TERM", "dumb")]];
    for variables in variables {
        let terminal = Terminal::start(&format!("trace -p udp {THIS_NETNS}"), variables, 60, 24)?;
        datagrams(1)?;
        wait::until("the packet to be shown", || {
            Ok(terminal.written()?.contains("= dropped"))
        })?;
        let written = terminal.interrupt()?;
        ensure!(
            written.contains("\x1b[") == variables.is_empty(),
            "{variables:?}: {written:?}"
        );
        ensure!(written.contains("数据包"), "{written}");
    }
    Ok(())
}
