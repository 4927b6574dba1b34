//! The random oracle for nf_tables: rulesets and packets that nobody thought of, the kernel's own trace messages on one
//! side and tracer's journeys on the other.
//!
//! The messages (`NFT_MSG_TRACE`) are what `nft monitor trace` and `xtables-monitor --trace` print. A rule of the
//! oracle's own sets nftrace for every packet; tracer must tell the same with it and without.

mod compare;
mod monitor;
mod native;
mod npt;
mod numbers;

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use serde_json::Value;

use self::compare::Account;
use self::monitor::Monitor;
use self::numbers::Numbers;
use super::loops::Endless;
use super::network::{Network, Right};
use super::rules::{Family, Ruleset};
use super::traffic::Overlong;
use super::{Campaign, Outcome, generate, report, seeds, traffic};
use crate::command;
use crate::kernel_state::{self, Calls};
use crate::processors::SoftirqTurns;
use crate::trace_log;
use crate::tracer::Tracer;
use crate::wait;

/// Which tools make the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tools {
    /// `iptables-nft-restore` and `ip6tables-nft-restore`
    Iptables,
    /// `nft`
    Native,
}

impl Tools {
    /// What `cargo xtask oracle --backend` calls them.
    fn backend(self) -> &'static str {
        match self {
            Self::Iptables => "iptables-nft",
            Self::Native => "nft",
        }
    }
}

/// Datagrams from the node to itself: the first and what comes after it is compared, once the second has been seen.
const FIRST: u16 = 64001;
const LAST: u16 = 64002;

/// The longest that tracer may take to tell of what has happened: for half a minute it waits for a packet that a rule
/// has queued.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(45);
/// The same once the node's devices are down.
const SILENT_TIME_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// Attempts at a ruleset for which the kernel leaves out runs of programs.
const ATTEMPTS_MAX: usize = 3;

/// Makes the kernel report every packet, before any other rule, and lets the markers through.
const TRACE_RULES: &str = "table inet oracle-trace {\n\
    chain in { type filter hook prerouting priority -500; meta nftrace set 1; }\n\
    chain out { type filter hook output priority -500; meta nftrace set 1; }\n}\n";

/// Runs a campaign; differences are printed as they are found.
///
/// # Errors
///
/// When the ground is missing: tools, namespaces, a kernel with nf_tables.
pub fn run(campaign: &Campaign, tools: Tools) -> Result<Outcome> {
    command::run("modprobe -a nf_tables nft_compat")?;
    trace_log::load_loggers()?;
    let _turns = SoftirqTurns::new()?;
    let mut observer = Observer::start()?;
    let mut outcome = Outcome::default();
    let mut indices = campaign.indices();
    let rulesets = campaign.only.map_or(campaign.rulesets, |_| 1);
    while outcome.tried < rulesets && outcome.endless <= rulesets {
        let Some(index) = indices.next() else { break };
        let started = Instant::now();
        let [rules_seed, packets_seed] = seeds(campaign.seed, index);
        let mut rules = Rules::random(&mut Rng::with_seed(rules_seed), tools);
        if campaign.verbose {
            println!("{}", rules.text());
        }
        match whole_trial(&mut observer, &mut rules, packets_seed, campaign.verbose) {
            Ok(compared) => {
                outcome.tried += 1;
                outcome.identical += 1;
                outcome.steps += compared.steps;
                for (reason, count) in compared.partial {
                    *outcome.partial.entry(reason).or_default() += count;
                }
                eprintln!(
                    "ruleset {index}: identical, {} steps, {:.1} s",
                    compared.steps,
                    started.elapsed().as_secs_f32()
                );
            }
            Err(error) if error.is::<Endless>() => {
                outcome.endless += 1;
                println!("ruleset {index}: {error:#}");
                print!("{}", report::rerun(tools.backend(), campaign.seed, index));
            }
            Err(error) => {
                outcome.tried += 1;
                println!("ruleset {index}: {error:#}");
                println!("the ruleset:\n{}", rules.text());
                print!("{}", report::rerun(tools.backend(), campaign.seed, index));
            }
        }
    }
    for (reason, count) in &outcome.partial {
        eprintln!("partial, {count} times: {reason}");
    }
    eprintln!("tracer says: {}", observer.end()?);
    Ok(outcome)
}

/// What the tools load.
#[derive(Clone, Debug)]
pub enum Rules {
    /// Random ones, for `iptables-nft-restore` and `ip6tables-nft-restore`.
    Iptables(Box<Ruleset>),
    /// What `iptables-save` and `ip6tables-save` printed, for the same.
    Saved(Vec<(Family, String)>),
    /// For `nft`.
    Native(String),
}

