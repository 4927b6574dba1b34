//! Random rulesets and packets, a campaign of `cargo xtask oracle` in small, with a seed that nobody has seen.

use std::env;
use std::hash::{BuildHasher as _, RandomState};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Failed, Trial};

use super::trial;
use crate::campaign::nft::{self, Tools};
use crate::campaign::{self, Campaign, Outcome};
use crate::processors::OneProcessor;

/// Rulesets for legacy tables.
const LEGACY: u64 = 50;
/// Rulesets of each kind in nf_tables.
const NFTABLES: u64 = 30;

pub(super) fn trials() -> Vec<Trial> {
    // In the machine's own network namespace: the kernel's log is set up there.
    let legacy = Trial::test("campaigns::legacy", || {
        legacy().map_err(|error| Failed::from(format!("{error:#}")))
    });
    vec![
        legacy,
        trial("campaigns::iptables_nft", || {
            judged("iptables-nft", NFTABLES, |campaign| {
                nft::run(campaign, Tools::Iptables)
            })
        }),
        trial("campaigns::nft", || {
            judged("nft", NFTABLES, |campaign| nft::run(campaign, Tools::Native))
        }),
    ]
}

fn legacy() -> Result<()> {
    let _alone = OneProcessor::new()?;
    judged("legacy", LEGACY, campaign::run)
}

/// Runs a campaign, which prints what differs.
fn judged(backend: &str, rulesets: u64, run: impl FnOnce(&Campaign) -> Result<Outcome>) -> Result<()> {
    // Small enough to be typed.
    let seed = setting("TRACER_TEST_SEED", RandomState::new().hash_one(0) % 1_000_000_000)?;
    let outcome = run(&Campaign {
        seed,
        rulesets: setting("TRACER_TEST_RULESETS", rulesets)?,
        only: None,
        shrink: false,
        verbose: false,
        verify: false,
    })?;
    println!("{backend}, seed {seed}: {outcome}");
    ensure!(
        outcome.tried > 0 && outcome.identical == outcome.tried,
        "{backend}, --seed {seed}: {outcome}, see above"
    );
    Ok(())
}

/// What the environment says, where it says something.
fn setting(name: &str, otherwise: u64) -> Result<u64> {
    match env::var(name) {
        Ok(value) => value.parse().with_context(|| format!("failed to read: {name}")),
        Err(_) => Ok(otherwise),
    }
}
