//! The data of an extension: the `xt_*_info` struct that its function is called with.

use super::path::Gap;
use crate::ruleset::{Extension, Table};

/// The bytes of an extension's struct, in the byte order of the machine. Reads beyond its end are gaps, never
/// panics: the bytes come from outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Data<'a>(&'a [u8]);

impl<'a> Data<'a> {
    pub(super) fn of(extension: &Extension, table: &'a Table) -> Self {
        let range = extension.data.start as usize..extension.data.end as usize;
        Self(table.blob.get(range).unwrap_or_default())
    }

    pub(super) fn bytes<const LEN: usize>(self, at: usize) -> Result<&'a [u8; LEN], Gap> {
        self.0
            .get(at..)
            .and_then(<[u8]>::first_chunk)
            .ok_or(Gap::ShortData)
    }

    pub(super) fn u8(self, at: usize) -> Result<u8, Gap> {
        self.bytes(at).map(|&[byte]| byte)
    }

    pub(super) fn u16(self, at: usize) -> Result<u16, Gap> {
        self.bytes(at).map(|&bytes| u16::from_ne_bytes(bytes))
    }

    pub(super) fn u32(self, at: usize) -> Result<u32, Gap> {
        self.bytes(at).map(|&bytes| u32::from_ne_bytes(bytes))
    }

    /// Whether `value` lies between the two `u16` at `at`, as ports and lengths are asked for.
    pub(super) fn range_u16_has(self, at: usize, value: u16) -> Result<bool, Gap> {
        Ok((self.u16(at)?..=self.u16(at + 2)?).contains(&value))
    }

    /// Whether `value` lies between the two `u32` at `at`, as SPIs are asked for.
    pub(super) fn range_u32_has(self, at: usize, value: u32) -> Result<bool, Gap> {
        Ok((self.u32(at)?..=self.u32(at + 4)?).contains(&value))
    }
}
