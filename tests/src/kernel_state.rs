//! What the kernel has of probes and BPF programs, and of everything that a trace must leave alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::libc;

use crate::command::run;

/// `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const NEXT_IDS: [(&str, libc::c_long); 3] = [("program", 11), ("map", 12), ("link", 31)];

/// All kprobes: address, kind, function and offset, module, flags.
const KPROBES: &str = "/sys/kernel/debug/kprobes/list";

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
        let kprobes = read(KPROBES)?;
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

/// How many kprobes on a function are on, return probes included.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn active_kprobes(function: &str) -> Result<usize> {
    let on_function = |line: &&str| {
        let place = line
            .split_whitespace()
            .nth(2)
            .and_then(|place| place.split('+').next());
        place == Some(function) && !line.contains("[DISABLED]")
    };
    Ok(read(KPROBES)?.lines().filter(on_function).count())
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

/// Counts the calls of a function of the kernel, by a probe that is not tracer's.
#[derive(Debug)]
pub struct Calls {
    name: String,
}

impl Calls {
    /// Counts from now on.
    ///
    /// # Errors
    ///
    /// When the kernel has no such probe to offer.
    pub fn of(function: &str) -> Result<Self> {
        let name = format!("calls_of_{function}");
        write(
            "/sys/kernel/tracing/kprobe_events",
            &format!("p:{name} {function}"),
        )?;
        let calls = Self { name };
        calls.enable(true)?;
        Ok(calls)
    }

    fn enable(&self, enabled: bool) -> Result<()> {
        let path = format!("/sys/kernel/tracing/events/kprobes/{}/enable", self.name);
        write(&path, if enabled { "1" } else { "0" })
    }

    /// How many there were, also those within another probe.
    ///
    /// # Errors
    ///
    /// When the kernel does not tell.
    pub fn count(&self) -> Result<u64> {
        let profile = read("/sys/kernel/tracing/kprobe_profile")?;
        let counts = profile.lines().find_map(|line| {
            let (name, counts) = line.trim().split_once(char::is_whitespace)?;
            (name == self.name).then_some(counts)
        });
        let counts = counts.with_context(|| format!("failed to find: {}", self.name))?;
        let counts = counts.split_whitespace().map(str::parse::<u64>);
        counts
            .sum::<Result<u64, _>>()
            .with_context(|| format!("failed to read: {}", self.name))
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        drop(self.enable(false));
        drop(write(
            "/sys/kernel/tracing/kprobe_events",
            &format!("-:{}", self.name),
        ));
    }
}

/// Makes the kernel count the runs of BPF programs.
///
/// # Errors
///
/// When it cannot.
pub fn count_runs() -> Result<()> {
    write(COUNT_RUNS, "1")
}

/// Where it is set whether the kernel counts runs of programs and the time that they take.
pub const COUNT_RUNS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// The name of a program.
///
/// # Errors
///
/// When there is none with this id.
pub fn program_name(id: u32) -> Result<String> {
    Ok(String::from_utf8_lossy(name_in(&program_info(id)?)).into_owned())
}

/// How often programs ran whose name begins with one of these.
///
/// # Errors
///
/// When the kernel does not tell.
pub fn runs_of(names: &[&str]) -> Result<u64> {
    let (mut id, mut runs) = (0, 0);
    while let Some(next) = next_id(NEXT_IDS[0].1, id)? {
        id = next;
        let info = program_info(id)?;
        let own = name_in(&info);
        if names.iter().any(|name| own.starts_with(name.as_bytes())) {
            let count = info[RUN_COUNT..].first_chunk().context("no count of runs")?;
            runs += u64::from_ne_bytes(*count);
        }
    }
    Ok(runs)
}

/// Places in `struct bpf_prog_info`, `include/uapi/linux/bpf.h`.
const PROGRAM_NAME: usize = 64;
const PROGRAM_NAME_LEN: usize = 16;
const RUN_COUNT: usize = 200;
const PROGRAM_INFO_LEN: usize = 208;

/// The name in what the kernel says of a program.
fn name_in(info: &[u8; PROGRAM_INFO_LEN]) -> &[u8] {
    let name = &info[PROGRAM_NAME..PROGRAM_NAME + PROGRAM_NAME_LEN];
    name.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What the kernel says of a program.
fn program_info(id: u32) -> Result<[u8; PROGRAM_INFO_LEN]> {
    const PROG_GET_FD_BY_ID: libc::c_long = 13;
    const OBJ_GET_INFO_BY_FD: libc::c_long = 15;

    let mut which = [id, 0, 0];
    // SAFETY: the command reads these three words and knows their size.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            PROG_GET_FD_BY_ID,
            which.as_mut_ptr(),
            size_of_val(&which),
        )
    };
    let fd = Errno::result(fd).context("failed to open: BPF program")?;
    let fd = i32::try_from(fd).context("failed to open: BPF program")?;
    // SAFETY: a descriptor that was just opened and belongs to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = [0; PROGRAM_INFO_LEN];
    // The members bpf_fd, info_len and info of union bpf_attr.
    let mut attributes = [
        u64::from(fd.as_raw_fd().cast_unsigned()) | (info.len() as u64) << 32,
        info.as_mut_ptr().expose_provenance() as u64,
    ];
    // SAFETY: the command writes at most as many bytes as `info` has, which lives for the call.
    let told = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            OBJ_GET_INFO_BY_FD,
            attributes.as_mut_ptr(),
            size_of_val(&attributes),
        )
    };
    Errno::result(told).context("failed to read: BPF program")?;
    Ok(info)
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
        COUNT_RUNS,
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
