//! The random oracle: rulesets and packets that nobody thought of, through the kernel with a TRACE rule and
//! through tracer without one, and no difference between the two accounts.
//!
//! Everything follows from a seed: ruleset number `i` of a campaign can be made again alone.

pub mod compare;
pub mod generate;
pub mod network;
pub mod nft;
pub mod rules;

mod loops;
mod observe;
mod report;
mod shrink;
mod sockets;
mod traffic;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::time::Instant;

use anyhow::{Result, bail};
use fastrand::Rng;

use self::compare::Comparison;
use self::loops::Endless;
use self::network::{Network, Right};
use self::observe::{Accounts, Observer};
use self::rules::{Family, Ruleset};
use self::traffic::Overlong;
use crate::processors::SoftirqTurns;
use crate::{command, ruleset, trace_log};

/// What to do.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Everything follows from it.
    pub seed: u64,
    /// Rulesets to try.
    pub rulesets: u64,
    /// The first of them, by its number.
    pub first: u64,
    /// Only this one.
    pub only: Option<u64>,
    /// Whether to look for a small ruleset that still shows a difference.
    pub shrink: bool,
    /// Whether to print rulesets and all lines.
    pub verbose: bool,
    /// Whether tracer is to hold its paths against the kernel's own steps too (`--verify`, legacy tables).
    pub verify: bool,
}

impl Campaign {
    /// The numbers of rulesets that may be tried; more than are wanted, for some are replaced by others.
    fn indices(&self) -> Range<u64> {
        self.only.map_or(self.first..u64::MAX, |only| only..only + 1)
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Rulesets tried.
    pub tried: u64,
    /// Rulesets beyond these with which a packet goes round and round, so that no log holds it.
    pub endless: u64,
    /// Rulesets without a difference.
    pub identical: u64,
    /// Lines of the kernel's that had their partner.
    pub steps: usize,
    /// Traversals that tracer has not told of, and has counted as lost.
    pub lost: u64,
    /// Why traversals were partial, with how many.
    pub partial: BTreeMap<String, usize>,
}

/// `50 of 50 rulesets identical, 36120 steps, 81 partial`
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            tried,
            endless,
            identical,
            steps,
            lost,
            partial,
        } = self;
        write!(
            f,
            "{identical} of {tried} rulesets identical, {steps} steps, {} partial",
            partial.values().sum::<usize>()
        )?;
        if *lost > 0 {
            write!(f, ", {lost} traversals lost and counted")?;
        }
        if *endless > 0 {
            write!(f, ", {endless} more in which packets went round without end")?;
        }
        Ok(())
    }
}

