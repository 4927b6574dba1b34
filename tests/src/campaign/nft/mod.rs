//! The random oracle for nf_tables: rulesets and packets that nobody thought of, the kernel's own trace messages on one
//! side and tracer's journeys on the other.
//!
//! The messages (`NFT_MSG_TRACE`) are what `nft monitor trace` and `xtables-monitor --trace` print. A rule of the
//! oracle's own sets nftrace for every packet; tracer must tell the same with it and without.

mod compare;
mod monitor;
mod native;
mod numbers;

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt as _;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use fastrand::Rng;
use serde_json::Value;

use self::compare::Account;
use self::monitor::{Monitor, Overflow};
use self::numbers::Numbers;
use super::network::{Network, Right};
use super::rules::{Family, Rule, Ruleset};
use super::traffic::Overlong;
use super::{Campaign, Outcome, generate, report, seeds, traffic};
use crate::command;
use crate::kernel_state::{self, Calls};
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
const PAUSE: Duration = Duration::from_millis(100);
/// Attempts at a ruleset of which the kernel reports more than there is room for.
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
    let mut observer = Observer::start()?;
    let mut outcome = Outcome::default();
    let indices = match campaign.only {
        Some(index) => index..index + 1,
        None => 0..campaign.rulesets,
    };
    for index in indices {
        let started = Instant::now();
        outcome.tried += 1;
        let [rules_seed, packets_seed] = seeds(campaign.seed, index);
        let mut rules = Rules::random(&mut Rng::with_seed(rules_seed), tools);
        if campaign.verbose {
            println!("{}", rules.text());
        }
        match whole_trial(&mut observer, &mut rules, packets_seed, campaign.verbose) {
            Ok(compared) => {
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
            Err(error) => {
                println!("ruleset {index}: {error:#}");
                println!("the ruleset:\n{}", rules.text());
                print!("{}", report::rerun(tools.backend(), campaign.seed, index));
            }
        }
    }
    eprintln!("tracer says: {}", observer.tracer.stop_as_text()?.said);
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
    observer.tracer.stop_as_text()?;
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
                Family::ALL.into_iter().try_for_each(|family| {
                    let restore = |text: &str| command::run_with(&format!("{family}-nft-restore"), text);
                    if restore(&ruleset.text(family)).is_ok() {
                        return Ok(());
                    }
                    leave_out_refused(ruleset, family, |text| restore(text).is_err());
                    restore(&ruleset.text(family))
                        .map(drop)
                        .context("the ruleset was refused")
                })
            }
        }
    }
}

/// Leaves out the rules that are refused alone.
fn leave_out_refused(ruleset: &mut Ruleset, family: Family, refused: impl Fn(&str) -> bool) {
    for table in ruleset.tables.iter_mut().filter(|table| table.family == family) {
        let mut alone = table.clone();
        table.rules = accepted(std::mem::take(&mut table.rules), &mut |rules| {
            alone.rules = rules.to_vec();
            !refused(&alone.to_string())
        });
    }
}

/// Those that are accepted: most are, so half of them are tried at a time.
fn accepted(mut rules: Vec<Rule>, accepts: &mut impl FnMut(&[Rule]) -> bool) -> Vec<Rule> {
    if rules.is_empty() || accepts(&rules) {
        return rules;
    }
    if rules.len() == 1 {
        return Vec::new();
    }
    let second = rules.split_off(rules.len() / 2);
    let mut kept = accepted(rules, accepts);
    kept.extend(accepted(second, accepts));
    kept
}

/// tracer at work for a whole campaign.
struct Observer {
    tracer: Tracer,
    /// Not there while tracer starts, for it looks at the function's code.
    calls: Option<Calls>,
    /// Bytes of its output that were read.
    read: u64,
    /// The journeys of the ruleset at hand, and what may have been left of the one before.
    journeys: Vec<Value>,
}

impl Observer {
    const OPTIONS: &str = "--format json --ring-kib 16384";

    fn start() -> Result<Self> {
        kernel_state::count_runs()?;
        Ok(Self {
            tracer: Tracer::start(Self::OPTIONS)?,
            calls: Some(Calls::of("nft_do_chain")?),
            read: 0,
            journeys: Vec::new(),
        })
    }

    fn restart(&mut self) -> Result<()> {
        self.calls = None;
        self.tracer = Tracer::start(Self::OPTIONS)?;
        self.calls = Some(Calls::of("nft_do_chain")?);
        self.read = 0;
        self.journeys.clear();
        Ok(())
    }

