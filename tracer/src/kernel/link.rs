//! What the kernel knows about a probe that it attached: how often it could not run it.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;

/// `struct bpf_link_info` as far as a kprobe needs it: `perf_event.kprobe.missed` is the last member here.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    perf_event_type: u32,
    padding_perf_event: u32,
    func_name: u64,
    name_len: u32,
    offset: u32,
    addr: u64,
    missed: u64,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
struct GetInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

/// The part of `union bpf_attr` that `BPF_LINK_GET_FD_BY_ID` reads.
#[repr(C)]
struct GetFd {
    link_id: u32,
    padding: u32,
    open_flags: u32,
}

/// How often the kernel did not run the kprobe or kretprobe behind a link, because another kprobe was running
/// on that CPU or, for a return probe, because too many calls were under way (`trace_kprobe_missed`,
/// `kernel/trace/trace_kprobe.c`). Only kernels whose `bpf_link_info` has the member fill it (6.7 and later).
///
/// # Errors
/// The link is gone, or the kernel does not answer.
pub(crate) fn missed(link_id: u32) -> io::Result<u64> {
    let mut attr = GetFd {
        link_id,
        padding: 0,
        open_flags: 0,
    };
    let fd = bpf(BPF_LINK_GET_FD_BY_ID, &mut attr)?;
    // SAFETY: the call has just returned this descriptor, and nobody else knows it.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) };
    let mut info = LinkInfo::default();
    let mut attr = GetInfo {
        fd: u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)?,
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.missed)
}

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is what the command reads, with its exact size, and what it points to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
