//! What is lost is counted, to the last traversal.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::trial;
use crate::command::run;
use crate::neighbours::Family;
use crate::tracer::{ProbesSkipped, Report, Summary, THIS_NETNS, Tracer};
use crate::traffic::{Place, send};
use crate::wait;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("loss::shown_and_lost_are_all", shown_and_lost_are_all),
        trial("loss::flood", flood),
        trial("loss::flood_within_limits", flood_within_limits),
        trial("loss::memory_is_bounded", memory_is_bounded),
        trial("loss::max_cpu_holds", max_cpu_holds),
        trial("loss::state_on_request", state_on_request),
        trial("loss::count_ends_a_trace", count_ends_a_trace),
        trial("loss::duration_ends_a_trace", duration_ends_a_trace),
    ]
}

const RULES: &str = "*raw\n-A OUTPUT -p udp --dport 7300\n-A PREROUTING -p udp --dport 7300\nCOMMIT\n\
                     *filter\n-A OUTPUT -p udp --dport 7300\n-A INPUT -p udp --dport 7300\nCOMMIT\n";
const PORT: u16 = 7300;
/// Traversals of each datagram, as the rules have it.
const TRAVERSALS: u64 = 4;

/// Sends datagrams to the port over loopback.
fn datagrams(count: u64) -> Result<()> {
    let loopback = Family::V4.loopback();
    let (sender, receiver) = (Place::Here.udp(loopback, 0)?, Place::Here.udp(loopback, PORT)?);
    receiver
        .set_nonblocking(true)
        .context("failed to set up socket")?;
    for _ in 0..count {
        send(&sender, (loopback, PORT).into(), 10)?;
        while receiver.recv(&mut [0; 10]).is_ok() {}
    }
    Ok(())
}

/// How often the rules matched.
fn counted() -> Result<u64> {
    let rules = run("iptables-legacy-save -c")?;
    let counts = rules.lines().filter(|line| line.contains("--dport 7300"));
    counts
        .map(|line| {
            let count = line.trim_start_matches('[').split(':').next();
            count
                .and_then(|count| count.parse::<u64>().ok())
                .with_context(|| format!("failed to read counter: {line}"))
        })
        .sum()
}

/// One tracer has a small buffer and is not given the processor, another one has room for everything.
fn shown_and_lost_are_all() -> Result<()> {
    const BEFORE: u64 = 20;
    const WHILE_STOPPED: u64 = 1000;
    const AFTER: u64 = 20;

    Family::V4.restore(RULES)?;
    let small = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS} --ring-kib 4"))?;
    let large = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS} --ring-kib 16384"))?;
    datagrams(BEFORE)?;
    small.hold()?;
    datagrams(WHILE_STOPPED)?;
    small.go_on()?;
    datagrams(AFTER)?;
    let all = counted()?;
    let (small, large) = (small.stop()?, large.stop()?);
    ensure!(
        all == (BEFORE + WHILE_STOPPED + AFTER) * TRAVERSALS,
        "the rules counted {all}"
    );
    let sum = small.summary()?;
    ensure!(
        sum.losses.len() == 1 && sum.ring_full() > 0 && sum.shown + sum.ring_full() == all,
        "the rules counted {all}, the small one says: {}",
        small.said
    );
    let large = large.whole()?;
    ensure!(
        large.len() as u64 == all,
        "the rules counted {all}, the large one showed {}",
        large.len()
    );
    // What was shown is right, gaps or not: each packet's lines are some of those that there are.
    let mut steps: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for line in &small.lines {
        steps.entry(line.packet).or_default().push(line.step());
    }
    let way = [
        "raw:OUTPUT ACCEPT",
        "filter:OUTPUT ACCEPT",
        "raw:PREROUTING ACCEPT",
        "filter:INPUT ACCEPT",
    ];
    for (number, steps) in steps {
        let mut rest = way.iter();
        ensure!(
            steps.iter().all(|step| rest.any(|way| way == step)),
            "#{number} passed {steps:?}"
        );
    }
    Ok(())
}

/// How long a flood lasts.
const FLOOD: Duration = Duration::from_secs(10);
const LONG_FLOOD: Duration = Duration::from_secs(30);
/// How long anything else may take meanwhile.
const RESPONSE_MAX: Duration = Duration::from_secs(5);

