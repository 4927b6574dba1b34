//! What each eBPF program of a process takes, as the kernel counts it.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use crate::kernel_state::{self, COUNT_RUNS};

/// Time is counted while this lives, which itself takes some of it.
pub(super) struct Counting(());

impl Counting {
    pub(super) fn start() -> Result<Self> {
        kernel_state::count_runs()?;
        Ok(Self(()))
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        drop(fs::write(COUNT_RUNS, "0"));
    }
}

/// Time that the programs of a process took so far, in nanoseconds, by name.
pub(super) fn took(process: Pid) -> Result<BTreeMap<String, u64>> {
    let mut took = BTreeMap::new();
    let mut seen = Vec::new();
    let folder = format!("/proc/{process}/fdinfo");
    for entry in fs::read_dir(&folder).with_context(|| format!("failed to read: {folder}"))? {
        let path = entry.with_context(|| format!("failed to read: {folder}"))?.path();
        let Ok(text) = fs::read_to_string(&path) else {
            // It was closed meanwhile.
            continue;
        };
        let field = |name: &str| -> Option<u64> {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().parse().ok()
        };
        let (Some(id), Some(time)) = (field("prog_id"), field("run_time_ns")) else {
            continue;
        };
        let id = u32::try_from(id)?;
        if !seen.contains(&id) {
            seen.push(id);
            *took.entry(kernel_state::program_name(id)?).or_default() += time;
        }
    }
    took.retain(|_, time| *time != 0);
    Ok(took)
}
