//! Rules in nf_tables: by `iptables-nft`, by `nft`, beside legacy tables, and replaced under traffic.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::trial;
use crate::account::{Seen, Selection, Told, packets, published, same};
use crate::command::{run, run_with};
use crate::kernel_state::{Calls, Instruments};
use crate::neighbours::Family;
use crate::netns;
use crate::node;
use crate::trace_log::Line;
use crate::tracer::{THIS_NETNS, Tracer};
use crate::traffic::{Place, datagram, raw_packet, settle, stay_on_processor};
use crate::wait;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("nftables::nodeport", nodeport),
        trial("nftables::native", native),
        trial("nftables::both_backends", both_backends),
        trial("nftables::same_names", same_names),
        trial("nftables::long_way", long_way),
        trial("nftables::changed_headers", changed_headers),
        trial("nftables::changed_on_the_way", changed_on_the_way),
        trial("nftables::commits", commits),
        trial("nftables::killed", killed),
        trial("nftables::nothing_changes", nothing_changes),
        trial("nftables::without_tools", without_tools),
    ]
}

/// One datagram from the node to itself.
fn packet(port: u16) -> Result<()> {
    let loopback = Family::V4.loopback();
    let _receiver = Place::Here.udp(loopback, port)?;
    datagram(Place::Here, loopback, (loopback, port).into(), 10)
}

/// The step of each line, as `table:chain:kind:number`.
fn steps(shown: &str) -> Vec<&str> {
    let lines = shown.lines();
    lines
        .filter_map(|line| line.strip_prefix("TRACE: ")?.split_whitespace().next())
        .collect()
}

/// The published case with its rules in nf_tables: the first packet takes the steps that the kernel logged of legacy
/// tables.
fn nodeport() -> Result<()> {
    stay_on_processor(0)?;
    let node = node::nodeport_by(Family::V4, |rules| {
        run_with("iptables-nft-restore", rules).map(drop)
    })?;
    // The case has a TRACE rule in raw's chains. This one matches no packet.
    for chain in ["PREROUTING", "OUTPUT"] {
        run(&format!("iptables-nft -t raw -A {chain} -p 255 -j ACCEPT"))?;
    }
    let tracer = Tracer::start(&format!("--format log {THIS_NETNS} --proto tcp --dport 32275"))?;
    node.get_page()?;
    let told = Told::parse(&tracer.stop_as_text()?.shown)?.certain()?;
    let published = published("nodeport-local.log")?;
    // What comes back is followed, too, and not published.
    let requests: Vec<Line> = told
        .into_iter()
        .filter(|line| line.field("IN") == Some(""))
        .collect();
    let (expected, seen) = (packets(&published), packets(&requests));
    let (expected, seen): (&[Seen], &[Seen]) = (
        expected.first().context("nothing is published")?,
        seen.first().context("no packet was seen")?,
    );
    ensure!(seen == expected, "seen: {seen:#?}\npublished: {expected:#?}");
    Ok(())
}

/// In the style of kube-proxy's nftables mode.
const SERVICES: &str = "\
table ip kube-proxy {
  map service-ips {
    type ipv4_addr . inet_proto . inet_service : verdict
    elements = { 127.0.0.1 . udp . 53 : goto service-dns, 127.0.0.1 . udp . 80 : goto service-web }
  }
  chain mark-for-masquerade { meta mark set meta mark or 0x4000; }
  chain endpoint-1 { jump mark-for-masquerade; counter; }
  chain service-web { drop; }
  chain service-dns { numgen random mod 1 vmap { 0 : goto endpoint-1 }; }
  chain services { ip daddr . meta l4proto . th dport vmap @service-ips; counter; }
  chain filter-output { type filter hook output priority 0; policy accept; ct state new jump services; counter; }
}
";

fn native() -> Result<()> {
    run_with("nft -f -", SERVICES)?;
    let log = Tracer::start(&format!("--format log {THIS_NETNS} --proto udp --dport 53"))?;
    let tree = Tracer::start(&format!("--format tree {THIS_NETNS} --proto udp --dport 53"))?;
    packet(53)?;
    let shown = log.stop_as_text()?.shown;
    let expected = [
        "filter-output:rule:1",
        "services:rule:1",
        "service-dns:rule:1",
        "endpoint-1:rule:1",
        "mark-for-masquerade:rule:1",
        "mark-for-masquerade:return:",
        "endpoint-1:rule:2",
        "endpoint-1:return:",
        "filter-output:rule:2",
        "filter-output:return:",
        "filter-output:policy:",
    ]
    .map(|step| format!("kube-proxy:{step}"));
    ensure!(steps(&shown) == expected, "tracer tells:\n{shown}");
    let shown = tree.stop_as_text()?.shown;
    for text in ["vmap @service-ips [127.0.0.1 . udp . 53]", "0x4000", "mark 0x0"] {
        ensure!(shown.contains(text), "no {text} in:\n{shown}");
    }
    Ok(())
}

