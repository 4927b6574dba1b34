//! Rules that change while tracer runs: every path that it shows is one through the rules that the kernel used.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::account::{Selection, Told, same};
use crate::kernel_state::untouchable;
use crate::neighbours::Family;
use crate::netns::Namespace;
use crate::ruleset;
use crate::trace_log::{Line, TraceLog};
use crate::tracer::{ProbesSkipped, Summary, Text, Tracer};
use crate::traffic::{Place, send, settle, stay_on_processor};
use crate::wait;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("paths::replacement::under_traffic", under_traffic),
        trial("paths::replacement::one_by_one", one_by_one),
        trial("paths::replacement::in_another_namespace", in_another_namespace),
        trial(
            "paths::replacement::tables_come_into_being",
            tables_come_into_being,
        ),
        trial(
            "paths::replacement::extensions_come_into_use",
            extensions_come_into_use,
        ),
        trial("paths::replacement::a_namespace_vanishes", a_namespace_vanishes),
        trial(
            "paths::replacement::looking_changes_nothing",
            looking_changes_nothing,
        ),
    ]
}

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Rules of a generation, from 1: each sets its number as mark, in a chain with its number, at another place. Two in
/// a row have the same size, so only their content tells them apart.
fn generation(number: u32) -> String {
    let mut rules = format!("*mangle\n:GEN-{number:05} -\n");
    for _ in 0..shape(number).0 {
        rules += "-A OUTPUT -p tcp -j ACCEPT\n";
    }
    rules += &format!("-A OUTPUT -p udp -j MARK --set-mark {number}\n-A OUTPUT -j GEN-{number:05}\n");
    for _ in 0..shape(number).1 {
        rules += &format!("-A GEN-{number:05} -p tcp -j ACCEPT\n");
    }
    rules + "COMMIT\n*filter\n-A OUTPUT -p udp -j DROP\nCOMMIT\n"
}

/// Rules that do not match, before those that do and in the chain of the generation.
fn shape(number: u32) -> (u32, u32) {
    (number / 2 % 4, number / 2 % 3)
}

/// The steps of a datagram through the mangle table of a generation.
fn steps(number: u32) -> [String; 4] {
    let (before, within) = shape(number);
    [
        format!("mangle:OUTPUT:rule:{}", before + 1),
        format!("mangle:OUTPUT:rule:{}", before + 2),
        format!("mangle:GEN-{number:05}:return:{}", within + 1),
        format!("mangle:OUTPUT:policy:{}", before + 3),
    ]
}

/// The mark of a line.
fn mark(line: &Line) -> u32 {
    let mark = line.field("MARK").and_then(|mark| mark.strip_prefix("0x"));
    mark.and_then(|mark| u32::from_str_radix(mark, 16).ok())
        .unwrap_or(0)
}

/// Source and destination port: each datagram has another pair.
type Ports = (u16, u16);

fn ports(line: &Line) -> Result<Ports> {
    let port = |key| line.field(key).and_then(|port| port.parse().ok());
    port("SPT")
        .zip(port("DPT"))
        .with_context(|| format!("failed to read ports: {}", line.text))
}

/// How long the rules are replaced under traffic, and how often.
const LASTS: Duration = Duration::from_secs(10);
const EVERY: Duration = Duration::from_millis(100);
/// Source port of the datagrams that TRACE logs as well; those of the other senders follow.
const TRACED: u16 = 20_000;
/// Senders that nobody but tracer looks at.
const SENDERS: u16 = 2;
/// Datagrams sent before taking a breath, and how long: tracer and the kernel's log are to keep up.
const AT_ONCE: u16 = 4;
const BREATH: Duration = Duration::from_millis(20);
fn lasts() -> Result<Duration> {
    match env::var("TRACER_TEST_REPLACE_SECONDS") {
        Ok(seconds) => Ok(Duration::from_secs(
            seconds
                .parse()
                .context("failed to read: TRACER_TEST_REPLACE_SECONDS")?,
        )),
        Err(_) => Ok(LASTS),
    }
}

