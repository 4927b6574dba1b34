//! `--verify`: every step held against the steps that the kernel was seen to take.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::neighbours::{Family, LEFT, NODE, Neighbours};
use crate::node;
use crate::tracer::{THIS_NETNS, Text, Tracer, exit};
use crate::traffic::{Place, datagram, no_connection, send};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("verify::nodeport_v4", || nodeport(Family::V4)),
        trial("verify::nodeport_v6", || nodeport(Family::V6)),
        trial("verify::nested_v4", || nested(Family::V4)),
        trial("verify::nested_v6", || nested(Family::V6)),
        trial("verify::on_all_processors", on_all_processors),
        trial("verify::recorded", recorded),
        trial("verify::without_addresses", without_addresses),
        trial("verify::a_wrong_replay_is_told", a_wrong_replay_is_told),
        trial("verify::where_the_replay_stops", where_the_replay_stops),
        trial("verify::more_steps_than_room", more_steps_than_room),
    ]
}

/// What `tracer` says of its comparison.
#[derive(Debug, PartialEq, Eq)]
struct Verified {
    traversals: u64,
    steps: u64,
    differences: u64,
    /// The lines that tell what was not compared.
    remarks: Vec<String>,
}

fn verified(said: &str) -> Result<Verified> {
    let mut lines = said.lines().skip_while(|line| !line.starts_with("verified: "));
    let first = lines
        .next()
        .with_context(|| format!("nothing verified: {said}"))?;
    let mut numbers = first.split(' ').filter_map(|word| word.parse().ok());
    let mut number = || numbers.next().with_context(|| format!("not understood: {first}"));
    Ok(Verified {
        traversals: number()?,
        steps: number()?,
        differences: number()?,
        remarks: lines
            .take_while(|line| line.starts_with(' '))
            .map(|line| line.trim().to_owned())
            .collect(),
    })
}

/// Every traversal was compared, and every path is the kernel's.
fn all_the_same(text: &Text, traversals_min: u64) -> Result<()> {
    let verified = verified(&text.said)?;
    ensure!(
        verified.traversals >= traversals_min
            && verified.steps >= verified.traversals
            && verified.differences == 0
            && verified.remarks.is_empty()
            && !text.said.contains("not verified"),
        "{}\n{}",
        text.said,
        text.shown
    );
    ensure!(
        text.said.contains(" complete, 0 partial"),
        "{}\n{}",
        text.said,
        text.shown
    );
    Ok(())
}

fn nodeport(family: Family) -> Result<()> {
    let node = node::nodeport_of(family)?;
    let tracer = Tracer::start("--verify --format tree --proto tcp")?;
    node.get_page()?;
    let text = tracer.stop_as_text()?;
    all_the_same(&text, 30)?;
    ensure!(text.shown.contains("KUBE-SEP-"), "{}", text.shown);
    Ok(())
}

/// Packets whose ways lie within another's: each step belongs to the right one.
fn nested(family: Family) -> Result<()> {
    const ROUNDS: usize = 20;

    let neighbours = Neighbours::new()?;
    let gateway = Neighbours::right(family);
    family.restore(&format!(
        "*mangle\n-A PREROUTING -p udp --dport 6003 -j MARK --set-mark 0x1\n\
         -A PREROUTING -p udp --dport 6003 -j TEE --gateway {gateway}\n\
         -A PREROUTING -p udp --dport 6003 -j MARK --set-mark 0x2\n\
         -A OUTPUT -p udp\n-A OUTPUT ! -p udp\n-A POSTROUTING -p udp -j MARK --or-mark 0x10\nCOMMIT\n\
         *filter\n:OUT - [0:0]\n-A INPUT -p udp --dport 6003 -j DROP\n-A INPUT -p udp --dport 6000 -j REJECT\n\
         -A INPUT -p tcp --dport 6002 -j REJECT --reject-with tcp-reset\n-A OUTPUT -j OUT\n-A OUT -p tcp\nCOMMIT\n"
    ))?;
    let tracer = Tracer::start(&format!("--verify --format tree {} {THIS_NETNS}", family.flag()))?;
    let node = family.address(LEFT, NODE);
    let loopback = family.loopback();
    for _ in 0..ROUNDS {
        let teed = (node, 6003).into();
        datagram(Place::There(&neighbours.left), Neighbours::left(family), teed, 10)?;
        datagram(Place::Here, loopback, (loopback, 6000).into(), 10)?;
        no_connection(Place::Here, (loopback, 6002).into())?;
    }
    all_the_same(&tracer.stop_as_text()?, 20 * ROUNDS as u64)
}

