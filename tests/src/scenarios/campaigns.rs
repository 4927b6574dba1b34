//! Random rulesets and packets, a campaign of `cargo xtask oracle` in small.

use std::env;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Failed, Trial};

use crate::campaign::nft::{self, Tools};
use crate::campaign::{self, Campaign, Outcome};
use crate::processors::OneProcessor;

/// Rulesets for legacy tables.
const LEGACY: u64 = 50;
/// Rulesets for nf_tables, of each of the tools.
const NF_TABLES: u64 = 30;

pub(super) fn trials() -> Vec<Trial> {
    // In the machine's own network namespace: the kernel's log is set up there.
    let trial = |name: &str, run: fn() -> Result<()>| {
        Trial::test(name, move || {
            run().map_err(|error| Failed::from(format!("{error:#}")))
        })
    };
    vec![
        trial("campaigns::legacy", || judged("legacy", LEGACY, campaign::run)),
        trial("campaigns::iptables_nft", || {
            nf_tables("iptables-nft", Tools::Iptables)
        }),
        trial("campaigns::nft", || nf_tables("nft", Tools::Native)),
    ]
}

fn nf_tables(backend: &str, tools: Tools) -> Result<()> {
    judged(backend, NF_TABLES, |campaign| nft::run(campaign, tools))
}

/// Runs a campaign, which prints what differs.
fn judged(backend: &str, rulesets: u64, run: impl FnOnce(&Campaign) -> Result<Outcome>) -> Result<()> {
    // As in the oracle's own machines: with more, 5.10 misses returns of calls within calls.
    let _alone = OneProcessor::new()?;
    let seed = match env::var("TRACER_TEST_SEED") {
        Ok(seed) => seed.parse().context("failed to read: TRACER_TEST_SEED")?,
        // Small enough to be typed.
        Err(_) => fastrand::u64(..1_000_000_000),
    };
    // Should the machine not survive it.
    eprintln!("{backend}: --seed {seed}");
    let outcome = run(&Campaign {
        seed,
        rulesets,
        first: 0,
        only: None,
        shrink: true,
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
