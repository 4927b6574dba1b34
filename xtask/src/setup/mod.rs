//! `cargo xtask setup`, and what other commands call for just what they need.
//!
//! Everything is looked for first and got only when missing, so that a second run is quick and needs no
//! network. Whatever is made goes to a temporary place and is moved when it is complete: an interrupted run
//! leaves nothing that looks finished.

mod apt;
mod host;
mod kernel;
mod peers;
mod sources;
mod toolchain;

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::workspace::Workspace;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask setup                            all: toolchain, bpf-linker, QEMU, four kernels
  cargo xtask setup --no-vm                    just what `cargo xtask build` and `run` need
  cargo xtask setup --kernel 6.1 --kernel 7    only these test kernels
  rm -r target/vm/kernels/7 && cargo xtask setup    the newest kernel of a series anew

Kernels come from the Debian archive that this machine's apt uses. Where there is none:
  TRACER_DEBIAN_URI=<archive uri> cargo xtask setup
or put the .deb files into target/vm/debs/.")]
pub(crate) struct Args {
    /// Test kernels to get [default: all]
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<Series>,

    /// Get nothing for the test machines
    #[arg(long, conflicts_with = "kernels")]
    no_vm: bool,
}

pub(crate) fn command(args: &Args) -> Result<()> {
    let ws = Workspace::find()?;
    let mut packages = if args.no_vm {
        Vec::new()
    } else {
        missing_vm_packages()
    };
    if !packages.is_empty() {
        // All at once, so that whoever has to type the command types it once.
        packages.extend(toolchain::missing_packages(&ws)?);
        let _lock = lock(&ws)?;
        host::install(&ws, &packages)?;
    }
    eprintln!("bpf-linker: {}", bpf_linker(&ws)?.display());
    if !args.no_vm {
        eprintln!("qemu: {}", vm_tools(&ws)?.qemu.display());
        host::warn_about_old_qemu();
        let wanted: &[Series] = if args.kernels.is_empty() {
            &Series::ALL
        } else {
            &args.kernels
        };
        for kernel in kernels(&ws, wanted)? {
            eprintln!("kernel {}: {}", kernel.series, kernel.release);
        }
    }
    Ok(())
}

/// The kernels that tracer is tested on, by the beginning of their version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Series {
    /// BTF for vmlinux only, kprobes only
    #[value(name = "5.10")]
    V5_10,
    /// Module BTF
    #[value(name = "6.1")]
    V6_1,
    /// Module BTF and fprobe
    #[value(name = "6.12")]
    V6_12,
    /// The newest
    #[value(name = "7")]
    V7,
}

impl Series {
    pub(crate) const ALL: [Self; 4] = [Self::V5_10, Self::V6_1, Self::V6_12, Self::V7];
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V5_10 => "5.10",
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::V7 => "7",
        })
    }
}

/// A kernel for test machines, complete with modules.dep.
pub(crate) struct Kernel {
    pub(crate) series: Series,
    /// What `uname -r` says under it.
    pub(crate) release: String,
    pub(crate) vmlinuz: PathBuf,
    /// Its module tree; the last component is the release.
    pub(crate) modules: PathBuf,
}

/// Programs that test machines are made of.
pub(crate) struct VmTools {
    pub(crate) qemu: PathBuf,
    /// Programs of this machine that are copied into the guest, under their own names.
    pub(crate) guest_programs: Vec<PathBuf>,
}

/// Other tracers, in a root of their own with all libraries: they are newer than this machine's may be.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    pub(crate) root: PathBuf,
    /// Below the root.
    pub(crate) programs: Vec<PathBuf>,
}

/// bpf-linker, and with it the sources of `core`, which every build for BPF needs too.
pub(crate) fn bpf_linker(ws: &Workspace) -> Result<PathBuf> {
    if let (Some(linker), (_, true)) = (toolchain::find_linker(ws), toolchain::rust_src()?) {
        return Ok(linker);
    }
    let _lock = lock(ws)?;
    let (library, there) = toolchain::rust_src()?;
    if !there {
        toolchain::install_rust_src(ws, &library)?;
    }
    match toolchain::find_linker(ws) {
        Some(linker) => Ok(linker),
        None => toolchain::install_linker(ws),
    }
}

/// QEMU and the programs of the guests.
pub(crate) fn vm_tools(ws: &Workspace) -> Result<VmTools> {
    if !missing_vm_packages().is_empty() {
        let _lock = lock(ws)?;
        host::install(ws, &missing_vm_packages())?;
    }
    Ok(VmTools {
        qemu: host::program(&host::QEMU_PROGRAM)?,
        guest_programs: host::GUEST_PROGRAMS
            .iter()
            .map(host::program)
            .collect::<Result<_>>()?,
    })
}

/// The kernels of these series, in this order.
pub(crate) fn kernels(ws: &Workspace, series: &[Series]) -> Result<Vec<Kernel>> {
    let installed = || {
        series
            .iter()
            .map(|series| kernel::installed(ws, *series))
            .collect::<Option<Vec<_>>>()
    };
    if let Some(kernels) = installed() {
        return Ok(kernels);
    }
    let _lock = lock(ws)?;
    host::install(ws, &host::missing_packages([&host::DEPMOD]))?;
    series
        .iter()
        .map(|series| match kernel::installed(ws, *series) {
            Some(kernel) => Ok(kernel),
            None => kernel::install(ws, *series),
        })
        .collect()
}

/// The other tracers that the bench compares with.
pub(crate) fn peers(ws: &Workspace) -> Result<Peers> {
    if let Some(peers) = peers::installed(ws) {
        return Ok(peers);
    }
    let _lock = lock(ws)?;
    match peers::installed(ws) {
        Some(peers) => Ok(peers),
        None => peers::install(ws),
    }
}

fn missing_vm_packages() -> Vec<host::Package> {
    host::missing_packages(
        [&host::QEMU_PROGRAM, &host::DEPMOD]
            .into_iter()
            .chain(&host::GUEST_PROGRAMS),
    )
}

/// One installation at a time in a target directory. Released when the file is closed, whatever the end.
fn lock(ws: &Workspace) -> Result<File> {
    let path = ws.target().join("setup.lock");
    fs::create_dir_all(ws.target())
        .with_context(|| format!("failed to create: {}", ws.target().display()))?;
    let file = File::create(&path).with_context(|| format!("failed to create: {}", path.display()))?;
    if let Err(TryLockError::WouldBlock) = file.try_lock() {
        eprintln!("setup: waiting for another cargo xtask");
    }
    file.lock()
        .with_context(|| format!("failed to lock: {}", path.display()))?;
    Ok(file)
}

/// Removes a directory, if it is there.
fn remove(dir: &Path) -> Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    fs::remove_dir_all(dir).with_context(|| format!("failed to remove: {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_parsed_as_they_are_shown() {
        for series in Series::ALL {
            assert_eq!(Series::from_str(&series.to_string(), false), Ok(series));
        }
        assert!(Series::from_str("6", false).is_err());
    }
}
