//! Names of network devices of which the kernel only tells the index.

use std::{collections::HashMap, num::NonZeroU32};

use crate::{netns::Netns, traversal::Traversal};

/// Names kept. They are asked for again when they are needed again.
const NAMES_MAX: usize = 4096;

/// Looks names up, each once for each network namespace and index.
///
/// A device may be renamed, or its index be used again, between the packet and the question; both are rare, and the
/// kernel's own log has the same gap: it too looks up by index what the port is called now.
#[derive(Debug, Default)]
pub struct DeviceNames {
    names: HashMap<(u32, u32), String>,
}

impl DeviceNames {
    /// Fills in the name of the bridge port that a packet came in by. It stays empty where there is no such device
    /// any more. `asked` gets what had to be asked for: namespace, index, name.
    pub fn complete(&mut self, traversal: &mut Traversal, asked: &mut dyn FnMut(u32, u32, &str)) {
        let netns = traversal.netns;
        if let Some(port) = &mut traversal.port_in
            && port.name.is_empty()
        {
            let ifindex = port.ifindex;
            if !self.names.contains_key(&(netns, ifindex)) {
                let name = NonZeroU32::new(ifindex)
                    .and_then(|ifindex| Netns::by_inode(netns)?.device_name(ifindex))
                    .unwrap_or_default();
                asked(netns, ifindex, &name);
                self.learn(netns, ifindex, name);
            }
            self.recall(traversal);
        }
    }

    /// Does the same with names that are known, and asks for none.
    pub fn recall(&self, traversal: &mut Traversal) {
        let netns = traversal.netns;
        if let Some(port) = &mut traversal.port_in
            && port.name.is_empty()
            && let Some(name) = self.names.get(&(netns, port.ifindex))
        {
            port.name.clone_from(name);
        }
    }

    /// Keeps a name that somebody has asked for.
    pub fn learn(&mut self, netns: u32, ifindex: u32, name: String) {
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert((netns, ifindex), name);
    }
}
