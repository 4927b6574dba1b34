//! Looks up functions in the kernel's symbol table.

use std::collections::HashSet;
use std::io::{self, BufRead};
use std::num::NonZeroU64;

/// Longest line that is looked at: `KSYM_NAME_LEN` (512), a module name and an address fit well.
const LINE_LEN_MAX: u64 = 1024;

/// One line of `/proc/kallsyms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Its address; `None` if the kernel hides addresses from this process (`kernel.kptr_restrict`).
    pub address: Option<NonZeroU64>,
    /// The module it is in; `None` for vmlinux.
    pub module: Option<String>,
}

/// Finds the functions `wanted` in text of the form of `/proc/kallsyms` (`s_show` in `kernel/kallsyms.c`).
///
/// A name may occur more than once; all occurrences are returned in the order of the text. Lines that are
/// not understood, and symbols that are not functions, are passed over.
///
/// # Errors
///
/// If reading fails.
pub fn find(kallsyms: impl BufRead, wanted: &[&str]) -> io::Result<Vec<Symbol>> {
    let wanted = Wanted::new(wanted);
    let mut found = Vec::new();
    for_each_line(kallsyms, |line| {
        found.extend(wanted.symbol(line, FUNCTIONS));
    })?;
    Ok(found)
}

/// Finds the data `wanted`, as [`find`] does functions.
///
/// # Errors
///
/// If reading fails.
pub fn find_data(kallsyms: impl BufRead, wanted: &[&str]) -> io::Result<Vec<Symbol>> {
    let wanted = Wanted::new(wanted);
    let mut found = Vec::new();
    for_each_line(kallsyms, |line| {
        found.extend(wanted.symbol(line, DATA));
    })?;
    Ok(found)
}

/// Every function of the kernel, by address, in little room: there are some 100,000.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Where each function begins, and its line in `lines`; in the order of their addresses.
    starts: Vec<(NonZeroU64, u32)>,
    /// Name and, after a space, module of each, with a newline at the end.
    lines: String,
}

impl Index {
    /// Of text as [`find`] takes it.
    ///
    /// # Errors
    ///
    /// If reading fails.
    pub fn read(kallsyms: impl BufRead) -> io::Result<Self> {
        let mut index = Self::default();
        for_each_line(kallsyms, |line| {
            let place = u32::try_from(index.lines.len()).ok();
            let symbol = words(line, FUNCTIONS).and_then(|words| words.symbol());
            let Some((symbol, at)) = symbol.zip(place) else {
                return;
            };
            let Some(address) = symbol.address else {
                return;
            };
            index.starts.push((address, at));
            index.lines.push_str(&symbol.name);
            if let Some(module) = symbol.module {
                index.lines.push(' ');
                index.lines.push_str(&module);
            }
            index.lines.push('\n');
        })?;
        // Of those at one address the last stays the last.
        index.starts.sort_by_key(|(address, _)| *address);
        Ok(index)
    }

    /// How many functions have the name of this one, and are in the same module.
    #[must_use]
    pub fn namesakes(&self, symbol: &Symbol) -> usize {
        let own = (symbol.name.as_str(), symbol.module.as_deref());
        self.lines.lines().filter(|line| named(line) == own).count()
    }

    /// The function that an address lies in: the last one that begins at or before it.
    #[must_use]
    pub fn containing(&self, address: u64) -> Option<Symbol> {
        let after = self.starts.partition_point(|(start, _)| start.get() <= address);
        let (start, at) = self.starts.get(after.checked_sub(1)?)?;
        let (name, module) = named(self.lines[usize::try_from(*at).ok()?..].lines().next()?);
        Some(Symbol {
            name: name.into(),
            address: Some(*start),
            module: module.map(Into::into),
        })
    }
}

/// Name and module in a line of an [`Index`].
fn named(line: &str) -> (&str, Option<&str>) {
    match line.split_once(' ') {
        Some((name, module)) => (name, Some(module)),
        None => (line, None),
    }
}

