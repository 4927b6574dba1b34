//! The first root file system of a guest, in parts that are kept as long as their inputs do not change:
//! tools (shared by all kernels), modules (one per kernel), our own programs, other tracers where they are compared with,
//! and the job of one run.
//!
//! The parts are not compressed: unpacking under emulation costs more than it saves on the disk.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;
use super::job::Job;
use super::modules;
use crate::process;
use crate::setup::{Kernel, Peers, VmTools};
use crate::workspace::Workspace;

/// Where programs look for names of users, protocols and services.
const DATABASES: [&str; 2] = ["/etc/protocols", "/etc/services"];

/// Other names of programs that act by the name they are called with.
const NAMES: [(&str, &[&str]); 3] = [
    (
        "xtables-legacy-multi",
        &[
            "iptables-legacy",
            "iptables-legacy-restore",
            "iptables-legacy-save",
            "ip6tables-legacy",
            "ip6tables-legacy-restore",
            "ip6tables-legacy-save",
        ],
    ),
    (
        "xtables-nft-multi",
        &[
            "iptables",
            "iptables-restore",
            "iptables-save",
            "iptables-nft",
            "iptables-nft-restore",
            "iptables-nft-save",
            "ip6tables",
            "ip6tables-restore",
            "ip6tables-save",
            "ip6tables-nft",
            "ip6tables-nft-restore",
            "ip6tables-nft-save",
            "arptables-nft",
            "ebtables-nft",
            "xtables-monitor",
        ],
    ),
    ("modprobe", &["depmod", "insmod", "lsmod", "modinfo", "rmmod"]),
];

/// Programs and data that go into an image besides the tools.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    /// All binaries of the `tests` package, `guest-init` among them.
    pub(crate) tests: Vec<PathBuf>,
    /// The `tracer` binary, where the job needs it.
    pub(crate) tracer: Option<PathBuf>,
    /// Other tracers, where the job compares with them: they are larger than all the rest, and each boot unpacks them.
    pub(crate) peers: Option<Peers>,
}

/// The parts of an image that do not depend on the job.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    parts: Vec<PathBuf>,
}

impl Image {
    /// Builds the parts whose inputs have changed.
    pub(crate) fn build(
        ws: &Workspace,
        tools: &VmTools,
        kernel: &Kernel,
        programs: &Programs,
    ) -> Result<Self> {
        let store = ws.vm().join("images");
        fs::create_dir_all(&store).with_context(|| format!("failed to create: {}", store.display()))?;
        // Guests that start at the same time share parts: the first builds them, the others find them.
        let lock = store.join("lock");
        let lock = File::create(&lock)
            .and_then(|lock| lock.lock().map(|()| lock))
            .with_context(|| format!("failed to lock: {}", lock.display()))?;
        let mut parts = vec![
            modules::part(&store, kernel)?,
            kept(&store, "tools", &tool_files(tools)?)?,
            kept(&store, "programs", &program_files(ws, &store, programs)?)?,
        ];
        if let Some(peers) = &programs.peers {
            parts.push(kept(&store, "peers", &peer_files(peers)?)?);
        }
        drop(lock);
        Ok(Self { parts })
    }

    /// An image that only says hello: init and what it is linked with.
    pub(crate) fn minimal(ws: &Workspace, programs: &Programs) -> Result<Self> {
        let store = ws.vm().join("images");
        fs::create_dir_all(&store).with_context(|| format!("failed to create: {}", store.display()))?;
        let mut archive = Archive::default();
        skeleton(&mut archive);
        let init = init_of(programs)?;
        archive.file("init", init)?;
        add_libraries(&mut archive, std::slice::from_ref(init))?;
        Ok(Self {
            parts: vec![kept(&store, "minimal", &archive)?],
        })
    }