/// Sends as fast as all processors can, each datagram from a port of its own, and makes sure that the machine still does
/// other things. Nobody reads: what does not fit into the socket is dropped behind the last table.
fn send_flood(lasting: Duration) -> Result<()> {
    let loopback = Family::V4.loopback();
    let _receiver = Place::Here.udp(loopback, PORT)?;
    let end = Instant::now() + lasting;
    thread::scope(|scope| {
        let senders = [(); 2].map(|()| {
            scope.spawn(|| -> Result<()> {
                while Instant::now() < end {
                    let sender = Place::Here.udp(loopback, 0)?;
                    send(&sender, (loopback, PORT).into(), 10)?;
                }
                Ok(())
            })
        });
        while Instant::now() < end {
            let start = Instant::now();
            run("busybox true")?;
            ensure!(
                start.elapsed() < RESPONSE_MAX,
                "the machine answers after {:?} only",
                start.elapsed()
            );
        }
        senders.into_iter().try_for_each(|sender| {
            sender
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

/// Makes sure that what was shown and what was lost is what the rules counted; returns both.
fn account(report: &Report, all: u64) -> Result<(u64, u64)> {
    let sum = report.summary()?;
    let lost: u64 = sum
        .losses
        .iter()
        .filter(|(_, what)| what.contains("traversals not shown"))
        .map(|(count, _)| count)
        .sum();
    if let Some((count, _)) = sum
        .losses
        .iter()
        .find(|(_, what)| what.contains("traversals not seen"))
    {
        bail!(ProbesSkipped(*count));
    }
    ensure!(
        sum.shown + lost == all,
        "the rules counted {all}, tracer says: {}",
        report.said
    );
    Ok((sum.shown, lost))
}

/// Far more than user space can take, and a small buffer.
fn flood() -> Result<()> {
    Family::V4.restore(RULES)?;
    let tracer = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS} --ring-kib 64"))?;
    send_flood(LONG_FLOOD)?;
    let report = tracer.stop()?;
    let (shown, lost) = account(&report, counted()?)?;
    ensure!(shown > 0 && lost > 0, "no flood: {}", report.said);
    Ok(())
}

/// What tracer may take for itself, whatever happens; `docs/cost.md` says so.
const MEMORY_MAX_MIB: u64 = 128;

/// Each packet is a connection and a journey of its own.
fn memory_is_bounded() -> Result<()> {
    let tracked = format!("*filter\n-A OUTPUT -p udp --dport {PORT} -m conntrack --ctstate NEW\nCOMMIT\n");
    Family::V4.restore(&tracked)?;
    let tracer = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS} --format json"))?;
    send_flood(FLOOD)?;
    let peak_kib = tracer.memory_peak_kib()?;
    tracer.stop_as_text()?;
    println!("loss::memory_is_bounded: {peak_kib} KiB");
    ensure!(peak_kib <= MEMORY_MAX_MIB << 10, "tracer took {peak_kib} KiB");
    Ok(())
}

/// The same with a limit: packets are left out whole.
fn flood_within_limits() -> Result<()> {
    const RATE: u64 = 50;

    Family::V4.restore(RULES)?;
    let tracer = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS} --max-rate {RATE}/s"))?;
    send_flood(FLOOD)?;
    let report = tracer.stop()?;
    let (shown, lost) = account(&report, counted()?)?;
    ensure!(shown > 0 && lost > shown, "no flood: {}", report.said);
    // The limit is for the load: processors may admit a packet each.
    let packets_max = 2 * RATE * (FLOOD.as_secs() + 2);
    ensure!(
        shown <= packets_max * TRAVERSALS,
        "{shown} traversals were shown at {RATE} packets a second"
    );
    let mut lines: BTreeMap<u64, u64> = BTreeMap::new();
    for line in &report.lines {
        *lines.entry(line.packet).or_default() += 1;
    }
    match lines.iter().find(|(_, lines)| **lines != TRAVERSALS) {
        None => Ok(()),
        Some((packet, lines)) => bail!("#{packet} was shown with {lines} lines only: {}", report.said),
    }
}

/// A share of the processor is a limit too.
fn max_cpu_holds() -> Result<()> {
    Family::V4.restore(RULES)?;
    let tracer = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS} --max-cpu 5"))?;
    send_flood(FLOOD)?;
    let report = tracer.stop()?;
    let (shown, lost) = account(&report, counted()?)?;
    ensure!(shown > 0 && lost > shown, "nothing was left out: {}", report.said);
    Ok(())
}

fn state_on_request() -> Result<()> {
    Family::V4.restore(RULES)?;
    let tracer = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS}"))?;
    for sum in 1..=2 {
        datagrams(5)?;
        wait::until("lines", || Ok(tracer.shown_len()? > 0))?;
        tracer.signal(Signal::SIGUSR1)?;
        wait::until(
            "tracer to tell",
            || Ok(Summary::all(&tracer.said()?).len() >= sum),
        )?;
    }
    let report = tracer.stop()?;
    let sums = Summary::all(&report.said);
    ensure!(
        sums.len() == 3
            && sums[0].shown > 0
            && sums.iter().is_sorted_by_key(|sum| sum.shown)
            && sums[2].shown == 10 * TRAVERSALS,
        "{}",
        report.said
    );
    Ok(())
}

fn count_ends_a_trace() -> Result<()> {
    Family::V4.restore(RULES)?;
    let tracer = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS} --count 6"))?;
    datagrams(10)?;
    let lines = tracer.wait()?.whole()?;
    ensure!(lines.len() == 6, "{} lines instead of 6", lines.len());
    Ok(())
}

fn duration_ends_a_trace() -> Result<()> {
    Family::V4.restore(RULES)?;
    let tracer = Tracer::start(&format!("-4 --dport {PORT} {THIS_NETNS} --duration 1s"))?;
    tracer.wait()?.whole()?;
    Ok(())
}