/// Targets that change a packet and let it go on.
const CHANGES: &str = "\
*mangle
:OUTPUT ACCEPT
:TOUCHED -
-A OUTPUT -p tcp --syn -j TCPMSS --set-mss 1000
-A OUTPUT -j TOS --set-tos 0x10
-A OUTPUT -j TTL --ttl-set 33
-A OUTPUT -m ttl --ttl-eq 33 -j TOUCHED
-A OUTPUT -m ttl --ttl-eq 64
-A OUTPUT -j TTL --ttl-set 32
-A TOUCHED -j TTL --ttl-dec 1
-A TOUCHED -p tcp -j ECN --ecn-tcp-remove
-A TOUCHED -j TTL --ttl-set 64
COMMIT
";

/// The lines of a packet that rules change on its way are those that the kernel logs of it on legacy tables.
fn changed_headers() -> Result<()> {
    const FROM: u16 = 7302;

    let selection = Selection {
        family: Family::V4,
        matches: "-p tcp --sport 7302",
        filter: "--proto tcp --sport 7302 --no-connections",
    };
    let syn = || {
        // ECE and CWR are set, and the segment may be 1,460 bytes long.
        let mut packet = vec![
            0x45, 0, 0, 44, 0, 1, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1,
        ];
        packet.extend(FROM.to_be_bytes());
        packet.extend([0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 0xc2, 4, 0, 0, 0, 0, 0]);
        packet.extend([2, 4, 5, 0xb4]);
        raw_packet(&packet)
    };
    stay_on_processor(0)?;
    Family::V4.restore(CHANGES)?;
    selection.log()?;
    let mut logged = selection.compare(|_| syn())?;
    logged.retain(|line| line.table == "mangle" && ["OUTPUT", "TOUCHED"].contains(&line.chain.as_str()));
    let told = netns::isolated(|| {
        run_with("iptables-nft-restore", CHANGES)?;
        let tracer = Tracer::start(&format!("--format log {}", selection.filter))?;
        syn()?;
        settle()?;
        Told::read(tracer)?.certain()
    })?;
    same(&logged, &told)?;
    let ttls: Vec<_> = logged.iter().filter_map(|line| line.field("TTL")).collect();
    ensure!(
        ttls == ["64", "64", "64", "33", "33", "32", "32", "64", "64", "64", "32"],
        "TTL of the lines: {ttls:?}"
    );
    Ok(())
}

/// A rule may change a packet before it turns out not to match; the next one that matches is shown with what it met.
fn changed_on_the_way() -> Result<()> {
    run_with(
        "nft -f -",
        "table ip n { chain o { type filter hook output priority 0;\n\
         ip ttl set 33 tcp dport 9 counter\n\
         udp dport 53 ip ttl 33 accept\n}\n}\n",
    )?;
    let tracer = Tracer::start(&format!(
        "--format log {THIS_NETNS} --proto udp --dport 53 --hook output"
    ))?;
    packet(53)?;
    let told = Told::read(tracer)?.certain()?;
    let ttls: Vec<_> = told.iter().map(|line| (line.number, line.field("TTL"))).collect();
    ensure!(ttls == [(2, Some("33"))], "number and TTL of the lines: {ttls:?}");
    Ok(())
}

/// A hook runs both, by priority.
fn both_backends() -> Result<()> {
    Family::V4.restore("*filter\n:OUTPUT ACCEPT\n-A OUTPUT -p udp -j ACCEPT\nCOMMIT\n")?;
    let chain = |name: &str, priority: i32| {
        format!("chain {name} {{ type filter hook output priority {priority}; counter; }}\n")
    };
    let rules = format!("table ip n {{\n{}{}}}\n", chain("late", 10), chain("early", -10));
    run_with("nft -f -", &rules)?;
    let tracer = Tracer::start(&format!(
        "--format log {THIS_NETNS} --proto udp --dport 53 --hook output"
    ))?;
    packet(53)?;
    let shown = tracer.stop_as_text()?.shown;
    let expected = [
        "n:early:rule:1",
        "n:early:return:",
        "n:early:policy:",
        "filter:OUTPUT:rule:1",
        "n:late:rule:1",
        "n:late:return:",
        "n:late:policy:",
    ];
    ensure!(steps(&shown) == expected, "tracer tells:\n{shown}");
    Ok(())
}

