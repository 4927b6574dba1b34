//! Where the kernel's types describe a function: what a trampoline has to know of it.

use std::collections::BTreeMap;

use super::KernelBtf;
use super::btf::Btf;

/// A function as the kernel's types know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The module that it is in; `None` for vmlinux.
    pub module: Option<String>,
    /// Id of the function among the types of the module and vmlinux together.
    pub type_id: u32,
}

/// The functions of vmlinux and of all modules.
#[derive(Debug)]
pub struct Functions {
    btf: KernelBtf,
    /// Types of the modules that were looked at; `None` where they cannot be read.
    modules: BTreeMap<String, Option<Btf>>,
}

impl Functions {
    /// Those that `btf` describes.
    #[must_use]
    pub fn new(btf: KernelBtf) -> Self {
        Self {
            btf,
            modules: BTreeMap::new(),
        }
    }

    /// Every function of that name: one, none, or several of which each is in another module.
    pub fn find(&mut self, function: &str) -> Vec<Described> {
        let vmlinux = self.btf.vmlinux().function(function);
        let mut found: Vec<Described> = vmlinux
            .map(|type_id| Described {
                module: None,
                type_id,
            })
            .into_iter()
            .collect();
        // A module may have been loaded since.
        for name in self.btf.module_names() {
            let btf = &self.btf;
            self.modules
                .entry(name)
                .or_insert_with_key(|name| btf.module(name).ok().flatten());
        }
        for (module, types) in &self.modules {
            if let Some(type_id) = types.as_ref().and_then(|types| types.function(function)) {
                found.push(Described {
                    module: Some(module.clone()),
                    type_id,
                });
            }
        }
        found
    }
}
