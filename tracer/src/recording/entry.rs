//! What a recording holds: entries, each a tag, a length and a body. What is described in words is JSON, so that a
//! field can be added; what the kernel gave is kept as it was.

use std::{borrow::Cow, collections::BTreeMap};

use serde::{Deserialize, Serialize};
use tracer_common::{Counter, Generation, RECORD_LAYOUT, Traversal};

use crate::{
    explain::Rules,
    kernel::attach::{Counts, Skipped},
    netns::places::Named,
    nftables::{Ruleset, explain::Rules as NftablesRules, text::Texts as NftablesTexts},
    ruleset::{
        Labels,
        blob::{self, Info},
        text::Texts,
    },
    traversal::{Family, Hook},
};

/// Kinds of entries. A number is never used again for something else.
pub(super) mod tag {
    /// [`super::Host`]: the first entry, and only that.
    pub(in crate::recording) const HOST: u32 = 1;
    /// A record as the programs sent it.
    pub(in crate::recording) const RECORD: u32 = 2;
    /// A legacy table: length of the JSON that describes it, that JSON, the kernel's blob.
    pub(in crate::recording) const TABLE: u32 = 3;
    /// [`super::Unread`].
    pub(in crate::recording) const UNREAD: u32 = 4;
    /// [`super::DeviceName`].
    pub(in crate::recording) const DEVICE: u32 = 5;
    /// [`super::Counted`]: as it stood then.
    pub(in crate::recording) const COUNTED: u32 = 6;
    /// The rules of nf_tables in a network namespace between two commits: JSON.
    pub(in crate::recording) const NFTABLES: u32 = 9;
    /// [`super::End`]: the last entry of a recording that was finished.
    pub(in crate::recording) const END: u32 = 7;
    /// [`super::FunctionName`].
    pub(in crate::recording) const FUNCTION: u32 = 8;
    /// [`super::PlaceName`].
    pub(in crate::recording) const PLACE: u32 = 10;
}

/// How the records of a recording are laid out. Those of another layout cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordLayout {
    /// [`RECORD_LAYOUT`] of the programs that sent them.
    pub version: u32,
    /// Bytes of a whole record.
    pub len: u32,
}

impl RecordLayout {
    /// The one that this build reads.
    #[expect(clippy::cast_possible_truncation, reason = "a record has some hundred bytes")]
    pub const OWN: Self = Self {
        version: RECORD_LAYOUT,
        len: size_of::<Traversal>() as u32,
    };
}

/// Where and with what a recording was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Version of tracer.
    pub tracer: String,
    /// Name of the machine.
    pub name: String,
    /// Release of its kernel.
    pub kernel: String,
    /// Its architecture; records are in its byte order.
    pub machine: String,
    /// What was typed.
    pub command: Vec<String>,
    /// How the records are laid out.
    pub record: RecordLayout,
    /// Nanoseconds from `CLOCK_MONOTONIC`, which records have, to the time of day.
    pub clock_offset_ns: i64,
    /// Inode number of tracer's own network namespace.
    pub netns: Option<u32>,
}

/// Which ruleset it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TableId {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// 4 or 6; 0 for nf_tables.
    pub ip: u8,
    /// Name of the table.
    pub table: String,
}

impl TableId {
    /// Of a table of a namespace.
    #[must_use]
    pub fn new(netns: u32, family: Family, table: &str) -> Self {
        Self {
            netns,
            ip: match family {
                Family::Ipv4 => 4,
                Family::Ipv6 => 6,
            },
            table: table.to_owned(),
        }
    }

    /// Of all tables of nf_tables in a namespace, which are read together.
    #[must_use]
    pub fn nftables(netns: u32) -> Self {
        Self {
            netns,
            ip: 0,
            table: String::new(),
        }
    }

    /// The family; `None` for a number that is none.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        match self.ip {
            4 => Some(Family::Ipv4),
            6 => Some(Family::Ipv6),
            _ => None,
        }
    }
}

