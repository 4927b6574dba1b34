//! The rules of a namespace are read as they are, and reading them changes nothing.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::libc;
use tracer::netns::Netns;
use tracer::ruleset::text::{SavedTable, Texts, parse};
use tracer::ruleset::{Chain, End, Kind, Labels, Table};
use tracer::traversal::{Family, Hook};

use super::trial;
use crate::command::run;
use crate::netns::Namespace;
use crate::ruleset;

const NODE: &str = "nodeport-local.rules.v4";

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("rules::a_node_is_read_as_saved", a_node_is_read_as_saved),
        trial("rules::a_node_is_read_as_saved_v6", a_node_is_read_as_saved_v6),
        trial(
            "rules::own_texts_are_those_of_the_tool",
            own_texts_are_those_of_the_tool,
        ),
        trial("rules::reading_creates_no_table", reading_creates_no_table),
        trial(
            "rules::another_namespace_is_read_by_inode",
            another_namespace_is_read_by_inode,
        ),
        trial(
            "rules::a_large_table_is_read_quickly",
            a_large_table_is_read_quickly,
        ),
        trial(
            "rules::without_rights_the_error_says_so",
            without_rights_the_error_says_so,
        ),
        trial(
            "rules::tables_are_read_while_they_are_replaced",
            tables_are_read_while_they_are_replaced,
        ),
    ]
}

/// The lock that `iptables` takes to change rules.
const LOCK: &str = "/run/xtables.lock";

/// What reading must not change: the tables there are, and the modules; and that nobody is locked out.
#[derive(Debug, PartialEq, Eq)]
struct Untouched {
    names: [Option<String>; 2],
    modules: Vec<String>,
    lock_exists: bool,
}

impl Untouched {
    fn now() -> Result<Self> {
        let names = ["ip_tables_names", "ip6_tables_names"];
        let mut modules: Vec<_> = fs::read_to_string("/proc/modules")
            .context("failed to read: /proc/modules")?
            .lines()
            .filter_map(|line| Some(line.split_whitespace().next()?.to_owned()))
            .collect();
        modules.sort();
        Ok(Self {
            names: names.map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).ok()),
            modules,
            lock_exists: Path::new(LOCK).exists(),
        })
    }
}

fn save(family: Family, table: &str) -> Result<Vec<SavedTable>> {
    let tool = match family {
        Family::Ipv4 => "iptables-legacy-save",
        Family::Ipv6 => "ip6tables-legacy-save",
    };
    Ok(parse(&run(&format!("{tool} -t {table}"))?)?)
}

/// The tables of the current namespace, read twice, which must have changed nothing.
fn read() -> Result<Vec<Table>> {
    // The rules are loaded; whoever takes the lock now makes it anew.
    if Path::new(LOCK).exists() {
        fs::remove_file(LOCK).with_context(|| format!("failed to remove: {LOCK}"))?;
    }
    let before = Untouched::now()?;
    ensure!(!before.lock_exists, "{LOCK} exists");
    let netns = Netns::current()?;
    let tables = netns.tables()?;
    for table in &tables {
        let saved = netns.save(table.family, &table.name)?;
        let saved = saved.with_context(|| format!("no text of {}", table.name))?;
        let texts = Texts::saved(table, &saved)?;
        let one = netns.table(table.family, &table.name)?.context("table is gone")?;
        ensure!(one.rules == table.rules, "{} has changed", table.name);
        drop(texts);
    }
    ensure!(
        netns.table(Family::Ipv4, "security")?.is_none(),
        "security exists"
    );
    ensure!(
        netns.save(Family::Ipv4, "security")?.is_none(),
        "security is saved"
    );
    let after = Untouched::now()?;
    ensure!(before == after, "before: {before:?}, after: {after:?}");
    Ok(tables)
}

