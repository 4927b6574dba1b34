//! Decodes what `IPT_SO_GET_INFO` and `IPT_SO_GET_ENTRIES` (and their `IP6T_` twins) answer into a [`Table`].
//!
//! `copy_entries_to_user` of `net/ipv4/netfilter/ip_tables.c` and `net/ipv6/netfilter/ip6_tables.c` copies every
//! entry to the offset that it has in the kernel, so the answer has the kernel's own offsets.
//!
//! The bytes are data from outside: every size and offset is checked before it is used, no byte is looked at
//! more than a few times, and what the kernel could not have sent is an error. The checks are those that the
//! kernel makes of a ruleset that is loaded (`translate_table`, `xt_check_entry_offsets`).

use thiserror::Error;

use super::model::{BuiltIn, Extension, HeaderMatch, Offset, Rule, Standard, Table, Target};
use crate::traversal::{Family, Hook};

#[cfg(test)]
mod tests;

/// `XT_MAX_TABLE_SIZE` of `net/netfilter/x_tables.c`: the most that the kernel takes for one table.
pub const TABLE_LEN_MAX: u32 = 512 << 20;
/// `XT_TABLE_MAXNAMELEN`.
pub(super) const TABLE_NAME_LEN: usize = 32;
/// `NF_INET_NUMHOOKS`, as x_tables counts them: without ingress.
const HOOKS: usize = 5;
/// An entry, and a match or a target in it, begins at a multiple of this: `XT_ALIGN`.
const ALIGNMENT: usize = 8;
/// `struct xt_entry_match` and `struct xt_entry_target` up to their data.
const EXTENSION_HEADER_LEN: usize = 32;
/// Where the name begins in them, and how long it can be: `XT_EXTENSION_MAXNAMELEN`.
const EXTENSION_NAME: usize = 2;
const EXTENSION_NAME_LEN: usize = 29;
/// Where the revision is.
const EXTENSION_REVISION: usize = 31;
/// Length of the name of a chain in `struct xt_error_target`: `XT_FUNCTION_MAXNAMELEN`.
const CHAIN_NAME_LEN: usize = 30;
/// `XT_STANDARD_TARGET`.
const STANDARD: &str = "";
/// `XT_ERROR_TARGET`.
const ERROR: &str = "ERROR";
/// `XT_RETURN`, `-NF_REPEAT - 1`.
const RETURN: i32 = -5;

// A 32-bit process would be told other offsets than the kernel's own (`CONFIG_NETFILTER_XTABLES_COMPAT`).
const _: () = assert!(size_of::<usize>() == 8);

/// Where things are in an entry of one family.
struct Layout {
    /// Length of `struct ipt_ip` or `struct ip6t_ip6`, with which an entry begins.
    header_len: usize,
    /// Length of an address.
    address_len: usize,
    /// Where the names of the devices begin, after the addresses.
    devices: usize,
    /// Where the protocol is.
    protocol: usize,
    /// Where the flags are; the inversions follow.
    flags: usize,
    /// Where `target_offset` is; `next_offset` follows.
    target_offset: usize,
    /// Length of `struct ipt_entry` or `struct ip6t_entry` up to the matches.
    entry_len: usize,
}

impl Layout {
    /// `include/uapi/linux/netfilter_ipv4/ip_tables.h` and `include/uapi/linux/netfilter_ipv6/ip6_tables.h`.
    fn of(family: Family) -> &'static Self {
        match family {
            Family::Ipv4 => &Self {
                header_len: 84,
                address_len: 4,
                devices: 16,
                protocol: 80,
                flags: 82,
                target_offset: 88,
                entry_len: 112,
            },
            Family::Ipv6 => &Self {
                header_len: 136,
                address_len: 16,
                devices: 64,
                protocol: 128,
                flags: 131,
                target_offset: 140,
                entry_len: 168,
            },
        }
    }
}

/// `struct ipt_getinfo` and `struct ip6t_getinfo`, which are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// Name of the table.
    pub name: String,
    /// One bit for each hook that the table is called at.
    pub valid_hooks: u32,
    /// Offset of the first rule of each hook's chain.
    pub hook_entry: [Offset; HOOKS],
    /// Offset of the policy of each hook's chain.
    pub underflow: [Offset; HOOKS],
    /// How many entries there are.
    pub entries_count: u32,
    /// How many bytes they have together.
    pub size: u32,
}

