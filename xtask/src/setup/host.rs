//! Programs that the machine itself must have, and how they are installed there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::apt::Apt;
use super::sources;
use crate::error::hinted;
use crate::process;
use crate::progress::Step;
use crate::workspace::Workspace;

/// A package under its names in the two families of distributions that we can name it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Package {
    debian: std::borrow::Cow<'static, str>,
    fedora: &'static str,
}

impl Package {
    const fn new(debian: &'static str, fedora: &'static str) -> Self {
        Self {
            debian: std::borrow::Cow::Borrowed(debian),
            fedora,
        }
    }

    /// The LLVM that a bpf-linker for this rustc is built with.
    pub(super) fn llvm(major: u32) -> Self {
        Self {
            debian: format!("llvm-{major}-dev").into(),
            fedora: "llvm-devel",
        }
    }
}

pub(super) const DEBIAN_KEYRING: Package = Package::new("debian-archive-keyring", "debian-keyring");
pub(super) const APT: Package = Package::new("apt", "apt");
pub(super) const DPKG: Package = Package::new("dpkg", "dpkg");
const QEMU: Package = Package::new("qemu-system-x86", "qemu-system-x86-core");
const KMOD: Package = Package::new("kmod", "kmod");

/// QEMU 7.2 crashed Linux 6.12 at boot in one run of four; 10.0 did not.
const QEMU_MAJOR_MIN: u32 = 10;

/// The program that runs the test machines.
pub(super) const QEMU_PROGRAM: (&str, Package) = ("qemu-system-x86_64", QEMU);

/// Makes modules.dep, which Debian's kernel packages leave to the installation.
pub(super) const DEPMOD: (&str, Package) = ("depmod", KMOD);

/// What goes into every test machine.
pub(super) const GUEST_PROGRAMS: [(&str, Package); 9] = [
    ("busybox", Package::new("busybox-static", "busybox")),
    // The kernel itself calls it to load matches and targets.
    ("modprobe", KMOD),
    (
        "xtables-legacy-multi",
        Package::new("iptables", "iptables-legacy"),
    ),
    ("xtables-nft-multi", Package::new("iptables", "iptables-nft")),
    ("nft", Package::new("nftables", "nftables")),
    ("ipset", Package::new("ipset", "ipset")),
    ("ip", Package::new("iproute2", "iproute")),
    ("tc", Package::new("iproute2", "iproute-tc")),
    ("conntrack", Package::new("conntrack", "conntrack-tools")),
];

/// The packages of those programs that are not on the machine.
pub(super) fn missing_packages<'a>(
    programs: impl IntoIterator<Item = &'a (&'a str, Package)>,
) -> Vec<Package> {
    let mut packages: Vec<Package> = Vec::new();
    for (program, package) in programs {
        if process::find(program).is_none() && !packages.contains(package) {
            packages.push(package.clone());
        }
    }
    packages
}

/// The path of a program that the machine must have.
pub(super) fn program((name, package): &(&str, Package)) -> Result<PathBuf> {
    process::find(name).ok_or_else(|| missing(name, package))
}

/// The error for a program that is not there.
pub(super) fn missing(program: &str, package: &Package) -> anyhow::Error {
    hinted(
        format!("failed to find: {program}: not on PATH"),
        install_command(std::slice::from_ref(package)),
    )
}

/// Installs the packages where that needs no question: as root, on a machine with apt.
/// Anywhere else the error holds the command to type.
pub(super) fn install(ws: &Workspace, packages: &[Package]) -> Result<()> {
    if packages.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() || process::find("apt-get").is_none() {
        let names: Vec<_> = packages.iter().map(|package| package.debian.as_ref()).collect();
        return Err(hinted(
            format!("failed to find: {}: not installed", names.join(", ")),
            install_command(packages),
        ));
    }
    let step = Step::begin("host");
    step.now("apt-get update");
    process::output(apt_get().arg("update"))?;
    let mut names: Vec<&str> = packages.iter().map(|package| package.debian.as_ref()).collect();
    if packages.contains(&QEMU)
        && candidate_major(&policy(&QEMU)?).is_some_and(|major| major < QEMU_MAJOR_MIN)
    {
        match install_from_backports(ws, &QEMU, &step) {
            Ok(()) => names.retain(|name| *name != QEMU.debian),
            Err(error) => step.now(&format!("only an old QEMU can be had: {error:#}")),
        }
    }
    step.now(&format!("apt-get install {}", names.join(" ")));
    process::output(
        apt_get()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&names),
    )?;
    step.done("packages installed");
    Ok(())
}