/// The same names on every side: legacy iptables, iptables-nft, and a native table for both families. Whoever reads can
/// tell them apart in each format, and what is legacy reads as on a node without nf_tables.
fn same_names() -> Result<()> {
    Family::V4.restore("*filter\n:OUTPUT ACCEPT\n-A OUTPUT -p udp -j MARK --or-mark 1\nCOMMIT\n")?;
    run("iptables-nft -A OUTPUT -p udp -j MARK --or-mark 2")?;
    run_with(
        "nft -f -",
        "table inet filter { chain OUTPUT { type filter hook output priority 10; udp dport 53 drop; }; }",
    )?;
    let formats = ["tables", "tree", "line", "drops", "stats", "diagram", "json"];
    let arguments = formats.map(|format| format!("--format {format} {THIS_NETNS} --proto udp --dport 53"));
    let tracers = Tracer::start_all(&arguments)?;
    packet(53)?;
    let mut shown = BTreeMap::new();
    for (format, tracer) in formats.into_iter().zip(tracers) {
        shown.insert(format, tracer.stop_as_text()?.shown);
    }
    // Legacy tables and those of iptables-nft have the same priority: either may be first.
    let expected: [(&str, &[&str]); 6] = [
        (
            "tables",
            &[
                " #1 filter:OUTPUT ACCEPT ",
                " #1 nft ip filter:OUTPUT ACCEPT ",
                " #1 nft inet filter:OUTPUT DROP ",
            ],
        ),
        (
            "tree",
            &[
                " filter:OUTPUT ACCEPT ",
                " nft ip filter:OUTPUT ACCEPT ",
                " nft inet filter:OUTPUT DROP ",
                "= dropped by nft inet filter:OUTPUT:rule:1",
            ],
        ),
        (
            "line",
            &[
                " by filter:OUTPUT:rule:1",
                " by nft ip filter:OUTPUT:rule:1",
                "; dropped by nft inet filter:OUTPUT:rule:1  udp",
            ],
        ),
        ("drops", &[" by nft inet filter:OUTPUT:rule:1  udp dport 53"]),
        ("stats", &["         1  nft inet filter:OUTPUT:rule:1  udp"]),
        (
            "diagram",
            &[
                "  [filter] OUTPUT\n",
                "  [nft ip filter] OUTPUT\n",
                "  [nft inet filter] OUTPUT\n",
            ],
        ),
    ];
    for (format, texts) in expected {
        let shown = &shown[format];
        for text in texts {
            ensure!(shown.contains(text), "{format}: no {text:?} in:\n{shown}");
        }
    }
    let journey: serde_json::Value = serde_json::from_str(&shown["json"]).context("no JSON")?;
    let tables = journey["tables"].as_array().context("no tables")?;
    let backend = |table: &serde_json::Value| {
        let word = |key: &str| table[key].as_str().unwrap_or_default().to_owned();
        [word("backend"), word("table_family")]
    };
    let mut backends: Vec<_> = tables.iter().map(backend).collect();
    backends.sort_unstable();
    ensure!(
        backends == [["legacy", ""], ["nf_tables", "inet"], ["nf_tables", "ip"]]
            && journey["outcome"]["rule"]["table_family"] == "inet",
        "{journey}"
    );
    Ok(())
}

/// More steps than one record has room for.
fn long_way() -> Result<()> {
    const RULES: usize = 200;

    let mut rules = "table ip n {\n  chain c { type filter hook output priority 0;\n".to_owned();
    rules += &"counter\n".repeat(RULES);
    run_with("nft -f -", &(rules + "  }\n}\n"))?;
    let tracer = Tracer::start(&format!("--format log {THIS_NETNS} --proto udp --dport 53"))?;
    packet(53)?;
    let shown = tracer.stop_as_text()?.shown;
    let mut expected: Vec<String> = (1..=RULES).map(|number| format!("n:c:rule:{number}")).collect();
    expected.extend(["n:c:return:".to_owned(), "n:c:policy:".to_owned()]);
    ensure!(steps(&shown) == expected, "tracer tells:\n{shown}");
    Ok(())
}