/// Finds the functions `wanted` as [`find`] does, each with its length: the bytes up to the next symbol, `None` where
/// there is none or addresses are hidden. What follows a function up to the next symbol is padding.
///
/// # Errors
///
/// If reading fails.
pub fn find_with_len(kallsyms: impl BufRead, wanted: &[&str]) -> io::Result<Vec<(Symbol, Option<u64>)>> {
    let wanted = Wanted::new(wanted);
    let mut found = Vec::new();
    let mut addresses = Vec::new();
    for_each_line(kallsyms, |line| {
        found.extend(wanted.symbol(line, FUNCTIONS));
        addresses.extend(line.get(..ADDRESS_LEN).and_then(number));
    })?;
    // Nearly in order as they come: vmlinux, then each module.
    addresses.sort_unstable();
    let len = |symbol: &Symbol| {
        let address = symbol.address?.get();
        let next = addresses.get(addresses.partition_point(|other| *other <= address))?;
        Some(next - address)
    };
    Ok(found
        .into_iter()
        .map(|symbol| {
            let len = len(&symbol);
            (symbol, len)
        })
        .collect())
}

fn for_each_line(mut kallsyms: impl BufRead, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut line = Vec::new();
    loop {
        line.clear();
        // Bounded, so that a line that never ends does not fill the memory.
        if io::Read::take(&mut kallsyms, LINE_LEN_MAX).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        take(line.trim_ascii_end());
    }
}

/// The kinds of functions: of a file, of all, and those that another may take the place of.
const FUNCTIONS: [u8; 4] = *b"tTwW";
/// The kinds of data.
const DATA: [u8; 4] = *b"bBdD";
/// Digits of an address.
const ADDRESS_LEN: usize = 2 * size_of::<usize>();

/// Names, to be looked up for each of some 200,000 lines.
struct Wanted<'a> {
    names: HashSet<&'a [u8]>,
    /// A bit for each length that one of them has; all that are longer share the last.
    lens: u64,
}

impl<'a> Wanted<'a> {
    fn new(names: &[&'a str]) -> Self {
        let names: HashSet<_> = names.iter().map(|name| name.as_bytes()).collect();
        let lens = names.iter().fold(0, |lens, name| lens | Self::len_bit(name));
        Self { names, lens }
    }

    fn len_bit(name: &[u8]) -> u64 {
        1 << name.len().min(63)
    }

    /// The symbol of a line, if it is of one of the kinds and its name is wanted.
    fn symbol(&self, line: &[u8], kinds: [u8; 4]) -> Option<Symbol> {
        let words = words(line, kinds)?;
        let is_wanted = self.lens & Self::len_bit(words.name) != 0 && self.names.contains(words.name);
        is_wanted.then(|| words.symbol()).flatten()
    }
}

/// A line such as `ffffffffc0a1b000 t ipt_do_table\t[ip_tables]`.
struct Words<'a> {
    address: &'a [u8],
    name: &'a [u8],
    module: Option<&'a [u8]>,
}

/// Reads a line if its symbol is of one of the kinds.
fn words(line: &[u8], kinds: [u8; 4]) -> Option<Words<'_>> {
    let (address, rest) = line.split_at_checked(ADDRESS_LEN)?;
    let [b' ', kind, b' ', rest @ ..] = rest else {
        return None;
    };
    if !kinds.contains(kind) {
        return None;
    }
    let mut rest = rest.splitn(2, |byte| *byte == b'\t');
    let (name, module) = (rest.next()?, rest.next());
    Some(Words {
        address,
        name,
        module: module.and_then(|module| module.strip_prefix(b"[")?.strip_suffix(b"]")),
    })
}

/// The number that an address is; zero if the kernel hides it.
fn number(address: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(address).ok()?, 16).ok()
}

