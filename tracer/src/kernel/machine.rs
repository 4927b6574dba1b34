//! Reads what a machine says about itself. Nothing here judges, and nothing changes the machine.

use std::fs::{self, File};
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use super::question::{self, Answer, Question};
use super::symbols::{self, Symbol};

/// A machine to be looked at.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    ask: fn(Question) -> Answer,
}

/// A loaded module, from `/proc/modules`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// How many things use it: other modules, rules, open files. `None` if the kernel does not count.
    pub uses: Option<u32>,
}

/// How far kernel lockdown goes, from `/sys/kernel/security/lockdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Off.
    None,
    /// The kernel may not be changed; reading its memory is allowed.
    Integrity,
    /// The kernel's memory may not be read either (`security/lockdown/lockdown.c`).
    Confidentiality,
}

impl Machine {
    /// The machine that this process runs on.
    #[must_use]
    pub fn this() -> Self {
        Self::at("/")
    }

    /// A machine whose `/proc` and `/sys` are under `root`. Questions still go to the running kernel; see
    /// [`Machine::answering`].
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            ask: question::ask,
        }
    }

    /// The same machine with answers from `ask` instead of from the running kernel.
    #[must_use]
    pub fn answering(self, ask: fn(Question) -> Answer) -> Self {
        Self { ask, ..self }
    }

    /// Where `/proc` and `/sys` are.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Asks the kernel.
    ///
    /// # Errors
    ///
    /// What the kernel answered instead of doing it.
    pub fn ask(&self, question: Question) -> Answer {
        (self.ask)(question)
    }

    /// Whether `path`, relative to the root, exists.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// Reads the text file `path`, relative to the root.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn read(&self, path: &str) -> io::Result<String> {
        fs::read_to_string(self.root.join(path))
    }

    /// The capabilities that this process can use, a bit each.
    ///
    /// # Errors
    ///
    /// If `/proc` cannot be read.
    pub fn capabilities(&self) -> io::Result<u64> {
        parse_capabilities(&self.read("proc/self/status")?)
            .ok_or_else(|| io::Error::other("no line CapEff in /proc/self/status"))
    }

    /// The lockdown mode; `None` if the kernel does not show it.
    #[must_use]
    pub fn lockdown(&self) -> Option<Lockdown> {
        parse_lockdown(&self.read("sys/kernel/security/lockdown").ok()?)
    }

    /// The loaded modules; empty if the kernel has none or does not show them.
    #[must_use]
    pub fn modules(&self) -> Vec<Module> {
        parse_modules(&self.read("proc/modules").unwrap_or_default())
    }

    /// Name, size and address of each loaded module; empty as [`Machine::modules`].
    #[must_use]
    pub fn modules_and_places(&self) -> Vec<String> {
        let text = self.read("proc/modules").unwrap_or_default();
        let place = |line: &str| {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            [0, 1, 5]
                .map(|at| words.get(at).copied().unwrap_or_default())
                .join(" ")
        };
        text.lines().map(place).collect()
    }

    /// The functions `wanted` that the kernel has.
    ///
    /// # Errors
    ///
    /// If the symbol table cannot be read.
    pub fn symbols(&self, wanted: &[&str]) -> io::Result<Vec<Symbol>> {
        let file = File::open(self.root.join("proc/kallsyms"))?;
        symbols::find(BufReader::with_capacity(256 << 10, file), wanted)
    }

    /// All functions that the kernel has, by address.
    ///
    /// # Errors
    ///
    /// If the symbol table cannot be read.
    pub fn functions(&self) -> io::Result<symbols::Index> {
        let file = File::open(self.root.join("proc/kallsyms"))?;
        symbols::Index::read(BufReader::with_capacity(256 << 10, file))
    }

    /// The data `wanted` that the kernel has.
    ///
    /// # Errors
    ///
    /// If the symbol table cannot be read.
    pub fn data(&self, wanted: &[&str]) -> io::Result<Vec<Symbol>> {
        let file = File::open(self.root.join("proc/kallsyms"))?;
        symbols::find_data(BufReader::with_capacity(256 << 10, file), wanted)
    }

    /// The functions `wanted` that the kernel has, with their lengths ([`symbols::find_with_len`]).
    ///
    /// # Errors
    ///
    /// If the symbol table cannot be read.
    pub fn symbols_with_len(&self, wanted: &[&str]) -> io::Result<Vec<(Symbol, Option<u64>)>> {
        let file = File::open(self.root.join("proc/kallsyms"))?;
        symbols::find_with_len(BufReader::with_capacity(256 << 10, file), wanted)
    }

    /// The legacy tables that exist in this process's network namespace. This reads a list that the kernel
    /// keeps; asking for a table by name would create it.
    ///
    /// # Errors
    ///
    /// If the list cannot be read: [`io::ErrorKind::NotFound`] if the family has no legacy tables at all.
    pub fn table_names(&self, list: &str) -> io::Result<Vec<String>> {
        let text = self.read(&format!("proc/net/{list}"))?;
        Ok(text.lines().map(Into::into).collect())
    }
}

/// Finds `CapEff:\t000001ffffffffff` in `/proc/<pid>/status`.
fn parse_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Reads `none [integrity] confidentiality`.
fn parse_lockdown(text: &str) -> Option<Lockdown> {
    let (_, rest) = text.split_once('[')?;
    match rest.split_once(']')?.0 {
        "none" => Some(Lockdown::None),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

/// Reads lines of the form `nf_tables 372736 24 nft_compat,nft_ct, Live 0x0000000000000000`.
fn parse_modules(text: &str) -> Vec<Module> {
    let module = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let name = words.next()?.to_owned();
        let uses = words.nth(1).and_then(|uses| uses.parse().ok());
        Some(Module { name, uses })
    };
    text.lines().filter_map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_the_effective_ones() {
        let status = "Name:\ttracer\nCapPrm:\t0000000000000000\nCapEff:\t000000c000201000\n";
        assert_eq!(parse_capabilities(status), Some(0xc0_0020_1000));
        assert_eq!(parse_capabilities("Name:\ttracer\n"), None);
    }

    #[test]
    fn the_lockdown_mode_is_the_one_in_brackets() {
        for (text, expected) in [
            ("[none] integrity confidentiality\n", Some(Lockdown::None)),
            ("none [integrity] confidentiality\n", Some(Lockdown::Integrity)),
            (
                "none integrity [confidentiality]\n",
                Some(Lockdown::Confidentiality),
            ),
            ("none integrity [more]\n", None),
            ("", None),
        ] {
            assert_eq!(parse_lockdown(text), expected, "{text}");
        }
    }

    #[test]
    fn modules_come_with_their_uses() {
        let text = "ip_tables 36864 2 - Live 0x0\nnf_tables 372736 - - Live 0x0\n\n";
        let module = |name: &str, uses| Module {
            name: name.into(),
            uses,
        };
        assert_eq!(
            parse_modules(text),
            [module("ip_tables", Some(2)), module("nf_tables", None)]
        );
    }
}
