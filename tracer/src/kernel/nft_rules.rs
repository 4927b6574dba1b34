//! Reads the rules of nf_tables from the kernel, with the generation that they are.

use std::process::Command;
use std::sync::OnceLock;

use tracer_common::Generation;

use super::attach::Attached;
use super::rules::KernelRules;
use crate::nftables::{Family, Ruleset, explain::Rules, text::Texts};
use crate::{
    netns::Netns,
    ruleset::source::{SourceError, output},
};

impl KernelRules {
    /// Reads the rules of these network namespaces, and hands them to `learn`. What cannot be read is read, or its
    /// failure told, when a packet meets it.
    pub fn survey_nftables(
        &mut self,
        attached: &mut Attached,
        namespaces: &[Netns],
        learn: &mut dyn FnMut(u32, Generation, Rules),
    ) {
        if !attached.traces_nftables() {
            return;
        }
        for netns in namespaces {
            if let Ok((generation, mut rules)) = self.read_nftables(attached, netns) {
                // There is time now, and not when packets come.
                rules.texts = Some(self.nftables_texts(attached, netns, generation, &rules.ruleset));
                learn(netns.inode(), generation, rules);
            }
        }
    }

    /// Reads the rules that a namespace has now, without texts.
    pub(super) fn read_nftables(
        &mut self,
        attached: &mut Attached,
        netns: &Netns,
    ) -> Result<(Generation, Rules), String> {
        let (generation, ruleset) = attached.commits().rules(netns)?;
        Ok((generation, self.without_texts(attached, ruleset)))
    }

    /// Rules that were read. From now on the programs tell of headers that change, if these change any.
    pub fn without_texts(&mut self, attached: &mut Attached, ruleset: Ruleset) -> Rules {
        if ruleset.changes_headers() {
            attached.tell_headers();
        }
        self.not_followed.extend(ruleset.not_followed());
        Rules { ruleset, texts: None }
    }

    /// What the tools print of rules, where they are on this machine and the rules are still there.
    ///
    /// `nft` says the handle of each rule, which is never given to another; `iptables-save` does not, so what it says
    /// counts only if no commit came meanwhile.
    pub(super) fn nftables_texts(
        &self,
        attached: &Attached,
        netns: &Netns,
        generation: Generation,
        ruleset: &Ruleset,
    ) -> Texts {
        let mut texts = Texts::default();
        let is_in_force = || attached.commits().are_in_force(netns, generation);
        // Of rules that are gone the tools say nothing, and who asked them would fall behind.
        if !self.texts || ruleset.tables.is_empty() || !is_in_force() {
            return texts;
        }
        let saved = saved_texts(netns, ruleset);
        if is_in_force() {
            texts = saved;
        }
        if !texts.are_of_all(ruleset)
            && let Some(program) = list_program()
        {
            let mut command = Command::new(program);
            command.args(["--handle", "--stateless", "list", "ruleset"]);
            if let Ok(listed) = run(netns, &mut command) {
                texts.take_listed(ruleset, &listed);
            }
        }
        texts
    }
}

/// What `iptables-save` prints of its tables: all of a family in one go, for most of the tool's time is its start.
fn saved_texts(netns: &Netns, ruleset: &Ruleset) -> Texts {
    let mut texts = Texts::default();
    for family in [Family::Ip, Family::Ip6] {
        let tables = ruleset.tables.iter();
        let tables: Vec<_> = tables
            .filter(|table| table.family == family && table.is_iptables())
            .collect();
        if tables.is_empty() {
            continue;
        }
        let Some(program) = save_program(family) else {
            continue;
        };
        let save = |table: &[&str]| {
            let mut command = Command::new(program);
            command.arg("--modprobe=/bin/false").args(table);
            run(netns, &mut command).ok()
        };
        if save(&[]).is_none_or(|saved| texts.take_saved(&tables, &saved).is_err()) {
            // One of them has rules that the tool cannot print.
            for table in tables {
                let saved = save(&["-t", &table.name]);
                let _ = saved.map(|saved| texts.take_saved(&[table], &saved));
            }
        }
    }
    texts
}

fn run(netns: &Netns, command: &mut Command) -> Result<String, SourceError> {
    netns.enter(|| output(command))
}

/// The program that prints rules of iptables in nf_tables, if there is one. It asks for the revisions of extensions,
/// which loads `nft_compat`; so it is only run where that is loaded already, as it is for rules with extensions.
fn save_program(family: Family) -> Option<&'static str> {
    static FOUND: [OnceLock<Option<&str>>; 2] = [const { OnceLock::new() }; 2];

    if !std::path::Path::new("/sys/module/nft_compat").exists() {
        return None;
    }
    let (found, candidates) = match family {
        Family::Ip => (&FOUND[0], ["iptables-nft-save", "iptables-save"]),
        Family::Ip6 => (&FOUND[1], ["ip6tables-nft-save", "ip6tables-save"]),
        Family::Inet | Family::Arp | Family::Netdev | Family::Bridge | Family::Other(_) => return None,
    };
    *found.get_or_init(|| {
        candidates.into_iter().find(|program| {
            let version = output(Command::new(program).arg("--version"));
            version.is_ok_and(|version| version.contains("nf_tables"))
        })
    })
}

/// `nft`, if it is there.
fn list_program() -> Option<&'static str> {
    static FOUND: OnceLock<bool> = OnceLock::new();

    let found = FOUND.get_or_init(|| output(Command::new("nft").arg("--version")).is_ok());
    found.then_some("nft")
}
