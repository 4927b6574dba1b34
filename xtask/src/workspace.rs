//! Where things are: the workspace and its target directory.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The workspace that this xtask belongs to.
pub(crate) struct Workspace {
    /// The directory of the workspace's Cargo.toml.
    pub(crate) root: PathBuf,
}

impl Workspace {
    /// Asks cargo, which sets `CARGO_MANIFEST_DIR` for what it runs; a binary that is started by hand
    /// looks upwards from the current directory.
    ///
    /// The path is not compiled in, so that a moved or copied clone stays its own workspace.
    pub(crate) fn find() -> Result<Self> {
        let here = env::current_dir().context("failed to find the workspace: current directory")?;
        let manifest = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        manifest
            .as_deref()
            .and_then(Path::parent)
            .into_iter()
            .chain(here.ancestors())
            .find(|dir| dir.join("xtask/Cargo.toml").is_file() && dir.join("tracer-ebpf").is_dir())
            .map(|root| Self {
                root: root.to_owned(),
            })
            .with_context(|| {
                format!(
                    "failed to find the workspace: {}: no parent holds it",
                    here.display()
                )
            })
    }

    /// Cargo's target directory, absolute.
    pub(crate) fn target(&self) -> PathBuf {
        match env::var_os("CARGO_TARGET_DIR") {
            Some(dir) => std::path::absolute(&dir).unwrap_or_else(|_| PathBuf::from(dir)),
            None => self.root.join("target"),
        }
    }

    /// Everything that belongs to the test machines.
    pub(crate) fn vm(&self) -> PathBuf {
        self.target().join("vm")
    }

    /// Programs that were built for this workspace only.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }
}
