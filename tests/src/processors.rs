//! Processors of the test machine, switched off and on.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

/// Leaves one processor while it lives: then what happens has one order, also in softirqs and timers.
#[derive(Debug)]
pub struct OneProcessor(Vec<PathBuf>);

impl OneProcessor {
    /// Switches all others off.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn new() -> Result<Self> {
        let mut off = Self(Vec::new());
        // The first has no such file, or cannot go.
        for number in 1.. {
            let path = PathBuf::from(format!("/sys/devices/system/cpu/cpu{number}/online"));
            if !path.exists() {
                break;
            }
            fs::write(&path, "0").with_context(|| format!("failed to write: {}", path.display()))?;
            off.0.push(path);
        }
        Ok(off)
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        for path in &self.0 {
            // The machine goes on with fewer.
            drop(fs::write(path, "1"));
        }
    }
}