    /// The whole image for one run, in a file without a name: it is gone when the last user is.
    pub(crate) fn assemble(&self, job: &Job, place: &Path) -> Result<File> {
        let mut whole = tempfile::tempfile_in(place)
            .with_context(|| format!("failed to create file in: {}", place.display()))?;
        for part in &self.parts {
            File::open(part)
                .and_then(|mut part| io::copy(&mut part, &mut whole))
                .with_context(|| format!("failed to copy: {}", part.display()))?;
        }
        let mut archive = Archive::default();
        archive.bytes("job", job.encode(), 0o644);
        if let Some(stdin) = &job.stdin {
            archive.bytes("stdin", stdin.as_slice(), 0o644);
        }
        archive.write(&mut whole)?;
        Ok(whole)
    }
}

/// The path of the stored archive of this content; writes it, and drops older ones, when it is new.
pub(super) fn kept(store: &Path, name: &str, archive: &Archive) -> Result<PathBuf> {
    let path = store.join(format!("{name}-{:016x}.cpio", archive.fingerprint()));
    if path.exists() {
        return Ok(path);
    }
    let failed = || format!("failed to write: {}", path.display());
    let fresh = tempfile::NamedTempFile::new_in(store).with_context(failed)?;
    let mut out = BufWriter::with_capacity(1 << 20, fresh);
    archive.write(&mut out)?;
    let fresh = out
        .into_inner()
        .map_err(io::IntoInnerError::into_error)
        .with_context(failed)?;
    forget(store, name);
    fresh.persist(&path).with_context(failed)?;
    Ok(path)
}

/// Removes stored archives of this name. What cannot be removed only costs space.
fn forget(store: &Path, name: &str) {
    let prefix = format!("{name}-");
    for entry in fs::read_dir(store).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let rest = file
            .to_str()
            .and_then(|file| file.strip_prefix(&prefix)?.strip_suffix(".cpio"));
        if rest.is_some_and(|rest| rest.len() == 16) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

fn skeleton(archive: &mut Archive) {
    for merged in ["bin", "sbin", "lib", "lib64"] {
        archive.directory(Path::new("usr").join(merged));
        archive.symlink(merged, Path::new("usr").join(merged));
    }
    for directory in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var"] {
        archive.directory(directory);
    }
    archive.symlink("var/run", "/run");
    archive.bytes(
        "etc/passwd",
        *b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        0o644,
    );
    archive.bytes("etc/group", *b"root:x:0:\nnogroup:x:65534:\n", 0o644);
    archive.bytes("etc/hosts", *b"127.0.0.1 localhost\n::1 localhost\n", 0o644);
}

fn tool_files(tools: &VmTools) -> Result<Archive> {
    let mut archive = Archive::default();
    skeleton(&mut archive);
    for database in DATABASES.map(Path::new) {
        if database.exists() {
            archive.file(database, database)?;
        }
    }
    let mut linked = Vec::new();
    for program in &tools.guest_programs {
        linked.push(add_program(&mut archive, program)?);
    }
    linked.extend(add_shell(&mut archive)?);
    let busybox = named(&tools.guest_programs, "busybox")?;
    add_applets(&mut archive, busybox, &tools.guest_programs)?;
    if !has(&tools.guest_programs, "modprobe") {
        bail!("failed to build image: no modprobe among the tools: the kernel itself calls it");
    }
    let extensions = extension_directory()?;
    archive.tree(&extensions, &extensions)?;
    linked.extend(files_of(&extensions)?);
    add_libraries(&mut archive, &linked)?;
    Ok(archive)
}

fn program_files(ws: &Workspace, store: &Path, programs: &Programs) -> Result<Archive> {
    let mut archive = Archive::default();
    let init = init_of(programs)?;
    archive.file("init", &without_debug_info(store, init)?)?;
    let own: Vec<PathBuf> = programs.tests.iter().chain(&programs.tracer).cloned().collect();
    for program in &own {
        let Some(name) = program.file_name() else { continue };
        archive.file(
            Path::new("usr/bin").join(name),
            &without_debug_info(store, program)?,
        )?;
    }
    add_libraries(&mut archive, &own)?;
    archive.tree(Path::new("fixtures"), &ws.root.join("tests/fixtures"))?;
    Ok(archive)
}

