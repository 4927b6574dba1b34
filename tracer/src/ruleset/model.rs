//! The rules of one legacy table as the kernel holds them.
//!
//! The kernel keeps a table as one blob of entries (`struct ipt_entry`, `struct ip6t_entry`), and everything
//! inside it refers to something else by its offset in the blob: jumps, chain heads, and the pointers that
//! match and target functions are called with. So offsets are the names of things here too.

use std::ops::Range;

use crate::traversal::{Family, Hook};

/// Where something lies in a table's blob, in bytes from its first entry.
pub type Offset = u32;

/// One legacy table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Family of the table.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// The hooks it is called at, each with the offset of the first rule of its built-in chain and of its
    /// policy rule (`hook_entry` and `underflow` of `struct xt_table_info`), in the order of the hook numbers.
    pub hooks: Vec<BuiltIn>,
    /// Every entry of the blob, in its order.
    pub rules: Vec<Rule>,
    /// Jumps that can be pending at once (`xt_table_info.stacksize`): the number of `ERROR` entries, which is one
    /// more than there are user-defined chains, as `translate_table` counts them.
    pub stack_len_max: u32,
    /// The blob itself: match and target data are ranges of it.
    pub blob: Vec<u8>,
}

/// A built-in chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuiltIn {
    /// The hook.
    pub hook: Hook,
    /// Offset of its first rule.
    pub entry: Offset,
    /// Offset of the rule that is its policy.
    pub underflow: Offset,
}

/// One entry of the blob: a rule, the policy of a built-in chain, the head or the end of a user-defined chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Where it begins.
    pub offset: Offset,
    /// Where the next entry begins.
    pub next: Offset,
    /// What it asks of the IP header and the devices.
    pub header: HeaderMatch,
    /// Its matches, in the order in which the kernel calls them.
    pub matches: Vec<Extension>,
    /// What it does with a packet that satisfies it.
    pub target: Target,
    /// Whether it asks nothing at all: the kernel's `unconditional()`, which decides between `rule` and
    /// `policy` or `return` in TRACE's words.
    pub unconditional: bool,
}

/// `struct ipt_ip` and `struct ip6t_ip6`: what the engine itself compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Source address and mask, network byte order; IPv4 in the first four bytes.
    pub source: ([u8; 16], [u8; 16]),
    /// Destination address and mask.
    pub destination: ([u8; 16], [u8; 16]),
    /// In device name and mask.
    pub in_device: ([u8; 16], [u8; 16]),
    /// Out device name and mask.
    pub out_device: ([u8; 16], [u8; 16]),
    /// Protocol number.
    pub protocol: u16,
    /// `flags` as the kernel codes them: IPv4 `IPT_F_FRAG` 1, `IPT_F_GOTO` 2; IPv6 `IP6T_F_PROTO` 1,
    /// `IP6T_F_TOS` 2, `IP6T_F_GOTO` 4.
    pub flags: u8,
    /// `invflags`: the `IPT_INV_*` and `IP6T_INV_*` bits, the same in both families.
    pub inverted: u8,
}

/// A match or target that is an extension: a name, a revision, and data only it understands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extension {
    /// Its name, `tcp`, `MASQUERADE`.
    pub name: String,
    /// Its revision.
    pub revision: u8,
    /// Where its data lies in the blob. The start is what `par->matchinfo` or `par->targinfo` points to.
    pub data: Range<Offset>,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A standard target.
    Standard(Standard),
    /// An extension target.
    Extension(Extension),
    /// The head of a user-defined chain, or the end of the blob (`ERROR`).
    Head {
        /// The chain's name; `ERROR` for the end of the blob.
        chain: String,
    },
}

/// `struct xt_standard_target`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standard {
    /// A verdict that ends the traversal: the value that `ipt_do_table` returns.
    Verdict(u32),
    /// Back to the calling chain; in a built-in chain to its policy.
    Return,
    /// To the entry at this offset: a jump, a goto (see the rule's flags), or to the next entry where the rule
    /// has no target.
    Jump(Offset),
}

impl Rule {
    /// Whether a jump of this rule leaves nothing to return to (`-g`): `IPT_F_GOTO`, `IP6T_F_GOTO`.
    #[must_use]
    pub fn is_goto(&self, family: Family) -> bool {
        let flag = match family {
            Family::Ipv4 => 0x02,
            Family::Ipv6 => 0x04,
        };
        self.header.flags & flag != 0
    }
}

impl Table {
    /// The entry that begins at an offset.
    #[must_use]
    pub fn rule(&self, offset: Offset) -> Option<&Rule> {
        super::blob::index_of(&self.rules, offset).map(|place| &self.rules[place])
    }

    /// The data of a match or target of this table.
    ///
    /// # Panics
    /// When the range is of another table.
    #[must_use]
    pub fn data(&self, range: &Range<Offset>) -> &[u8] {
        &self.blob[range.start as usize..range.end as usize]
    }
}
