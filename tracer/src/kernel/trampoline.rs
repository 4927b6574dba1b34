//! Programs on trampolines (fentry and fexit), also of functions in modules, which aya cannot load: it never says which
//! module's types a function is described by (`attach_btf_obj_fd`).
//!
//! The programs come from the same object as all others and use the same maps.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use aya::{
    Ebpf,
    maps::{Map, MapData},
};
use aya_obj::Object;

use super::{
    KernelBtf,
    described::{Described, Functions},
    syscall::{GetInfo, NAME_LEN, ProgramLoad, bpf, bpf_fd, command},
};

/// Why a program is not on a trampoline.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// No types describe the function.
    #[error("the kernel's types do not describe {0}")]
    NotDescribed(String),
    /// The object has no such program, or it does not fit the maps.
    #[error("the object has no program {0} for it")]
    NoProgram(String),
    /// The kernel does not take it.
    #[error("the kernel refuses {program} on {function}: {cause}{log}")]
    Kernel {
        /// Name of the program.
        program: String,
        /// Name of the function.
        function: String,
        /// What it answered.
        cause: io::Error,
        /// What the verifier said last.
        log: String,
    },
}

impl Refusal {
    /// The kernel's, from what it answered and what the verifier said.
    fn of(program: &str, function: &str) -> impl Fn((io::Error, String)) -> Self {
        move |(cause, log)| Self::Kernel {
            program: program.to_owned(),
            function: function.to_owned(),
            cause,
            log,
        }
    }
}

/// Loads programs and attaches them.
pub(super) struct Trampolines {
    object: Object,
    functions: Functions,
    /// BTF objects of modules, by name of the module.
    types: HashMap<String, OwnedFd>,
}

/// A program on the trampoline of a function.
pub(super) struct Trampoline {
    _link: OwnedFd,
    program: OwnedFd,
}

/// When a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Entry,
    Return,
}

impl Trampolines {
    /// Prepares the programs of `object`, of which `ebpf` has the maps. Maps must not have been taken from it yet.
    pub(super) fn new(object: &[u8], ebpf: &Ebpf, btf: KernelBtf) -> Option<Self> {
        let mut object = Object::parse(object).ok()?;
        let declared: HashMap<String, aya_obj::Map> = object.maps.drain().collect();
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        let maps: Vec<_> = ebpf
            .maps()
            .filter_map(|(name, map)| {
                Some((name, data_of(map)?.fd().as_fd().as_raw_fd(), declared.get(name)?))
            })
            .collect();
        object.relocate_maps(maps.into_iter(), &text).ok()?;
        object.relocate_calls(&text).ok()?;
        object.sanitize_functions(aya::features());
        Some(Self {
            object,
            functions: Functions::new(btf),
            types: HashMap::new(),
        })
    }

    /// Puts a program on the trampoline of a function; where several modules have one of that name, of each.
    pub(super) fn attach(
        &mut self,
        program: &str,
        when: When,
        function: &str,
    ) -> Result<Vec<Trampoline>, Refusal> {
        let found = self.functions.find(function);
        if found.is_empty() {
            return Err(Refusal::NotDescribed(function.to_owned()));
        }
        found
            .iter()
            .map(|described| self.attach_one(program, when, function, described))
            .collect()
    }

    fn attach_one(
        &mut self,
        program: &str,
        when: When,
        function: &str,
        described: &Described,
    ) -> Result<Trampoline, Refusal> {
        let refused = Refusal::of(program, function);
        let plain = |cause| refused((cause, String::new()));
        let types = match &described.module {
            None => None,
            Some(module) => Some(self.types_of(module).map_err(plain)?.try_clone().map_err(plain)?),
        };
        let attr = ProgramLoad {
            program_type: TRACING,
            expected_attach_type: match when {
                When::Entry => FENTRY,
                When::Return => FEXIT,
            },
            attach_btf_id: described.type_id,
            attach_btf_object: types
                .as_ref()
                .map_or(0, |types| types.as_raw_fd().cast_unsigned()),
            ..ProgramLoad::default()
        };
        let program = self.load(program, attr, &refused)?;
        let mut attr = RawTracepointOpen {
            name: 0,
            program: program.as_raw_fd().cast_unsigned(),
            padding: 0,
        };
        let link = bpf_fd(command::RAW_TRACEPOINT_OPEN, &mut attr).map_err(plain)?;
        Ok(Trampoline { _link: link, program })
    }

    /// Loads a program, as `attr` says.
    fn load(
        &self,
        program: &str,
        attr: ProgramLoad,
        refused: impl FnOnce((io::Error, String)) -> Refusal,
    ) -> Result<OwnedFd, Refusal> {
        let no_program = || Refusal::NoProgram(program.to_owned());
        let parsed = self.object.programs.get(program).ok_or_else(no_program)?;
        let body = self
            .object
            .functions
            .get(&parsed.function_key())
            .ok_or_else(no_program)?;
        load(program, &body.instructions, &parsed.license, attr).map_err(refused)
    }