/// Where a root of packages has its libraries, and the loader that knows their libc.
const PEER_LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const PEER_LOADER: &str = "usr/lib64/ld-linux-x86-64.so.2";
/// Where such a root is in the image.
const PEER_ROOT: &str = "peers";

/// The programs with the libraries that they are linked with, and under their own names scripts that start them with
/// these libraries rather than the guest's.
fn peer_files(peers: &Peers) -> Result<Archive> {
    let mut archive = Archive::default();
    let loader = peers.root.join(PEER_LOADER);
    let mut add = |file: &Path| {
        let inside = file.strip_prefix(&peers.root).context("failed to build image")?;
        archive.file(Path::new(PEER_ROOT).join(inside), file)
    };
    add(&loader)?;
    for program in &peers.programs {
        let linked = process::output(
            Command::new(&loader)
                .arg("--library-path")
                .arg(peers.root.join(PEER_LIBRARIES))
                .arg("--list")
                .arg(program),
        )?;
        add(program)?;
        for library in libraries(&linked) {
            let library = library?;
            // The loader is listed where the program looks for it.
            if library.starts_with(&peers.root) {
                add(library)?;
            }
        }
    }
    for program in &peers.programs {
        let Some(name) = program.file_name().and_then(OsStr::to_str) else {
            continue;
        };
        let script = format!(
            "#!/bin/sh\nexec /{PEER_ROOT}/{PEER_LOADER} --library-path /{PEER_ROOT}/{PEER_LIBRARIES} \
             /{PEER_ROOT}/usr/bin/{name} \"$@\"\n"
        );
        archive.bytes(Path::new("usr/bin").join(name), script, 0o755);
    }
    Ok(archive)
}

/// A copy without debug information, most of the size of a program: each boot unpacks it anew. Names of
/// functions stay for backtraces. Where it cannot be made, the program itself.
fn without_debug_info(store: &Path, program: &Path) -> Result<PathBuf> {
    let (Some(name), Some(strip)) = (program.file_name(), process::find("strip")) else {
        return Ok(program.to_owned());
    };
    let copy = store.join("stripped").join(name);
    let changed = |file: &Path| fs::metadata(file).and_then(|about| about.modified());
    let is_fresh = matches!((changed(&copy), changed(program)), (Ok(copy), Ok(program)) if copy > program);
    if !is_fresh {
        let place = store.join("stripped");
        fs::create_dir_all(&place).with_context(|| format!("failed to create: {}", place.display()))?;
        // Not in place: another guest may be packing the copy at this moment.
        let fresh = tempfile::NamedTempFile::new_in(&place).context("failed to create file")?;
        let made = process::output(
            Command::new(strip)
                .arg("-g")
                .arg("-o")
                .arg(fresh.path())
                .arg(program),
        );
        if made.is_err() {
            return Ok(program.to_owned());
        }
        fresh
            .persist(&copy)
            .with_context(|| format!("failed to write: {}", copy.display()))?;
    }
    Ok(copy)
}

fn init_of(programs: &Programs) -> Result<&PathBuf> {
    named(&programs.tests, "guest-init")
}

fn named<'a>(programs: &'a [PathBuf], name: &str) -> Result<&'a PathBuf> {
    programs
        .iter()
        .find(|program| program.file_name().is_some_and(|file| file == name))
        .with_context(|| format!("failed to build image: {name}: not among the programs"))
}

fn has(programs: &[PathBuf], name: &str) -> bool {
    named(programs, name).is_ok()
}

