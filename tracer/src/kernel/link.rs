//! What the kernel knows about a probe that it attached: how often it could not run it.

use std::{io, os::fd::AsRawFd};

use super::syscall::{GetInfo, bpf, bpf_fd, command};

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
    let fd = bpf_fd(command::LINK_GET_FD_BY_ID, &mut attr)?;
    let mut info = LinkInfo::default();
    let mut attr = GetInfo {
        fd: u32::try_from(fd.as_raw_fd()).map_err(io::Error::other)?,
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    bpf(command::OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.missed)
}