/// Holds rules against the kernel's trace messages once; returns how many steps were the same.
///
/// # Errors
///
/// A difference, a path that is partial, or a missing ground.
pub fn hold(mut rules: Rules, packets_seed: u64) -> Result<usize> {
    command::run("modprobe -a nf_tables nft_compat")?;
    trace_log::load_loggers()?;
    let mut observer = Observer::start()?;
    let Account { steps, partial, .. } = whole_trial(&mut observer, &mut rules, packets_seed, false)?;
    ensure!(partial.is_empty(), "tracer is not certain: {partial:?}");
    observer.end()?;
    Ok(steps)
}

impl Rules {
    fn random(rng: &mut Rng, tools: Tools) -> Self {
        match tools {
            Tools::Iptables => Self::Iptables(Box::new(generate::ruleset(rng))),
            Tools::Native => Self::Native(native::ruleset(rng)),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Iptables(ruleset) => ruleset.to_string(),
            Self::Saved(saved) => saved.iter().map(|(_, text)| text.as_str()).collect(),
            Self::Native(text) => text.clone(),
        }
    }

    /// Loads them with the real tools, in the current namespace. What iptables refuses of a rule by itself is left out.
    fn load(&mut self) -> Result<()> {
        match self {
            Self::Native(text) => command::run_with("nft -f -", text).map(drop),
            Self::Saved(saved) => saved.iter().try_for_each(|(family, text)| {
                command::run_with(&format!("{family}-nft-restore"), text).map(drop)
            }),
            Self::Iptables(ruleset) => {
                command::run_with("ipset restore", &ruleset.sets)?;
                Family::ALL
                    .into_iter()
                    .try_for_each(|family| load_accepted(ruleset, family))
            }
        }
    }
}

/// Loads one family's tables, without the rules that the tool or the kernel refuses: it says in which lines they are.
fn load_accepted(ruleset: &mut Ruleset, family: Family) -> Result<()> {
    let restore = format!("{family}-nft-restore");
    while let Err(error) = command::run_with(&restore, &ruleset.text(family)) {
        let said = format!("{error:#}");
        if ruleset.leave_out_lines(family, &lines_in(&said)) == 0 {
            return Err(error).context("the ruleset was refused");
        }
    }
    Ok(())
}

/// The numbers in `Error occurred at line: 7` and `line 7: RULE_APPEND failed`.
fn lines_in(said: &str) -> BTreeSet<usize> {
    let after = said.split("line").skip(1);
    let digits = after.map(|text| text.trim_start_matches([':', ' ']));
    let number = |text: &str| {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        text[..end].parse().ok()
    };
    digits.filter_map(number).collect()
}

/// Calls of the functions that tracer's programs are run at, counted by another probe.
struct Counted {
    /// Of `nft_do_chain`, with a program at the entry and one at the return.
    chains: Calls,
    /// Of `__nft_trace_packet`, with a program at the entry.
    steps: Calls,
}

impl Counted {
    fn new() -> Result<Self> {
        Ok(Self {
            chains: Calls::of("nft_do_chain")?,
            steps: Calls::of("__nft_trace_packet")?,
        })
    }

    /// How many runs the programs lack, but for a constant: what it is when nothing is under way, for calls and runs are
    /// not read at one time.
    fn left_out(&self) -> Result<i64> {
        let mut left_out = None;
        wait::until("no packet to be under way", || {
            let before = left_out.replace(self.left_out_now()?);
            Ok(before == left_out)
        })?;
        left_out.context("runs were not counted")
    }

    fn left_out_now(&self) -> Result<i64> {
        let number = |count: u64| i64::try_from(count).context("too many calls");
        // A return is seen by one of two programs.
        let runs = kernel_state::runs_of(&["nft_enter", "nft_return", "nft_leave", "nft_trace"])?;
        Ok(2 * number(self.chains.count()?)? + number(self.steps.count()?)? - number(runs)?)
    }
}

/// The kernel left out runs of tracer's programs: what tracer tells cannot be compared.
#[derive(Debug)]
struct Lacking;

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what there is cannot be compared")
    }
}

impl std::error::Error for Lacking {}

