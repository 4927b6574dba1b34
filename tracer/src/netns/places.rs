//! Names that go with traversals: of the network namespaces that they are in, and of those at the other ends of their
//! devices.

use std::{collections::HashMap, path::Path, sync::Arc};

use super::{names::NamespaceNames, peers::Peers};
use crate::traversal::{Device, Traversal};

/// Names remembered of a recording; more than any machine has at once.
const NAMES_MAX: usize = 65_536;

/// A name, to be kept with a recording: it holds until another one comes for the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A network namespace, by inode number.
    Namespace(u32, Option<Arc<str>>),
    /// The namespace at the other end of a device, by the inode number of this end's namespace and the index there.
    Peer(u32, u32, Option<Arc<str>>),
}

/// Names, as they were last told.
#[derive(Debug, Default)]
pub struct Places {
    namespaces: HashMap<u32, Option<Arc<str>>>,
    peers: HashMap<(u32, u32), Option<Arc<str>>>,
}

impl Places {
    /// Takes note of a name. False where it is known already; that a thing has none is known from the beginning.
    pub fn learn(&mut self, named: &Named) -> bool {
        if self.namespaces.len() + self.peers.len() >= NAMES_MAX {
            *self = Self::default();
        }
        let (before, name) = match named {
            Named::Namespace(netns, name) => (self.namespaces.insert(*netns, name.clone()), name),
            Named::Peer(netns, ifindex, name) => (self.peers.insert((*netns, *ifindex), name.clone()), name),
        };
        before.unwrap_or_default() != *name
    }

    /// Fills in the names that are known.
    pub fn recall(&self, traversal: &mut Traversal) {
        let netns = traversal.netns;
        traversal.netns_name = self.namespaces.get(&netns).cloned().flatten();
        for device in devices(traversal) {
            device.peer = self.peers.get(&(netns, device.ifindex)).cloned().flatten();
        }
    }
}

/// Those of the running machine.
#[derive(Debug)]
pub struct LivePlaces {
    names: NamespaceNames,
    peers: Peers,
    told: Places,
}

impl LivePlaces {
    /// Of the machine with this root directory; tracer's own namespace needs no name.
    #[must_use]
    pub fn of(root: &Path, own: Option<u32>) -> Self {
        Self {
            names: NamespaceNames::of(root, own),
            peers: Peers::default(),
            told: Places::default(),
        }
    }

    /// Fills in the names. `tell` gets those that are new.
    pub fn complete(&mut self, traversal: &mut Traversal, tell: &mut dyn FnMut(&Named)) {
        let netns = traversal.netns;
        traversal.netns_name = self.names.of_inode(netns);
        let mut told = |named: Named| {
            if self.told.learn(&named) {
                tell(&named);
            }
        };
        told(Named::Namespace(netns, traversal.netns_name.clone()));
        for device in devices(traversal) {
            let peer = self.peers.of(netns, device.ifindex);
            device.peer = peer.and_then(|peer| self.names.of_inode(peer));
            told(Named::Peer(netns, device.ifindex, device.peer.clone()));
        }
    }
}

fn devices(traversal: &mut Traversal) -> impl Iterator<Item = &mut Device> {
    [
        &mut traversal.in_device,
        &mut traversal.out_device,
        &mut traversal.port_in,
        &mut traversal.port_out,
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use tracer_common::Traversal as Record;

    use super::*;

    #[test]
    fn names_hold_until_others_come() {
        let mut traversal = Traversal::decode(
            Record {
                family: 2,
                netns: 7,
                in_ifindex: 3,
                ..Record::EMPTY
            }
            .bytes(),
        )
        .unwrap();
        let mut places = Places::default();
        let pod = || Some(Arc::from("pod default/web-1"));
        assert!(places.learn(&Named::Peer(7, 3, pod())));
        assert!(!places.learn(&Named::Peer(7, 3, pod())));
        assert!(!places.learn(&Named::Namespace(7, None)));
        assert!(places.learn(&Named::Namespace(7, Some("blue".into()))));
        places.recall(&mut traversal);
        let peer = |traversal: &Traversal| traversal.in_device.as_ref().unwrap().peer.clone();
        assert_eq!(peer(&traversal), pod());
        assert_eq!(traversal.netns_name.as_deref(), Some("blue"));
        assert!(places.learn(&Named::Peer(7, 3, None)));
        places.recall(&mut traversal);
        assert_eq!(peer(&traversal), None);
    }
}