/// A table as it was read.
#[derive(Debug)]
pub struct RecordedTable {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Which generation it is.
    pub generation: Generation,
    /// The rules.
    pub rules: Rules,
}

/// What a table's blob does not say of itself.
#[derive(Serialize, Deserialize)]
struct TableHead {
    id: TableId,
    table_info: u64,
    made_ns: u64,
    entries: u32,
    hooks: Vec<BuiltIn>,
    /// In the order of the blob's entries, or none at all.
    texts: Vec<Option<Box<str>>>,
}

#[derive(Serialize, Deserialize)]
struct BuiltIn {
    hook: u8,
    entry: u32,
    underflow: u32,
}

/// The rules of nf_tables in a network namespace, as they were read.
#[derive(Debug)]
pub struct RecordedNftables {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Which generation it is.
    pub generation: Generation,
    /// The rules.
    pub rules: NftablesRules,
}

/// The same, written down.
#[derive(Serialize, Deserialize)]
struct Nftables<'a> {
    netns: u32,
    table_info: u64,
    made_ns: u64,
    ruleset: Cow<'a, Ruleset>,
    /// Handle of the table, handle of the rule, text.
    texts: Vec<(u64, u64, Cow<'a, str>)>,
}

/// A table that could not be read when a packet met it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unread {
    /// Which.
    pub id: TableId,
    /// Why not.
    pub why: String,
}

/// The name of a device of which the kernel told only the index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceName {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// The index.
    pub ifindex: u32,
    /// The name; empty where there was no such device any more.
    pub name: String,
}

/// What the machine called a network namespace from then on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceName {
    /// Inode number of a network namespace.
    pub netns: u32,
    /// Where it is not the name of this one but of the one at the other end of a device here: the device's index.
    pub ifindex: Option<u32>,
    /// The name; `None` where it had none any more.
    pub name: Option<String>,
}

impl From<&Named> for PlaceName {
    fn from(named: &Named) -> Self {
        let (netns, ifindex, name) = match named {
            Named::Namespace(netns, name) => (*netns, None, name),
            Named::Peer(netns, ifindex, name) => (*netns, Some(*ifindex), name),
        };
        Self {
            netns,
            ifindex,
            name: name.as_deref().map(str::to_owned),
        }
    }
}

impl From<PlaceName> for Named {
    fn from(place: PlaceName) -> Self {
        let name = place.name.map(Into::into);
        match place.ifindex {
            None => Self::Namespace(place.netns, name),
            Some(ifindex) => Self::Peer(place.netns, ifindex, name),
        }
    }
}

/// Which function of the kernel an address lies in: one where a packet was dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionName {
    /// The address.
    pub address: u64,
    /// The function; `None` where the kernel did not tell.
    pub name: Option<String>,
}

/// What was counted while it was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Traversals written so far; the ends of packets are not counted.
    pub traversals: u64,
    /// Each [`Counter`] by its name.
    pub counters: BTreeMap<String, u64>,
    /// Runs of probes that the kernel skipped; `None` where it does not say.
    pub skipped: Option<Skips>,
    /// Extensions that could not be observed.
    pub blind: Vec<String>,
}

/// [`Skipped`], written down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skips {
    tables: u64,
    life: u64,
    rules: u64,
    extensions: u64,
    #[serde(default)]
    steps: u64,
}

impl Counted {
    /// What stands on the counters now.
    #[must_use]
    pub fn new(traversals: u64, counts: &Counts, blind: &[String]) -> Self {
        Self {
            traversals,
            counters: Counter::ALL
                .into_iter()
                .map(|counter| (format!("{counter:?}"), counts.get(counter)))
                .collect(),
            skipped: counts.skipped.map(|skipped| Skips {
                tables: skipped.tables,
                life: skipped.life,
                rules: skipped.rules,
                extensions: skipped.extensions,
                steps: skipped.steps,
            }),
            blind: blind.to_vec(),
        }
    }