/// Rules are replaced ten times a second while packets pass. Each generation has its rule at another place and sets the
/// mark to the number of that place; so each path proves which rules it went through.
fn commits() -> Result<()> {
    const GENERATIONS: u32 = 60;
    const EVERY: Duration = Duration::from_millis(100);
    const PLACES: u32 = 7;
    /// Datagrams sent before taking a breath, and how long: tracer is to keep up.
    const AT_ONCE: u32 = 4;
    const BREATH: Duration = Duration::from_millis(10);

    run_with(
        "nft -f -",
        "table ip n { chain c { type filter hook output priority 0; }; }",
    )?;
    let tracer = Tracer::start(&format!("--format json {THIS_NETNS} --proto udp --dport 53"))?;
    let over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let traffic = scope.spawn(|| -> Result<()> {
            let loopback = Family::V4.loopback();
            let _receiver = Place::Here.udp(loopback, 53)?;
            while !over.load(Ordering::Relaxed) {
                for _ in 0..AT_ONCE {
                    datagram(Place::Here, loopback, (loopback, 53).into(), 10)?;
                }
                thread::sleep(BREATH);
            }
            Ok(())
        });
        let start = Instant::now();
        let replaced = (0..GENERATIONS).try_for_each(|generation| {
            let place = generation % PLACES + 1;
            let before: String = (1..place).map(|_| "add rule ip n c tcp dport 1\n").collect();
            let rules = format!("flush chain ip n c\n{before}add rule ip n c meta mark set {place}\n");
            run_with("nft -f -", &rules)?;
            thread::sleep((EVERY * (generation + 1)).saturating_sub(start.elapsed()));
            Ok(())
        });
        over.store(true, Ordering::Relaxed);
        traffic.join().ok().context("panic while sending")??;
        replaced
    })?;
    settle()?;
    let shown = tracer.stop_as_text()?.shown;
    let (mut exact, mut partial) = (0, BTreeMap::new());
    for line in shown.lines() {
        let journey: serde_json::Value = serde_json::from_str(line).context("no JSON")?;
        for table in journey["tables"].as_array().context("no tables")? {
            if let Some(reason) = table["partial"].as_str() {
                *partial.entry(reason.to_owned()).or_insert(0) += 1;
                continue;
            }
            exact += 1;
            for step in table["steps"].as_array().context("no steps")? {
                let marked = step["mark_after"].as_u64().unwrap_or_default();
                if step["kind"] == "rule" {
                    ensure!(
                        step["number"].as_u64() == Some(marked),
                        "a rule of other rules: {step}"
                    );
                }
            }
        }
    }
    // How many are exact depends on how fast the machine reads rules, so it is told, not judged. That none is wrong
    // was judged above, for each.
    eprintln!("nftables::commits: {GENERATIONS} commits: {exact} paths exact, partial: {partial:?}");
    ensure!(exact > 0, "no path is exact");
    Ok(())
}

/// Nothing remains of a killed tracer: the kernel makes its trace calls no more, which it does as long as the namespace
/// of tracer's own is there.
fn killed() -> Result<()> {
    run_with("nft -f -", SERVICES)?;
    let before = Instruments::now()?;
    let mut tracer = Tracer::start(THIS_NETNS)?;
    let calls = Calls::of("__nft_trace_packet")?;
    packet(53)?;
    ensure!(calls.count()? > 0, "no trace calls while tracer is at work");
    tracer.signal(Signal::SIGKILL)?;
    tracer.wait_for_exit()?;
    wait::until("the trace calls to end", || {
        let before = calls.count()?;
        packet(53)?;
        Ok(calls.count()? == before)
    })?;
    drop(calls);
    wait::until("everything to be gone", || Ok(Instruments::now()? == before))
}

/// Neither a trace nor reading the rules and their texts changes a thing.
fn nothing_changes() -> Result<()> {
    run_with("nft -f -", SERVICES)?;
    run("iptables-nft -A OUTPUT -m comment --comment here -j ACCEPT")?;
    let state = || -> Result<(String, String)> {
        let modules = fs::read_to_string("/proc/modules").context("failed to read: /proc/modules")?;
        let mut names: Vec<&str> = modules
            .lines()
            .filter_map(|line| line.split(' ').next())
            .collect();
        names.sort_unstable();
        Ok((names.join(" "), run("nft -a -s list ruleset")?))
    };
    let before = state()?;
    let tracer = Tracer::start(&format!("--format tree {THIS_NETNS}"))?;
    packet(53)?;
    let shown = tracer.stop_as_text()?.shown;
    ensure!(
        shown.contains("-A OUTPUT -m comment --comment here -j ACCEPT"),
        "no text in:\n{shown}"
    );
    let after = state()?;
    ensure!(before == after, "before: {before:?}\nafter: {after:?}");
    Ok(())
}

/// Where no tool is asked rules are told by their expressions, and are the same rules.
fn without_tools() -> Result<()> {
    run_with("nft -f -", SERVICES)?;
    let shown = |options: &str| -> Result<String> {
        let tracer = Tracer::start(&format!("--format tree {THIS_NETNS} {options}"))?;
        packet(80)?;
        Ok(tracer.stop_as_text()?.shown)
    };
    let (with, without) = (shown("")?, shown("--no-tools")?);
    let step = "service-web:rule:1";
    ensure!(
        [&with, &without].iter().all(|shown| shown.contains(step)),
        "with:\n{with}\nwithout:\n{without}"
    );
    let text = "vmap @service-ips";
    ensure!(
        with.contains(text) && !without.contains(text),
        "with:\n{with}\nwithout:\n{without}"
    );
    Ok(())
}
