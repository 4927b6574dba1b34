//! Where functions return: the instructions, in the code that runs now.
//!
//! A return probe (kretprobe) takes an instance for each call that is under way, of which 5.10 has one for each CPU: a
//! call within a call of the same function, as a packet that TEE or REJECT sends within a traversal, returns unseen. A
//! kprobe on the instruction that returns has no such limit. There the stack pointer is what it was at entry, so the
//! call has the same name at both ends (`call.rs` of the programs), and the register for results holds the verdict.
//!
//! It takes all of a function's code to be understood. Where it is not, the return probe has to do.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use aya::Ebpf;
use iced_x86::{Code, Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic};
use nix::libc;
use thiserror::Error;

use super::code;
use super::machine::Machine;
use super::symbols::Symbol;

/// The longest code that is looked at.
const CODE_LEN_MAX: u64 = 16 << 10;

/// Programs for return probes, and those that do the same at the instructions.
const PROGRAMS: [(&str, &str); 6] = [
    ("ipt_leave", "table_return"),
    ("ip6t_leave", "table_return"),
    ("match_leave", "match_return"),
    ("target_leave", "target_return"),
    ("target_leave_changed", "target_return_changed"),
    ("nft_leave", "nft_return"),
];

/// The program that does at the instructions what this one does as a return probe, if there is one and it is the better
/// choice, which it is on one processor. On several, other ones hold the ring buffer's lock at times, and where a kprobe
/// in the middle of a function runs the kernel does not wait for it (`__bpf_ringbuf_reserve`, `kernel/bpf/ringbuf.c`),
/// so records would be lost; while a return probe has a call for each processor at least, so that calls within calls are
/// seen.
pub(super) fn program_for(return_probe: &str) -> Option<&'static str> {
    one_processor().then(|| at_instructions(return_probe)).flatten()
}

/// The program that does at the instructions what this one does as a return probe.
pub(super) fn at_instructions(return_probe: &str) -> Option<&'static str> {
    let mut programs = PROGRAMS.into_iter();
    programs.find_map(|(probe, program)| (probe == return_probe).then_some(program))
}

/// Whether the machine has one processor at work.
pub(super) fn one_processor() -> bool {
    static ALONE: OnceLock<bool> = OnceLock::new();

    // SAFETY: the call takes a number and gives one.
    *ALONE.get_or_init(|| unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) } == 1)
}

/// What functions jump to instead of returning, where the kernel guards returns: `arch/x86/lib/retpoline.S`. Modules are
/// patched to jump to the one that the processor needs (`apply_returns`, `arch/x86/kernel/alternative.c`).
const THUNKS: [&str; 7] = [
    "__x86_return_thunk",
    "retbleed_return_thunk",
    "srso_return_thunk",
    "srso_alias_return_thunk",
    "call_depth_return_thunk",
    "its_return_thunk",
    "zen_return_thunk",
];
/// What is called and never returns.
const ENDLESS: [&str; 4] = ["__stack_chk_fail", "__fortify_panic", "fortify_panic", "panic"];
/// What compilers append to the name of a function for the part of it that rarely runs.
const COLD: &str = ".cold";

/// Why the instructions are not known.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum NotFound {
    /// The instructions are those of x86-64.
    #[error("only the code of x86-64 kernels is understood")]
    Architecture,
    /// The function is not there, or several times, or its address is hidden.
    #[error("the kernel does not tell where it is")]
    NoAddress,
    /// Its code cannot be read.
    #[error("its code cannot be read")]
    Unreadable,
    /// It ends by calling another function, which returns for it.
    #[error("its code goes on in another function")]
    Elsewhere,
    /// It jumps to what a register holds.
    #[error("its code jumps to addresses that it computes")]
    Computed,
    /// Another probe has replaced an instruction.
    #[error("another probe hides a part of its code")]
    Patched,
    /// The kernel does not take a kprobe on one of them.
    #[error("the kernel takes no probe where it returns")]
    Refused,
    /// No instruction returns, or bytes are no instructions.
    #[error("its code is of an unknown shape")]
    Shape,
}

/// An instruction at which a function returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Site {
    /// The symbol that it lies in, with its module where the name alone would not do.
    pub(super) symbol: String,
    /// Where it begins, in bytes from that symbol.
    pub(super) offset: u64,
    /// Its address.
    pub(super) address: u64,
}

