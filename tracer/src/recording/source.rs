//! Rules: noted while they are read from the kernel, and taken from the recording when it is read.

use std::{collections::HashMap, io::Write};

use tracer_common::Generation;

use super::{
    entry::{RecordedTable, TableId, Unread},
    writer::Writer,
};
use crate::{
    explain::{NoRules, Rules, Source},
    nftables::{Ruleset, explain::Rules as NftablesRules, text::Texts},
    traversal::Family,
};

/// A source whose answers are noted, so that whoever reads the recording gets the same at the same place.
pub struct Noting<'a, W: Write> {
    /// Who answers.
    pub source: &'a mut dyn Source,
    /// Where it is noted.
    pub writer: &'a mut Writer<W>,
}

impl<W: Write> Source for Noting<'_, W> {
    fn read(&mut self, netns: u32, family: Family, table: &str) -> Result<(Generation, Rules), NoRules> {
        let answer = self.source.read(netns, family, table);
        match &answer {
            Ok((generation, rules)) => self.writer.table(netns, *generation, rules),
            Err(why) => self
                .writer
                .unread(&unread(TableId::new(netns, family, table), why)),
        }
        answer
    }

    fn read_nftables(&mut self, netns: u32) -> Result<(Generation, NftablesRules), NoRules> {
        let answer = self.source.read_nftables(netns);
        if let Err(why) = &answer {
            self.writer.unread(&unread(TableId::nftables(netns), why));
        }
        answer
    }

    /// Rules are noted when they have their texts: those that no packet has met need not be.
    fn with_nftables_texts(&mut self, netns: u32, generation: Generation, ruleset: Ruleset) -> NftablesRules {
        let rules = self.source.with_nftables_texts(netns, generation, ruleset);
        self.writer.nftables(netns, generation, &rules);
        rules
    }
}

fn unread(id: TableId, why: &NoRules) -> Unread {
    Unread {
        id,
        why: match why {
            NoRules::Unreadable(why) => why.clone(),
            NoRules::Replaced | NoRules::Unsure => why.to_string(),
        },
    }
}

/// What a recording says of rules that are not in it, as far as it has been read. The rules that are in it are for
/// [`crate::explain::Explainer::learn`].
#[derive(Debug, Default)]
pub struct Recorded {
    /// What came last of each table: its rules, or why it could not be read.
    last: HashMap<TableId, Option<String>>,
    /// Whether rules may have been in a part that is damaged.
    damaged: bool,
}

impl Recorded {
    /// A table was read.
    pub fn table(&mut self, table: &RecordedTable) {
        let rules = &table.rules.table;
        let id = TableId::new(table.netns, rules.family, &rules.name);
        self.last.insert(id, None);
    }

    /// The rules of nf_tables were read.
    pub fn nftables(&mut self, netns: u32) {
        self.last.insert(TableId::nftables(netns), None);
    }

    /// A table could not be read.
    pub fn unread(&mut self, unread: Unread) {
        self.last.insert(unread.id, Some(unread.why));
    }

    /// A part of the recording is damaged.
    pub fn damaged(&mut self) {
        self.damaged = true;
    }

    /// Why rules that are not known are not: they were not read in time, and the recording says why.
    fn why_not(&self, id: &TableId) -> NoRules {
        if self.damaged {
            return NoRules::Unreadable("the recording is damaged".to_owned());
        }
        match self.last.get(id) {
            Some(None) => NoRules::Replaced,
            Some(Some(why)) => NoRules::Unreadable(why.clone()),
            None => NoRules::Unreadable("not in the recording".to_owned()),
        }
    }
}

impl Source for Recorded {
    fn read(&mut self, netns: u32, family: Family, table: &str) -> Result<(Generation, Rules), NoRules> {
        Err(self.why_not(&TableId::new(netns, family, table)))
    }

    fn read_nftables(&mut self, netns: u32) -> Result<(Generation, NftablesRules), NoRules> {
        Err(self.why_not(&TableId::nftables(netns)))
    }

    fn with_nftables_texts(&mut self, _: u32, _: Generation, ruleset: Ruleset) -> NftablesRules {
        // All that there are came with the rules.
        NftablesRules {
            ruleset,
            texts: Some(Texts::default()),
        }
    }
}