/// Compares a table with what `iptables-save` prints: chains, policies, rules, names, texts.
fn compare(table: &Table) -> Result<usize> {
    let saved = save(table.family, &table.name)?.pop().context("nothing saved")?;
    let netns = Netns::current()?;
    let text = netns.save(table.family, &table.name)?.context("nothing saved")?;
    let texts = Texts::saved(table, &text)?;
    let labels = Labels::new(table);
    let chains = Chain::all(table);
    ensure!(
        chains.len() == saved.chains.len(),
        "{} chains, {} saved",
        chains.len(),
        saved.chains.len()
    );
    let mut rules = 0;
    for (chain, saved) in chains.iter().zip(&saved.chains) {
        ensure!(
            chain.name == saved.name,
            "{} is saved as {}",
            chain.name,
            saved.name
        );
        ensure!(
            chain.rules.len() == saved.rules.len(),
            "{} rules of {}",
            chain.rules.len(),
            chain.name
        );
        let policy = match chain.end {
            End::Policy(0) => Some("DROP"),
            End::Policy(_) => Some("ACCEPT"),
            End::Return => None,
        };
        ensure!(policy == saved.policy.as_deref(), "policy of {}", chain.name);
        let own_hook = Hook::NAMED
            .into_iter()
            .find(|hook| hook.to_string() == chain.name);
        let hook = own_hook.or(table.hooks.first().map(|built_in| built_in.hook));
        let hook = hook.context("table without hooks")?;
        let places = chain.rules.start..=chain.rules.end;
        for (number, place) in (1_u32..).zip(places) {
            let rule = &table.rules[place];
            let label = labels.of(hook, rule.offset).context("rule without a name")?;
            ensure!(
                label.chain == chain.name && label.number == number,
                "{}:{number} is called {label}",
                chain.name
            );
            if place == chain.rules.end {
                let kind = if policy.is_some() {
                    Kind::Policy
                } else {
                    Kind::Return
                };
                ensure!(label.kind == kind, "the end of {} is called {label}", chain.name);
                continue;
            }
            let saved = saved.rules.get(place - chain.rules.start).context("not saved")?;
            let text = texts.of(table, rule.offset).context("rule without a text")?;
            ensure!(text == *saved, "{text} is saved as {saved}");
            rules += 1;
        }
    }
    Ok(rules)
}

fn a_node_is_read_as_saved() -> Result<()> {
    let text = ruleset::fixture(NODE)?;
    ruleset::restore_v4(&text)?;
    let tables = read()?;
    let mut names: Vec<_> = tables.iter().map(|table| table.name.as_str()).collect();
    names.sort_unstable();
    ensure!(names == ["filter", "mangle", "nat", "raw"], "{names:?}");
    let mut rules = 0;
    for table in &tables {
        rules += compare(table).with_context(|| format!("table {}", table.name))?;
    }
    let lines = text.lines().filter(|line| line.starts_with("-A ")).count();
    ensure!(rules == lines, "{rules} rules, {lines} in the file");
    Ok(())
}

/// The node's rules with every IPv4 address as the end of an IPv6 one.
fn node_v6() -> Result<String> {
    let word = |word: &str| {
        if let Some((address, prefix)) = word.split_once('/')
            && let (Ok(address), Ok(prefix)) = (address.parse::<Ipv4Addr>(), prefix.parse::<u8>())
        {
            return format!("fd00::{address}/{}", prefix + 96);
        }
        if let Some((address, port)) = word.split_once(':')
            && let Ok(address) = address.parse::<Ipv4Addr>()
        {
            return format!("[fd00::{address}]:{port}");
        }
        word.to_owned()
    };
    let text = ruleset::fixture(NODE)?;
    let lines = text
        .lines()
        .map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" "));
    Ok(lines.map(|line| line + "\n").collect())
}

fn a_node_is_read_as_saved_v6() -> Result<()> {
    let text = node_v6()?;
    ruleset::restore_v6(&text)?;
    let tables = read()?;
    let mut rules = 0;
    for table in tables.iter().filter(|table| table.family == Family::Ipv6) {
        rules += compare(table).with_context(|| format!("table {}", table.name))?;
    }
    let lines = text.lines().filter(|line| line.starts_with("-A ")).count();
    ensure!(rules == lines, "{rules} rules, {lines} in the file");
    Ok(())
}