    /// The counters again. Those that this build does not know are left out.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for counter in Counter::ALL {
            let value = self.counters.get(&format!("{counter:?}"));
            counts.set(counter, value.copied().unwrap_or_default());
        }
        counts.skipped = self.skipped.map(|skips| Skipped {
            tables: skips.tables,
            life: skips.life,
            rules: skips.rules,
            extensions: skips.extensions,
            steps: skips.steps,
        });
        counts
    }
}

/// The end of a recording that was finished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// What was counted in all.
    pub counted: Counted,
}

/// One entry.
#[derive(Debug)]
pub enum Entry {
    /// Where the recording was made.
    Host(Box<Host>),
    /// A record as the programs sent it.
    Record(Vec<u8>),
    /// A table as it was read.
    Table(Box<RecordedTable>),
    /// Rules of nf_tables as they were read.
    Nftables(Box<RecordedNftables>),
    /// A table that was not.
    Unread(Unread),
    /// The name of a device.
    Device(DeviceName),
    /// The name of a network namespace.
    Place(PlaceName),
    /// The name of a function.
    Function(FunctionName),
    /// How it stood.
    Counted(Counted),
    /// The end.
    End(End),
    /// An entry that this build does not know.
    Unknown(u32),
}

/// A body that does not fit its tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct EntryError {
    /// What it should have been.
    what: &'static str,
    /// What is wrong.
    why: String,
}

/// Appends an entry with a JSON body.
pub(super) fn put_json<T: Serialize>(to: &mut Vec<u8>, tag: u32, body: &T) {
    put(to, tag, &[&json(body)]);
}

/// Appends an entry whose body is made of parts.
pub(super) fn put(to: &mut Vec<u8>, tag: u32, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    // A table has at most half a gigabyte, anything else far less.
    let len = u32::try_from(len).unwrap_or(u32::MAX);
    to.extend_from_slice(&tag.to_le_bytes());
    to.extend_from_slice(&len.to_le_bytes());
    parts.iter().for_each(|part| to.extend_from_slice(part));
}

/// Appends a table.
pub(super) fn put_table(to: &mut Vec<u8>, netns: u32, generation: Generation, rules: &Rules) {
    let Rules { table, texts, .. } = rules;
    let head = TableHead {
        id: TableId::new(netns, table.family, &table.name),
        table_info: generation.table_info,
        made_ns: generation.made_ns,
        entries: Info::of(table).entries_count,
        hooks: table
            .hooks
            .iter()
            .map(|chain| BuiltIn {
                hook: chain.hook.number(),
                entry: chain.entry,
                underflow: chain.underflow,
            })
            .collect(),
        texts: texts.lines().to_vec(),
    };
    let head = json(&head);
    let head_len = u32::try_from(head.len()).unwrap_or(u32::MAX);
    put(to, tag::TABLE, &[&head_len.to_le_bytes(), &head, &table.blob]);
}

/// Appends the rules of nf_tables in a network namespace.
pub(super) fn put_nftables(to: &mut Vec<u8>, netns: u32, generation: Generation, rules: &NftablesRules) {
    let texts = rules.texts.as_ref().map(NftablesTexts::lines);
    let texts = texts.iter().flatten();
    let body = Nftables {
        netns,
        table_info: generation.table_info,
        made_ns: generation.made_ns,
        ruleset: Cow::Borrowed(&rules.ruleset),
        texts: texts
            .map(|((table, rule), text)| (*table, *rule, Cow::Borrowed(&**text)))
            .collect(),
    };
    put_json(to, tag::NFTABLES, &body);
}

