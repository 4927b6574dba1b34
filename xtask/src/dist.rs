//! `cargo xtask dist`: a release archive for nodes that have no toolchain.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::workspace::Workspace;
use crate::{build, process};

/// What goes into the archive as it is.
const FILES: [(&str, &str); 5] = [
    ("README.md", "README.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("tracer-ebpf/LICENSE-GPL2", "LICENSE-GPL2"),
    ("docs/recording.md", "docs/recording.md"),
];

/// The rest: made by this command.
const MADE: [&str; 5] = [
    "tracer",
    "man/tracer.1",
    "completions/tracer.bash",
    "completions/_tracer",
    "completions/tracer.fish",
];

#[derive(clap::Args)]
#[command(after_help = "\
The archive has tracer as one static binary, its man pages and completions for bash, zsh and fish. To
install from it: copy `tracer` to a directory on PATH, man/*.1 to a man1 directory, and the completions
to where your shell looks for them.")]
pub(crate) struct Args {}

/// Makes the archive and its checksum, and prints the path of the archive.
pub(crate) fn command(_: &Args) -> Result<()> {
    let ws = Workspace::find()?;
    let name = format!("tracer-{}-{}-linux", env!("CARGO_PKG_VERSION"), env::consts::ARCH);
    let dist = ws.target().join("dist");
    let tree = dist.join(&name);
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("failed to remove: {}", tree.display()))?;
    }
    create_dir(&tree)?;
    let binary = build::static_tracer(&ws)?;
    copy(&binary, &tree.join("tracer"))?;
    fs::set_permissions(tree.join("tracer"), fs::Permissions::from_mode(0o755))
        .context("failed to set permissions: tracer")?;
    runs_alone(&tree.join("tracer"))?;
    build::run_example(&ws, "documents", &tree)?;
    for (from, to) in FILES {
        copy(&ws.root.join(from), &tree.join(to))?;
    }
    let archive = pack(&dist, &name)?;
    holds_everything(&archive, &name)?;
    println!("{}", archive.display());
    Ok(())
}

/// A binary that needs nothing of the node but its kernel.
fn runs_alone(binary: &Path) -> Result<()> {
    let bytes = fs::read(binary).with_context(|| format!("failed to read: {}", binary.display()))?;
    ensure!(
        !needs_a_loader(&bytes)?,
        "failed to link statically: {}: it asks for a dynamic loader",
        binary.display()
    );
    let said = process::output(Command::new(binary).arg("--version").env_clear())?;
    ensure!(
        said.starts_with("tracer "),
        "failed to run: {}: {said}",
        binary.display()
    );
    Ok(())
}

/// Whether an ELF file has a program header of the kind `PT_INTERP`.
fn needs_a_loader(elf: &[u8]) -> Result<bool> {
    const INTERP: u32 = 3;

    let word = |at: usize, len: usize| -> Result<u64> {
        let bytes = elf
            .get(at..at + len)
            .context("failed to read: ELF header: it is cut short")?;
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)))
    };
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "failed to read: ELF header: not 64 bit, little-endian"
    );
    let (offset, len, count) = (word(32, 8)?, word(54, 2)?, word(56, 2)?);
    for number in 0..count {
        let at = usize::try_from(offset + number * len).context("failed to read: ELF header")?;
        if word(at, 4)? == u64::from(INTERP) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The same files make the same archive.
fn pack(dist: &Path, name: &str) -> Result<PathBuf> {
    let archive = format!("{name}.tar.gz");
    process::output(Command::new("tar").current_dir(dist).args([
        "--sort=name",
        "--owner=0",
        "--group=0",
        "--numeric-owner",
        "--mtime=@0",
        "--use-compress-program=gzip -9n",
        "-cf",
        &archive,
        name,
    ]))?;
    let sum = process::output(Command::new("sha256sum").current_dir(dist).arg(&archive))?;
    let sum_file = dist.join(format!("{archive}.sha256"));
    fs::write(&sum_file, sum).with_context(|| format!("failed to write: {}", sum_file.display()))?;
    Ok(dist.join(archive))
}

fn holds_everything(archive: &Path, name: &str) -> Result<()> {
    let list = process::output(Command::new("tar").arg("-tf").arg(archive))?;
    match missing(&list, name) {
        None => Ok(()),
        Some(file) => anyhow::bail!("failed to pack: {}: {file} is not in it", archive.display()),
    }
}

/// The first file that is not in the list of an archive's files.
fn missing(list: &str, name: &str) -> Option<&'static str> {
    let files = FILES.iter().map(|(_, to)| *to).chain(MADE);
    let has = |file: &str| list.lines().any(|line| line == format!("{name}/{file}"));
    files.into_iter().find(|file| !has(file))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    create_dir(to.parent().unwrap_or(to))?;
    fs::copy(from, to).with_context(|| format!("failed to copy: {}", from.display()))?;
    Ok(())
}

fn create_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create: {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_in_an_archive_is_named() {
        let whole: String = FILES
            .iter()
            .map(|(_, to)| *to)
            .chain(MADE)
            .map(|file| format!("t-1/{file}\n"))
            .collect();
        assert_eq!(missing(&whole, "t-1"), None);
        assert_eq!(
            missing(&whole.replace("t-1/man/tracer.1\n", ""), "t-1"),
            Some("man/tracer.1")
        );
    }

    #[test]
    fn what_is_packed_exists() {
        let root = Workspace::find().unwrap().root;
        for (from, _) in FILES {
            assert!(root.join(from).is_file(), "{from}");
        }
    }

    #[test]
    fn a_dynamic_binary_is_told_from_others() {
        // This test's own binary, as cargo builds them by default.
        let own = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(needs_a_loader(&own).unwrap());
        assert!(needs_a_loader(&own[..60]).is_err());
        assert!(needs_a_loader(b"#!/bin/sh").is_err());
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let dist = tempfile::tempdir().unwrap();
        copy(&env::current_exe().unwrap(), &dist.path().join("t/file")).unwrap();
        let first = fs::read(pack(dist.path(), "t").unwrap()).unwrap();
        copy(&env::current_exe().unwrap(), &dist.path().join("t/file")).unwrap();
        assert!(fs::read(pack(dist.path(), "t").unwrap()).unwrap() == first);
    }
}
