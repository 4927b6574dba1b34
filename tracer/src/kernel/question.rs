//! Asks the kernel what it allows, by trying: each question is one system call whose result is closed at
//! once. Nothing is attached, nothing stays.

use nix::errno::Errno;
use nix::libc;

use super::syscall::{ProgramLoad, bpf_fd, command};

/// Something that only the kernel itself can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Question {
    /// Whether it has the ring buffer map (kernel 5.8).
    RingBuffer,
    /// Whether it takes a kprobe program, one that does nothing.
    KprobeProgram,
    /// Whether it takes a kprobe program that reads kernel memory; a kernel in lockdown does not
    /// (`LOCKDOWN_BPF_READ_KERNEL`, `bpf_tracing_func_proto` in `kernel/trace/bpf_trace.c`).
    ReadKernelMemory,
}

/// What the kernel said: done, or why not.
pub type Answer = Result<(), Errno>;

// include/uapi/linux/bpf.h
const BPF_MAP_TYPE_RINGBUF: u32 = 27;
const BPF_PROG_TYPE_KPROBE: u32 = 2;
const BPF_FUNC_PROBE_READ_KERNEL: u32 = 113;

/// A power of two and a multiple of every page size that kernels have (4, 16 and 64 KiB).
const RING_LEN: u32 = 64 << 10;

/// The first members of `union bpf_attr` for `BPF_MAP_CREATE`.
#[derive(Default)]
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
}

/// One instruction in the layout of `struct bpf_insn` on a machine of this byte order.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: u32,
}

const fn instruction(code: u8, destination: u8, source: u8, immediate: u32) -> Instruction {
    let registers = if cfg!(target_endian = "little") {
        source << 4 | destination
    } else {
        destination << 4 | source
    };
    Instruction {
        code,
        registers,
        offset: 0,
        immediate,
    }
}

/// `return 0`
const NOTHING: [Instruction; 2] = [
    instruction(0xb7, 0, 0, 0), // r0 = 0
    instruction(0x95, 0, 0, 0), // exit
];

/// `bpf_probe_read_kernel(&local, 8, NULL); return 0`
const READ: [Instruction; 7] = [
    instruction(0xbf, 1, 10, 0),                         // r1 = r10
    instruction(0x07, 1, 0, (-8i32).cast_unsigned()),    // r1 += -8
    instruction(0xb7, 2, 0, 8),                          // r2 = 8
    instruction(0xb7, 3, 0, 0),                          // r3 = 0
    instruction(0x85, 0, 0, BPF_FUNC_PROBE_READ_KERNEL), // call
    instruction(0xb7, 0, 0, 0),                          // r0 = 0
    instruction(0x95, 0, 0, 0),                          // exit
];

/// Lets this process lock as much memory as it needs.
///
/// Kernels before 5.11 charge maps and programs against `RLIMIT_MEMLOCK`, which is small, and answer `EPERM`
/// when it is used up (`bpf_charge_memlock` in `kernel/bpf/syscall.c`). Later kernels do not look at it. The
/// limit belongs to this process alone.
///
/// # Errors
///
/// If the limit cannot be raised, for lack of `CAP_SYS_RESOURCE`.
pub fn lift_memory_limit() -> Result<(), Errno> {
    let unlimited = libc::rlimit {
        rlim_cur: libc::RLIM_INFINITY,
        rlim_max: libc::RLIM_INFINITY,
    };
    // SAFETY: the kernel only reads the structure, which lives until the call returns.
    Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) }).map(drop)
}

/// Asks the running kernel. This lifts the memory limit of this process, see [`lift_memory_limit`].
///
/// # Errors
///
/// What the kernel answered instead of doing it.
pub fn ask(question: Question) -> Answer {
    // Where the limit stays and matters, the answer is a refusal, and that is told.
    let _ = lift_memory_limit();
    match question {
        Question::RingBuffer => answer(
            command::MAP_CREATE,
            &mut MapCreate {
                map_type: BPF_MAP_TYPE_RINGBUF,
                max_entries: RING_LEN,
                ..MapCreate::default()
            },
        ),
        Question::KprobeProgram => load(&NOTHING),
        Question::ReadKernelMemory => load(&READ),
    }
}

fn load(instructions: &[Instruction]) -> Answer {
    answer(
        command::PROG_LOAD,
        &mut ProgramLoad {
            program_type: BPF_PROG_TYPE_KPROBE,
            instructions_len: u32::try_from(instructions.len()).map_err(|_| Errno::E2BIG)?,
            instructions: instructions.as_ptr().expose_provenance() as u64,
            license: c"GPL".as_ptr().expose_provenance() as u64,
            ..ProgramLoad::default()
        },
    )
}

/// Calls `bpf(2)` with a command that answers with a descriptor, and closes that.
fn answer<T>(command: libc::c_long, attr: &mut T) -> Answer {
    match bpf_fd(command, attr) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.raw_os_error().map_or(Errno::EBADF, Errno::from_raw)),
    }
}
