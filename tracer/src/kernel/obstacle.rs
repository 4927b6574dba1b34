//! What can keep `tracer` from tracing, each with what it means and what to type.

use nix::errno::Errno;
use thiserror::Error;

use super::LoadError;
use super::offsets::OffsetsError;

/// Something that makes tracing impossible here.
#[derive(Debug, Error)]
pub enum Obstacle {
    /// This process may not do what tracing takes.
    #[error(transparent)]
    Privilege(Privilege),
    /// The kernel is locked down: nobody may read its memory, not even root.
    #[error(transparent)]
    Lockdown(LockedDown),
    /// The kernel does not describe its types.
    #[error("the kernel does not describe its types (BTF): {0}")]
    NoBtf(LoadError),
    /// The kernel has no ring buffer for BPF programs.
    #[error("the kernel has no BPF ring buffer, which came with kernel 5.8: {0}")]
    NoRingBuffer(Errno),
    /// The kernel takes no kprobes.
    #[error(transparent)]
    NoKprobes(NoKprobes),
    /// The kernel has no code for legacy tables, so there is nothing to trace.
    #[error("this node has no legacy iptables tables: {} not loaded", modules(.missing))]
    NoLegacyTables {
        /// Modules that would have them.
        missing: Vec<&'static str>,
        /// Whether the kernel has nf_tables loaded.
        nf_tables: bool,
    },
    /// The kernel's types, or functions, are not what is known.
    #[error(transparent)]
    Offsets(OffsetsError),
}

/// See [`Obstacle::Privilege`].
#[derive(Debug, Error)]
pub enum Privilege {
    /// Capabilities are missing.
    #[error("not permitted: tracing needs root, and this process lacks {}", .0.join(", "))]
    Missing(Vec<&'static str>),
    /// The capabilities are there, but the kernel refuses all the same.
    #[error("not permitted: the kernel refuses bpf() although this process has the capabilities: {0}")]
    Refused(Errno),
}

/// See [`Obstacle::Lockdown`].
#[derive(Debug, Error)]
pub enum LockedDown {
    /// The kernel says so.
    #[error("the kernel is in lockdown mode confidentiality: nobody may read its memory, not even root")]
    Stated,
    /// The kernel does not show its mode, but refuses what lockdown refuses: a program that reads its
    /// memory, or a kprobe.
    #[error("the kernel refuses to be traced, as one in lockdown mode confidentiality does: {0}")]
    Inferred(Errno),
}

/// See [`Obstacle::NoKprobes`].
#[derive(Debug, Error)]
pub enum NoKprobes {
    /// There are none at all.
    #[error("the kernel has no kprobes")]
    Missing,
    /// Somebody has switched them off.
    #[error("kprobes are switched off on this node")]
    Disabled,
    /// They cannot run BPF programs that read memory.
    #[error("the kernel does not take BPF programs for kprobes: {0}")]
    NoPrograms(Errno),
    /// The functions to probe are there, but their names are not unique or not listed.
    #[error("the kernel cannot put a probe on {0}: the function is not listed, or listed more than once")]
    Function(&'static str),
}

fn modules(names: &[&str]) -> String {
    let verb = if names.len() == 1 { "is" } else { "are" };
    let noun = if names.len() == 1 { "module" } else { "modules" };
    format!("{noun} {} {verb}", names.join(" and "))
}

impl Obstacle {
    /// What to type, or where to go instead.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Privilege(Privilege::Missing(_)) => {
                "run it as root: `sudo tracer …`; in a container, `--privileged`, or add the capabilities named"
            }
            Self::Privilege(Privilege::Refused(_)) => {
                "run it on the node itself, not in a container with a seccomp profile (`grep Seccomp \
                 /proc/self/status`) or a user namespace (`cat /proc/self/uid_map`); before kernel 5.11, also `ulimit \
                 -l unlimited`"
            }
            Self::Lockdown(LockedDown::Stated) => {
                "`cat /sys/kernel/security/lockdown` shows the mode; run tracer on a node whose kernel is not \
                 locked down (the mode is chosen at boot, by `lockdown=` on the kernel command line or the \
                 kernel's configuration: `man kernel_lockdown`)"
            }
            Self::Lockdown(LockedDown::Inferred(_)) => {
                "`cat /sys/kernel/security/lockdown` shows the mode where securityfs is mounted, `dmesg | grep -i \
                 lockdown` what was refused; run tracer on a node whose kernel is not locked down (the mode is \
                 chosen at boot, by `lockdown=` on the kernel command line or the kernel's configuration)"
            }
            Self::NoBtf(_) => {
                "`ls /sys/kernel/btf/vmlinux` (in a container, is /sys mounted?); the kernel needs CONFIG_DEBUG_INFO_BTF=y: `grep DEBUG_INFO_BTF \
                 /boot/config-$(uname -r)`"
            }
            Self::NoRingBuffer(_) => "`uname -r`; run tracer on a node with kernel 5.8 or later",
            Self::NoKprobes(NoKprobes::Missing) => {
                "the kernel needs CONFIG_KPROBE_EVENTS=y: `grep KPROBE /boot/config-$(uname -r)`; `ls \
                 /sys/bus/event_source/devices/kprobe` (in a container, is /sys mounted?)"
            }
            Self::NoKprobes(NoKprobes::Disabled) => {
                "`cat /sys/kernel/debug/kprobes/enabled` shows 0; whoever runs the node can write 1 there"
            }
            Self::NoKprobes(NoKprobes::NoPrograms(_)) => {
                "the kernel needs CONFIG_BPF_EVENTS=y: `grep BPF_EVENTS /boot/config-$(uname -r)`"
            }
            Self::NoKprobes(NoKprobes::Function(_)) => {
                "`grep -w -e ipt_do_table -e ip6t_do_table /proc/kallsyms` shows what the kernel lists"
            }
            Self::NoLegacyTables { nf_tables: true, .. } => {
                "`iptables -V` says which kind the node uses: with (legacy), load a rule first; with (nf_tables) its rules \
                 are in nf_tables, which is loaded but cannot be traced here"
            }
            Self::NoLegacyTables {
                nf_tables: false, ..
            } => {
                "there are no rules: load one first, of legacy iptables or of nf_tables (`iptables -V` says which kind the \
                 node uses)"
            }
            Self::Offsets(OffsetsError::NoModuleBtf | OffsetsError::NoNftablesBtf) => {
                "the kernel needs CONFIG_DEBUG_INFO_BTF_MODULES=y: `grep DEBUG_INFO_BTF /boot/config-$(uname -r)`; \
                 `ls /sys/kernel/btf` lists the modules that it describes"
            }
            Self::Offsets(_) => {
                "tracer does not know this kernel and will not guess; please report it with the output of `tracer \
                 doctor` and `uname -r`"
            }
        }
        .into()
    }
}