    /// The BTF object of a module.
    fn types_of(&mut self, module: &str) -> io::Result<&OwnedFd> {
        if !self.types.contains_key(module) {
            let types = find_types(module)?;
            self.types.insert(module.to_owned(), types);
        }
        self.types
            .get(module)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Trampoline {
    /// How often the kernel did not run the program; see [`missed`].
    pub(super) fn missed(&self) -> io::Result<u64> {
        missed(self.program.as_fd())
    }
}

/// The map's data, whatever its kind is. The object has no others.
fn data_of(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

/// `struct bpf_prog_info` as far as `recursion_misses`, `include/uapi/linux/bpf.h`.
#[repr(C)]
struct ProgramInfo {
    before: [u64; 26],
    recursion_misses: u64,
}

/// How often the kernel did not run a program, because an interrupt came while it ran on that CPU, or, of kprobes,
/// while any other did (`bpf_prog_inc_misses_counter`). Kernels that do not tell run it all the same (before 5.12).
pub(super) fn missed(program: BorrowedFd<'_>) -> io::Result<u64> {
    let mut info = ProgramInfo {
        before: [0; 26],
        recursion_misses: 0,
    };
    let mut attr = GetInfo {
        fd: program.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<ProgramInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info).expose_provenance() as u64,
    };
    bpf(command::OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.recursion_misses)
}

/// The part of `union bpf_attr` that `BPF_RAW_TRACEPOINT_OPEN` reads; without a name it attaches a tracing program.
#[repr(C)]
struct RawTracepointOpen {
    name: u64,
    program: u32,
    padding: u32,
}

/// `BPF_PROG_TYPE_TRACING`
const TRACING: u32 = 26;
/// `BPF_TRACE_FENTRY`
const FENTRY: u32 = 24;
/// `BPF_TRACE_FEXIT`
const FEXIT: u32 = 25;
/// Room for what the verifier says.
const LOG_LEN: usize = 1 << 20;
/// How much of it is repeated.
const LAST_LINES: usize = 12;

/// Loads a program, as `attr` says. The error has the verifier's last words.
fn load(
    name: &str,
    instructions: &[aya_obj::generated::bpf_insn],
    license: &CString,
    mut attr: ProgramLoad,
) -> Result<OwnedFd, (io::Error, String)> {
    attr.instructions_len =
        u32::try_from(instructions.len()).map_err(|error| (io::Error::other(error), String::new()))?;
    attr.instructions = instructions.as_ptr().expose_provenance() as u64;
    attr.license = license.as_ptr().expose_provenance() as u64;
    for (to, from) in attr.name[..NAME_LEN - 1].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    match bpf_fd(command::PROG_LOAD, &mut attr) {
        Ok(program) => Ok(program),
        Err(cause) => {
            let mut log = vec![0_u8; LOG_LEN];
            attr.log_level = 1;
            attr.log_len = u32::try_from(LOG_LEN).unwrap_or(0);
            attr.log = log.as_mut_ptr().expose_provenance() as u64;
            match bpf_fd(command::PROG_LOAD, &mut attr) {
                Ok(program) => Ok(program),
                Err(_) => Err((cause, last_lines(&log))),
            }
        }
    }
}

fn last_lines(log: &[u8]) -> String {
    let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
    let text = String::from_utf8_lossy(&log[..end]);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(LAST_LINES);
    lines[from..]
        .iter()
        .fold(String::new(), |all, line| all + "\n  " + line)
}

/// The parts of `union bpf_attr` for `BPF_BTF_GET_NEXT_ID` and `BPF_BTF_GET_FD_BY_ID`.
#[repr(C)]
#[derive(Default)]
struct ById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

/// `struct bpf_btf_info`, `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_len: u32,
    id: u32,
    name: u64,
    name_len: u32,
    is_kernel: u32,
}

/// Looks through the BTF objects that the kernel has for the one of a module.
fn find_types(module: &str) -> io::Result<OwnedFd> {
    let mut id = 0;
    loop {
        let mut attr = ById {
            id,
            ..ById::default()
        };
        // ENOENT at the end.
        bpf(command::BTF_GET_NEXT_ID, &mut attr)?;
        id = attr.next_id;
        let mut attr = ById {
            id,
            ..ById::default()
        };
        let Ok(types) = bpf_fd(command::BTF_GET_FD_BY_ID, &mut attr) else {
            // Gone meanwhile.
            continue;
        };
        let mut name = [0_u8; 64];
        let mut info = BtfInfo {
            name: name.as_mut_ptr().expose_provenance() as u64,
            name_len: 64,
            ..BtfInfo::default()
        };
        let mut attr = GetInfo {
            fd: types.as_raw_fd().cast_unsigned(),
            info_len: u32::try_from(size_of::<BtfInfo>()).map_err(io::Error::other)?,
            info: (&raw mut info).expose_provenance() as u64,
        };
        bpf(command::OBJ_GET_INFO_BY_FD, &mut attr)?;
        let len = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        if info.is_kernel != 0 && name[..len] == *module.as_bytes() {
            return Ok(types);
        }
    }
}
