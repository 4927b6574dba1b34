//! What the kernel has of probes and BPF programs, and of everything that a trace must leave alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;

use crate::command::run;

/// `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const NEXT_IDS: [(&str, libc::c_long); 3] = [("program", 11), ("map", 12), ("link", 31)];

/// What a tracer brings into the kernel and has to take away again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instruments {
    kprobes: BTreeSet<String>,
    kprobe_events: String,
    objects: BTreeSet<(&'static str, u32)>,
}

impl Instruments {
    /// All that there are now.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn now() -> Result<Self> {
        let kprobes = read("/sys/kernel/debug/kprobes/list")?;
        let mut objects = BTreeSet::new();
        for (kind, command) in NEXT_IDS {
            let mut id = 0;
            while let Some(next) = next_id(command, id)? {
                id = next;
                objects.insert((kind, id));
            }
        }
        Ok(Self {
            kprobes: kprobes.lines().map(str::to_owned).collect(),
            kprobe_events: read("/sys/kernel/tracing/kprobe_events")?,
            objects,
        })
    }

    /// Whether there is nothing that `others` has not. What a tracer of an earlier scenario left may be on its way out.
    #[must_use]
    pub fn are_among(&self, others: &Self) -> bool {
        self.kprobes.is_subset(&others.kprobes)
            && self.kprobe_events == others.kprobe_events
            && self.objects.is_subset(&others.objects)
    }

    /// Whether there are probes: kprobes, or programs on links (of which the oldest kernel tells nothing).
    #[must_use]
    pub fn has_probes(&self) -> bool {
        !self.kprobes.is_empty() || self.objects.iter().any(|(kind, _)| *kind == "link")
    }
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read: {path}"))
}

/// The next higher id of a kind of BPF object.
fn next_id(command: libc::c_long, after: u32) -> Result<Option<u32>> {
    // The members start_id, next_id and open_flags of union bpf_attr.
    let mut attributes = [after, 0, 0];
    // SAFETY: the command reads and writes these three words and knows their size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    };
    match Errno::result(result) {
        Ok(_) => Ok(Some(attributes[1])),
        Err(Errno::ENOENT) => Ok(None),
        Err(error) => Err(error).context("failed to list BPF objects"),
    }
}

/// Counts the kernel's trace calls of nf_tables, by a probe that is not tracer's.
#[derive(Debug)]
pub struct TraceCalls;

impl TraceCalls {
    const NAME: &str = "nft_trace_calls";

    /// Counts from now on.
    ///
    /// # Errors
    ///
    /// When the kernel has no such probe to offer.
    pub fn from_now() -> Result<Self> {
        write(
            "/sys/kernel/tracing/kprobe_events",
            &format!("p:{} __nft_trace_packet", Self::NAME),
        )?;
        let calls = Self;
        calls.enable(true)?;
        Ok(calls)
    }

    fn enable(&self, enabled: bool) -> Result<()> {
        let path = format!("/sys/kernel/tracing/events/kprobes/{}/enable", Self::NAME);
        write(&path, if enabled { "1" } else { "0" })
    }

    /// How many there were.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn count(&self) -> Result<u64> {
        let profile = read("/sys/kernel/tracing/kprobe_profile")?;
        let mut lines = profile.lines().map(str::split_whitespace);
        let hits =
            lines.find_map(|mut words| words.next().filter(|name| *name == Self::NAME).and(words.next()));
        hits.context("failed to find: probe of trace calls")?
            .parse()
            .context("failed to read: probe of trace calls")
    }
}

impl Drop for TraceCalls {
    fn drop(&mut self) {
        drop(self.enable(false));
        drop(write(
            "/sys/kernel/tracing/kprobe_events",
            &format!("-:{}", Self::NAME),
        ));
    }
}

fn write(path: &str, text: &str) -> Result<()> {
    let mut options = fs::OpenOptions::new();
    let file = options.append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("failed to write: {path}"))
}

/// What a trace must not change: rules with their counters, tables, modules, settings.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn untouchable() -> Result<BTreeMap<&'static str, String>> {
    let modules = read("/proc/modules")?;
    let names: BTreeSet<&str> = modules
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let mut state = BTreeMap::from([
        ("modules", format!("{names:?}")),
        ("settings", settings(Path::new("/proc/sys/net/netfilter"))?),
    ]);
    for path in [
        "/proc/thread-self/net/ip_tables_names",
        "/proc/thread-self/net/ip6_tables_names",
        "/proc/thread-self/net/netfilter/nf_log",
        "/proc/sys/kernel/kptr_restrict",
        "/proc/sys/kernel/perf_event_paranoid",
        "/proc/sys/kernel/unprivileged_bpf_disabled",
        "/proc/sys/net/core/bpf_jit_enable",
        "/proc/sys/kernel/bpf_stats_enabled",
        "/sys/kernel/tracing/tracing_on",
        "/sys/kernel/tracing/current_tracer",
    ] {
        if Path::new(path).exists() {
            state.insert(path, read(path)?);
        }
    }
    for (key, tool) in [
        ("rules", "iptables-legacy-save"),
        ("rules 6", "ip6tables-legacy-save"),
    ] {
        let rules = run(&format!("{tool} -c"))?;
        // A comment tells the time.
        let rules = rules.lines().filter(|line| !line.starts_with('#'));
        state.insert(key, rules.collect::<Vec<_>>().join("\n"));
    }
    Ok(state)
}

/// Every setting below a directory, without the one that counts.
fn settings(place: &Path) -> Result<String> {
    let failed = || format!("failed to read: {}", place.display());
    let mut all = String::new();
    for entry in fs::read_dir(place).with_context(failed)? {
        let path = entry.with_context(failed)?.path();
        if path.is_dir() {
            all.push_str(&settings(&path)?);
        } else if !path.ends_with("nf_conntrack_count") {
            // Some can only be written.
            let value = fs::read_to_string(&path).unwrap_or_default();
            all.push_str(&format!("{}={value}", path.display()));
        }
    }
    Ok(all)
}