    /// How many more calls of `nft_do_chain` there were than the program at its entry has seen, but for a constant.
    fn left_out(&self) -> Result<i64> {
        let number = |count: u64| i64::try_from(count).context("too many calls");
        let calls = self.calls.as_ref().context("calls are not counted")?;
        Ok(number(calls.count()?)? - number(kernel_state::runs_of("nft_enter")?)?)
    }

    /// Takes what tracer has told.
    fn read(&mut self) -> Result<()> {
        let shown = self.tracer.shown_from(self.read)?;
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

/// A trial in which both sides had their say: the kernel's messages found room, and tracer's programs were run. Else
/// it is run again. The kernel leaves a program out in an interrupt that came while another one ran (`trace_call_bpf`,
/// `kernel/trace/bpf_trace.c`); not every kernel counts that, so it is counted here.
fn whole_trial(
    observer: &mut Observer,
    rules: &mut Rules,
    packets_seed: u64,
    verbose: bool,
) -> Result<Account> {
    let mut attempts = 1;
    loop {
        let left_out = observer.left_out()?;
        let error = match trial(observer, rules, packets_seed, verbose) {
            Ok(account) => return Ok(account),
            Err(error) => error,
        };
        let left_out = observer.left_out()? - left_out;
        let is_whole = left_out == 0 && !error.is::<Overflow>();
        let again = attempts < ATTEMPTS_MAX && !is_whole;
        let why = if left_out == 0 {
            error
        } else {
            error.context(format!("the kernel left out {left_out} runs of a program"))
        };
        // Whatever went wrong, what comes next is not to suffer from it.
        observer.restart()?;
        if !again {
            return Err(why);
        }
        let why = format!("{why:#}");
        eprintln!("attempt {attempts}: {}", why.lines().next().unwrap_or_default());
        attempts += 1;
    }
}

fn trial(observer: &mut Observer, rules: &mut Rules, packets_seed: u64, verbose: bool) -> Result<Account> {
    let network = Network::new(Right::Link)?;
    let (mut monitor, numbers, netns) = network.node.enter(|| {
        command::run_with("nft -f -", TRACE_RULES)?;
        rules.load()?;
        let netns = fs::metadata("/proc/thread-self/ns/net").context("failed to read: network namespace")?;
        Ok((Monitor::open()?, Numbers::read(rules)?, netns.ino()))
    })?;
    observer.read()?;
    observer.journeys.clear();
    mark(&network, FIRST)?;
    wait::until("both sides to see the marker", || {
        monitor.read()?;
        observer.read()?;
        let mut journeys = observer.journeys.iter();
        let is_told = journeys.any(|journey| compare::is_markers(journey, FIRST));
        Ok(is_told && monitor.runs().iter().any(|run| compare::is_marker(run, FIRST)))
    })
    .with_context(|| format!("tracer says: {}", observer.tracer.said().unwrap_or_default()))?;
    // Of a packet whose headers lead beyond its end the kernel cannot make a message: `nf_trace_fill_pkt_info`
    // (`net/netfilter/nf_tables_trace.c`) copies the transport header from there, fails, and none is sent.
    let rng = &mut Rng::with_seed(packets_seed);
    traffic::send(rng, &network, Overlong::LeftOut, || monitor.read())?;
    mark(&network, LAST)?;

    // A journey is told when it is over, so the accounts become the same some time after the last packet.
    let end = Instant::now() + SETTLE_TIME_MAX;
    loop {
        monitor.read()?;
        observer.read()?;
        let journeys = &observer.journeys;
        let is_told = journeys.iter().any(|journey| compare::is_markers(journey, LAST));
        let reported = compare::reported(monitor.runs(), &numbers, FIRST)?;
        let told = compare::told(journeys, FIRST, netns)?;
        let is_over = Instant::now() >= end;
        if reported.steps != told.steps && !is_over {
            thread::sleep(PAUSE);
            continue;
        }
        match reported.difference(&told) {
            None if is_told => {
                if verbose {
                    println!("{reported:#?}");
                }
                return Ok(told);
            }
            _ if !is_over => thread::sleep(PAUSE),
            None => bail!("tracer does not tell of the last marker"),
            Some(difference) => bail!("different\n{difference}"),
        }
    }
}
