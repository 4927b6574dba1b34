//! Every read of kernel memory.
//!
//! Addresses are plain numbers here: they belong to the kernel and are never dereferenced, only handed to
//! `bpf_probe_read_kernel`, which fails on a bad one. A failed read is a [`Gap`]; it is counted by whoever
//! can also mark the record.

use core::{mem::MaybeUninit, ptr::read_volatile};

use aya_ebpf::helpers::{
    bpf_probe_read_kernel, bpf_probe_read_kernel_str_bytes, generated::bpf_probe_read_kernel as read_raw,
};
use tracer_common::{ABSENT, HEADERS_LEN_MAX, Traversal, functions};

use crate::{form::Form, offset};

/// A read failed.
pub(crate) struct Gap;

/// Reads a `T` at `address + offset`.
#[inline(always)]
pub(crate) fn read<T>(address: u64, offset: u32) -> Result<T, Gap> {
    if size_of::<T>() <= LOADS_MAX * align_of::<T>() && offset!(type_words) != ABSENT {
        return Ok(load(address + u64::from(offset)));
    }
    // SAFETY: the helper checks the address; `T` is an integer or an array of integers at every call.
    unsafe { bpf_probe_read_kernel((address + u64::from(offset)) as *const T) }.map_err(|_| Gap)
}

/// What has more words is read by a call, which then costs less than so many loads.
const LOADS_MAX: usize = 5;

/// Loads a `T`, word by word, where the kernel has the type for it ([`read`]). The kernel makes a load of a bad address read zero (`BPF_PROBE_MEM`).
#[inline(always)]
pub(crate) fn load<T>(address: u64) -> T {
    let mut value = MaybeUninit::<T>::uninit();
    let to = value.as_mut_ptr();
    match align_of::<T>() {
        8 => load_words::<T, u64>(address, to.cast()),
        4 => load_words::<T, u32>(address, to.cast()),
        2 => load_words::<T, u16>(address, to.cast()),
        _ => load_words::<T, u8>(address, to.cast()),
    }
    // SAFETY: every byte was written; `T` is an integer or an array of integers at every call.
    unsafe { value.assume_init() }
}

/// Loads as many words as a `T` has, which is aligned as they are.
#[inline(always)]
fn load_words<T, W>(address: u64, to: *mut W) {
    let type_id = offset!(type_words);
    for word in 0..size_of::<T>() / size_of::<W>() {
        let from = typed(address + (word * size_of::<W>()) as u64, type_id);
        let from = core::ptr::with_exposed_provenance::<W>(from as usize);
        // SAFETY: within the value; the verifier knows that the address is that of two words.
        unsafe { to.add(word).write(read_volatile(from)) };
    }
}

/// Copies the string at `address` as far as there is room, with a NUL; `to` is zero beforehand.
#[inline(always)]
pub(crate) fn copy_str(address: u64, to: &mut [u8]) -> Result<(), Gap> {
    // SAFETY: the helper checks the address.
    let copied = unsafe { bpf_probe_read_kernel_str_bytes(address as *const u8, to) };
    copied.map(drop).map_err(|_| Gap)
}

/// Copies the first `len` bytes at `address`; `len` is cut to what fits.
#[inline(always)]
pub(crate) fn copy_headers(address: u64, len: u32, to: &mut [u8; HEADERS_LEN_MAX]) -> Result<u16, Gap> {
    let len = len.min(HEADERS_LEN_MAX as u32);
    // SAFETY: `len` is at most the size of `to`, and the helper checks the address.
    let failed = unsafe { read_raw(to.as_mut_ptr().cast(), len, address as *const _) };
    if failed != 0 { Err(Gap) } else { Ok(len as u16) }
}

/// Appends the first `len` bytes at `address` to the headers that a record has, as far as there is room.
#[inline(always)]
pub(crate) fn append_headers(address: u64, len: u32, frame: &mut Traversal) -> Result<(), Gap> {
    let at = u32::from(frame.headers_len);
    if at >= HEADERS_LEN_MAX as u32 {
        return Ok(());
    }
    let len = len.min(HEADERS_LEN_MAX as u32 - at);
    // What comes after the headers is not used yet; so it is enough for the verifier that both numbers are small.
    let (place, count) = (bounded(at, 0xff), bounded(len, 0x1ff));
    let to = (&raw mut frame.headers).cast::<u8>().wrapping_add(place as usize);
    // SAFETY: `count` bytes are left in the headers behind `place`, and the helper checks the address.
    let failed = unsafe { read_raw(to.cast(), count, address as *const _) };
    if failed != 0 {
        return Err(Gap);
    }
    frame.headers_len = (at + len) as u16;
    Ok(())
}