impl Info {
    /// Length of the struct.
    pub const LEN: usize = TABLE_NAME_LEN + 4 + 2 * HOOKS * 4 + 8;

    /// What the kernel said of a table that was decoded: `decode(family, &Info::of(&table), blob)` makes the same
    /// table again.
    #[must_use]
    pub fn of(table: &Table) -> Self {
        let len = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut info = Self {
            name: table.name.clone(),
            valid_hooks: 0,
            hook_entry: [0; HOOKS],
            underflow: [0; HOOKS],
            entries_count: len(table.rules.len()),
            size: len(table.blob.len()),
        };
        for chain in &table.hooks {
            let number = usize::from(chain.hook.number());
            info.valid_hooks |= 1 << number;
            (info.hook_entry[number], info.underflow[number]) = (chain.entry, chain.underflow);
        }
        info
    }

    /// Reads the struct as `get_info` of `net/ipv4/netfilter/ip_tables.c` fills it.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        let (name, words) = bytes.split_at(TABLE_NAME_LEN);
        let word = |index: usize| {
            let at = index * 4;
            u32::from_ne_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]])
        };
        let name_len = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        Self {
            name: String::from_utf8_lossy(&name[..name_len]).into_owned(),
            valid_hooks: word(0),
            hook_entry: std::array::from_fn(|hook| word(1 + hook)),
            underflow: std::array::from_fn(|hook| word(1 + HOOKS + hook)),
            entries_count: word(1 + 2 * HOOKS),
            size: word(2 + 2 * HOOKS),
        }
    }
}

/// Bytes that are no table.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BlobError {
    /// More than the kernel takes, or not what [`Info::size`] says.
    #[error("table has {actual} bytes, not {expected}")]
    Size {
        /// What was given.
        actual: usize,
        /// What was announced.
        expected: u32,
    },
    /// Hooks that no table has.
    #[error("table has the unknown hooks {0:#x}")]
    Hooks(u32),
    /// An entry, match or target ends beyond what holds it.
    #[error("{what} at offset {offset} ends beyond offset {end}")]
    Truncated {
        /// What it is.
        what: &'static str,
        /// Where it begins.
        offset: usize,
        /// Where it has to end.
        end: usize,
    },
    /// A size or an offset within an entry that cannot be.
    #[error("{what} of the entry at offset {offset} is {value}")]
    Length {
        /// What it is.
        what: &'static str,
        /// Where the entry begins.
        offset: usize,
        /// The value.
        value: usize,
    },
    /// A name without an end.
    #[error("name at offset {0} has no end")]
    Name(usize),
    /// A verdict that is neither a verdict nor an offset.
    #[error("entry at offset {offset} has the unknown verdict {verdict}")]
    Verdict {
        /// Where the entry begins.
        offset: usize,
        /// The verdict as it is coded.
        verdict: i32,
    },
    /// A jump to something that is no entry.
    #[error("entry at offset {offset} jumps to offset {to}, where no entry begins")]
    Jump {
        /// Where the entry begins.
        offset: Offset,
        /// Where it jumps to.
        to: Offset,
    },
    /// A chain of a hook, or its policy, that is no entry.
    #[error("{what} of {hook} is at offset {offset}, where no entry begins")]
    BuiltIn {
        /// Whether it is the chain or its policy.
        what: &'static str,
        /// The hook.
        hook: Hook,
        /// Where it should be.
        offset: Offset,
    },
    /// Not as many entries as [`Info::entries_count`] says.
    #[error("table has {actual} entries, not {expected}")]
    Count {
        /// How many there are.
        actual: usize,
        /// How many were announced.
        expected: u32,
    },
}

