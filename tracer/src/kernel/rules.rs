//! Reads rules from the kernel, each with the generation that it is, and observes the extensions in them.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::PathBuf,
    thread,
    time::Duration,
};

use tracer_common::{Generation, Replacement, TableRead};

use super::attach::{Attached, ExtensionKind, Replacements};
use crate::{
    explain::{NoRules, Rules, Source},
    netns::Netns,
    nftables::{Ruleset, explain::Rules as NftablesRules},
    replay::{self, Purity},
    ruleset::{Extension, Labels, Table, Target, source::QUESTIONS, text::Texts},
    traversal::Family,
};

/// Times that a table is read again because it was replaced meanwhile.
const ATTEMPTS_MAX: u32 = 16;
/// Before it is read again because the kernel did not tell what was read.
const UNTOLD_PAUSE: Duration = Duration::from_millis(1);
/// Namespaces of which it is remembered where they are.
const NAMESPACES_MAX: usize = 1024;

/// Reads rules while programs are attached.
pub struct KernelRules {
    /// Whether to ask `iptables-save` and `nft` for texts.
    pub(super) texts: bool,
    /// Extensions that are observed, or cannot be.
    asked: HashSet<Key>,
    /// Functions that are observed.
    observed: HashSet<(ExtensionKind, String)>,
    found: Found,
    /// Extensions that cannot be observed, for the summary.
    pub blind: Vec<String>,
    /// Tables of nf_tables that packets pass unseen, for the summary.
    pub not_followed: BTreeSet<String>,
}

impl KernelRules {
    /// Reads rules; their texts only where they are wanted, for they cost processes.
    #[must_use]
    pub fn new(texts: bool) -> Self {
        Self {
            texts,
            asked: HashSet::new(),
            observed: HashSet::new(),
            found: Found::default(),
            blind: Vec::new(),
            not_followed: BTreeSet::new(),
        }
    }

    /// Reads every table of these network namespaces, so that what is in use is observed before the first packet
    /// comes, and hands each to `learn` with the inode number of its namespace. What cannot be read is read, or its
    /// failure told, when a packet meets it.
    pub fn survey(
        &mut self,
        attached: &mut Attached,
        namespaces: &[Netns],
        learn: &mut dyn FnMut(u32, Generation, Rules),
    ) {
        for netns in namespaces {
            for (family, name) in netns.table_names().unwrap_or_default() {
                if let Ok((generation, rules)) = self.read_table(attached, netns, family, &name) {
                    learn(netns.inode(), generation, rules);
                }
            }
        }
    }

    /// Reads the rules of a table that has been given others: at once, for they may be gone by the time that the record
    /// of a packet arrives that met them. What cannot be read is read, or its failure told, when a packet meets it.
    pub fn read_replaced(
        &mut self,
        attached: &mut Attached,
        replaced: &Replaced,
    ) -> Option<(Generation, Rules)> {
        let netns = self.found.netns(replaced.netns)?;
        self.read_table(attached, &netns, replaced.family, &replaced.table)
            .ok()
    }

