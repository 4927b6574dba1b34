//! `bpf(2)`, for what the library has no call for.

use std::{
    io,
    os::fd::{FromRawFd, OwnedFd},
};

/// `enum bpf_cmd`, `include/uapi/linux/bpf.h`.
pub(super) mod command {
    pub(in super::super) const MAP_CREATE: libc::c_long = 0;
    pub(in super::super) const PROG_LOAD: libc::c_long = 5;
    pub(in super::super) const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
    pub(in super::super) const RAW_TRACEPOINT_OPEN: libc::c_long = 17;
    pub(in super::super) const BTF_GET_FD_BY_ID: libc::c_long = 19;
    pub(in super::super) const BTF_GET_NEXT_ID: libc::c_long = 23;
    pub(in super::super) const LINK_GET_FD_BY_ID: libc::c_long = 30;
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads and writes.
#[repr(C)]
pub(super) struct GetInfo {
    pub(super) fd: u32,
    pub(super) info_len: u32,
    pub(super) info: u64,
}

/// `BPF_OBJ_NAME_LEN`, `include/uapi/linux/bpf.h`.
pub(super) const NAME_LEN: usize = 16;

/// The part of `union bpf_attr` that `BPF_PROG_LOAD` reads.
#[repr(C)]
#[derive(Default)]
pub(super) struct ProgramLoad {
    pub(super) program_type: u32,
    pub(super) instructions_len: u32,
    pub(super) instructions: u64,
    pub(super) license: u64,
    pub(super) log_level: u32,
    pub(super) log_len: u32,
    pub(super) log: u64,
    pub(super) kernel_version: u32,
    pub(super) flags: u32,
    pub(super) name: [u8; NAME_LEN],
    pub(super) ifindex: u32,
    pub(super) expected_attach_type: u32,
    pub(super) btf: u32,
    pub(super) function_info_size: u32,
    pub(super) function_info: u64,
    pub(super) function_info_len: u32,
    pub(super) line_info_size: u32,
    pub(super) line_info: u64,
    pub(super) line_info_len: u32,
    pub(super) attach_btf_id: u32,
    pub(super) attach_btf_object: u32,
    pub(super) padding: u32,
}

/// Calls `bpf(2)`. `attr` is what the command reads, and what it points to outlives the call.
pub(super) fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` has the size that is told, and the caller keeps alive what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// The same for a command that answers with a descriptor.
pub(super) fn bpf_fd<T>(command: libc::c_long, attr: &mut T) -> io::Result<OwnedFd> {
    let fd = i32::try_from(bpf(command, attr)?).map_err(io::Error::other)?;
    // SAFETY: the call has just returned this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