/// Installs one package from the backports of the machine's own suite, without adding a source to the
/// machine.
fn install_from_backports(ws: &Workspace, package: &Package, step: &Step) -> Result<()> {
    let release = fs::read_to_string("/etc/os-release").context("failed to read: /etc/os-release")?;
    let codename = codename(&release).context("failed to tell the machine's suite: /etc/os-release")?;
    let suite = format!("{codename}-backports");
    step.now(&format!(
        "apt-get install --target-release {suite} {}",
        package.debian
    ));
    let dir = ws.vm().join("apt-host");
    let apt = Apt::beside_system(&dir, &sources::debian("/etc/apt".as_ref(), &[&suite])?)?;
    let mut apt_get = apt.command("apt-get");
    apt_get
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--yes", "--no-install-recommends"]);
    process::output(apt_get.args(["--target-release", &suite, package.debian.as_ref()]))?;
    fs::remove_dir_all(&dir).with_context(|| format!("failed to remove: {}", dir.display()))
}

/// Says so where the QEMU that is there is known to crash guests.
pub(super) fn warn_about_old_qemu() {
    let version = process::output(Command::new(QEMU_PROGRAM.0).arg("--version")).unwrap_or_default();
    if let Some(major) = qemu_major(&version).filter(|major| *major < QEMU_MAJOR_MIN) {
        eprintln!(
            "warning: QEMU {major} is known to crash Linux 6.12 at boot; {QEMU_MAJOR_MIN} or later is better \
             (on Debian: from the backports suite)"
        );
    }
}

/// What to type to install packages on this machine.
pub(super) fn install_command(packages: &[Package]) -> String {
    let list = |name: fn(&Package) -> &str| {
        let mut names: Vec<&str> = packages.iter().map(name).collect();
        names.dedup();
        names.join(" ")
    };
    let debian = format!("sudo apt-get install {}", list(|package| &package.debian));
    let fedora = format!("sudo dnf install {}", list(|package| package.fedora));
    if process::find("dnf").is_some() {
        fedora
    } else if process::find("apt-get").is_some() {
        debian
    } else {
        format!("install these with your package manager; elsewhere it would be\n{debian}\n{fedora}")
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-q"])
        .env("LC_ALL", "C")
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn policy(package: &Package) -> Result<String> {
    process::output(
        Command::new("apt-cache")
            .env("LC_ALL", "C")
            .args(["policy", package.debian.as_ref()]),
    )
}

/// The major version of the candidate in the output of `apt-cache policy`.
fn candidate_major(policy: &str) -> Option<u32> {
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    let upstream = version.split_once(':').map_or(version, |(_epoch, rest)| rest);
    leading_number(upstream)
}

/// The major version in the output of `qemu-system-x86_64 --version`.
fn qemu_major(version: &str) -> Option<u32> {
    leading_number(version.strip_prefix("QEMU emulator version ")?)
}

fn leading_number(text: &str) -> Option<u32> {
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn codename(os_release: &str) -> Option<&str> {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .map(|name| name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidate_in_policy_output() {
        let policy = "qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7+deb12u18+b3\n  Version table:\n";
        assert_eq!(candidate_major(policy), Some(7));
        assert_eq!(candidate_major("x:\n  Candidate: (none)\n"), None);
    }

    #[test]
    fn qemu_version() {
        assert_eq!(
            qemu_major("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"),
            Some(10)
        );
    }

    #[test]
    fn codename_of_the_machine() {
        assert_eq!(
            codename("ID=debian\nVERSION_CODENAME=bookworm\n"),
            Some("bookworm")
        );
        assert_eq!(codename("ID=arch\n"), None);
    }
}