    fn read_table(
        &mut self,
        attached: &mut Attached,
        netns: &Netns,
        family: Family,
        name: &str,
    ) -> Result<(Generation, Rules), String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let mut attempts = 0..ATTEMPTS_MAX;
        let (table, read) = loop {
            let before = attached.table_read().map_err(|error| said(&error))?;
            let table = netns.table(family, name).map_err(|error| said(&error))?;
            let table = table.ok_or_else(|| format!("the table {name} is gone"))?;
            let read = attached.table_read().map_err(|error| said(&error))?;
            // The kernel may leave out a run of the probes that tell.
            let is_told = read.lookups >= before.lookups + QUESTIONS;
            if is_told && read.same >= QUESTIONS {
                break (table, read);
            }
            if attempts.next().is_none() {
                return Err(if is_told {
                    format!("the table {name} was replaced each time it was read")
                } else {
                    "the kernel did not tell which rules were read".to_owned()
                });
            }
            if !is_told {
                // No program runs here before whoever uses a map on this processor has gone on.
                thread::sleep(UNTOLD_PAUSE);
            }
        };
        self.observe(attached, netns, &table, &read);
        let texts = if self.texts {
            texts(attached, netns, &table, &read)
        } else {
            None
        };
        let labels = Labels::new(&table);
        Ok((
            read.generation,
            Rules {
                table,
                labels,
                texts: texts.unwrap_or_else(Texts::own),
            },
        ))
    }

    /// Observes every extension of a table whose answer cannot be replayed.
    fn observe(&mut self, attached: &mut Attached, netns: &Netns, table: &Table, read: &TableRead) {
        let mut extensions = Vec::new();
        for rule in &table.rules {
            extensions.extend(
                rule.matches
                    .iter()
                    .map(|extension| (ExtensionKind::Match, extension)),
            );
            if let Target::Extension(extension) = &rule.target {
                let kind = ExtensionKind::Target {
                    headers: replay::changes_headers(extension, table),
                };
                extensions.push((kind, extension));
            }
        }
        extensions.retain(|(kind, extension)| {
            replay::purity(extension, table) != Purity::Pure
                && !self.asked.contains(&key(*kind, table, extension))
        });
        let functions = extensions
            .iter()
            .filter_map(|(kind, extension)| function_name(*kind, table, extension));
        attached.prepare_to_observe(functions);
        for (kind, extension) in extensions {
            self.observe_one(attached, netns, table, read, kind, extension);
        }
    }

    fn observe_one(
        &mut self,
        attached: &mut Attached,
        netns: &Netns,
        table: &Table,
        read: &TableRead,
        kind: ExtensionKind,
        extension: &Extension,
    ) {
        let key = key(kind, table, extension);
        if self.asked.contains(&key) {
            return;
        }
        let known = function_name(kind, table, extension);
        let is_observed = known.is_some_and(|function| self.observe_function(attached, kind, function)) || {
            let function = attached.function_of(&read.generation, extension);
            if !is_still(attached, netns, table, read) {
                // What was read may have been anything. The rules that are in force now will be asked.
                return;
            }
            let function = function.ok().flatten();
            function.is_some_and(|function| self.observe_function(attached, kind, &function))
        };
        self.asked.insert(key);
        if !is_observed && !self.blind.contains(&extension.name) {
            self.blind.push(extension.name.clone());
        }
    }

    /// Several extensions may share a function. Returns whether it is observed.
    fn observe_function(&mut self, attached: &mut Attached, kind: ExtensionKind, function: &str) -> bool {
        let key = (kind, function.to_owned());
        if self.observed.contains(&key) {
            return true;
        }
        let is_observed = attached.observe(kind, function).is_ok();
        if is_observed {
            self.observed.insert(key);
        }
        is_observed
    }
}

/// What an extension is known by, its revision last.
type Key = (ExtensionKind, Family, String, u8);

/// The kernel calls the same function for all extensions with the same key.
fn key(kind: ExtensionKind, table: &Table, extension: &Extension) -> Key {
    (kind, table.family, extension.name.clone(), extension.revision)
}

/// The function that the kernel calls for an extension, where that is known without asking it.
fn function_name(kind: ExtensionKind, table: &Table, extension: &Extension) -> Option<&'static str> {
    let which = match kind {
        ExtensionKind::Match => replay::Kind::Match,
        ExtensionKind::Target { .. } => replay::Kind::Target,
    };
    replay::function_name(which, &extension.name, extension.revision, table.family)
}

/// Whether a table has the rules still that were read.
fn is_still(attached: &Attached, netns: &Netns, table: &Table, read: &TableRead) -> bool {
    if !matches!(netns.table(table.family, &table.name), Ok(Some(_))) {
        return false;
    }
    let now = attached.table_read();
    now.is_ok_and(|now| now.generation == read.generation && now.table == read.table)
}

