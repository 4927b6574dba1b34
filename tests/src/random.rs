//! Random choices that can be made again: all from one seed, which a failed test shows.

use std::env;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// Sets the seed, to make the choices of a failed test again.
pub const SEED_VARIABLE: &str = "TRACER_TEST_SEED";

/// The seed asked for, or one of now.
///
/// # Errors
///
/// When the one asked for is no number.
pub fn seed() -> Result<u64> {
    match env::var(SEED_VARIABLE) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("failed to read: {SEED_VARIABLE}={text}")),
        Err(_) => {
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .context("failed to read time")?;
            Ok(u64::from(now.subsec_nanos()) ^ now.as_secs() << 30)
        }
    }
}

/// A generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: usize) -> usize {
        let end = end as u64;
        usize::try_from(self.number() % end).unwrap_or_default()
    }

    /// One of them.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}