/// What is known of each function that was asked for.
type Found = HashMap<String, Result<Arc<[Site]>, NotFound>>;

/// Where functions return. What was found once is kept: our own probes change the code.
#[derive(Debug, Default)]
pub(super) struct Returns {
    found: Found,
    /// Where the functions begin, as far as that is known.
    starts: HashMap<String, u64>,
}

impl Returns {
    /// Looks at functions that were not looked at before.
    pub(super) fn look<'a>(&mut self, ebpf: &mut Ebpf, functions: impl Iterator<Item = &'a str>) {
        let asked: BTreeSet<&str> = functions
            .filter(|function| !self.found.contains_key(*function))
            .collect();
        if !asked.is_empty() {
            let found = look(ebpf, &asked, &mut self.starts);
            self.found.extend(found);
        }
    }

    /// Where a function that was looked at begins.
    pub(super) fn start_of(&self, function: &str) -> Option<u64> {
        self.starts.get(function).copied()
    }

    /// Where a function returns.
    pub(super) fn of(&self, function: &str) -> Result<Arc<[Site]>, NotFound> {
        let found = self.found.get(function).cloned();
        found.unwrap_or(Err(NotFound::NoAddress))
    }
}

fn look(ebpf: &mut Ebpf, functions: &BTreeSet<&str>, starts: &mut HashMap<String, u64>) -> Found {
    let plain = |function: &str| function.rsplit(':').next().unwrap_or_default().to_owned();
    let names: Vec<String> = functions
        .iter()
        .map(|function| plain(function))
        .flat_map(|name| [format!("{name}{COLD}"), name])
        .chain(THUNKS.iter().chain(&ENDLESS).map(|name| (*name).to_owned()))
        .collect();
    let wanted: Vec<&str> = names.iter().map(String::as_str).collect();
    let symbols = if cfg!(target_arch = "x86_64") {
        let symbols = Machine::this().symbols_with_len(&wanted);
        symbols.map_err(|_| NotFound::NoAddress)
    } else {
        Err(NotFound::Architecture)
    };
    let symbols = code::load(ebpf).map_err(|_| NotFound::Unreadable).and(symbols);
    let mut found = Found::new();
    for function in functions {
        let symbols = symbols.as_ref().map_err(Clone::clone);
        let sites = symbols.and_then(|symbols| sites(ebpf, symbols, function, starts));
        found.insert((*function).to_owned(), sites);
    }
    found
}

fn sites(
    ebpf: &Ebpf,
    symbols: &[(Symbol, Option<u64>)],
    function: &str,
    starts: &mut HashMap<String, u64>,
) -> Result<Arc<[Site]>, NotFound> {
    let addresses = |names: &[&str]| -> Vec<u64> {
        let of_names = symbols
            .iter()
            .filter(|(symbol, _)| names.contains(&&*symbol.name));
        of_names
            .filter_map(|(symbol, _)| Some(symbol.address?.get()))
            .collect()
    };
    let known = Known {
        thunks: addresses(&THUNKS),
        endless: addresses(&ENDLESS),
    };
    let (module, name) = match function.split_once(':') {
        Some((module, name)) => (Some(module), name),
        None => (None, function),
    };
    let mut parts = Vec::new();
    for (name, needed) in [(name.to_owned(), true), (format!("{name}{COLD}"), false)] {
        let mut named = symbols.iter().filter(|(symbol, _)| {
            symbol.name == name && (module.is_none() || symbol.module.as_deref() == module)
        });
        let (symbol, len) = match (named.next(), named.next()) {
            (Some(one), None) => one,
            (None, _) if !needed => continue,
            _ => return Err(NotFound::NoAddress),
        };
        let address = symbol.address.ok_or(NotFound::NoAddress)?;
        if needed {
            starts.insert(function.to_owned(), address.get());
        }
        let len = len.unwrap_or(CODE_LEN_MAX).min(CODE_LEN_MAX);
        let code = code::read(ebpf, address, len).map_err(|_| NotFound::Unreadable)?;
        let symbol = module.map_or_else(|| name.clone(), |module| format!("{module}:{name}"));
        parts.push((symbol, address.get(), code));
    }
    let code: Vec<Part<'_>> = parts
        .iter()
        .map(|(_, address, code)| Part {
            address: *address,
            code,
        })
        .collect();
    let found = find(&code, &known)?;
    let site = |address: u64| {
        let (symbol, start, _) = parts
            .iter()
            .find(|(_, start, code)| (*start..*start + code.len() as u64).contains(&address))?;
        Some(Site {
            symbol: symbol.clone(),
            offset: address - start,
            address,
        })
    };
    found
        .into_iter()
        .map(site)
        .collect::<Option<_>>()
        .ok_or(NotFound::Shape)
}