/// Decodes a table from what `IPT_SO_GET_INFO` said about it and the entries that `IPT_SO_GET_ENTRIES` returned.
///
/// # Errors
/// Bytes that the kernel would not have accepted as a table.
pub fn decode(family: Family, info: &Info, blob: Vec<u8>) -> Result<Table, BlobError> {
    if info.size > TABLE_LEN_MAX || u32::try_from(blob.len()) != Ok(info.size) {
        return Err(BlobError::Size {
            actual: blob.len(),
            expected: info.size.min(TABLE_LEN_MAX),
        });
    }
    let rules = Entries::new(family, &blob).collect::<Result<Vec<_>, _>>()?;
    if u32::try_from(rules.len()) != Ok(info.entries_count) {
        return Err(BlobError::Count {
            actual: rules.len(),
            expected: info.entries_count,
        });
    }
    for rule in &rules {
        if let Target::Standard(Standard::Jump(to)) = rule.target
            && (to != rule.next || rule.next == info.size)
            && index_of(&rules, to).is_none()
        {
            return Err(BlobError::Jump {
                offset: rule.offset,
                to,
            });
        }
    }
    // `translate_table` counts every `ERROR` target, the one at the end of the blob included.
    let heads = rules
        .iter()
        .filter(|rule| matches!(rule.target, Target::Head { .. }));
    let stack_len_max = heads.fold(0, |count: u32, _| count.saturating_add(1));
    Ok(Table {
        family,
        name: info.name.clone(),
        hooks: built_in_chains(info, &rules)?,
        rules,
        stack_len_max,
        blob,
    })
}

/// The place in `rules` of the entry that begins at `offset`.
pub(super) fn index_of(rules: &[Rule], offset: Offset) -> Option<usize> {
    rules.binary_search_by_key(&offset, |rule| rule.offset).ok()
}

fn built_in_chains(info: &Info, rules: &[Rule]) -> Result<Vec<BuiltIn>, BlobError> {
    let unknown = info.valid_hooks >> HOOKS << HOOKS;
    if unknown != 0 {
        return Err(BlobError::Hooks(unknown));
    }
    let mut chains = Vec::new();
    for hook in Hook::NAMED {
        let number = usize::from(hook.number());
        if info.valid_hooks & (1 << number) == 0 {
            continue;
        }
        let chain = BuiltIn {
            hook,
            entry: info.hook_entry[number],
            underflow: info.underflow[number],
        };
        for (what, offset) in [("chain", chain.entry), ("policy", chain.underflow)] {
            if index_of(rules, offset).is_none() {
                return Err(BlobError::BuiltIn { what, hook, offset });
            }
        }
        chains.push(chain);
    }
    Ok(chains)
}

/// Goes through the entries of a blob; ends after the first error.
struct Entries<'a> {
    layout: &'static Layout,
    blob: &'a [u8],
    at: usize,
}

impl<'a> Entries<'a> {
    fn new(family: Family, blob: &'a [u8]) -> Self {
        Self {
            layout: Layout::of(family),
            blob,
            at: 0,
        }
    }

    fn entry(&self) -> Result<Rule, BlobError> {
        let (layout, offset) = (self.layout, self.at);
        let length = |what, value| BlobError::Length { what, offset, value };
        let Some(fixed) = self.blob.get(offset..offset + layout.entry_len) else {
            return Err(BlobError::Truncated {
                what: "entry",
                offset,
                end: self.blob.len(),
            });
        };
        let target_offset = usize::from(u16_at(fixed, layout.target_offset));
        let next_offset = usize::from(u16_at(fixed, layout.target_offset + 2));
        if next_offset % ALIGNMENT != 0 || next_offset < layout.entry_len + EXTENSION_HEADER_LEN {
            return Err(length("next_offset", next_offset));
        }
        if target_offset % ALIGNMENT != 0
            || target_offset < layout.entry_len
            || target_offset > next_offset - EXTENSION_HEADER_LEN
        {
            return Err(length("target_offset", target_offset));
        }
        let next = offset + next_offset;
        if next > self.blob.len() {
            return Err(BlobError::Truncated {
                what: "entry",
                offset,
                end: self.blob.len(),
            });
        }
        let mut matches = Vec::new();
        let mut at = offset + layout.entry_len;
        while at < offset + target_offset {
            let (extension, end) = self.extension("match", at, offset + target_offset)?;
            matches.push(extension);
            at = end;
        }
        let (target, _) = self.extension("target", at, next)?;
        let header = &fixed[..layout.header_len];
        Ok(Rule {
            offset: offset32(offset),
            next: offset32(next),
            header: header_match(layout, header),
            matches,
            target: self.target(offset, target, next)?,
            unconditional: target_offset == layout.entry_len && header.iter().all(|&byte| byte == 0),
        })
    }

