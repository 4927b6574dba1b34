//! Loads rulesets with the real tools.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command;

/// Replaces the IPv4 rules of the current namespace, in the tables that the text names.
///
/// # Errors
///
/// When `iptables-legacy-restore` does.
pub fn restore_v4(rules: &str) -> Result<()> {
    command::run_with("iptables-legacy-restore", rules).map(drop)
}

/// The same for IPv6.
///
/// # Errors
///
/// When `ip6tables-legacy-restore` does.
pub fn restore_v6(rules: &str) -> Result<()> {
    command::run_with("ip6tables-legacy-restore", rules).map(drop)
}

/// The text of a file of `tests/fixtures`, which the image has as `/fixtures`.
///
/// # Errors
///
/// When there is no such file.
pub fn fixture(name: &str) -> Result<String> {
    let path = Path::new("/fixtures").join(name);
    std::fs::read_to_string(&path).with_context(|| format!("failed to read: {}", path.display()))
}
