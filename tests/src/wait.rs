//! Waiting for a condition, within a limit.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long anything local may take in an emulated machine that shares its processor: whoever waits longer hangs.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Between two looks; short, since it only bounds the waste.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until the condition holds.
///
/// # Errors
///
/// When the condition cannot be judged, or does not hold within [`LIMIT`].
pub fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    while !holds()? {
        if Instant::now() > end {
            bail!("failed to wait for: {what}: not within {} s", LIMIT.as_secs());
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