    /// The match or target at `at`, and where it ends, which is not beyond `limit`.
    fn extension(
        &self,
        what: &'static str,
        at: usize,
        limit: usize,
    ) -> Result<(Extension, usize), BlobError> {
        let truncated = BlobError::Truncated {
            what,
            offset: at,
            end: limit,
        };
        let Some(header) = self.blob[..limit].get(at..at + EXTENSION_HEADER_LEN) else {
            return Err(truncated);
        };
        let len = usize::from(u16_at(header, 0));
        if len % ALIGNMENT != 0 || len < EXTENSION_HEADER_LEN {
            return Err(BlobError::Length {
                what: "size of a match or target",
                offset: at,
                value: len,
            });
        }
        let end = at + len;
        if end > limit {
            return Err(truncated);
        }
        let name = &header[EXTENSION_NAME..EXTENSION_NAME + EXTENSION_NAME_LEN];
        let extension = Extension {
            name: text(name).ok_or(BlobError::Name(at + EXTENSION_NAME))?,
            revision: header[EXTENSION_REVISION],
            data: offset32(at + EXTENSION_HEADER_LEN)..offset32(end),
        };
        Ok((extension, end))
    }

    /// What the target of the entry at `offset`, which ends at `next`, does.
    fn target(&self, offset: usize, target: Extension, next: usize) -> Result<Target, BlobError> {
        let at = target.data.start as usize;
        let data = &self.blob[at..target.data.end as usize];
        let truncated = BlobError::Truncated {
            what: "target",
            offset: at - EXTENSION_HEADER_LEN,
            end: next,
        };
        match target.name.as_str() {
            STANDARD => {
                let Some(&verdict) = data.first_chunk() else {
                    return Err(truncated);
                };
                standard(offset, i32::from_ne_bytes(verdict)).map(Target::Standard)
            }
            ERROR => {
                let name = data.get(..CHAIN_NAME_LEN).ok_or(truncated)?;
                Ok(Target::Head {
                    chain: text(name).ok_or(BlobError::Name(at))?,
                })
            }
            _ => Ok(Target::Extension(target)),
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<Rule, BlobError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.blob.len() {
            return None;
        }
        let entry = self.entry();
        self.at = entry.as_ref().map_or(self.blob.len(), |rule| rule.next as usize);
        Some(entry)
    }
}

/// The coding of `struct xt_standard_target`, as `ipt_do_table` reads it. `i32::MIN`, which no verdict is, has
/// no negation.
fn standard(offset: usize, verdict: i32) -> Result<Standard, BlobError> {
    match u32::try_from(verdict) {
        Ok(to) => Ok(Standard::Jump(to)),
        Err(_) if verdict == RETURN => Ok(Standard::Return),
        Err(_) if verdict == i32::MIN => Err(BlobError::Verdict { offset, verdict }),
        Err(_) => Ok(Standard::Verdict(verdict.unsigned_abs() - 1)),
    }
}

fn header_match(layout: &Layout, header: &[u8]) -> HeaderMatch {
    let address = |index: usize| {
        let mut address = [0; 16];
        let at = index * layout.address_len;
        address[..layout.address_len].copy_from_slice(&header[at..at + layout.address_len]);
        address
    };
    let device = |index: usize| {
        let at = layout.devices + index * 16;
        std::array::from_fn(|byte| header[at + byte])
    };
    HeaderMatch {
        source: (address(0), address(2)),
        destination: (address(1), address(3)),
        in_device: (device(0), device(2)),
        out_device: (device(1), device(3)),
        protocol: u16_at(header, layout.protocol),
        flags: header[layout.flags],
        inverted: header[layout.flags + 1],
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

/// A name that ends with a NUL. The kernel does not promise UTF-8.
fn text(bytes: &[u8]) -> Option<String> {
    let len = bytes.iter().position(|&byte| byte == 0)?;
    Some(String::from_utf8_lossy(&bytes[..len]).into_owned())
}

/// Every offset lies in a blob of at most [`TABLE_LEN_MAX`] bytes.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the length of the blob was checked"
)]
fn offset32(offset: usize) -> Offset {
    offset as Offset
}
