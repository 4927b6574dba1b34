//! Reads the code of a function, and other memory, out of the running kernel. What is in the file of a module may have been patched when
//! it was loaded; only what runs now is what a probe would meet.

use std::num::NonZeroU64;

use aya::{
    Ebpf,
    maps::Array,
    programs::{ProgramError, RawTracePoint, RawTracePointRunOptions, TestRun as _},
};
use tracer_common::{CODE_CHUNK_LEN, CodeChunk};

use super::attach::AttachError;

const PROGRAM: &str = "read_code";
const MAP: &str = "CODE";

/// Loads the program that reads, once. It is attached to nothing: the kernel runs it for us (`BPF_PROG_TEST_RUN`, raw
/// tracepoints have it since 5.10).
pub(super) fn load(ebpf: &mut Ebpf) -> Result<(), AttachError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(AttachError::NoObject)?;
    let program: &mut RawTracePoint = program.try_into().map_err(failed)?;
    if program.fd().is_err() {
        program.load().map_err(failed)?;
    }
    Ok(())
}

fn failed(source: ProgramError) -> AttachError {
    AttachError::Load {
        program: PROGRAM,
        source,
    }
}

/// Reads a word at `address`; `None` where the kernel has no memory there.
pub(super) fn word(ebpf: &Ebpf, address: u64) -> Result<Option<u64>, AttachError> {
    let Some(address) = NonZeroU64::new(address) else {
        return Ok(None);
    };
    Ok(read(ebpf, address, 8)?.try_into().ok().map(u64::from_ne_bytes))
}

/// Reads up to `len` bytes from `address` on; fewer where the kernel's memory ends before.
pub(super) fn read(ebpf: &Ebpf, address: NonZeroU64, len: u64) -> Result<Vec<u8>, AttachError> {
    let program = ebpf.program(PROGRAM).ok_or(AttachError::NoObject)?;
    let program: &RawTracePoint = program.try_into().map_err(failed)?;
    let mut code = Vec::new();
    while (code.len() as u64) < len {
        let wanted = (len - code.len() as u64).min(CODE_CHUNK_LEN as u64);
        let mut options = RawTracePointRunOptions::default();
        options.args[..2].copy_from_slice(&[address.get() + code.len() as u64, wanted]);
        program.test_run(options).map_err(failed)?;

        let unread = |source| AttachError::Map { name: MAP, source };
        let map = ebpf.map(MAP).ok_or(AttachError::NoObject)?;
        let map: Array<_, [u8; size_of::<CodeChunk>()]> = Array::try_from(map).map_err(unread)?;
        let chunk = map.get(&0, 0).map_err(unread)?;
        let (len, bytes) = chunk.split_at(8);
        if len != wanted.to_ne_bytes() {
            break;
        }
        code.extend(bytes.iter().take(usize::try_from(wanted).unwrap_or(0)));
    }
    Ok(code)
}
