//! However a trace ends, it says how it went, and nothing of it remains.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;

use super::trial;
use crate::command::{Running, run, run_with};
use crate::kernel_state::{Instruments, untouchable};
use crate::neighbours::{FAMILIES, Family, LEFT, NODE, Neighbours};
use crate::tracer::{Summary, THIS_NETNS, Text, Tracer, exit};
use crate::traffic::{Place, datagram, settle};
use crate::wait;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("ends::on_interrupt", || on_signal(Signal::SIGINT)),
        trial("ends::on_terminate", || on_signal(Signal::SIGTERM)),
        trial("ends::killed", killed),
        trial("ends::closed_pipe", closed_pipe),
        trial("ends::closed_pipe_without_packets", closed_pipe_without_packets),
        trial("ends::full_disk", full_disk),
        trial("ends::in_a_flood", in_a_flood),
        trial("ends::fragments", fragments),
        trial("ends::behind", behind),
        trial("ends::not_root", not_root),
        trial("ends::node_is_untouched", || node_is_untouched("")),
        trial("ends::node_is_untouched_by_verifying", || {
            node_is_untouched("--verify")
        }),
    ]
}

/// Those that only a fresh machine can show: legacy tables have not been loaded yet.
pub(super) fn first_trials() -> Vec<Trial> {
    vec![
        trial("ends::without_legacy_tables", without_legacy_tables),
        trial("ends::with_tables_of_one_family", with_tables_of_one_family),
    ]
}

const RULES: &str = "*filter\n-A INPUT -p udp --dport 1 -j ACCEPT\nCOMMIT\n";

/// Loads the tables of both families, with some rules.
fn tables() -> Result<()> {
    Family::V4.restore(RULES)?;
    Family::V6.restore(RULES)
}

fn some_packets(count: usize) -> Result<()> {
    let loopback = Family::V4.loopback();
    // Somebody has to listen, or each is answered with an ICMP error.
    let _receiver = Place::Here.udp(loopback, 2)?;
    for _ in 0..count {
        datagram(Place::Here, loopback, (loopback, 2).into(), 10)?;
    }
    settle()
}

fn loaded(module: &str) -> Result<bool> {
    let modules = fs::read_to_string("/proc/modules").context("failed to read: /proc/modules")?;
    Ok(modules.lines().any(|line| line.split(' ').next() == Some(module)))
}

fn without_legacy_tables() -> Result<()> {
    ensure!(
        !loaded("ip_tables")? && !loaded("ip6_tables")?,
        "not the first test of this machine: ip_tables is loaded"
    );
    let before = Instruments::now()?;
    let output = tracer(&[])?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(exit::UNSUPPORTED)
            && said.contains("nf_tables")
            && said.contains("hint:"),
        "{}: {said}",
        output.status
    );
    ensure!(!loaded("ip_tables")?, "tracer has loaded ip_tables");
    gone(&before)
}

/// Most nodes have only IPv4 rules. Naming no family means those that are there.
fn with_tables_of_one_family() -> Result<()> {
    ensure!(
        !loaded("ip6_tables")?,
        "not among the first tests of this machine: ip6_tables is loaded"
    );
    Family::V4.restore(RULES)?;
    let tracer = Tracer::start(THIS_NETNS)?;
    some_packets(1)?;
    let lines = tracer.stop()?.whole()?;
    ensure!(!lines.is_empty(), "no packet was seen");
    ensure!(!loaded("ip6_tables")?, "tracer has loaded ip6_tables");
    Ok(())
}

