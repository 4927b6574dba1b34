//! Names of functions of the running kernel, by an address within them.

use std::collections::HashMap;

use super::{machine::Machine, symbols::Index};

/// Addresses remembered.
const KNOWN_MAX: usize = 1024;

/// Looks names up among the kernel's symbols, each address once: few places of the kernel drop packets. The symbols are read
/// again only where other modules are loaded, for the kernel takes its time to print them.
#[derive(Debug)]
pub struct Functions {
    machine: Machine,
    /// With the modules that there were when they were read.
    symbols: Option<(Vec<String>, Index)>,
    known: HashMap<u64, Option<String>>,
}

impl Functions {
    /// Those of the kernel of this machine.
    #[must_use]
    pub fn of(machine: Machine) -> Self {
        Self {
            machine,
            symbols: None,
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
        let name = self.look_up(address);
        if self.known.len() >= KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(address, name.clone());
        name
    }

    fn look_up(&mut self, address: u64) -> Option<String> {
        let modules = self.machine.modules_and_places();
        let read = self.symbols.take().filter(|(then, _)| *then == modules);
        let symbols = match read {
            Some((_, symbols)) => symbols,
            None => {
                // What was at these addresses may have been in another module.
                self.known.clear();
                self.machine.functions().ok()?
            }
        };
        let found = symbols.containing(address);
        self.symbols = Some((modules, symbols));
        let symbol = found?;
        Some(match symbol.module {
            Some(module) => format!("{} [{module}]", symbol.name),
            None => symbol.name,
        })
    }
}