/// Senders on all processors while the rules are replaced ten times a second. The kernel tells which generation it
/// used in two ways: by its TRACE lines for one of the senders; and for all of them by the mark, which the rules of
/// `mangle` set and the record of `filter` has.
fn under_traffic() -> Result<()> {
    let lasts = lasts()?;
    ruleset::restore_v4(&generation(1))?;
    let selection = Selection {
        family: Family::V4,
        matches: "-p udp --sport 20000",
        filter: "--proto udp",
    };
    selection.log()?;
    let tracer = Tracer::start("--format log -4 --proto udp --ring-kib 65536")?;
    let (stop, replaced) = (AtomicBool::new(false), AtomicU32::new(1));
    let mut log = TraceLog::from_now()?;
    thread::scope(|scope| -> Result<()> {
        let replacer = spawn(scope, &stop, || replace(lasts, &stop, &replaced));
        let senders: Vec<_> = (1..=SENDERS)
            .map(|number| {
                let stop = &stop;
                spawn(scope, stop, move || send_until(stop, TRACED + number, |_| Ok(())))
            })
            .collect();
        let traced = spawn(scope, &stop, || {
            send_until(&stop, TRACED, |_| log.lines().map(drop))
        });
        join(replacer)?;
        join(traced)?;
        senders.into_iter().try_for_each(join)
    })?;
    settle()?;
    let logged = log.lines()?.to_vec();
    let text = tracer.stop_as_text()?;
    // Packets that the kernel left out runs for are not shown; what is shown is judged all the same.
    match Summary::whole(&text.said) {
        Err(error) if error.is::<ProbesSkipped>() => {}
        result => result?,
    }
    let lost = Summary::last(&text.said)?.losses;
    let told = Told::parse(&text.shown)?;
    for remark in &told.partial {
        // Nothing is shown of these, so all lines are of complete paths.
        ensure!(remark.contains(": ruleset replaced "), "another remark: {remark}");
    }
    let early = told
        .partial
        .iter()
        .filter(|remark| remark.ends_with("before it could be read"))
        .count();
    let told = by_packet(told.lines)?;
    let same = same_as_logged(by_packet(logged)?, &told)?;
    let of_one_generation = told.values().map(of_one_generation).sum::<Result<u64>>()?;
    let (exact, partial) = paths(&text)?;
    eprintln!(
        "paths::replacement::under_traffic: {} replacements in {} s; {exact} paths exact, {partial} partial ({early} for rules that were gone before they were read); {same} of them \
         equal to TRACE's, {of_one_generation} with the generation that the kernel's mark says; lost: {lost:?}",
        replaced.load(Ordering::Relaxed) - 1,
        lasts.as_secs()
    );
    ensure!(
        same > 100 && of_one_generation > 100,
        "few packets: {same}, {of_one_generation}"
    );
    // How many are exact depends on how fast the machine reads rules, so it is told, not judged. That none is wrong
    // was judged above, for each.
    ensure!(exact > 0, "no path is exact");
    Ok(())
}

/// A thread; when it fails the others have to stop as well.
fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    stop: &'scope AtomicBool,
    body: impl FnOnce() -> Result<()> + Send + 'scope,
) -> ScopedJoinHandle<'scope, Result<()>> {
    scope.spawn(move || {
        let result = body();
        if result.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        result
    })
}

