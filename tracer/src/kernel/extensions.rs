//! Which function the kernel calls for an extension, from the kernel's own rules: each match and target in them points
//! to what it is.

use std::num::NonZeroU64;

use aya::Ebpf;
use tracer_common::ABSENT;

use super::{attach::AttachError, code, machine::Machine};
use crate::ruleset::Extension;

/// From the start of the data back to the pointer to the `struct xt_match` or `struct xt_target`, on 64-bit kernels
/// (`struct xt_entry_match`, `struct xt_entry_target`, `include/uapi/linux/netfilter/x_tables.h`).
const POINTER_BEFORE_DATA: u64 = 24;

/// The first members of `struct xt_match` and of `struct xt_target`, the same in both: `include/linux/netfilter/x_tables.h`,
/// 5.10 to 7.x, on 64-bit kernels. That they are so here as well, name and revision show.
mod described {
    use std::ops::Range;

    pub(super) const NAME: Range<usize> = 16..45;
    pub(super) const REVISION: usize = 45;
    pub(super) const FUNCTION: Range<usize> = 48..56;
}

/// The function, as `module:symbol` or `symbol`. `table_info` is the address of the `xt_table_info` with the rule, which
/// may be gone: the caller has to see to it that it still was there afterwards. `entries` is the offset of
/// `xt_table_info.entries`. `None` where the kernel does not tell (`kernel.kptr_restrict` of 2), or where what it tells
/// is not of this extension, or not one function.
///
/// # Errors
/// The kernel does not let its memory be read.
pub(super) fn function_name(
    ebpf: &mut Ebpf,
    table_info: u64,
    entries: u32,
    extension: &Extension,
) -> Result<Option<String>, AttachError> {
    if entries == ABSENT || cfg!(not(target_pointer_width = "64")) {
        return Ok(None);
    }
    code::load(ebpf)?;
    let data = table_info
        .wrapping_add(entries.into())
        .wrapping_add(extension.data.start.into());
    let description = code::word(ebpf, data.wrapping_sub(POINTER_BEFORE_DATA))?;
    let Some(description) = description.and_then(NonZeroU64::new) else {
        return Ok(None);
    };
    let description = code::read(ebpf, description, described::FUNCTION.end as u64)?;
    Ok(described_function(&description, extension).and_then(symbol_at))
}

/// The address of the function, if this is the description of the extension.
fn described_function(bytes: &[u8], extension: &Extension) -> Option<u64> {
    let name = bytes.get(described::NAME)?.split(|byte| *byte == 0).next()?;
    if name != extension.name.as_bytes() || bytes.get(described::REVISION) != Some(&extension.revision) {
        return None;
    }
    let function = bytes.get(described::FUNCTION)?.try_into().ok()?;
    Some(u64::from_ne_bytes(function))
}

/// What a probe is to be attached to, if that can be no other function.
fn symbol_at(address: u64) -> Option<String> {
    let functions = Machine::this().functions().ok()?;
    let found = functions.containing(address)?;
    if found.address?.get() != address || functions.namesakes(&found) != 1 {
        return None;
    }
    Some(match found.module {
        Some(module) => format!("{module}:{}", found.name),
        None => found.name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description(name: &str, revision: u8) -> Vec<u8> {
        let mut bytes = vec![0; described::FUNCTION.end];
        bytes[described::NAME.start..][..name.len()].copy_from_slice(name.as_bytes());
        bytes[described::REVISION] = revision;
        bytes[described::FUNCTION].copy_from_slice(&0xffff_ffff_c0a1_b000_u64.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_description_of_the_extension_is_taken() {
        let extension = Extension {
            name: "rpfilter".to_owned(),
            revision: 0,
            data: 0..0,
        };
        let function = |name, revision| described_function(&description(name, revision), &extension);
        assert_eq!(function("rpfilter", 0), Some(0xffff_ffff_c0a1_b000));
        assert_eq!(function("rpfilter", 1), None);
        assert_eq!(function("rpfilte", 0), None);
        assert_eq!(function("", 0), None);
        assert_eq!(described_function(&[0; 48], &extension), None);
    }
}
