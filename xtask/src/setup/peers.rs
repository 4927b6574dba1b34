//! Other tracers that the bench compares with, out of Debian's packages, in a root of their own: nothing is installed on
//! the machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::apt::{self, Apt};
use super::{Peers, host, remove, sources};
use crate::process;
use crate::progress::Step;
use crate::workspace::Workspace;

/// Their names, which are those of their packages as well.
const PROGRAMS: [&str; 2] = ["pwru", "bpftrace"];

/// The first that has pwru.
const SUITE: &str = "trixie";

/// Where the packages put them.
const BINARIES: &str = "usr/bin";

/// The programs, if all are there.
pub(super) fn installed(ws: &Workspace) -> Option<Peers> {
    let root = directory(ws);
    let programs: Vec<_> = PROGRAMS
        .iter()
        .map(|name| root.join(BINARIES).join(name))
        .collect();
    programs
        .iter()
        .all(|program| program.is_file())
        .then_some(Peers { root, programs })
}

/// Gets the packages with all that they depend on, libc included.
pub(super) fn install(ws: &Workspace) -> Result<Peers> {
    let names = PROGRAMS.join(", ");
    let step = Step::begin(&names);
    let work = ws.vm().join("download-peers");
    let debs = fetch(&work, &step).with_context(|| format!("failed to download: {names}"))?;
    let fresh = work.join("root");
    remove(&fresh)?;
    fs::create_dir_all(&fresh).with_context(|| format!("failed to create: {}", fresh.display()))?;
    step.now(&format!("unpacking {} packages", debs.len()));
    for deb in &debs {
        apt::extract(deb, &fresh)?;
    }
    let root = directory(ws);
    remove(&root)?;
    fs::rename(&fresh, &root).with_context(|| format!("failed to move: {}", fresh.display()))?;
    remove(&work)?;
    step.done(&format!("from {} packages", debs.len()));
    installed(ws).with_context(|| format!("failed to install: {names}: the packages do not hold them"))
}

fn directory(ws: &Workspace) -> PathBuf {
    ws.vm().join("peers")
}

fn fetch(work: &Path, step: &Step) -> Result<Vec<PathBuf>> {
    if process::find("apt-get").is_none() {
        return Err(host::missing("apt-get", &host::APT));
    }
    step.now("fetching the package index");
    let stanzas = sources::debian("/etc/apt".as_ref(), &[SUITE])?;
    Apt::open(&work.join("apt"), &stanzas)?.download_with_dependencies(&PROGRAMS, step)
}