/// Whether the kernel looks at a packet that a rule has stolen to know whether to report the rule, which it then does not
/// always: `__nft_trace_packet` (`net/netfilter/nf_tables_core.c`) before 5.19, "avoid skb access on nf_stolen".
fn looks_at_what_is_gone() -> Result<bool> {
    let release = command::run("uname -r")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        bail!("failed to read: release of the kernel: {release}");
    };
    let version: (u32, u32) = (major, minor);
    Ok(version < (5, 19))
}

/// tracer at work for a whole campaign.
struct Observer {
    /// In this order they go.
    at_work: Option<(Counted, Tracer)>,
    /// Bytes of its output that were read.
    read: u64,
    /// The journeys of the ruleset at hand, and what may have been left of the one before.
    journeys: Vec<Value>,
}

impl Observer {
    /// Texts are not compared, and to have them of each ruleset would take longer than all else.
    const OPTIONS: &str = "--format json --no-tools --ring-kib 16384";

    fn start() -> Result<Self> {
        kernel_state::count_runs()?;
        let mut observer = Self {
            at_work: None,
            read: 0,
            journeys: Vec::new(),
        };
        observer.restart()?;
        Ok(observer)
    }

    /// Ends tracer, and starts another one; what the former says.
    fn restart(&mut self) -> Result<String> {
        // tracer looks at the code of functions when it starts, so no probe may be left by then.
        let said = self.end()?;
        let tracer = Tracer::start(Self::OPTIONS)?;
        self.at_work = Some((Counted::new()?, tracer));
        self.read = 0;
        self.journeys.clear();
        Ok(said)
    }

    fn tracer(&self) -> Result<&Tracer> {
        let (_, tracer) = self.at_work.as_ref().context("tracer does not run")?;
        Ok(tracer)
    }

    /// Ends tracer, where it runs, as `^C` does; what it says.
    fn end(&mut self) -> Result<String> {
        let Some((counted, tracer)) = self.at_work.take() else {
            return Ok(String::new());
        };
        drop(counted);
        Ok(tracer.stop_as_text()?.said)
    }

    /// How many runs tracer's programs lack, but for a constant.
    fn left_out(&self) -> Result<i64> {
        let (counted, _) = self.at_work.as_ref().context("calls are not counted")?;
        counted.left_out()
    }

    /// Takes what tracer has told.
    fn read(&mut self) -> Result<()> {
        let shown = self.tracer()?.shown_from(self.read)?;
        // The last line may not be whole yet.
        let whole = shown.rfind('\n').map_or("", |end| &shown[..=end]);
        for line in whole.lines() {
            let journey = serde_json::from_str(line);
            self.journeys
                .push(journey.with_context(|| format!("no JSON: {line}"))?);
        }
        self.read += whole.len() as u64;
        Ok(())
    }
}

/// Sends a datagram from the node to itself. A rule may drop it.
fn mark(network: &Network, port: u16) -> Result<()> {
    network.node.enter(|| {
        let socket = UdpSocket::bind(("127.0.0.1", port)).context("failed to bind: marker")?;
        drop(socket.send_to(b"marker", ("127.0.0.1", port)));
        Ok(())
    })
}

/// Takes the kernel's messages. What goes round without end may be more than there is room for.
fn read(monitor: &mut Monitor, network: &Network) -> Result<()> {
    let read = monitor.read();
    network.check()?;
    read
}

/// A trial in which tracer's programs were run whenever they were to. Else it is run again: the kernel leaves a program
/// out in an interrupt that came while another one ran (`trace_call_bpf`, `kernel/trace/bpf_trace.c`); not every kernel
/// counts that, so it is counted here.
fn whole_trial(
    observer: &mut Observer,
    rules: &mut Rules,
    packets_seed: u64,
    verbose: bool,
) -> Result<Account> {
    let mut attempts = 1;
    loop {
        let before = observer.left_out()?;
        let error = match trial(observer, rules, packets_seed, verbose, before) {
            Ok(account) => return Ok(account),
            Err(error) => error,
        };
        let is_whole = observer.left_out()? == before && !error.is::<Lacking>() || error.is::<Endless>();
        if is_whole {
            // Whatever went wrong, what comes next is not to suffer from it.
            let said = observer.restart()?;
            return Err(error.context(format!("tracer says: {said}")));
        }
        let why = error.context("the kernel left out runs of a program");
        if attempts == ATTEMPTS_MAX {
            return Err(why);
        }
        let why = format!("{why:#}");
        eprintln!("attempt {attempts}: {}", why.lines().next().unwrap_or_default());
        attempts += 1;
    }
}