/// The seeds of a ruleset and of its packets.
fn seeds(seed: u64, index: u64) -> [u64; 2] {
    let mut rng = Rng::with_seed(seed ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    [rng.u64(..), rng.u64(..)]
}

/// Runs a campaign; differences are printed as they are found.
///
/// # Errors
///
/// When the ground is missing: tools, namespaces, the kernel's log.
pub fn run(campaign: &Campaign) -> Result<Outcome> {
    trace_log::allow_all_namespaces()?;
    trace_log::load_loggers()?;
    let _turns = SoftirqTurns::new()?;
    // tracer wants to see that the node has legacy tables.
    command::run("modprobe -a ip_tables ip6_tables")?;
    if campaign.verify {
        // It is tried on a table first.
        command::run("modprobe -a iptable_raw ip6table_raw")?;
    }
    let mut observer = Observer::start(campaign.verify)?;
    let mut outcome = Outcome::default();
    let mut indices = campaign.indices();
    let rulesets = campaign.only.map_or(campaign.rulesets, |_| 1);
    while outcome.tried < rulesets && outcome.endless <= rulesets {
        let Some(index) = indices.next() else { break };
        let started = Instant::now();
        let [rules_seed, packets_seed] = seeds(campaign.seed, index);
        let ruleset = generate::ruleset(&mut Rng::with_seed(rules_seed));
        if campaign.verbose {
            println!("{ruleset}");
        }
        let trial = match trial(&mut observer, &ruleset, packets_seed) {
            Ok(trial) => {
                outcome.tried += 1;
                trial
            }
            Err(error) => {
                if error.is::<Endless>() {
                    outcome.endless += 1;
                } else {
                    outcome.tried += 1;
                }
                println!("ruleset {index}: {error:#}");
                print!("{}", report::rerun("legacy", campaign.seed, index));
                // Whatever went wrong, the next ruleset is not to suffer from it.
                drop(observer);
                observer = Observer::start(campaign.verify)?;
                continue;
            }
        };
        if campaign.verbose {
            println!("{}", report::whole(&trial.accounts));
        }
        for reason in trial.partial() {
            *outcome.partial.entry(reason).or_default() += 1;
        }
        let seconds = started.elapsed().as_secs_f32();
        match trial.comparison {
            Comparison::Identical { steps, lost } => {
                outcome.identical += 1;
                outcome.steps += steps;
                outcome.lost += lost;
                eprintln!(
                    "ruleset {index}: identical, {steps} steps, {lost} traversals lost, {} rules, {seconds:.1} s",
                    ruleset.len()
                );
            }
            Comparison::Different { .. } => {
                println!("ruleset {index}: different");
                print!("{}", report::difference(&trial.accounts, &trial.comparison));
                print!("{}", report::rerun("legacy", campaign.seed, index));
                let small = if campaign.shrink {
                    shrink::small(&ruleset, |ruleset| {
                        let trial = self::trial(&mut observer, ruleset, packets_seed).ok()?;
                        matches!(trial.comparison, Comparison::Different { .. }).then_some(trial)
                    })
                } else {
                    None
                };
                match small {
                    Some((small, trial)) => {
                        println!("a smaller ruleset that differs:\n{small}");
                        print!("{}", report::difference(&trial.accounts, &trial.comparison));
                    }
                    None => println!("the ruleset:\n{ruleset}"),
                }
            }
        }
    }
    eprintln!("tracer says: {}", observer.stop()?);
    Ok(outcome)
}

/// One ruleset with its packets.
struct Trial {
    accounts: Accounts,
    comparison: Comparison,
}

impl Trial {
    /// Why traversals were partial; numbers are left out, so that they can be counted.
    fn partial(&self) -> impl Iterator<Item = String> {
        self.accounts.tracer.lines.iter().filter_map(|line| {
            let reason = line.strip_prefix("PARTIAL: ")?.splitn(3, ':').nth(2)?.trim();
            let plain = |word: &str| {
                if word.trim_start_matches("0x").chars().any(|c| c.is_ascii_digit()) {
                    "N"
                } else {
                    word
                }
                .to_owned()
            };
            Some(reason.split_whitespace().map(plain).collect::<Vec<_>>().join(" "))
        })
    }
}

/// What a path says that its verification contradicts.
const DISAGREES: &str = " in the replay, but the kernel ";

fn trial(observer: &mut Observer, ruleset: &Ruleset, packets_seed: u64) -> Result<Trial> {
    let started = Instant::now();
    let told = |what: &str| eprintln!("  {:.3} s: {what}", started.elapsed().as_secs_f32());
    // One in four has a bridge, for what is asked of its ports.
    let right = if packets_seed.is_multiple_of(4) {
        Right::Bridge
    } else {
        Right::Link
    };
    let network = Network::new(right)?;
    told("network");
    network.node.enter(|| load(ruleset))?;
    told("rules loaded");
    observer.begin(&network)?;
    told("tracer ready");
    let rng = &mut Rng::with_seed(packets_seed);
    traffic::send(rng, &network, Overlong::Sent, || observer.read(&network))?;
    told("packets sent");
    let accounts = observer.end(&network)?;
    told("both ended");
    drop(network);
    told("network gone");
    let disagrees = accounts
        .tracer
        .lines
        .iter()
        .position(|line| line.contains(DISAGREES));
    let comparison = match disagrees {
        Some(line) => Comparison::Different {
            kernel: Vec::new(),
            tracer: vec![line],
        },
        None => compare::compare(&accounts.kernel, &accounts.tracer, accounts.losses),
    };
    Ok(Trial { accounts, comparison })
}

/// Loads a ruleset with the real tools, in the current namespace.
fn load(ruleset: &Ruleset) -> Result<()> {
    command::run_with("ipset restore", &ruleset.sets)?;
    for family in Family::ALL {
        let Err(error) = restore(family, &ruleset.text(family)) else {
            continue;
        };
        let refused: String = ruleset
            .alone()
            .filter(|(of, _, text)| *of == family && restore(family, text).is_err())
            .map(|(_, rule, _)| format!("  {rule}\n"))
            .collect();
        bail!("the ruleset was refused: {error:#}; rules that are refused alone:\n{refused}");
    }
    Ok(())
}

fn restore(family: Family, text: &str) -> Result<()> {
    match family {
        Family::V4 => ruleset::restore_v4(text),
        Family::V6 => ruleset::restore_v6(text),
    }
}