/// Rules of every kind that the own form knows.
const KINDS: &str = "*filter\n:INPUT DROP [0:0]\n:KINDS - [0:0]\n\
    -A INPUT -i eth+ -p tcp -m tcp --sport 1:1023 --tcp-flags FIN,SYN,RST,ACK SYN -j KINDS\n\
    -A INPUT ! -i lo -p udp -m udp ! --dport 53 -g KINDS\n\
    -A INPUT -p tcp -m multiport --dports 80,443,8000:8080 -j REJECT --reject-with tcp-reset\n\
    -A INPUT -m mark ! --mark 0x1 -m statistic --mode nth --every 3 --packet 1 -j QUEUE\n\
    -A INPUT -m state --state INVALID,UNTRACKED -j RETURN\n\
    -A INPUT -m addrtype ! --src-type LOCAL --dst-type MULTICAST --limit-iface-in -j ACCEPT\n\
    -A INPUT -m comment --comment \"a \\\"quoted\\\" one\"\n\
    -A KINDS ! -p 99\n\
    COMMIT\n";

fn own_texts_are_those_of_the_tool() -> Result<()> {
    ruleset::restore_v4(&ruleset::fixture(NODE)?)?;
    ruleset::restore_v6(&node_v6()?)?;
    let mut different = different_texts()?;
    let v4 = "-A INPUT -f -j DROP\n-A INPUT -p icmp -m icmp --icmp-type 8 -j REJECT --reject-with icmp-port-unreachable\nCOMMIT\n";
    let v6 = "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 128 -j REJECT --reject-with icmp6-port-unreachable\nCOMMIT\n";
    ruleset::restore_v4(&KINDS.replace("COMMIT\n", v4))?;
    ruleset::restore_v6(&KINDS.replace("COMMIT\n", v6))?;
    different.extend(different_texts()?);
    ensure!(different.is_empty(), "{different:#?}");
    Ok(())
}

/// Own texts that are not as the tool prints them.
fn different_texts() -> Result<Vec<(String, String)>> {
    let mut different = Vec::new();
    let netns = Netns::current()?;
    for table in netns.tables()? {
        let saved = netns.save(table.family, &table.name)?.context("nothing saved")?;
        let saved = Texts::saved(&table, &saved)?;
        for rule in &table.rules {
            let saved = saved.of(&table, rule.offset).unwrap_or_default().into_owned();
            let own = Texts::own()
                .of(&table, rule.offset)
                .unwrap_or_default()
                .into_owned();
            if own != saved {
                different.push((own, saved));
            }
        }
    }
    Ok(different)
}

fn reading_creates_no_table() -> Result<()> {
    run("modprobe iptable_filter")?;
    run("modprobe ip6table_filter")?;
    let tables = read()?;
    let names = fs::read_to_string("/proc/thread-self/net/ip_tables_names")?;
    ensure!(
        names.lines().count() == tables.iter().filter(|table| table.family == Family::Ipv4).count(),
        "{names}"
    );
    ensure!(!names.contains("security"), "{names}");
    ruleset::restore_v4("*filter\n-A INPUT -j DROP\nCOMMIT\n")?;
    let tables = read()?;
    ensure!(tables.iter().any(|table| table.name == "filter"), "no filter");
    Ok(())
}

fn another_namespace_is_read_by_inode() -> Result<()> {
    let pod = Namespace::new("rules")?;
    pod.run("iptables-legacy -A FORWARD -j DROP")?;
    let here = Netns::current()?.inode();
    let inode = u32::try_from(fs::metadata("/run/netns/rules")?.ino())?;
    let found = Netns::by_inode(inode).context("namespace is not found")?;
    let table = found.table(Family::Ipv4, "filter")?.context("no filter table")?;
    ensure!(table.rules.len() == 5, "{} entries", table.rules.len());
    let saved = found.save(Family::Ipv4, "filter")?.context("nothing saved")?;
    ensure!(saved.contains("-A FORWARD -j DROP"), "{saved}");
    ensure!(Netns::current()?.inode() == here, "the thread has moved");
    // A namespace that only this thread is in.
    let found = Netns::by_inode(here).context("own namespace is not found")?;
    ensure!(found.name().contains("/task/"), "{}", found.name());
    ensure!(Netns::by_inode(1).is_none(), "a namespace of inode 1");
    Ok(())
}

