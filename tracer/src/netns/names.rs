//! What this machine calls a network namespace: by the name that `ip netns` or a container runtime gave it, or by the
//! container of a process in it.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{leads_to, named, processes};
use crate::names::cgroup::container;

/// Namespaces remembered.
const KNOWN_MAX: usize = 4096;

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
        let path = named(&self.root).find(|path| leads_to(path, netns))?;
        Some(path.file_name()?.to_string_lossy().into_owned())
    }

    /// The container of a process in it.
    fn container(&self, netns: u32) -> Option<String> {
        processes(&self.root)
            .filter(|process| leads_to(&process.join("ns/net"), netns))
            .find_map(|process| container(&fs::read_to_string(process.join("cgroup")).ok()?))
    }
}