/// One attempt; `left_out` is what [`Observer::left_out`] said before.
fn trial(
    observer: &mut Observer,
    rules: &mut Rules,
    packets_seed: u64,
    verbose: bool,
    left_out: i64,
) -> Result<Account> {
    let started = Instant::now();
    let told_time = |what: &str| eprintln!("  {:.3} s: {what}", started.elapsed().as_secs_f32());
    let network = Network::new(Right::Link)?;
    told_time("network");
    let (mut monitor, numbers, netns) = network.node.enter(|| {
        command::run_with("nft -f -", TRACE_RULES)?;
        rules.load()?;
        told_time("rules loaded");
        let netns = fs::metadata("/proc/thread-self/ns/net").context("failed to read: network namespace")?;
        Ok((Monitor::open()?, Numbers::read(rules)?, netns.ino()))
    })?;
    told_time("rules listed");
    observer.read()?;
    observer.journeys.clear();
    mark(&network, FIRST)?;
    wait::until("both sides to see the marker", || {
        read(&mut monitor, &network)?;
        observer.read()?;
        let mut journeys = observer.journeys.iter();
        let is_told = journeys.any(|journey| compare::is_markers(journey, FIRST));
        Ok(is_told && monitor.runs().iter().any(|run| compare::is_marker(run, FIRST)))
    })
    .with_context(|| {
        let said = observer.tracer().and_then(Tracer::said);
        format!("tracer says: {}", said.unwrap_or_default())
    })?;
    told_time("tracer ready");
    // Of a packet whose headers lead beyond its end the kernel cannot make a message: `nf_trace_fill_pkt_info`
    // (`net/netfilter/nf_tables_trace.c`) copies the transport header from there, fails, and none is sent.
    let rng = &mut Rng::with_seed(packets_seed);
    traffic::send(rng, &network, Overlong::LeftOut, || read(&mut monitor, &network))?;
    mark(&network, LAST)?;
    told_time("packets sent");

    // A journey is told when it is over, so the accounts become the same some time after the last packet.
    let mut end = Instant::now() + SETTLE_TIME_MAX;
    let mut is_silent = false;
    let mut compared = None;
    loop {
        read(&mut monitor, &network)?;
        observer.read()?;
        let journeys = &observer.journeys;
        let is_told = journeys.iter().any(|journey| compare::is_markers(journey, LAST));
        let had = compared.replace((monitor.runs().len(), journeys.len()));
        let is_new = had != compared;
        // There is nothing to wait for where the ruleset is going to be run again.
        let is_lacking = is_told && !is_new && observer.left_out()? != left_out;
        let is_time_up = Instant::now() >= end;
        if is_time_up && !is_silent {
            // The kernel may go on by itself: it asks for a neighbour each second, say, that a rule has translated.
            network.silence()?;
            is_silent = true;
            end = Instant::now() + SILENT_TIME_MAX;
            continue;
        }
        let is_over = is_time_up || is_lacking;
        if !is_new && !is_over {
            // While nothing comes nothing becomes the same.
            thread::sleep(PAUSE);
            continue;
        }
        let reported = compare::reported(monitor.runs(), &numbers, FIRST)?;
        let told = compare::told(journeys, &numbers, FIRST, netns)?;
        if reported.steps != told.steps && !is_over {
            continue;
        }
        match reported.difference(&told) {
            None if is_told => {
                told_time("both ended");
                if verbose {
                    println!("{reported:#?}");
                }
                return Ok(told);
            }
            _ if !is_over => {}
            None => bail!("tracer does not tell of the last marker"),
            Some(_) if is_lacking => return Err(Lacking.into()),
            Some(_) if looks_at_what_is_gone()? && reported.lacks_only_stolen(&told) => {
                return Ok(told.with_unreported(&reported));
            }
            Some(difference) => bail!("different\n{difference}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_refused_are_read() {
        let said = "ip6tables-nft-restore v1.8.9 (nf_tables): \nline 15: RULE_APPEND failed (Invalid argument): rule in chain INPUT\n\
                    line 18: RULE_APPEND failed (No such file or directory): rule in chain A\n";
        assert_eq!(lines_in(said), BTreeSet::from([15, 18]));
        assert_eq!(
            lines_in("unknown option\nError occurred at line: 7\nTry -h"),
            BTreeSet::from([7])
        );
        assert_eq!(
            lines_in("iptables-nft-restore: line 61 failed"),
            BTreeSet::from([61])
        );
        assert_eq!(lines_in("no such command line"), BTreeSet::new());
    }
}