fn nftables(body: &[u8]) -> Result<RecordedNftables, EntryError> {
    let body: Nftables<'_> = from_json("nf_tables ruleset", body)?;
    let mut ruleset = body.ruleset.into_owned();
    ruleset.find_places();
    let texts = body.texts.into_iter();
    let texts = texts.map(|(table, rule, text)| ((table, rule), text.as_ref().into()));
    Ok(RecordedNftables {
        netns: body.netns,
        generation: Generation {
            table_info: body.table_info,
            made_ns: body.made_ns,
        },
        rules: NftablesRules {
            texts: Some(NftablesTexts::from_lines(texts)),
            ruleset,
        },
    })
}

fn json<T: Serialize>(body: &T) -> Vec<u8> {
    // Strings, numbers and lists of them have no way to fail.
    serde_json::to_vec(body).unwrap_or_default()
}

/// Splits the first entry off: its tag, its body and what follows. `None` where the bytes end within it.
pub(super) fn split(bytes: &[u8]) -> Option<(u32, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (body, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    Some((u32::from_le_bytes(*tag), body, rest))
}

impl Entry {
    /// Reads the body of an entry.
    ///
    /// # Errors
    /// A body that is not what the tag says.
    pub(super) fn decode(tag: u32, body: &[u8]) -> Result<Self, EntryError> {
        Ok(match tag {
            tag::HOST => Self::Host(Box::new(from_json("host", body)?)),
            tag::RECORD => Self::Record(body.to_vec()),
            tag::TABLE => Self::Table(Box::new(table(body)?)),
            tag::NFTABLES => Self::Nftables(Box::new(nftables(body)?)),
            tag::UNREAD => Self::Unread(from_json("unread table", body)?),
            tag::DEVICE => Self::Device(from_json("device", body)?),
            tag::PLACE => Self::Place(from_json("place", body)?),
            tag::FUNCTION => Self::Function(from_json("function", body)?),
            tag::COUNTED => Self::Counted(from_json("counters", body)?),
            tag::END => Self::End(from_json("end", body)?),
            unknown => Self::Unknown(unknown),
        })
    }
}

fn from_json<'a, T: Deserialize<'a>>(what: &'static str, body: &'a [u8]) -> Result<T, EntryError> {
    serde_json::from_slice(body).map_err(|error| EntryError {
        what,
        why: error.to_string(),
    })
}

fn table(body: &[u8]) -> Result<RecordedTable, EntryError> {
    let failed = |why: String| EntryError { what: "table", why };
    let cut = || failed("ends within its head".to_owned());
    let (head_len, rest) = body.split_first_chunk().ok_or_else(cut)?;
    let head_len = u32::from_le_bytes(*head_len) as usize;
    let (head, blob) = rest.split_at_checked(head_len).ok_or_else(cut)?;
    let head: TableHead = from_json("table", head)?;
    let family = head.id.family();
    let family = family.ok_or_else(|| failed(format!("IP version {}", head.id.ip)))?;
    let mut info = Info {
        name: head.id.table,
        valid_hooks: 0,
        hook_entry: Default::default(),
        underflow: Default::default(),
        entries_count: head.entries,
        size: u32::try_from(blob.len()).unwrap_or(u32::MAX),
    };
    for chain in &head.hooks {
        let number = usize::from(chain.hook);
        let (Some(entry), Some(underflow)) =
            (info.hook_entry.get_mut(number), info.underflow.get_mut(number))
        else {
            return Err(failed(format!("hook {}", Hook::from(chain.hook))));
        };
        info.valid_hooks |= 1 << chain.hook;
        (*entry, *underflow) = (chain.entry, chain.underflow);
    }
    let table = blob::decode(family, &info, blob.to_vec()).map_err(|error| failed(error.to_string()))?;
    let texts = Texts::from_lines(&table, head.texts);
    let texts = texts.ok_or_else(|| failed("not as many texts as entries".to_owned()))?;
    let labels = Labels::new(&table);
    Ok(RecordedTable {
        netns: head.id.netns,
        generation: Generation {
            table_info: head.table_info,
            made_ns: head.made_ns,
        },
        rules: Rules { table, labels, texts },
    })
}
