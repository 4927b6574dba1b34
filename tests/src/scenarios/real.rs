//! Rules that real tools made in nf_tables, with packets of all kinds, held against the kernel's own trace messages.
//!
//! The tools themselves are not in the test machines. Their rules were dumped where they ran, on Debian 12: docker.io
//! 20.10 with two containers on two networks, containernetworking-plugins 1.1.1 (bridge, portmap and firewall), ufw
//! 0.36.2 and firewalld 1.3.3. Those of kube-proxy's nftables mode are written in its style.

use std::hash::{BuildHasher as _, RandomState};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::campaign::nft::{Rules, hold};
use crate::campaign::rules::Family;
use crate::ruleset::fixture;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("real::docker", || {
            // What docker's bridge leads to is on the right of the test network.
            held(saved(&["docker.rules.v4"], |text| {
                text.replace("docker0", "right")
            })?)
        }),
        trial("real::cni_bridge_and_portmap", || {
            held(saved(&["cni-bridge-portmap.rules.v4"], str::to_owned)?)
        }),
        trial("real::ufw", || {
            held(saved(&["ufw.rules.v4", "ufw.rules.v6"], str::to_owned)?)
        }),
        trial("real::firewalld", || native("firewalld.nft")),
        trial("real::kube_proxy_nftables", || native("kube-proxy.nft")),
    ]
}

fn saved(names: &[&str], edit: fn(&str) -> String) -> Result<Rules> {
    let read = names.iter().map(|name| {
        let family = if name.ends_with("v6") {
            Family::V6
        } else {
            Family::V4
        };
        Ok((family, edit(&fixture(&format!("nftables/{name}"))?)))
    });
    Ok(Rules::Saved(read.collect::<Result<_>>()?))
}

fn native(name: &str) -> Result<()> {
    held(Rules::Native(fixture(&format!("nftables/{name}"))?))
}

fn held(rules: Rules) -> Result<()> {
    // Small enough to be typed.
    let seed = RandomState::new().hash_one(0) % 1_000_000_000;
    let steps = hold(rules, seed).with_context(|| format!("packets of seed {seed}"))?;
    eprintln!("{steps} steps are the kernel's, seed {seed}");
    ensure!(steps > 100, "few steps: {steps}");
    Ok(())
}