fn tracer(arguments: &[&str]) -> Result<Output> {
    let child = command(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("failed to start: tracer")?;
    child.wait_with_output().context("failed to wait for tracer")
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new("tracer");
    command.arg("trace").args(arguments).stdin(Stdio::null());
    command
}

/// Nothing but what was there before remains in the kernel, which takes away what it has in its own time.
fn gone(before: &Instruments) -> Result<()> {
    let mut after = before.clone();
    wait::until("probes and programs to be gone", || {
        after = Instruments::now()?;
        Ok(after.are_among(before))
    })
    .with_context(|| format!("before: {before:?}, after: {after:?}"))
}

fn on_signal(signal: Signal) -> Result<()> {
    tables()?;
    let before = Instruments::now()?;
    let mut tracer = Tracer::start(THIS_NETNS)?;
    ensure!(Instruments::now()?.has_probes(), "no probe in the kernel");
    ensure!(tracer.ready_file().exists(), "no ready file");
    some_packets(3)?;
    tracer.signal(signal)?;
    let code = tracer.wait_for_exit()?;
    let sum = Summary::last(&tracer.said()?)?;
    ensure!(
        code == Some(exit::DONE)
            && sum
                == Summary {
                    shown: 6,
                    losses: Vec::new()
                },
        "exit code {code:?}: {}",
        tracer.said()?
    );
    ensure!(!tracer.ready_file().exists(), "the ready file remains");
    gone(&before)
}

fn killed() -> Result<()> {
    tables()?;
    let before = Instruments::now()?;
    let mut tracer = Tracer::start(THIS_NETNS)?;
    some_packets(3)?;
    tracer.signal(Signal::SIGKILL)?;
    tracer.wait_for_exit()?;
    gone(&before)
}

/// Whoever read the output is gone, and no packet comes that there would be something to write of.
fn closed_pipe_without_packets() -> Result<()> {
    tables()?;
    let before = Instruments::now()?;
    let files = tempfile::tempdir().context("failed to create directory")?;
    let ready = files.path().join("ready");
    let ready_file = ready.to_string_lossy();
    let mut child = Running(
        command(&["--dport", "9", "--ready-file", &ready_file])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("failed to start: tracer")?,
    );
    wait::until("tracer to be ready", || Ok(ready.exists()))?;
    drop(child.0.stdout.take());
    let mut code = None;
    wait::until("tracer to end", || {
        code = ended(&mut child.0)?;
        Ok(code.is_some())
    })?;
    ensure!(code == Some(Some(exit::DONE)), "exit code {code:?}");
    gone(&before)
}

/// `tracer trace | head -n 1`
fn closed_pipe() -> Result<()> {
    tables()?;
    let before = Instruments::now()?;
    let mut child = Running(
        command(&["--format", "tables"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start: tracer")?,
    );
    let stdout = child.0.stdout.take().context("no standard output")?;
    let mut reader = BufReader::new(stdout);
    let mut first = String::new();
    // Nothing tells when it is ready but a line.
    std::thread::scope(|scope| -> Result<()> {
        let read = scope.spawn(|| reader.read_line(&mut first));
        wait::until("first line", || {
            some_packets(1)?;
            Ok(read.is_finished())
        })?;
        Ok(())
    })?;
    ensure!(first.contains("filter:OUTPUT ACCEPT"), "first line: {first}");
    drop(reader);
    wait::until("tracer to end", || {
        some_packets(1)?;
        Ok(ended(&mut child.0)?.is_some())
    })?;
    let mut said = String::new();
    child
        .0
        .stderr
        .take()
        .context("no standard error")?
        .read_to_string(&mut said)
        .context("failed to read standard error")?;
    let code = ended(&mut child.0)?;
    ensure!(
        code == Some(Some(exit::DONE)) && !said.contains("panic") && !said.contains("error"),
        "exit code {code:?}: {said}"
    );
    gone(&before)
}

fn ended(child: &mut Child) -> Result<Option<Option<i32>>> {
    let status = child.try_wait().context("failed to wait for tracer")?;
    Ok(status.map(|status| status.code()))
}

/// Output that cannot be written is a failure, not an end.
fn full_disk() -> Result<()> {
    tables()?;
    let before = Instruments::now()?;
    let place = tempfile::tempdir().context("failed to create directory")?;
    mount(
        Some("tmpfs"),
        place.path(),
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=8k"),
    )
    .context("failed to mount: tmpfs")?;
    let result = write_to(&place.path().join("stdout"));
    umount(place.path()).context("failed to unmount: tmpfs")?;
    let (code, said) = result?;
    ensure!(
        code == Some(exit::FAILED) && said.contains("failed to write: standard output"),
        "exit code {code:?}: {said}"
    );
    ensure!(said.contains("No space left"), "no cause: {said}");
    gone(&before)
}

fn write_to(path: &std::path::Path) -> Result<(Option<i32>, String)> {
    let failed = || format!("failed to write: {}", path.display());
    let mut file = File::create(path).with_context(failed)?;
    while file.write(&[b' '; 4096]).is_ok() {}
    let mut child = Running(
        command(&[])
            .stdout(file)
            .stderr(Stdio::piped())
            .spawn()
            .context("failed to start: tracer")?,
    );
    wait::until("tracer to end", || {
        some_packets(1)?;
        Ok(ended(&mut child.0)?.is_some())
    })?;
    let mut said = String::new();
    let mut stderr = child.0.stderr.take().context("no standard error")?;
    stderr.read_to_string(&mut said).with_context(failed)?;
    Ok((ended(&mut child.0)?.flatten(), said))
}

/// Bytes of lines after which a flood is one.
const FLOOD_LEN: u64 = 500_000;

/// Records that come faster than they can be shown keep nobody from stopping.
fn in_a_flood() -> Result<()> {
    let neighbours = Neighbours::new()?;
    tables()?;
    // Each copy is routed back over loopback because its mark changes, and copied again.
    let (node, gateway) = (Family::V4.address(LEFT, NODE), Neighbours::right(Family::V4));
    Family::V4.restore(&format!(
        "*mangle\n-A PREROUTING -p udp --dport 6003 -j MARK --set-mark 0x1\n\
         -A PREROUTING -p udp --dport 6003 -j TEE --gateway {gateway}\n\
         -A OUTPUT -p udp --dport 6003 -j MARK --set-mark 0x2\nCOMMIT\n"
    ))?;
    let mut tracer = Tracer::start(THIS_NETNS)?;
    datagram(
        Place::There(&neighbours.left),
        Neighbours::left(Family::V4),
        (node, 6003).into(),
        10,
    )?;
    let flooded = wait::until("flood", || Ok(tracer.shown_len()? > FLOOD_LEN));
    tracer.signal(Signal::SIGUSR1)?;
    let told = wait::until("tracer to tell", || Ok(!Summary::all(&tracer.said()?).is_empty()));
    let stopped = tracer
        .signal(Signal::SIGINT)
        .and_then(|()| tracer.wait_for_exit());
    run("iptables-legacy -t mangle -F")?;
    flooded.and(told)?;
    ensure!(stopped? == Some(exit::DONE), "{}", tracer.said()?);
    Ok(())
}

/// Where tracer gets no processor for a while, no packet is taken to have gone whose end is in the buffer.
fn behind() -> Result<()> {
    /// More records than are read at once, with an end of such a batch within a packet's.
    const PACKETS: usize = 100;
    /// Longer than nothing may be seen of a packet before it is taken to have gone.
    const BEHIND: Duration = Duration::from_millis(1500);

    tables()?;
    let tracer = Tracer::start(&format!("--format json {THIS_NETNS} --proto udp --dport 2"))?;
    tracer.hold()?;
    some_packets(PACKETS)?;
    let since = Instant::now();
    wait::until("records to be old", || Ok(since.elapsed() > BEHIND))?;
    tracer.go_on()?;
    let Text { shown, said } = tracer.stop_as_text()?;
    let whole = shown
        .lines()
        .filter(|line| line.contains("\"end_seen\":true"))
        .count();
    ensure!(
        shown.lines().count() == PACKETS && whole == PACKETS,
        "{whole} of {PACKETS} packets are whole: {said}"
    );
    Ok(())
}

/// What a packet is put together from ends with it, and it goes on in the place of its last fragment, also where tables saw
/// that one before: no end is missing, and none is said to be.
fn fragments() -> Result<()> {
    /// Of a datagram of this length, over a link that takes 1,500 bytes.
    const FRAGMENTS: usize = 3;
    const LEN: usize = 4000;

    let neighbours = Neighbours::new()?;
    // Before fragments are put together, which a rule that asks for connections brings, and after.
    run_with(
        "nft -f -",
        "table inet n {\n\
         chain early { type filter hook prerouting priority -500; }\n\
         chain late { type filter hook prerouting priority 0; ct state new counter; }\n}\n",
    )?;
    for family in FAMILIES {
        let tracer = Tracer::start(&format!("--format json {THIS_NETNS} {}", family.flag()))?;
        let node = family.address(LEFT, NODE);
        let receiver = Place::Here.udp(node, 6005)?;
        let from = Neighbours::left(family);
        datagram(Place::There(&neighbours.left), from, (node, 6005).into(), LEN)?;
        // So that it is used up.
        let mut bytes = vec![0; LEN];
        receiver.recv(&mut bytes).context("failed to receive")?;
        let Text { shown, said } = tracer.stop_as_text()?;
        let mut fragments = Vec::new();
        for line in shown.lines() {
            let journey: serde_json::Value = serde_json::from_str(line).context("no JSON")?;
            if journey["tables"][0]["chain"] == "early" && journey["packet"]["protocol_number"] == 17 {
                fragments.push(journey);
            }
        }
        let passed = |journey: &serde_json::Value| journey["tables"].as_array().map_or(0, Vec::len);
        let whole = fragments.iter().filter(|journey| passed(journey) == 2).count();
        ensure!(
            fragments.len() == FRAGMENTS
                && whole == 1
                && fragments.iter().all(|journey| journey["end_seen"] == true),
            "{family:?}: {shown}"
        );
        ensure!(
            !said.contains("noticed when its address was used again"),
            "{family:?}: {said}"
        );
    }
    Ok(())
}

fn not_root() -> Result<()> {
    tables()?;
    let output = command(&[])
        .uid(65534)
        .gid(65534)
        .output()
        .context("failed to run: tracer")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(exit::NOT_PERMITTED),
        "{} ({:?}): {said}",
        output.status,
        output.status.signal()
    );
    ensure!(
        said.starts_with("error: not permitted") && said.contains("root") && said.lines().count() <= 2,
        "not one clear message: {said}"
    );
    ensure!(output.stdout.is_empty(), "something on standard output");
    Ok(())
}

/// A trace of a node where nothing happens: while it runs and afterwards, everything is as it was before.
fn node_is_untouched(flags: &str) -> Result<()> {
    tables()?;
    // The tool that reads the rules loads what it needs; so once before looking.
    untouchable()?;
    let before = untouchable()?;
    let tracer = Tracer::start(flags)?;
    let during = untouchable()?;
    tracer.stop()?;
    let after = untouchable()?;
    for (key, value) in &before {
        ensure!(
            during.get(key) == Some(value),
            "{key} was {value} and is {:?} during a trace",
            during.get(key)
        );
        ensure!(
            after.get(key) == Some(value),
            "{key} was {value} and is {:?} after a trace",
            after.get(key)
        );
    }
    Ok(())
}
