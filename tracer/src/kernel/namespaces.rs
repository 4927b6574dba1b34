//! What this machine calls a network namespace: by the name that `ip netns` or a container runtime gave it, or by the
//! container of a process in it.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::names::cgroup::container;

/// Namespaces remembered.
const KNOWN_MAX: usize = 4096;
/// Where namespaces have names: `ip netns` and CNI, Docker.
const NAMED: [&str; 2] = ["run/netns", "run/docker/netns"];

/// Looks names up, each namespace once.
#[derive(Debug)]
pub struct NamespaceNames {
    root: PathBuf,
    own: Option<u32>,
    known: HashMap<u32, Option<Arc<str>>>,
}

impl NamespaceNames {
    /// Those of the machine with this root directory; its own namespace needs no name.
    #[must_use]
    pub fn of(root: &Path, own: Option<u32>) -> Self {
        Self {
            root: root.to_owned(),
            own,
            known: HashMap::new(),
        }
    }

    /// The name of the namespace with this inode number; `None` if it has none.
    pub fn of_inode(&mut self, netns: u32) -> Option<Arc<str>> {
        if self.own == Some(netns) {
            return None;
        }
        if let Some(known) = self.known.get(&netns) {
            return known.clone();
        }
        let name = self.container(netns).or_else(|| self.named(netns)).map(Arc::from);
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(netns, name.clone());
        name
    }

    /// The name of a file that the namespace is mounted on.
    fn named(&self, netns: u32) -> Option<String> {
        NAMED.iter().find_map(|directory| {
            let entries = fs::read_dir(self.root.join(directory)).ok()?;
            entries.flatten().find_map(|entry| {
                let inode = fs::metadata(entry.path()).ok()?.ino();
                (inode == u64::from(netns)).then(|| entry.file_name().to_string_lossy().into_owned())
            })
        })
    }

    /// The container of a process in it.
    fn container(&self, netns: u32) -> Option<String> {
        let entries = fs::read_dir(self.root.join("proc")).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name();
            name.to_str()
                .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))?;
            let inode = fs::metadata(entry.path().join("ns/net")).ok()?.ino();
            if inode != u64::from(netns) {
                return None;
            }
            container(&fs::read_to_string(entry.path().join("cgroup")).ok()?)
        })
    }
}
