//! Names of functions of the running kernel, by an address within them.

use std::{collections::HashMap, fs::File, io::BufReader, path::PathBuf};

use super::symbols;

/// Addresses remembered.
const KNOWN_MAX: usize = 1024;

/// Looks names up in `/proc/kallsyms`, each address once: few places of the kernel drop packets.
#[derive(Debug)]
pub struct Functions {
    kallsyms: PathBuf,
    known: HashMap<u64, Option<String>>,
}

impl Functions {
    /// Those of the kernel that has this `/proc/kallsyms`.
    #[must_use]
    pub fn of(kallsyms: PathBuf) -> Self {
        Self {
            kallsyms,
            known: HashMap::new(),
        }
    }

    /// Whether an address was looked up already.
    #[must_use]
    pub fn knows(&self, address: u64) -> bool {
        self.known.contains_key(&address)
    }

    /// The function that an address lies in: `tcp_v4_rcv`, or `br_handle_frame [bridge]`. `None` where the kernel does
    /// not tell.
    pub fn at(&mut self, address: u64) -> Option<String> {
        if let Some(known) = self.known.get(&address) {
            return known.clone();
        }
        let file = File::open(&self.kallsyms).ok();
        let found = file.and_then(|file| symbols::containing(BufReader::new(file), address).ok()?);
        let name = found.map(|symbol| match symbol.module {
            Some(module) => format!("{} [{module}]", symbol.name),
            None => symbol.name,
        });
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(address, name.clone());
        name
    }
}
