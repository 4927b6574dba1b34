//! `cargo xtask dist`: a release archive for nodes that have no toolchain.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::workspace::Workspace;
use crate::{build, process};

/// What goes into the archive as it is, beside the documentation.
const FILES: [(&str, &str); 5] = [
    ("README.md", "README.md"),
    ("ARCHITECTURE.md", "ARCHITECTURE.md"),
    ("LICENSE-MIT", "LICENSE-MIT"),
    ("LICENSE-APACHE", "LICENSE-APACHE"),
    ("tracer-ebpf/LICENSE-GPL2", "LICENSE-GPL2"),
];
/// The documentation, whole: its pages lead to each other.
const DOCS: &str = "docs";

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
    let files = files(&ws.root)?;
    for (from, to) in &files {
        copy(&ws.root.join(from), &tree.join(to))?;
    }
    let archive = pack(&dist, &name)?;
    holds_everything(&archive, &name, &files)?;
    println!("{}", archive.display());
    Ok(())
}

/// Everything that goes into the archive as it is: where it is, and where it goes.
fn files(root: &Path) -> Result<Vec<(String, String)>> {
    let mut files: Vec<(String, String)> = FILES
        .iter()
        .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
        .collect();
    let mut directories = vec![DOCS.to_owned()];
    while let Some(directory) = directories.pop() {
        let failed = || format!("failed to read: {directory}");
        for entry in fs::read_dir(root.join(&directory)).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let path = format!("{directory}/{}", entry.file_name().to_string_lossy());
            if entry.file_type().with_context(failed)?.is_dir() {
                directories.push(path);
            } else {
                files.push((path.clone(), path));
            }
        }
    }
    files.sort_unstable();
    Ok(files)
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

fn holds_everything(archive: &Path, name: &str, files: &[(String, String)]) -> Result<()> {
    let list = process::output(Command::new("tar").arg("-tf").arg(archive))?;
    match missing(&list, name, files) {
        None => Ok(()),
        Some(file) => anyhow::bail!("failed to pack: {}: {file} is not in it", archive.display()),
    }
}

/// The first file that is not in the list of an archive's files.
fn missing<'a>(list: &str, name: &str, files: &'a [(String, String)]) -> Option<&'a str> {
    let mut files = files.iter().map(|(_, to)| to.as_str()).chain(MADE);
    let has = |file: &str| list.lines().any(|line| line == format!("{name}/{file}"));
    files.find(|file| !has(file))
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

    fn all() -> Vec<(String, String)> {
        files(&Workspace::find().unwrap().root).unwrap()
    }

    #[test]
    fn what_is_missing_in_an_archive_is_named() {
        let files = all();
        let whole: String = files
            .iter()
            .map(|(_, to)| to.as_str())
            .chain(MADE)
            .map(|file| format!("t-1/{file}\n"))
            .collect();
        assert_eq!(missing(&whole, "t-1", &files), None);
        assert_eq!(
            missing(&whole.replace("t-1/man/tracer.1\n", ""), "t-1", &files),
            Some("man/tracer.1")
        );
    }

    /// Every link of every page leads to a file of the archive, or to a directory of such.
    #[test]
    fn pages_lead_to_what_is_packed() {
        let root = Workspace::find().unwrap().root;
        let files = all();
        let is_packed = |path: &str| {
            files
                .iter()
                .any(|(_, to)| to == path || to.starts_with(&format!("{path}/")))
        };
        for (from, to) in files.iter().filter(|(_, to)| to.ends_with(".md")) {
            let text = fs::read_to_string(root.join(from)).unwrap();
            let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
            for (link, _) in links.filter(|(link, _)| !link.contains("://") && !link.starts_with('#')) {
                let file = link.split('#').next().unwrap_or(link);
                let mut beside = Path::new(to).parent().unwrap().to_owned();
                for part in Path::new(file) {
                    if part == ".." {
                        assert!(beside.pop(), "{to}: {link}");
                    } else {
                        beside.push(part);
                    }
                }
                assert!(is_packed(beside.to_str().unwrap()), "{to}: {link}");
            }
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
