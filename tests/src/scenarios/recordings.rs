//! `trace --write` and `show`: what is read from the file is what was seen.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::trial;
use crate::command::run;
use crate::neighbours::{FAMILIES, Family};
use crate::node;
use crate::tracer::{Report, THIS_NETNS, Tracer, exit, show};
use crate::traffic::{Place, send, settle};
use crate::wait;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("recordings::shown_as_it_was_seen", shown_as_it_was_seen),
        trial("recordings::of_nf_tables", of_nf_tables),
        trial("recordings::filtered_afterwards", filtered_afterwards),
        trial(
            "recordings::of_a_tracer_that_was_killed",
            of_a_tracer_that_was_killed,
        ),
        trial("recordings::on_a_full_disk", on_a_full_disk),
        trial("recordings::are_not_written_over", are_not_written_over),
    ]
}

/// Every format: the live output and the recording's are the same text.
fn shown_as_it_was_seen() -> Result<()> {
    const FORMATS: [&str; 3] = ["tree", "line", "log"];

    let directory = tempfile::tempdir().context("failed to create directory")?;
    let file = |format: &str| directory.path().join(format).display().to_string();
    let node = node::nodeport()?;
    let port = node.address().port();
    let arguments = FORMATS.map(|format| format!("--port {port} --format {format} --write {}", file(format)));
    let tracers = Tracer::start_all(&arguments)?;
    node.get_page()?;
    settle()?;
    for (tracer, format) in tracers.into_iter().zip(FORMATS) {
        let live = tracer.stop_as_text()?;
        ensure!(!live.shown.is_empty(), "{format}: nothing was seen");
        shown_the_same(&file(format), format, &live.shown)?;
    }
    Ok(())
}

/// The same for rules of nf_tables.
fn of_nf_tables() -> Result<()> {
    const FORMATS: [&str; 2] = ["tree", "log"];

    let directory = tempfile::tempdir().context("failed to create directory")?;
    let file = |format: &str| directory.path().join(format).display().to_string();
    for rule in [
        "-A INPUT -p udp -m comment --comment asked -j ACCEPT",
        "-t mangle -A OUTPUT -p udp --dport 4444 -j MARK --set-mark 7",
    ] {
        run(&format!("iptables-nft {rule}"))?;
    }
    let arguments =
        FORMATS.map(|format| format!("-4 udp {THIS_NETNS} --format {format} --write {}", file(format)));
    let tracers = Tracer::start_all(&arguments)?;
    datagrams(Family::V4)?;
    settle()?;
    for (tracer, format) in tracers.into_iter().zip(FORMATS) {
        let live = tracer.stop_as_text()?;
        ensure!(
            live.shown.contains("INPUT:rule:1") && !live.shown.to_lowercase().contains("partial"),
            "{format}: {}",
            live.shown
        );
        shown_the_same(&file(format), format, &live.shown)?;
    }
    Ok(())
}

/// A recording is shown in a format as it was seen live.
fn shown_the_same(file: &str, format: &str, live: &str) -> Result<()> {
    let (code, recorded) = show(&format!("{file} --format {format}"))?;
    ensure!(code == Some(exit::DONE), "{format}: {}", recorded.said);
    ensure!(
        live == recorded.shown,
        "{format}: seen:\n{live}\nrecorded:\n{}",
        recorded.shown
    );
    Ok(())
}

/// Flags choose from a recording what they would have chosen from the kernel.
fn filtered_afterwards() -> Result<()> {
    const FILTERS: [&str; 6] = [
        "-4",
        "--proto udp",
        "--dport 4444",
        "--src ::1 --port 2222",
        "--mark 0x30",
        "-i lo --table filter --hook INPUT",
    ];

    let directory = tempfile::tempdir().context("failed to create directory")?;
    let all = directory.path().join("all").display().to_string();
    for family in FAMILIES {
        family.restore(
            "*mangle\n-A OUTPUT -p udp --dport 4444 -j MARK --set-mark 0x30\nCOMMIT\n*filter\nCOMMIT\n",
        )?;
    }
    let mut arguments: Vec<String> = FILTERS
        .iter()
        .map(|filter| format!("{filter} {THIS_NETNS} --format tables --ring-kib 256"))
        .collect();
    arguments.push(format!("{THIS_NETNS} --write {all}"));
    let mut tracers = Tracer::start_all(&arguments)?;
    let recorder = tracers.pop().context("no recorder")?;
    for family in FAMILIES {
        datagrams(family)?;
    }
    settle()?;
    let recorded = recorder.stop_as_text()?;
    ensure!(
        recorded.shown.is_empty(),
        "shown while recording: {}",
        recorded.shown
    );
    for (live, filter) in Tracer::stop_all(tracers)?.into_iter().zip(FILTERS) {
        let (code, recorded) = show(&format!("{all} {filter} --format tables"))?;
        ensure!(code == Some(exit::DONE), "{filter}: {}", recorded.said);
        let what = |report: &Report| -> Vec<String> {
            let mut steps: Vec<String> = report
                .lines
                .iter()
                .map(|line| format!("{} {:?} {}", line.step(), line.destination, line.len))
                .collect();
            steps.sort();
            steps
        };
        let lines = recorded.shown.lines().map(crate::tracer::Line::parse);
        let recorded = Report {
            lines: lines.collect::<Result<_>>()?,
            said: recorded.said,
        };
        ensure!(!live.lines.is_empty(), "{filter}: nothing was seen");
        ensure!(
            what(&live) == what(&recorded),
            "{filter}: seen {:#?}, recorded {:#?}",
            live.lines,
            recorded.lines
        );
    }
    Ok(())
}