/// Packets of both families on every processor at once, many of which have others sent within their way.
fn on_all_processors() -> Result<()> {
    const ROUNDS: usize = 150;
    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

    let _neighbours = Neighbours::new()?;
    for family in FAMILIES {
        let gateway = Neighbours::right(family);
        family.restore(&format!(
            "*raw\n-A OUTPUT -p udp\nCOMMIT\n\
             *mangle\n-A OUTPUT -p udp --dport 6010 -j TEE --gateway {gateway}\n-A OUTPUT -p udp -j MARK --set-mark 7\n\
             -A PREROUTING -p udp -j MARK --set-mark 8\nCOMMIT\n\
             *filter\n:LOCAL - [0:0]\n-A INPUT -p udp -j LOCAL\n-A LOCAL -p udp --dport 6011 -j REJECT\n-A LOCAL -p udp\nCOMMIT\n"
        ))?;
    }
    let _receivers = FAMILIES
        .iter()
        .map(|family| Place::Here.udp(family.loopback(), 6010))
        .collect::<Result<Vec<_>>>()?;
    let tracer = Tracer::start(&format!("--verify --format tables --ring-kib 65536 {THIS_NETNS}"))?;
    thread::scope(|scope| {
        let threads: Vec<_> = [0, 1, 2, 3]
            .map(|number| {
                scope.spawn(move || -> Result<()> {
                    let loopback = FAMILIES[number % 2].loopback();
                    for round in 0..ROUNDS {
                        // A new socket each time: the error that REJECT sends ends up on the old one.
                        let port = if round % 2 == 0 { 6010 } else { 6011 };
                        datagram(Place::Here, loopback, (loopback, port).into(), 10)?;
                    }
                    Ok(())
                })
            })
            .into();
        threads.into_iter().try_for_each(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })?;
    all_the_same(&tracer.stop_as_text()?, 4 * ROUNDS as u64 * 6)
}

/// What was witnessed is kept with the records, and compared again when they are shown.
fn recorded() -> Result<()> {
    Family::V4
        .restore("*filter\n:OUT - [0:0]\n-A OUTPUT -p udp -j OUT\n-A OUT -p udp --dport 6007\nCOMMIT\n")?;
    let files = tempfile::tempdir().context("failed to create directory for a recording")?;
    let recording = files.path().join("recording");
    let tracer = Tracer::start(&format!(
        "--verify --write {} --proto udp -4 {THIS_NETNS}",
        recording.display()
    ))?;
    let loopback = Family::V4.loopback();
    datagram(Place::Here, loopback, (loopback, 6007).into(), 10)?;
    tracer.stop_as_text()?;
    let mut show = Command::new("tracer");
    let output = show
        .args(["show", "--format", "tree"])
        .arg(&recording)
        .output()
        .context("failed to run: tracer show")?;
    let text = Text {
        shown: String::from_utf8_lossy(&output.stdout).into_owned(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    };
    all_the_same(&text, 2)
}

/// A kernel that hides where its functions are has no second source, and that is said with the way out.
fn without_addresses() -> Result<()> {
    const SETTING: &str = "/proc/sys/kernel/kptr_restrict";

    Family::V4.restore("*filter\nCOMMIT\n")?;
    let before = fs::read_to_string(SETTING).context("failed to read setting")?;
    fs::write(SETTING, "2").context("failed to change setting")?;
    let output = Command::new("tracer")
        .args(["trace", "--verify", "-4", "--duration", "10s"])
        .output();
    fs::write(SETTING, before).context("failed to change setting back")?;
    let output = output.context("failed to run: tracer")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(exit::UNSUPPORTED)
            && said.contains("error: failed to verify: iptables has no second source of steps: ")
            && said.contains("kernel.kptr_restrict")
            && said.contains("\nhint: "),
        "{:?}: {said}",
        output.status
    );
    Ok(())
}

/// The replay is broken on purpose: the address that a rule asks for is changed in the memory of `tracer`. The verdict
/// and the mark are the same with and without the rule, so nothing but the second source can tell.
fn a_wrong_replay_is_told() -> Result<()> {
    const ADDRESS: [u8; 4] = [127, 113, 77, 5];

    Family::V4.restore("*filter\n-A OUTPUT -d 127.113.77.5/32 -p udp\nCOMMIT\n")?;
    let tracer = Tracer::start(&format!("--verify --format tree --proto udp -4 {THIS_NETNS}"))?;
    let changed = overwrite(tracer.pid()?.as_raw(), &ADDRESS, &[127, 113, 77, 6])?;
    ensure!(changed > 0, "the rule is not in the memory of tracer");
    let socket = Place::Here.udp(Family::V4.loopback(), 0)?;
    send(&socket, (ADDRESS, 6004).into(), 10)?;
    let text = tracer.stop_as_text()?;
    let told = "partial: verify: step 1 is OUTPUT:policy:2 in the replay, but the kernel took OUTPUT:rule:1, OUTPUT:policy:2";
    ensure!(text.shown.contains(told), "{}\n{}", text.shown, text.said);
    ensure!(verified(&text.said)?.differences == 1, "{}", text.said);
    Ok(())
}

/// Replaces bytes in the private memory of a process, wherever they are; returns how often.
fn overwrite(pid: i32, from: &[u8], to: &[u8]) -> Result<usize> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).context("failed to read: maps of tracer")?;
    let memory = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .context("failed to open: memory of tracer")?;
    let mut changed = 0;
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some("rw-p"), Some(_), Some(_), Some("0")) = (
            words.next(),
            words.next(),
            words.next(),
            words.next(),
            words.next(),
        ) else {
            continue;
        };
        let ends = range.split_once('-').context("no range")?;
        let (start, end) = (u64::from_str_radix(ends.0, 16)?, u64::from_str_radix(ends.1, 16)?);
        let mut bytes = vec![0; usize::try_from(end - start)?];
        // Not every region can be read whole; the rules are in one that can.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for (at, _) in bytes
            .windows(from.len())
            .enumerate()
            .filter(|(_, window)| *window == from)
        {
            memory.write_all_at(to, start + at as u64)?;
            changed += 1;
        }
    }
    Ok(changed)
}