/// The texts that `iptables-save` prints of a table, if they are those of the rules that were read: the generation
/// must be the same before and after.
fn texts(attached: &Attached, netns: &Netns, table: &Table, read: &TableRead) -> Option<Texts> {
    let saved = netns.save(table.family, &table.name).ok()??;
    let texts = Texts::saved(table, &saved).ok()?;
    is_still(attached, netns, table, read).then_some(texts)
}

/// A table that has been given other rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Inode number of the network namespace.
    pub netns: u32,
    /// Its family.
    pub family: Family,
    /// Its name.
    pub table: String,
    /// The rules that it has been given.
    pub generation: Generation,
}

impl Replaced {
    /// Those that were replaced since the last call, each once: only what a table has now can be read.
    pub fn latest(replacements: &mut Replacements) -> Vec<Self> {
        let mut latest: Vec<Self> = Vec::new();
        while let Some(replacement) = replacements.next_one() {
            let Some(next) = Self::of(&replacement) else {
                continue;
            };
            latest
                .retain(|old| (old.netns, old.family, &old.table) != (next.netns, next.family, &next.table));
            latest.push(next);
        }
        latest
    }

    fn of(replacement: &Replacement) -> Option<Self> {
        let name = replacement.table_name.split(|&byte| byte == 0).next()?;
        Some(Self {
            netns: replacement.netns,
            family: match replacement.family {
                2 => Family::Ipv4,
                10 => Family::Ipv6,
                // Tables of bridges and of ARP.
                _ => return None,
            },
            table: String::from_utf8(name.to_vec()).ok()?,
            generation: replacement.generation,
        })
    }
}

/// Where namespaces were found, by inode number. They are not held open: that would keep them alive.
#[derive(Debug, Default)]
pub(super) struct Found(HashMap<u32, PathBuf>);

impl Found {
    /// The namespace of an inode number.
    pub(super) fn netns(&mut self, inode: u32) -> Option<Netns> {
        let known = self.0.get(&inode);
        if let Some(netns) = known.and_then(|path| Netns::if_still(path, inode)) {
            return Some(netns);
        }
        if self.0.len() >= NAMESPACES_MAX {
            self.0.clear();
        }
        let netns = Netns::by_inode(inode)?;
        self.0.insert(inode, PathBuf::from(netns.name()));
        Some(netns)
    }
}

/// [`KernelRules`] at work.
pub struct Reader<'a> {
    /// What reads.
    pub rules: &'a mut KernelRules,
    /// What tells the generation, and observes.
    pub attached: &'a mut Attached,
}

impl Source for Reader<'_> {
    fn read_nftables(&mut self, netns: u32) -> Result<(Generation, NftablesRules), NoRules> {
        let found = self.rules.found.netns(netns);
        let found = found.ok_or_else(|| NoRules::Unreadable(format!("network namespace {netns} is gone")))?;
        self.rules
            .read_nftables(self.attached, &found)
            .map_err(NoRules::Unreadable)
    }

    fn with_nftables_texts(&mut self, netns: u32, generation: Generation, ruleset: Ruleset) -> NftablesRules {
        let texts = self.rules.found.netns(netns).map(|netns| {
            self.rules
                .nftables_texts(self.attached, &netns, generation, &ruleset)
        });
        NftablesRules {
            ruleset,
            // Those of a namespace that is gone nobody can tell any more.
            texts: Some(texts.unwrap_or_default()),
        }
    }

    fn read(&mut self, netns: u32, family: Family, table: &str) -> Result<(Generation, Rules), NoRules> {
        let gone = || NoRules::Unreadable(format!("network namespace {netns} is gone"));
        let netns = self.rules.found.netns(netns).ok_or_else(gone)?;
        let read = self.rules.read_table(self.attached, &netns, family, table);
        read.map_err(NoRules::Unreadable)
    }
}
