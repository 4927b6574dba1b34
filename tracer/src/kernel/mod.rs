//! What the running kernel is and has: its types, its symbols, and whether it lets us look.

pub mod attach;
pub mod btf;
mod code;
pub mod commits;
pub mod described;
pub mod devices;
mod extensions;
pub mod functions;
mod link;
pub mod machine;
mod missed;
mod nft_rules;
mod object;
pub mod obstacle;
pub mod offsets;
pub mod preflight;
pub mod probes;
pub mod question;
pub mod returns;
pub mod rules;
pub mod symbols;
mod syscall;
pub mod trampoline;
pub mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use self::btf::{Btf, BtfError};
use self::offsets::{Backends, OffsetsError, Resolved};

/// Where the kernel shows its BTF, one file for vmlinux and one for each module.
const BTF_DIRECTORY: &str = "sys/kernel/btf";

/// Why the kernel's BTF could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("failed to read {}: {cause}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        cause: io::Error,
    },
    /// The file does not hold BTF that can be read.
    #[error("failed to read {}: {cause}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: BtfError,
    },
}

/// The types of the running kernel: those of vmlinux at hand, those of modules on demand.
#[derive(Clone, Debug)]
pub struct KernelBtf {
    vmlinux: Arc<Btf>,
    directory: PathBuf,
}

/// Loads the BTF of vmlinux found under `root` (`/` on a real machine).
///
/// # Errors
///
/// If there is none, or if it cannot be read.
pub fn load_btf(root: &Path) -> Result<KernelBtf, LoadError> {
    let directory = root.join(BTF_DIRECTORY);
    let path = directory.join("vmlinux");
    match std::fs::read(&path) {
        Ok(bytes) => match Btf::parse(bytes) {
            Ok(vmlinux) => Ok(KernelBtf {
                vmlinux: Arc::new(vmlinux),
                directory,
            }),
            Err(cause) => Err(LoadError::Parse { path, cause }),
        },
        Err(cause) => Err(LoadError::Read { path, cause }),
    }
}

impl KernelBtf {
    /// The types of vmlinux.
    #[must_use]
    pub fn vmlinux(&self) -> &Arc<Btf> {
        &self.vmlinux
    }

    /// The names of the modules whose types the kernel shows.
    #[must_use]
    pub fn module_names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name != "vmlinux")
            .collect()
    }

    /// The types of a loaded module on top of those of vmlinux; `None` if the kernel shows none: the module
    /// is not loaded, or built in, or the kernel does not describe modules.
    ///
    /// # Errors
    ///
    /// If the kernel shows some that cannot be read.
    pub fn module(&self, name: &str) -> Result<Option<Btf>, LoadError> {
        let path = self.directory.join(name);
        match std::fs::read(&path) {
            Ok(bytes) => match Btf::parse_split(&self.vmlinux, bytes) {
                Ok(btf) => Ok(Some(btf)),
                Err(cause) => Err(LoadError::Parse { path, cause }),
            },
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(LoadError::Read { path, cause }),
        }
    }

    /// Resolves the offsets that the programs are given.
    ///
    /// # Errors
    ///
    /// See [`offsets::resolve`].
    pub fn resolve(&self, backends: Backends) -> Result<Resolved, OffsetsError> {
        offsets::resolve(&self.vmlinux, &|name| self.module(name), backends)
    }
}