fn join(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread
        .join()
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Replaces the rules again and again, then tells the others to stop.
fn replace(lasts: Duration, stop: &AtomicBool, replaced: &AtomicU32) -> Result<()> {
    let start = Instant::now();
    let mut next = start;
    while start.elapsed() < lasts && !stop.load(Ordering::Relaxed) {
        ruleset::restore_v4(&generation(replaced.fetch_add(1, Ordering::Relaxed) + 1))?;
        next += EVERY;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    stop.store(true, Ordering::Relaxed);
    Ok(())
}

/// Sends a datagram to one port after the other.
fn send_until(stop: &AtomicBool, source: u16, mut breathe: impl FnMut(u16) -> Result<()>) -> Result<()> {
    let socket = Place::Here.udp(LOOPBACK, source)?;
    for port in 1024..=u16::MAX {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        send(&socket, (LOOPBACK, port).into(), 10)?;
        if port % AT_ONCE == 0 {
            breathe(port)?;
            thread::sleep(BREATH);
        }
    }
    Ok(())
}

/// Lines of each packet, table by table.
type ByPacket = BTreeMap<Ports, BTreeMap<String, Vec<Line>>>;

fn by_packet(lines: Vec<Line>) -> Result<ByPacket> {
    let mut packets = ByPacket::new();
    for line in lines {
        let packet = packets.entry(ports(&line)?).or_default();
        packet.entry(line.table.clone()).or_default().push(line);
    }
    Ok(packets)
}

/// Compares each table that tracer tells of with what the kernel logged for the very packet. Returns how many.
fn same_as_logged(logged: ByPacket, told: &ByPacket) -> Result<u64> {
    let mut count = 0;
    for (ports, tables) in logged {
        let Some(told) = told.get(&ports) else { continue };
        for (table, lines) in tables {
            if let Some(told) = told.get(&table) {
                same(&lines, told).with_context(|| format!("packet {ports:?}"))?;
                count += 1;
            }
        }
    }
    Ok(count)
}

/// Whether a packet's path through `mangle` is that of the generation that the mark in `filter` tells. 0 where one of
/// the two is not known.
fn of_one_generation(tables: &BTreeMap<String, Vec<Line>>) -> Result<u64> {
    let (Some(mangle), Some(filter)) = (tables.get("mangle"), tables.get("filter")) else {
        return Ok(0);
    };
    let number = mark(&filter[0]);
    let seen: Vec<String> = mangle.iter().map(Line::step).collect();
    ensure!(
        seen == steps(number),
        "the kernel used generation {number}, tracer shows {seen:?} for {}",
        filter[0].text
    );
    let marks: Vec<u32> = mangle.iter().map(mark).collect();
    ensure!(
        marks == [0, number, number, number],
        "marks of generation {number}: {marks:?}"
    );
    Ok(1)
}

/// How many paths tracer says it knew, and how many not.
fn paths(text: &Text) -> Result<(u64, u64)> {
    let read = || {
        let line = text.said.lines().find_map(|line| line.strip_prefix("paths: "))?;
        let (exact, rest) = line.split_once(" complete, ")?;
        Some((exact.parse().ok()?, rest.strip_suffix(" partial")?.parse().ok()?))
    };
    read().with_context(|| format!("tracer did not say how many paths it knew: {}", text.said))
}

/// Datagrams to one port after the other; each is dropped at OUTPUT, so `filter` is the last that is seen of it.
struct Datagrams {
    socket: UdpSocket,
    sent: u16,
}

impl Datagrams {
    fn new(place: Place<'_>) -> Result<Self> {
        Ok(Self {
            socket: place.udp(LOOPBACK, TRACED)?,
            sent: 0,
        })
    }

    fn next(&mut self) -> Result<u16> {
        self.sent += 1;
        let port = 1024 + self.sent;
        send(&self.socket, SocketAddr::new(LOOPBACK, port), 10)?;
        Ok(port)
    }

    /// Sends one and waits until tracer has shown it or said that it cannot.
    fn next_shown(&mut self, tracer: &Tracer) -> Result<u16> {
        let port = self.next()?;
        // The last table is known from the start.
        wait::until("tracer to show a packet", || {
            let shown = tracer.shown()?;
            let filter = shown.lines().filter(|line| line.contains("filter:OUTPUT"));
            Ok(filter.count() >= usize::from(self.sent))
        })?;
        Ok(port)
    }
}

const UDP: Selection = Selection {
    family: Family::V4,
    matches: "-p udp",
    filter: "--proto udp",
};

/// Replacements in the place, each of which tracer has time to read: every path is known.
fn rounds(place: Place<'_>) -> Result<()> {
    const ROUNDS: u32 = 12;

    stay_on_processor(0)?;
    place.make(|| {
        ruleset::restore_v4(&generation(1))?;
        UDP.log()
    })?;
    let tracer = Tracer::start("--format log --proto udp")?;
    let mut log = TraceLog::from_now()?;
    let mut datagrams = Datagrams::new(place)?;
    for number in 2..2 + ROUNDS {
        place.make(|| ruleset::restore_v4(&generation(number)))?;
        datagrams.next_shown(&tracer)?;
        datagrams.next_shown(&tracer)?;
    }
    let logged = log.lines()?.to_vec();
    same(&logged, &Told::read(tracer)?.certain()?)?;
    let chains: BTreeSet<&str> = logged.iter().map(|line| line.chain.as_str()).collect();
    let generations = chains.iter().filter(|chain| chain.starts_with("GEN-")).count();
    ensure!(generations == ROUNDS as usize, "the kernel logged {chains:?}");
    Ok(())
}

fn one_by_one() -> Result<()> {
    rounds(Place::Here)
}

fn in_another_namespace() -> Result<()> {
    let other = Namespace::new("other")?;
    rounds(Place::There(&other))
}

/// Tables that did not exist when tracer started.
fn tables_come_into_being() -> Result<()> {
    stay_on_processor(0)?;
    ruleset::restore_v4("*filter\n-A OUTPUT -p udp -j DROP\nCOMMIT\n")?;
    UDP.log()?;
    let tracer = Tracer::start("--format log --proto udp")?;
    let mut log = TraceLog::from_now()?;
    let mut datagrams = Datagrams::new(Place::Here)?;
    datagrams.next_shown(&tracer)?;
    for rules in [
        "*mangle\n-A OUTPUT -p udp -j MARK --set-mark 1\nCOMMIT\n",
        "*nat\n:MORE -\n-A OUTPUT -p udp -m conntrack --ctstate NEW -j MORE\n-A MORE -m mark --mark 1\nCOMMIT\n",
    ] {
        ruleset::restore_v4(rules)?;
        datagrams.next_shown(&tracer)?;
        datagrams.next_shown(&tracer)?;
    }
    let logged = log.lines()?.to_vec();
    same(&logged, &Told::read(tracer)?.certain()?)?;
    ensure!(
        ["mangle:OUTPUT:rule:1", "nat:MORE:rule:1"]
            .iter()
            .all(|step| logged.iter().any(|line| line.step() == *step)),
        "the kernel did not log the new tables"
    );
    Ok(())
}

/// A match whose answer has to be observed, in rules that come after the start: the packet that shows the new rules
/// came too early for that, all later ones are exact.
fn extensions_come_into_use() -> Result<()> {
    stay_on_processor(0)?;
    ruleset::restore_v4("*mangle\nCOMMIT\n*filter\n-A OUTPUT -p udp -j DROP\nCOMMIT\n")?;
    UDP.log()?;
    let tracer = Tracer::start("--format log --proto udp")?;
    let mut log = TraceLog::from_now()?;
    let mut datagrams = Datagrams::new(Place::Here)?;
    datagrams.next_shown(&tracer)?;
    ruleset::restore_v4(
        "*mangle\n-A OUTPUT -p udp -m statistic --mode nth --every 2 --packet 0 -j MARK --set-mark 1\n\
         -A OUTPUT -m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 3 --hashlimit-name seen -j MARK --or-mark 2\n\
         COMMIT\n",
    )?;
    let first = datagrams.next_shown(&tracer)?;
    for _ in 0..8 {
        datagrams.next_shown(&tracer)?;
    }
    let logged = log.lines()?.to_vec();
    let told = Told::read(tracer)?;
    eprintln!(
        "paths::replacement::extensions_come_into_use: the first packet: {:?}",
        told.partial
    );
    ensure!(
        told.partial.len() == 1 && told.partial[0].starts_with("PARTIAL: mangle:OUTPUT: "),
        "not only the first packet: {:#?}",
        told.partial
    );
    // Of the first packet only what came to mangle is not known.
    let of_first = |line: &Line| ports(line).is_ok_and(|ports| ports.1 == first) && line.table == "mangle";
    let other = |lines: Vec<Line>| {
        lines
            .into_iter()
            .filter(|line| !of_first(line))
            .collect::<Vec<_>>()
    };
    same(&other(logged), &other(told.lines))
}

/// A namespace that goes with its rules, before tracer has read them and after.
fn a_namespace_vanishes() -> Result<()> {
    stay_on_processor(0)?;
    ruleset::restore_v4(&generation(1))?;
    let tracer = Tracer::start("--format log --proto udp")?;
    let mut here = Datagrams::new(Place::Here)?;
    let known = Namespace::new("known")?;
    known.enter(|| ruleset::restore_v4(&generation(2)))?;
    let mut there = Datagrams::new(Place::There(&known))?;
    there.next_shown(&tracer)?;
    drop(there);
    drop(known);
    here.sent = 1;
    here.next_shown(&tracer)?;

    // Tracer cannot read what is gone before it comes to that.
    tracer.hold()?;
    let unknown = Namespace::new("unknown")?;
    unknown.enter(|| ruleset::restore_v4(&generation(3)))?;
    let mut there = Datagrams::new(Place::There(&unknown))?;
    there.next()?;
    drop(there);
    drop(unknown);
    tracer.go_on()?;
    here.sent += 1;
    here.next_shown(&tracer)?;

    let told = Told::read(tracer)?;
    ensure!(
        told.partial.len() == 2
            && told
                .partial
                .iter()
                .all(|remark| remark.contains("network namespace")),
        "partial: {:#?}, of {:#?}",
        told.partial,
        told.lines
    );
    let mangle: Vec<String> = told
        .lines
        .iter()
        .filter(|line| line.table == "mangle")
        .map(Line::step)
        .collect();
    let expected: Vec<String> = [2, 1, 1].into_iter().flat_map(steps).collect();
    ensure!(mangle == expected, "mangle: {mangle:#?}");
    Ok(())
}

/// Tables of this namespace and modules of this machine.
fn names() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for file in ["ip_tables_names", "ip6_tables_names"] {
        let path = format!("/proc/thread-self/net/{file}");
        let text = fs::read_to_string(&path).with_context(|| format!("failed to read: {path}"))?;
        names.extend(text.lines().map(|name| format!("{file} {name}")));
    }
    let modules = fs::read_to_string("/proc/modules").context("failed to read: /proc/modules")?;
    names.extend(modules.lines().filter_map(|line| {
        let name = line.split(' ').next()?;
        Some(format!("module {name}"))
    }));
    names.sort();
    Ok(names)
}

/// Reading rules and their texts adds no table, loads no module, and leaves rules and their counters alone.
fn looking_changes_nothing() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        family.restore("*mangle\nCOMMIT\n*filter\n-A OUTPUT -p udp -m statistic --mode nth --every 2 --packet 0\nCOMMIT\n")?;
    }
    // The tool that reads the rules loads what it needs; so once before looking.
    untouchable()?;
    let (state, before) = (untouchable()?, names()?);
    ensure!(
        before.contains(&"ip_tables_names mangle".to_owned())
            && !before.iter().any(|name| name.ends_with("tables_names security")),
        "before: {before:?}"
    );
    Tracer::start("--format tree")?.stop_as_text()?;
    let after = untouchable()?;
    for (key, value) in &state {
        ensure!(
            after.get(key) == Some(value),
            "{key} was {value} and is {:?} after a trace",
            after.get(key)
        );
    }
    // And with packets, whose rules are looked at.
    let tracer = Tracer::start("--format tree --proto udp")?;
    let mut datagrams = Datagrams::new(Place::Here)?;
    datagrams.next()?;
    ruleset::restore_v4(&generation(1))?;
    datagrams.next()?;
    let text = tracer.stop_as_text()?;
    ensure!(
        text.shown.contains("-A OUTPUT -j GEN-00001"),
        "the new rules were not read: {}",
        text.shown
    );
    ensure!(names()? == before, "was {before:#?} and is {:#?}", names()?);
    Ok(())
}