impl Words<'_> {
    fn symbol(&self) -> Option<Symbol> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
        Some(Symbol {
            name: text(self.name)?,
            address: NonZeroU64::new(number(self.address)?),
            module: self.module.and_then(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
ffffffff81a00000 T consume_skb
ffffffff81a00100 t kfree_skbmem
ffffffff81a00200 t kfree_skbmem
ffffffff82000000 D __tracepoint_kfree_skb
ffffffffc0a1b000 t ipt_do_table\t[ip_tables]
ffffffffc0a1c000 r ipt_do_table\t[other]
ffffffffc0a1d000 T ipt_do_table_not\t[other]
";

    #[test]
    fn functions_are_found_with_their_module() {
        let found = find(TEXT.as_bytes(), &["ipt_do_table", "__tracepoint_kfree_skb"]).unwrap();
        assert_eq!(
            found,
            [Symbol {
                name: "ipt_do_table".into(),
                address: NonZeroU64::new(0xffff_ffff_c0a1_b000),
                module: Some("ip_tables".into()),
            }]
        );
    }

    #[test]
    fn data_are_no_functions() {
        let found = find_data(TEXT.as_bytes(), &["__tracepoint_kfree_skb", "consume_skb"]).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].name, "__tracepoint_kfree_skb");
    }

    #[test]
    fn every_occurrence_is_found() {
        assert_eq!(find(TEXT.as_bytes(), &["kfree_skbmem"]).unwrap().len(), 2);
    }

    #[test]
    fn the_function_around_an_address_is_found() {
        let index = Index::read(TEXT.as_bytes()).unwrap();
        let name = |address| {
            let found = index.containing(address);
            found.map(|symbol| (symbol.name, symbol.module))
        };
        let of_kernel = |name: &str| Some((name.to_owned(), None));
        assert_eq!(name(0xffff_ffff_81a0_00ff), of_kernel("consume_skb"));
        assert_eq!(name(0xffff_ffff_81a0_0100), of_kernel("kfree_skbmem"));
        let of_module = ("ipt_do_table".to_owned(), Some("ip_tables".to_owned()));
        assert_eq!(name(0xffff_ffff_c0a1_b010), Some(of_module));
        assert_eq!(name(0x1000), None);
        let namesakes = |address| index.namesakes(&index.containing(address).unwrap());
        assert_eq!(namesakes(0xffff_ffff_81a0_0100), 2);
        // Another module has data of that name.
        assert_eq!(namesakes(0xffff_ffff_c0a1_b010), 1);
        let hidden = Index::read("0000000000000000 t nf_hook_slow\n".as_bytes()).unwrap();
        assert_eq!(hidden.containing(0x1000), None);
    }

    #[test]
    fn hidden_addresses_are_told_from_real_ones() {
        let text = "0000000000000000 t ipt_do_table\t[ip_tables]\n";
        let found = find(text.as_bytes(), &["ipt_do_table"]).unwrap();
        assert_eq!(found[0].address, None);
    }

    #[test]
    fn a_function_ends_where_the_next_symbol_begins() {
        let found = find_with_len(TEXT.as_bytes(), &["kfree_skbmem", "ipt_do_table_not"]).unwrap();
        let lens: Vec<_> = found.iter().map(|(_, len)| *len).collect();
        assert_eq!(lens, [Some(0x100), Some(0x82000000 - 0x81a00200), None]);
        let text = "0000000000000000 t ipt_do_table\t[ip_tables]\n0000000000000000 t next\n";
        let found = find_with_len(text.as_bytes(), &["ipt_do_table"]).unwrap();
        assert_eq!(found[0].1, None);
    }

    #[test]
    fn arbitrary_text_never_panics() {
        bolero::check!().for_each(|bytes: &[u8]| {
            find(bytes, &["ipt_do_table", ""]).unwrap();
            find_with_len(bytes, &["ipt_do_table", ""]).unwrap();
            let index = Index::read(bytes).unwrap();
            drop(index.containing(u64::MAX));
        });
    }
}