/// A piece of a function's code.
#[derive(Clone, Copy)]
struct Part<'a> {
    address: u64,
    code: &'a [u8],
}

impl Part<'_> {
    fn has(&self, address: u64) -> bool {
        address
            .checked_sub(self.address)
            .is_some_and(|offset| offset < self.code.len() as u64)
    }
}

/// Addresses with a meaning.
struct Known {
    /// A jump there returns.
    thunks: Vec<u64>,
    /// A call of these does not return.
    endless: Vec<u64>,
}

/// Addresses of the instructions at which a function returns, in all its parts.
///
/// Every instruction is looked at, also those that none leads to: a static branch may lead there later. None may leave
/// the function but to return, and where an instruction may be missing, because a probe's breakpoint is in its place, the
/// answer is no.
fn find(parts: &[Part<'_>], known: &Known) -> Result<Vec<u64>, NotFound> {
    let mut sweep = Sweep {
        parts,
        known,
        returns: Vec::new(),
        targets: Vec::new(),
        begins: BTreeSet::new(),
    };
    for part in parts {
        sweep.part(part)?;
    }
    if sweep.returns.is_empty() || !sweep.targets.iter().all(|target| sweep.begins.contains(target)) {
        return Err(NotFound::Shape);
    }
    Ok(sweep.returns)
}

struct Sweep<'a> {
    parts: &'a [Part<'a>],
    known: &'a Known,
    returns: Vec<u64>,
    /// Where jumps within the function lead.
    targets: Vec<u64>,
    /// Where instructions begin, but for breakpoints.
    begins: BTreeSet<u64>,
}

/// What comes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// The next one.
    Next,
    /// Not the next one.
    Away,
    /// The next one, or nothing: `ud2` stands for a warning or for the end.
    Perhaps,
}

impl Sweep<'_> {
    fn part(&mut self, part: &Part<'_>) -> Result<(), NotFound> {
        let mut decoder = Decoder::with_ip(64, part.code, part.address, DecoderOptions::NONE);
        let mut before = Then::Away;
        while decoder.can_decode() {
            let rest = &part.code[decoder.position()..];
            // Behind the last function of a section there is nothing.
            if before != Then::Next && rest.iter().all(|byte| *byte == 0) {
                break;
            }
            before = self.instruction(&decoder.decode(), before)?;
        }
        if before == Then::Next {
            return Err(NotFound::Shape);
        }
        Ok(())
    }

    fn instruction(&mut self, instruction: &Instruction, before: Then) -> Result<Then, NotFound> {
        let at = instruction.ip();
        if instruction.mnemonic() == Mnemonic::Int3 {
            // Else it fills a gap.
            return if before == Then::Away {
                Ok(Then::Away)
            } else {
                Err(NotFound::Patched)
            };
        }
        self.begins.insert(at);
        if instruction.mnemonic() == Mnemonic::Nop {
            return Ok(before);
        }
        Ok(match instruction.flow_control() {
            FlowControl::Next | FlowControl::IndirectCall => Then::Next,
            FlowControl::Call if self.known.endless.contains(&instruction.near_branch_target()) => Then::Away,
            FlowControl::Call => Then::Next,
            FlowControl::Return if instruction.code() == Code::Retnq => {
                self.returns.push(at);
                Then::Away
            }
            FlowControl::UnconditionalBranch => {
                let target = instruction.near_branch_target();
                if self.known.thunks.contains(&target) {
                    self.returns.push(at);
                } else {
                    self.leads_to(target)?;
                }
                Then::Away
            }
            FlowControl::ConditionalBranch => {
                self.leads_to(instruction.near_branch_target())?;
                Then::Next
            }
            FlowControl::IndirectBranch => return Err(NotFound::Computed),
            FlowControl::Exception if instruction.code() != Code::INVALID => Then::Perhaps,
            _ => return Err(NotFound::Shape),
        })
    }

    fn leads_to(&mut self, target: u64) -> Result<(), NotFound> {
        if !self.parts.iter().any(|part| part.has(target)) {
            return Err(NotFound::Elsewhere);
        }
        self.targets.push(target);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