/// Adds a program under its own name and the others it has; where that is a link (alternatives, multi-call programs), the file
/// it leads to as well. Returns that file.
fn add_program(archive: &mut Archive, program: &Path) -> Result<PathBuf> {
    let real = fs::canonicalize(program).with_context(|| format!("failed to find: {}", program.display()))?;
    archive.file(&real, &real)?;
    let own = program.file_name().and_then(OsStr::to_str).unwrap_or_default();
    let others = NAMES
        .iter()
        .find(|(name, _)| *name == own)
        .map_or(&[][..], |(_, others)| *others);
    for name in others.iter().chain([&own]) {
        let link = Path::new("usr/sbin").join(name);
        if !archive.has(&link) {
            archive.symlink(link, &real);
        }
    }
    Ok(real)
}

/// Makes this machine's bash the shell. That of busybox runs its own applets in place of the real tools.
fn add_shell(archive: &mut Archive) -> Result<Option<PathBuf>> {
    let bash = Path::new("/bin/bash");
    if !bash.exists() {
        return Ok(None);
    }
    archive.file(bash, bash)?;
    archive.symlink("usr/bin/sh", "bash");
    Ok(Some(bash.to_owned()))
}

/// Links to busybox for every applet, except where a real tool has the name.
fn add_applets(archive: &mut Archive, busybox: &Path, programs: &[PathBuf]) -> Result<()> {
    let list = process::output(Command::new(busybox).arg("--list"))?;
    let real = fs::canonicalize(busybox).with_context(|| format!("failed to find: {}", busybox.display()))?;
    for applet in list.lines().filter(|applet| !has(programs, applet)) {
        let link = Path::new("usr/bin").join(applet);
        if !archive.has(&link) && !archive.has(Path::new("usr/sbin").join(applet)) {
            archive.symlink(link, &real);
        }
    }
    Ok(())
}

/// Where this machine's iptables keeps its extensions; the tool has the path compiled in.
fn extension_directory() -> Result<PathBuf> {
    let nested = fs::read_dir("/usr/lib")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    ["/usr/lib", "/usr/lib64"]
        .map(PathBuf::from)
        .into_iter()
        .chain(nested)
        .map(|place| place.join("xtables"))
        .find(|place| place.is_dir())
        .context("failed to build image: no directory with iptables extensions (xtables)")
}

fn files_of(directory: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(directory)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| format!("failed to read: {}", directory.display()))
}

/// Adds the libraries that these files are linked with, as `ldd` tells.
fn add_libraries(archive: &mut Archive, files: &[PathBuf]) -> Result<()> {
    // ldd fails when one of many files is static, so only its words count.
    let output = Command::new("ldd")
        .args(files)
        .output()
        .context("failed to run: ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    for library in libraries(&text) {
        let library = library?;
        archive.file(library, library)?;
    }
    Ok(())
}

/// The paths in the output of `ldd`; an error for a library that is not there.
fn libraries(ldd: &str) -> impl Iterator<Item = Result<&Path>> {
    ldd.lines().filter_map(|line| {
        if line.contains("=> not found") {
            return Some(Err(anyhow::anyhow!("failed to find library: {}", line.trim())));
        }
        // A line that ends with a colon names the file that was asked about.
        if !line.starts_with(char::is_whitespace) || line.ends_with(':') {
            return None;
        }
        line.split_whitespace()
            .find(|word| word.starts_with('/'))
            .map(|path| Ok(Path::new(path)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_says() {
        let text = "/usr/bin/a:\n\tlinux-vdso.so.1 (0x7)\n\tlibc.so.6 => /lib/libc.so.6 (0x7)\n\
                    \t/lib64/ld-linux.so.2 (0x7)\n/usr/bin/b:\n\tnot a dynamic executable\n";
        let found: Vec<_> = libraries(text).map(Result::unwrap).collect();
        assert_eq!(
            found,
            [Path::new("/lib/libc.so.6"), Path::new("/lib64/ld-linux.so.2")]
        );
        assert!(libraries("\tlibx.so => not found\n").any(|library| library.is_err()));
    }
}