/// More answers than a record has room for: the replay cannot go on, and the kernel's own steps are told.
fn where_the_replay_stops() -> Result<()> {
    let matches = "-A OUTPUT -p udp -m statistic --mode nth --every 1 --packet 0\n".repeat(40);
    Family::V4.restore(&format!("*filter\n{matches}COMMIT\n"))?;
    let tracer = Tracer::start(&format!("--verify --format tree --proto udp -4 {THIS_NETNS}"))?;
    let loopback = Family::V4.loopback();
    datagram(Place::Here, loopback, (loopback, 6005).into(), 10)?;
    let text = tracer.stop_as_text()?;
    let told = text
        .shown
        .lines()
        .find_map(|line| line.split_once("; verify: the kernel went on with "))
        .with_context(|| format!("not told: {}\n{}", text.shown, text.said))?;
    let told: Vec<&str> = told.1.split(", ").collect();
    ensure!(
        told.starts_with(&["OUTPUT:rule:33", "OUTPUT:rule:34"])
            && told.ends_with(&["OUTPUT:rule:40", "OUTPUT:policy:41"]),
        "{told:?}"
    );
    let verified = verified(&text.said)?;
    ensure!(
        verified.differences == 0
            && verified.remarks.len() == 1
            && verified.remarks[0].starts_with("1  replays"),
        "{verified:?}"
    );
    Ok(())
}

/// More steps than a witness has room for: what it has seen is compared, and the rest is said not to be.
fn more_steps_than_room() -> Result<()> {
    let rules = "-A OUTPUT -p udp\n".repeat(600);
    Family::V4.restore(&format!("*filter\n{rules}COMMIT\n"))?;
    let tracer = Tracer::start(&format!("--verify --format log --proto udp -4 {THIS_NETNS}"))?;
    let loopback = Family::V4.loopback();
    datagram(Place::Here, loopback, (loopback, 6006).into(), 10)?;
    let text = tracer.stop_as_text()?;
    let verified = verified(&text.said)?;
    ensure!(
        verified.differences == 0
            && verified.steps >= 512
            && verified.remarks == ["1  traversals had more steps than could be witnessed"],
        "{verified:?}\n{}",
        text.said
    );
    ensure!(!text.shown.contains("PARTIAL"), "{}", text.said);
    Ok(())
}
