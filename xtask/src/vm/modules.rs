//! The part of an image that holds a kernel's modules: all that networking needs, no heavy drivers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::cpio::Archive;
use super::image::kept;
use crate::process;
use crate::setup::Kernel;

/// Directories of the module tree that are taken whole.
const TREES: [&str; 10] = [
    "kernel/net/",
    "kernel/lib/",
    "kernel/crypto/",
    "kernel/arch/x86/crypto/",
    "kernel/drivers/net/vxlan",
    "kernel/drivers/net/wireguard/",
    "kernel/drivers/net/bonding/",
    "kernel/drivers/net/ipvlan/",
    "kernel/drivers/net/geneve",
    "kernel/fs/overlayfs/",
];

/// Single drivers: virtual network devices.
const DRIVERS: [&str; 9] = [
    "dummy", "ifb", "ipvlan", "macvlan", "macvtap", "nlmon", "tap", "tun", "veth",
];

/// Parts of the trees that no test of packet filtering needs, and that are large.
const LEFT_OUT: [&str; 16] = [
    "kernel/net/9p/",
    "kernel/net/atm/",
    "kernel/net/batman-adv/",
    "kernel/net/bluetooth/",
    "kernel/net/can/",
    "kernel/net/ceph/",
    "kernel/net/dccp/",
    "kernel/net/ieee802154/",
    "kernel/net/mac80211/",
    "kernel/net/nfc/",
    "kernel/net/rds/",
    "kernel/net/rxrpc/",
    "kernel/net/smc/",
    "kernel/net/sunrpc/",
    "kernel/net/tipc/",
    "kernel/net/wireless/",
];

/// The stored archive with the modules of a kernel.
///
/// Some distributions ship modules compressed. They are stored plain, as the guest would otherwise unpack
/// each of them under emulation, and the index that modprobe reads is made anew for the selection.
pub(super) fn part(store: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let index = kernel.modules.join("modules.dep");
    let text = fs::read_to_string(&index).with_context(|| format!("failed to read: {}", index.display()))?;
    let chosen = select(&text);
    let name = format!("modules-{}", kernel.series);

    let mut inputs = Archive::default();
    for module in &chosen {
        inputs.file(module, &kernel.modules.join(module))?;
    }
    // The name of the archive comes from the inputs: to be looked up without unpacking anything.
    let stamp = store.join(format!("{name}.stamp"));
    let current = format!("{:016x}", inputs.fingerprint());
    if let Some(path) = stored(&stamp, &current) {
        return Ok(path);
    }

    let stage = tempfile::tempdir_in(store).context("failed to create directory for modules")?;
    let tree = stage.path().join("usr/lib/modules").join(&kernel.release);
    for module in &chosen {
        copy(&kernel.modules.join(module), &tree.join(module))?;
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        if kernel.modules.join(list).exists() {
            copy(&kernel.modules.join(list), &tree.join(list))?;
        }
    }
    unpack(&tree, &chosen)?;
    let depmod = process::find("depmod").context("failed to find: depmod")?;
    // depmod looks below lib/modules.
    std::os::unix::fs::symlink("usr/lib", stage.path().join("lib")).context("failed to stage modules")?;
    process::output(
        Command::new(depmod)
            .arg("-b")
            .arg(stage.path())
            .arg(&kernel.release),
    )?;

    let mut archive = Archive::default();
    archive.tree(
        Path::new("usr/lib/modules"),
        &stage.path().join("usr/lib/modules"),
    )?;
    let path = kept(store, &name, &archive)?;
    fs::write(&stamp, format!("{current}\n{}", path.display()))
        .with_context(|| format!("failed to write: {}", stamp.display()))?;
    Ok(path)
}

fn stored(stamp: &Path, current: &str) -> Option<PathBuf> {
    let text = fs::read_to_string(stamp).ok()?;
    let (inputs, path) = text.split_once('\n')?;
    let path = PathBuf::from(path);
    (inputs == current && path.exists()).then_some(path)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent)
        .and_then(|()| fs::copy(from, to))
        .with_context(|| format!("failed to copy: {}", from.display()))?;
    Ok(())
}

fn unpack(tree: &Path, modules: &BTreeSet<&str>) -> Result<()> {
    for (suffix, program) in [(".xz", "xz"), (".zst", "zstd"), (".gz", "gzip")] {
        let packed: Vec<_> = modules.iter().filter(|module| module.ends_with(suffix)).collect();
        if packed.is_empty() {
            continue;
        }
        process::output(
            Command::new(program)
                .args(["-d", "-q", "-f"])
                .args(packed)
                .current_dir(tree),
        )?;
        if program == "zstd" {
            // zstd keeps its input, the others do not.
            for module in modules.iter().filter(|module| module.ends_with(suffix)) {
                drop(fs::remove_file(tree.join(module)));
            }
        }
    }
    Ok(())
}

/// The modules to take from a `modules.dep`, with all they need.
fn select(index: &str) -> BTreeSet<&str> {
    let needs: BTreeMap<&str, Vec<&str>> = index
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();
    let mut chosen = BTreeSet::new();
    let mut open: Vec<&str> = needs.keys().copied().filter(|module| wanted(module)).collect();
    while let Some(module) = open.pop() {
        if chosen.insert(module) {
            open.extend(needs.get(module).into_iter().flatten());
        }
    }
    chosen
}

fn wanted(module: &str) -> bool {
    let single = |name: &str| {
        let rest = module
            .strip_prefix("kernel/drivers/net/")
            .and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with(".ko"))
    };
    let tree = TREES.iter().any(|tree| module.starts_with(tree));
    (tree && !LEFT_OUT.iter().any(|tree| module.starts_with(tree))) || DRIVERS.iter().any(|name| single(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_wanted_and_what_that_needs() {
        let index = "kernel/net/a.ko.xz: kernel/drivers/x/b.ko.xz\nkernel/drivers/x/b.ko.xz:\n\
                     kernel/drivers/net/veth.ko:\nkernel/drivers/net/vethx.ko:\nkernel/net/can/can.ko:\n";
        let chosen: Vec<_> = select(index).into_iter().collect();
        assert_eq!(
            chosen,
            [
                "kernel/drivers/net/veth.ko",
                "kernel/drivers/x/b.ko.xz",
                "kernel/net/a.ko.xz"
            ]
        );
    }
}