/// `number`, which is no larger than `mask`, in a way that the verifier sees it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
fn bounded(number: u32, mask: u32) -> u32 {
    let mut bounded = u64::from(number);
    // SAFETY: arithmetic on registers.
    unsafe {
        core::arch::asm!("{number} &= {mask}", number = inout(reg) bounded, mask = in(reg) u64::from(mask));
    }
    bounded as u32
}

/// Host builds only check the types.
#[cfg(not(target_arch = "bpf"))]
fn bounded(number: u32, mask: u32) -> u32 {
    number & mask
}

/// Fills the first `len` bytes of `words` from `address`; `len` is a constant.
#[inline(always)]
pub(crate) fn copy_words<const N: usize>(
    address: u64,
    len: u32,
    words: &mut MaybeUninit<[u32; N]>,
) -> Result<(), Gap> {
    let len = len.min(4 * N as u32);
    // SAFETY: `len` is at most the size of `words`, and the helper checks the address.
    let failed = unsafe { read_raw(words.as_mut_ptr().cast(), len, address as *const _) };
    if failed != 0 { Err(Gap) } else { Ok(()) }
}

/// The address as that of a type of the kernel's, by its id. What is loaded through it is what [`read`] would read, or
/// zero where that would fail.
#[inline(always)]
fn typed(address: u64, type_id: u32) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let typed: u64;
        // SAFETY: a function of the kernel that takes an address and an id, and returns the address; as all, it
        // leaves the first six registers undefined.
        unsafe {
            core::arch::asm!(
                "call {cast}",
                cast = const functions::CAST,
                inlateout("r1") address => _,
                inlateout("r2") u64::from(type_id) => _,
                lateout("r0") typed,
                lateout("r3") _,
                lateout("r4") _,
                lateout("r5") _,
            );
        }
        typed
    }
    // Host builds only check the types.
    #[cfg(not(target_arch = "bpf"))]
    {
        let _ = (type_id, functions::CAST);
        address
    }
}

/// Where a packet's headers are: `sk_buff.head`, and from there `sk_buff.network_header`.
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    head: u64,
    network: u16,
}

impl Headers {
    /// Address of the network header.
    #[inline(always)]
    pub(crate) fn network(self) -> u64 {
        self.head + u64::from(self.network)
    }
}

/// A `struct sk_buff`.
#[derive(Clone, Copy)]
pub(crate) struct Skb(pub(crate) u64);

impl Skb {
    #[inline(always)]
    pub(crate) fn mark<F: Form>(self) -> Result<u32, Gap> {
        F::read(self.0, offset!(skb_mark))
    }

    #[inline(always)]
    pub(crate) fn len<F: Form>(self) -> Result<u32, Gap> {
        F::read(self.0, offset!(skb_len))
    }

    /// Where its headers are. Every packet of the machine pays for this.
    #[inline(always)]
    pub(crate) fn headers<F: Form>(self) -> Result<Headers, Gap> {
        /// Words from the one with `network_header` to `head`, so many at most.
        const WORDS: usize = 4;

        let (network, head) = (offset!(skb_network_header), offset!(skb_head));
        let start = network & !7;
        let word = head.wrapping_sub(start) / 8;
        if !F::ON_TRAMPOLINE && offset!(type_words) == ABSENT && head & 7 == 0 && word < WORDS as u32 {
            // In one go, for a call costs as much as everything else.
            let words: [u64; WORDS] = read(self.0, start)?;
            let head = match word {
                0 => words[0],
                1 => words[1],
                2 => words[2],
                _ => words[3],
            };
            let network = (words[0] >> (8 * (network & 7))) as u16;
            return Ok(Headers { head, network });
        }
        Ok(Headers {
            head: F::read(self.0, head)?,
            network: F::read(self.0, network)?,
        })
    }

    /// Bytes from the network header to the end of the linear part; `len` is [`Self::len`].
    #[inline(always)]
    pub(crate) fn linear_len<F: Form>(self, len: u32, network_header: u64) -> Result<u32, Gap> {
        let data: u64 = F::read(self.0, offset!(skb_data))?;
        let data_len: u32 = F::read(self.0, offset!(skb_data_len))?;
        let end = data + u64::from(len.wrapping_sub(data_len));
        Ok(end.saturating_sub(network_header) as u32)
    }

    /// Address of the link-layer header; `None` where the packet has none (`skb_mac_header_was_set`,
    /// `include/linux/skbuff.h`) or where it is the network header.
    #[inline(always)]
    pub(crate) fn link_header<F: Form>(self, headers: Headers) -> Result<Option<u64>, Gap> {
        let Headers { head, network } = headers;
        let mac: u16 = F::read(self.0, offset!(skb_mac_header))?;
        Ok((mac != u16::MAX && mac != network).then_some(head + u64::from(mac)))
    }
}
