//! What turns Rust into BPF: the sources of `core`, and bpf-linker.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::apt::{self, Apt};
use super::host::{self, Package};
use super::sources;
use crate::error::hinted;
use crate::process;
use crate::progress::Step;
use crate::workspace::Workspace;

const LINKER: &str = "bpf-linker";

/// Reads the bitcode of LLVM 22, which the project's rustc writes.
const LINKER_VERSION: &str = "0.13.0";

/// The suite whose rust-src is as new as the project's rustc.
const RUST_SRC_SUITE: &str = "trixie-backports";

/// The compiler that cargo uses here.
struct Rustc {
    /// 1.95.0
    release: String,
    llvm_major: u32,
}

impl Rustc {
    fn ask() -> Result<Self> {
        let text = process::output(Command::new("rustc").arg("-vV"))?;
        Self::parse(&text).context("failed to understand: rustc -vV")
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        Some(Self {
            release: field("release: ")?.to_owned(),
            llvm_major: field("LLVM version: ")?.split('.').next()?.parse().ok()?,
        })
    }
}

/// bpf-linker on PATH, or the one that was built for this workspace.
pub(super) fn find_linker(ws: &Workspace) -> Option<PathBuf> {
    Some(ws.tools().join("bin").join(LINKER))
        .filter(|path| path.is_file())
        .or_else(|| process::find(LINKER))
}

/// The package that bpf-linker cannot be built without, if it has to be built and the package is missing.
pub(super) fn missing_packages(ws: &Workspace) -> Result<Vec<Package>> {
    if find_linker(ws).is_some() {
        return Ok(Vec::new());
    }
    let major = Rustc::ask()?.llvm_major;
    Ok(if llvm_prefix(major).is_some() {
        Vec::new()
    } else {
        vec![Package::llvm(major)]
    })
}

/// Builds bpf-linker for this workspace.
pub(super) fn install_linker(ws: &Workspace) -> Result<PathBuf> {
    let major = Rustc::ask()?.llvm_major;
    host::install(ws, &missing_packages(ws)?).map_err(|error| {
        let hint = format!(
            "cargo binstall {LINKER}\nor, to let xtask build it: {}",
            host::install_command(&[Package::llvm(major)])
        );
        hinted(
            format!("failed to build: {LINKER}: LLVM {major} for developers is missing ({error})"),
            hint,
        )
    })?;
    let prefix =
        llvm_prefix(major).with_context(|| format!("failed to build: {LINKER}: no libLLVM {major}"))?;
    let step = Step::begin(LINKER);
    step.now(&format!(
        "building {LINKER_VERSION} with LLVM {major}, about a minute"
    ));
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args([
            "install",
            LINKER,
            "--version",
            LINKER_VERSION,
            "--locked",
            "--no-default-features",
        ])
        .args([&format!("--features=llvm-{major}"), "--root"])
        .arg(ws.tools())
        // Without it the build does not find libLLVM.
        .env("LLVM_PREFIX", prefix)
        .env_remove("CARGO_TARGET_DIR");
    process::output(&mut cargo)?;
    step.done("built");
    Ok(ws.tools().join("bin").join(LINKER))
}

/// Where an LLVM of this version is installed for developers.
fn llvm_prefix(major: u32) -> Option<PathBuf> {
    let ask = |program: &str, what: &str| {
        process::output(Command::new(program).arg(what))
            .ok()
            .map(|text| text.trim().to_owned())
    };
    [format!("llvm-config-{major}"), "llvm-config".into()]
        .iter()
        .find_map(|program| {
            let version = ask(program, "--version")?;
            let libraries = PathBuf::from(ask(program, "--libdir")?);
            // llvm-config alone does not make an LLVM that can be linked with.
            let usable = version.starts_with(&format!("{major}.")) && libraries.join("libLLVM.so").exists();
            usable
                .then(|| ask(program, "--prefix").map(PathBuf::from))
                .flatten()
        })
}

/// The place of the sources of the standard library, and whether they are there.
pub(super) fn rust_src() -> Result<(PathBuf, bool)> {
    let sysroot = process::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    let there = library.join("core/Cargo.toml").is_file();
    Ok((library, there))
}

/// Gets the sources from rustup, or where rustup cannot, from Debian's package of the same version.
pub(super) fn install_rust_src(ws: &Workspace, library: &Path) -> Result<()> {
    let step = Step::begin("rust-src");
    step.now("rustup component add rust-src");
    let Err(rustup) = process::output(Command::new("rustup").args(["component", "add", "rust-src"])) else {
        step.done("added by rustup");
        return Ok(());
    };
    step.now("rustup could not get it, trying Debian's package");
    let dir = ws.target().join("rust-src");
    install_debian_rust_src(&dir, library, &step).map_err(|debian| {
        hinted(
            format!("failed to install: rust-src: {debian:#}, and before that: {rustup:#}"),
            "rustup component add rust-src",
        )
    })?;
    fs::remove_dir_all(&dir).with_context(|| format!("failed to remove: {}", dir.display()))?;
    step.done("taken from Debian's package");
    Ok(())
}

fn install_debian_rust_src(dir: &Path, library: &Path, step: &Step) -> Result<()> {
    let release = Rustc::ask()?.release;
    let stanzas = sources::debian("/etc/apt".as_ref(), &[RUST_SRC_SUITE])?;
    let (apt, versions) = Apt::open(&dir.join("apt"), &stanzas)?.versions("rust-src")?;
    let version = same_release(&versions, &release)
        .with_context(|| format!("failed to find: rust-src {release}: {RUST_SRC_SUITE} has {versions:?}"))?;
    let debs = apt.download(&[format!("rust-src={version}")], &dir.join("debs"), step)?;
    let tree = dir.join("tree");
    for deb in &debs {
        step.now("unpacking");
        apt::extract(deb, &tree)?;
    }
    let unpacked = tree.join(format!("usr/src/rustc-{release}/library"));
    let parent = library
        .parent()
        .context("failed to place: rust-src: no parent directory")?;
    fs::create_dir_all(parent).with_context(|| format!("failed to create: {}", parent.display()))?;
    // Copied beside its place first: the toolchain may be on another file system than target/.
    let beside = parent.join("library.new");
    process::output(
        Command::new("cp")
            .args(["-R", "--no-target-directory"])
            .args([&unpacked, &beside]),
    )?;
    fs::rename(&beside, library).with_context(|| format!("failed to place: {}", library.display()))
}

/// The Debian version that packages exactly this release of Rust.
fn same_release<'a>(versions: &'a [String], release: &str) -> Option<&'a str> {
    versions.iter().map(String::as_str).find(|version| {
        version
            .strip_prefix(release)
            .is_some_and(|rest| rest.starts_with(['+', '-', '~']))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_version() {
        let rustc = Rustc::parse("rustc 1.95.0 (x)\nrelease: 1.95.0\nLLVM version: 22.1.2\n").unwrap();
        assert_eq!((rustc.release.as_str(), rustc.llvm_major), ("1.95.0", 22));
    }

    #[test]
    fn only_the_same_release_will_do() {
        let versions = ["1.96.0+dfsg1-1", "1.95.0+dfsg1-1~bpo13+1"].map(String::from);
        assert_eq!(same_release(&versions, "1.95.0"), Some("1.95.0+dfsg1-1~bpo13+1"));
        assert_eq!(same_release(&versions, "1.9"), None);
    }
}
