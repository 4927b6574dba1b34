//! Reads the rules of nf_tables from the kernel, with the generation that they are.

use std::process::Command;
use std::sync::OnceLock;

use tracer_common::{Commit, Generation};

use super::attach::Attached;
use super::rules::KernelRules;
use crate::nftables::{Family, Ruleset, explain::Rules, source, text::Texts};
use crate::{
    netns::Netns,
    ruleset::source::{SourceError, output},
};

/// Times that rules are read again because of a commit meanwhile.
const ATTEMPTS_MAX: u32 = 16;

impl KernelRules {
    /// Reads the rules of these network namespaces, and hands them to `learn`. What cannot be read is read, or its
    /// failure told, when a packet meets it.
    pub fn survey_nftables(
        &mut self,
        attached: &Attached,
        namespaces: &[Netns],
        learn: &mut dyn FnMut(u32, Generation, Rules),
    ) {
        if !attached.traces_nftables() {
            return;
        }
        for netns in namespaces {
            if let Ok((generation, rules)) = self.read_nftables(attached, netns) {
                learn(netns.inode(), generation, rules);
            }
        }
    }

    /// Reads the rules that a namespace has now. Each commit is seen by the programs when it begins and when it is
    /// over; so rules that were read while none was under way, with the same last one before and after, are those that
    /// it made.
    pub(super) fn read_nftables(
        &mut self,
        attached: &Attached,
        netns: &Netns,
    ) -> Result<(Generation, Rules), String> {
        let commit = || attached.commit(netns.inode()).map_err(|error| error.to_string());
        for _ in 0..ATTEMPTS_MAX {
            let before = commit()?;
            if before.begun_ns != before.done_ns {
                std::thread::yield_now();
                continue;
            }
            let ruleset = source::ruleset(netns).map_err(|error| error.to_string())?;
            if commit()? != before {
                continue;
            }
            let mut texts = Texts::default();
            if self.texts && !ruleset.tables.is_empty() {
                texts = read_texts(netns, &ruleset);
                if commit()? != before {
                    // What the tools said is of other rules.
                    texts = Texts::default();
                }
            }
            self.not_followed.extend(ruleset.not_followed());
            return Ok((generation(before), Rules { ruleset, texts }));
        }
        Err("the rules of nf_tables were replaced each time they were read".to_owned())
    }
}

fn generation(commit: Commit) -> Generation {
    Generation {
        table_info: 0,
        made_ns: commit.begun_ns,
    }
}

/// What the tools print of rules, where they are on this machine.
fn read_texts(netns: &Netns, ruleset: &Ruleset) -> Texts {
    let mut texts = Texts::default();
    for table in ruleset.tables.iter().filter(|table| table.is_iptables()) {
        let Some(program) = save_program(table.family) else {
            continue;
        };
        let mut command = Command::new(program);
        command.args(["--modprobe=/bin/false", "-t", &table.name]);
        if let Ok(saved) = run(netns, &mut command) {
            texts.take_saved(table, &saved);
        }
    }
    if let Some(program) = list_program() {
        let mut command = Command::new(program);
        command.args(["--handle", "--stateless", "list", "ruleset"]);
        if let Ok(listed) = run(netns, &mut command) {
            texts.take_listed(ruleset, &listed);
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