fn datagrams(family: Family) -> Result<()> {
    let loopback = family.loopback();
    let _receivers = [Place::Here.udp(loopback, 2222)?, Place::Here.udp(loopback, 4444)?];
    let sender = Place::Here.udp(loopback, 1111)?;
    send(&sender, (loopback, 2222).into(), 100)?;
    send(&sender, (loopback, 4444).into(), 110)?;
    Place::Here.ping(loopback, 50)
}

/// What was written before the tracer was killed is there, and that it was is said.
fn of_a_tracer_that_was_killed() -> Result<()> {
    let directory = tempfile::tempdir().context("failed to create directory")?;
    let file = directory.path().join("killed");
    let arguments = format!("--dport 2222 {THIS_NETNS} --write {}", file.display());
    Family::V4.restore("*filter\nCOMMIT\n")?;
    let mut tracer = Tracer::start(&arguments)?;
    datagrams(Family::V4)?;
    let shown = || show(&format!("{} --format log", file.display()));
    wait::until("records to be written", || {
        Ok(shown()?.1.shown.lines().count() == 2)
    })?;
    tracer.signal(Signal::SIGKILL)?;
    ensure!(tracer.wait_for_exit()?.is_none(), "tracer ended by itself");
    let (code, text) = shown()?;
    ensure!(code == Some(exit::CUT_OFF), "{}", text.said);
    ensure!(text.shown.lines().count() == 2, "{}", text.shown);
    ensure!(text.said.contains("ends before its trace did"), "{}", text.said);
    Ok(())
}

/// A disk without room ends the trace, and takes nothing away of what was written before.
fn on_a_full_disk() -> Result<()> {
    let disk = tempfile::tempdir().context("failed to create directory")?;
    run(&format!(
        "mount -t tmpfs -o size=64k tmpfs {}",
        disk.path().display()
    ))?;
    let _disk = Mounted(disk.path());
    let file = disk.path().join("full");
    Family::V4.restore("*filter\nCOMMIT\n")?;
    let mut tracer = Tracer::start(&format!("{THIS_NETNS} --write {}", file.display()))?;
    let loopback = Family::V4.loopback();
    let _receiver = Place::Here.udp(loopback, 2222)?;
    let sender = Place::Here.udp(loopback, 1111)?;
    wait::until("the disk to be full", || {
        for _ in 0..100 {
            send(&sender, (loopback, 2222).into(), 200)?;
        }
        Ok(tracer.said()?.contains("failed to write: recording"))
    })?;
    ensure!(
        tracer.wait_for_exit()? == Some(exit::FAILED),
        "{}",
        tracer.said()?
    );
    let said = tracer.said()?;
    ensure!(
        said.contains("No space left on device") && said.contains("hint: `tracer show "),
        "{said}"
    );
    let (code, text) = show(&format!("{} --format tables", file.display()))?;
    ensure!(code == Some(exit::CUT_OFF), "{}", text.said);
    ensure!(
        !text.shown.is_empty() && !text.said.contains("damaged"),
        "{}",
        text.said
    );
    ensure!(text.said.contains("ends before its trace did"), "{}", text.said);
    Ok(())
}

/// Unmounts when dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // It goes with the machine otherwise.
        drop(run(&format!("umount {}", self.0.display())));
    }
}

fn are_not_written_over() -> Result<()> {
    let directory = tempfile::tempdir().context("failed to create directory")?;
    let file = directory.path().join("precious");
    fs::write(&file, "precious").context("failed to write file")?;
    let error = match Tracer::start(&format!("--write {}", file.display())) {
        Ok(_) => anyhow::bail!("tracer writes over a file"),
        Err(error) => format!("{error:#}"),
    };
    ensure!(
        error.contains("file exists") && error.contains("hint: "),
        "{error}"
    );
    let content = fs::read_to_string(&file).context("failed to read file")?;
    ensure!(content == "precious", "the file has: {content}");
    Ok(())
}