fn tables_are_read_while_they_are_replaced() -> Result<()> {
    let rules = |count: usize| {
        let rules = "-A INPUT -m comment --comment steady -j ACCEPT\n".repeat(count);
        format!("*filter\n{rules}COMMIT\n")
    };
    ruleset::restore_v4(&rules(1))?;
    let done = AtomicBool::new(false);
    let netns = Netns::current()?;
    thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<_> {
            let mut seen = HashMap::<usize, u32>::new();
            while !done.load(Ordering::Relaxed) {
                let table = netns.table(Family::Ipv4, "filter")?.context("no filter table")?;
                *seen.entry(table.rules.len() - 4).or_default() += 1;
            }
            Ok(seen)
        });
        let mut result = Ok(());
        for count in (1..=20).chain([300, 7, 300, 7]) {
            result = result.and_then(|()| ruleset::restore_v4(&rules(count)));
        }
        done.store(true, Ordering::Relaxed);
        result?;
        let seen: HashMap<usize, u32> = reader
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(
            seen.keys().all(|count| (1..=20).contains(count) || *count == 300),
            "{seen:?}"
        );
        ensure!(seen.len() > 2, "{seen:?}");
        anyhow::Ok(())
    })
}

fn a_large_table_is_read_quickly() -> Result<()> {
    const CHAINS: usize = 200;
    const RULES: usize = 100;
    let mut text = String::from("*filter\n");
    for chain in 0..CHAINS {
        text.push_str(&format!(":CHAIN-{chain} - [0:0]\n"));
    }
    for chain in 0..CHAINS {
        let rule =
            format!("-A CHAIN-{chain} -p tcp -m tcp --dport 80 -m comment --comment large -j ACCEPT\n");
        text.push_str(&rule.repeat(RULES));
    }
    ruleset::restore_v4(&(text + "COMMIT\n"))?;
    let start = Instant::now();
    let table = Netns::current()?
        .table(Family::Ipv4, "filter")?
        .context("no filter table")?;
    let elapsed = start.elapsed();
    ensure!(
        table.rules.len() == CHAINS * (RULES + 2) + 4,
        "{} entries",
        table.rules.len()
    );
    ensure!(elapsed < Duration::from_secs(5), "it took {elapsed:?}");
    Ok(())
}

/// Takes all rights from the calling thread, and only from it.
fn give_up_rights() -> Result<()> {
    const NOBODY: u32 = 65534;
    // SAFETY: no memory is involved. The call of the library would take the rights from all threads.
    let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
    Errno::result(result).map(drop).context("failed to become nobody")
}

fn without_rights_the_error_says_so() -> Result<()> {
    ruleset::restore_v4("*filter\n-A INPUT -j DROP\nCOMMIT\n")?;
    let pod = Namespace::new("rights")?;
    let (here, there) = (
        Netns::current()?,
        Netns::from_path(Path::new("/run/netns/rights"))?,
    );
    let errors = thread::scope(|scope| {
        let nobody = scope.spawn(|| -> Result<_> {
            give_up_rights()?;
            Ok([here.tables().err(), there.tables().err()])
        });
        nobody
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    let expected = [
        "failed to open raw socket for iptables: Operation not permitted",
        "failed to enter network namespace: /run/netns/rights: Operation not permitted",
    ];
    for (error, expected) in errors.into_iter().zip(expected) {
        let error = error.context("tables are read without rights")?;
        ensure!(
            error.is_permission() && error.to_string().starts_with(expected),
            "{error}"
        );
    }
    drop(pod);
    let gone = Netns::from_path(Path::new("/run/netns/rights")).err();
    let gone = gone.context("a namespace that is gone is opened")?.to_string();
    ensure!(
        gone.starts_with("failed to open network namespace: /run/netns/rights: "),
        "{gone}"
    );
    // The namespace itself lives as long as it is held.
    ensure!(
        there.tables()?.iter().all(|table| table.rules.len() <= 6),
        "rules where none were added"
    );
    Ok(())
}
