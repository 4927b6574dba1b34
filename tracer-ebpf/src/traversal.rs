//! `ipt_do_table` and `ip6t_do_table`: one record from entry to return.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns};
use tracer_common::{
    ABSENT, Counter, HEADERS_LEN_MAX, IFNAME_LEN, LINK_HEADER_LEN_MAX, TABLE_NAME_LEN, TUPLE_LEN, Traversal,
    flags,
};

use crate::{
    call::{self, Call, Invocation},
    connection,
    emit::emit_traversal,
    filter, follow,
    follow::Life,
    form::{Form, Kprobe, Trampoline},
    frames, guard, ip,
    kernel::{Gap, Headers, Skb, append_headers, copy_headers, read},
    maps::count,
    offset, rules, verify,
};

/// `NF_STOLEN`, `include/uapi/linux/netfilter.h`.
pub(crate) const NF_STOLEN: u32 = 2;
pub(crate) const NF_VERDICT_MASK: u32 = 0xff;

/// What is called, as addresses, and for which family.
pub(crate) struct Arguments {
    pub(crate) skb: u64,
    pub(crate) state: u64,
    /// The `xt_table` or `nft_table`.
    pub(crate) table: u64,
    pub(crate) family: u8,
    /// Names the traversal while it lasts: an address on the stack of whoever runs the hook.
    pub(crate) frame: u64,
}

/// Packet, state and table, from the first three arguments of the function, of which two orders are known. One test:
/// most packets pay for it.
#[inline(always)]
pub(crate) fn in_order([first, second, third]: [u64; 3]) -> Option<[u64; 3]> {
    match offset!(arg_skb) {
        0 => Some([first, second, third]),
        1 => Some([second, third, first]),
        _ => None,
    }
}

/// The table's name in words, to be compared in few instructions.
pub(crate) type TableName = [u32; TABLE_NAME_LEN / 4];

/// Decides whether this traversal of a legacy table is recorded, and if so opens its frame.
#[inline(always)]
pub(crate) fn enter<F: Form>(form: F, arguments: &Arguments) {
    form.forget(arguments.frame);
    if let Err(Gap) = try_enter(form, arguments) {
        count(Counter::ReadFailed);
    }
}

#[inline(always)]
fn try_enter<F: Form>(form: F, arguments: &Arguments) -> Result<(), Gap> {
    let headers = Skb(arguments.skb).headers::<F>()?;
    let concern = look::<F>(arguments, headers)?;
    if !concern.is_certain::<F>(arguments, headers)? {
        return Ok(());
    }
    let table_name = read::<[u64; TABLE_NAME_LEN / 8]>(arguments.table, offset!(table_name))?;
    // SAFETY: the same number of bytes, of which every pattern is a value.
    let table_name = unsafe { core::mem::transmute::<[u64; TABLE_NAME_LEN / 8], TableName>(table_name) };
    let hook: u8 = F::read(arguments.state, offset!(state_hook))?;
    let rank = follow::rank(hook, &table_name);
    let Some(frame) = begin(form, arguments, headers, concern, hook, rank, &table_name)? else {
        return Ok(());
    };
    match rules::of(arguments.table) {
        Ok(generation) => frame.generation = generation,
        Err(Gap) => note_gap(frame),
    }
    verify::begin(frame);
    Ok(())
}

/// Whether a packet is to be recorded, as far as is known from a look at it.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Concern {
    /// It is not.
    None,
    /// It is if its connection is followed.
    OfConnection,
    /// It does not satisfy the filter, but is followed already, if it is the packet that was last seen at its address.
    MayBeFollowed,
    /// It satisfies the filter.
    Satisfies,
}

/// All that most packets pay for: they are neither followed nor satisfy the filter, and that is found out before anything
/// else is looked at.
#[inline(always)]
pub(crate) fn look<F: Form>(arguments: &Arguments, headers: Headers) -> Result<Concern, Gap> {
    Ok(if filter::satisfied::<F>(arguments, headers)? {
        Concern::Satisfies
    } else if follow::may_know::<F>(arguments.skb) {
        Concern::MayBeFollowed
    } else if connection::any() {
        Concern::OfConnection
    } else {
        Concern::None
    })
}

impl Concern {
    /// Looks at the connection too, where that matters.
    #[inline(always)]
    pub(crate) fn is_certain<F: Form>(self, arguments: &Arguments, headers: Headers) -> Result<bool, Gap> {
        match self {
            Self::None => Ok(false),
            Self::MayBeFollowed | Self::Satisfies => Ok(true),
            Self::OfConnection => {
                connection::is_followed::<F>(arguments, headers.network(), filter::netns::<F>(arguments)?)
            }
        }
    }
}

/// A part of the record could not be read.
#[inline(always)]
pub(crate) fn note_gap(frame: &mut Traversal) {
    frame.flags |= flags::READ_FAILED;
    count(Counter::ReadFailed);
}

/// Decides whether this traversal of a packet that concerns us is recorded, and if so opens its frame with all that
/// does not depend on the backend.
#[inline(always)]
pub(crate) fn begin<F: Form>(
    form: F,
    arguments: &Arguments,
    headers: Headers,
    concern: Concern,
    hook: u8,
    rank: u8,
    table_name: &TableName,
) -> Result<Option<&'static mut Traversal>, Gap> {
    let skb = F::number(arguments.skb);
    let netns = filter::netns::<F>(arguments)?;
    let network_header = headers.network();
    let entered_ns = now_ns();
    let in_scope = filter::in_scope(hook, table_name);
    let life = Life {
        born_ns: entered_ns,
        fingerprint: ip::fingerprint(network_header, arguments.family)?,
        netns,
        hook,
        rank,
        passes: u16::from(in_scope),
        shed: 0,
    };
    let known = if follow::may_know::<F>(arguments.skb) {
        follow::known(skb, &life)
    } else {
        None
    };
    let (life, flags) = match known {
        Some(life) => (life, 0),
        // It was taken for a followed one, which has gone unseen.
        None if concern == Concern::MayBeFollowed
            && !connection::is_followed::<F>(arguments, network_header, netns)? =>
        {
            return Ok(None);
        }
        None if !guard::admits(entered_ns) => (follow::shed::<F>(skb, life), 0),
        None if follow::begin::<F>(skb, &life) => (life, flags::FIRST),
        None => (life, flags::FIRST | flags::NOT_FOLLOWED),
    };
    if life.shed != 0 {
        if in_scope {
            count(Counter::TraversalsShed);
        }
        return Ok(None);
    }
    if !in_scope {
        connection::follow_unrecorded(Skb(arguments.skb), netns)?;
        return Ok(None);
    }
    let Some(frame) = form.open(F::number(arguments.frame)) else {
        return Ok(None);
    };
    frame.entered_ns = entered_ns;
    frame.born_ns = life.born_ns;
    frame.pass = u32::from(life.passes);
    frame.skb = skb;
    frame.table = arguments.table;
    frame.netns = netns;
    // SAFETY: the helper has no preconditions.
    frame.cpu = unsafe { bpf_get_smp_processor_id() };
    frame.family = arguments.family;
    frame.hook = hook;
    frame.flags = flags;
    // SAFETY: the same number of bytes, of which every pattern is a value.
    frame.table_name = unsafe { core::mem::transmute::<TableName, [u8; TABLE_NAME_LEN]>(*table_name) };
    // Each part on its own: a gap in one leaves the others whole.
    for part in [
        fill_devices::<F>(frame, arguments.state),
        fill_packet::<F>(frame, Skb(arguments.skb), network_header),
        fill_link_header::<F>(frame, Skb(arguments.skb), headers),
        fill_bridge::<F>(frame, Skb(arguments.skb)),
        fill_conntrack::<F>(frame, arguments.skb),
        fill_owner::<F>(frame, arguments),
    ] {
        if part.is_err() {
            note_gap(frame);
        }
    }
    Ok(Some(frame))
}

#[inline(always)]
fn fill_devices<F: Form>(frame: &mut Traversal, state: u64) -> Result<(), Gap> {
    let (device_in, device_out): (u64, u64) = (
        F::read(state, offset!(state_in))?,
        F::read(state, offset!(state_out))?,
    );
    if device_in != 0 {
        frame.in_ifindex = F::read(device_in, offset!(device_ifindex))?;
        frame.in_device = name::<F>(device_in)?;
    }
    if device_out != 0 {
        frame.out_ifindex = F::read(device_out, offset!(device_ifindex))?;
        frame.out_device = name::<F>(device_out)?;
    }
    Ok(())
}

/// The name of a device.
#[inline(always)]
fn name<F: Form>(device: u64) -> Result<[u8; IFNAME_LEN], Gap> {
    let words: [u64; 2] = F::read(device, offset!(device_name))?;
    // SAFETY: the same number of bytes, of which every pattern is a value.
    Ok(unsafe { core::mem::transmute::<[u64; 2], [u8; IFNAME_LEN]>(words) })
}

#[inline(always)]
fn fill_packet<F: Form>(frame: &mut Traversal, skb: Skb, network_header: u64) -> Result<(), Gap> {
    if offset!(tcp_ae) != ABSENT {
        frame.flags |= flags::NAMES_AE;
    }
    frame.mark_before = skb.mark::<F>()?;
    frame.packet_len = skb.len::<F>()?;
    let linear_len = skb.linear_len::<F>(frame.packet_len, network_header)?;
    frame.headers_len = copy_headers(network_header, linear_len, &mut frame.headers)?;
    if linear_len < frame.packet_len && u32::from(frame.headers_len) == linear_len {
        frame.flags |= flags::HEADERS_NOT_LINEAR;
        fill_fragments::<F>(frame, skb)?;
    }
    Ok(())
}

/// A packet that was put together from fragments: the first is its linear part, the others hang on it. Headers that go
/// beyond the first are read from the next ones.
#[inline(always)]
fn fill_fragments<F: Form>(frame: &mut Traversal, skb: Skb) -> Result<(), Gap> {
    /// Fragments looked at beyond the first. Each but the last has eight bytes at least.
    const FRAGMENTS_MAX: u32 = 2;

    let head: u64 = F::read(skb.0, offset!(skb_head))?;
    let end: u32 = F::read(skb.0, offset!(skb_end))?;
    let mut fragment: u64 = read(head + u64::from(end), offset!(shared_frag_list))?;
    for _ in 0..FRAGMENTS_MAX {
        if fragment == 0 {
            return Ok(());
        }
        let linear_len = append_fragment(frame, fragment)?;
        if linear_len != read::<u32>(fragment, offset!(skb_len))? {
            return Ok(());
        }
        fragment = read(fragment, offset!(skb_next))?;
    }
    Ok(())
}

/// Appends the linear part of a fragment to the headers, as far as there is room; its length.
#[inline(always)]
fn append_fragment(frame: &mut Traversal, fragment: u64) -> Result<u32, Gap> {
    let data: u64 = read(fragment, offset!(skb_data))?;
    let len: u32 = read(fragment, offset!(skb_len))?;
    let linear_len = len.wrapping_sub(read(fragment, offset!(skb_data_len))?);
    append_headers(data, linear_len, frame)?;
    let wanted_len = frame.packet_len.min(HEADERS_LEN_MAX as u32);
    if u32::from(frame.headers_len) == wanted_len {
        frame.flags &= !flags::HEADERS_NOT_LINEAR;
    }
    Ok(linear_len)
}

/// What `dump_mac_header` (`net/netfilter/nf_log_syslog.c`) reads.
#[inline(always)]
fn fill_link_header<F: Form>(frame: &mut Traversal, skb: Skb, headers: Headers) -> Result<(), Gap> {
    let device: u64 = F::read(skb.0, offset!(skb_dev))?;
    if device == 0 {
        return Ok(());
    }
    frame.device_type = F::read(device, offset!(device_type))?;
    frame.hard_header_len = F::read(device, offset!(device_hard_header_len))?;
    if let Some(header) = skb.link_header::<F>(headers)? {
        // All there is room for, which may be more than the header: the length says what belongs to it.
        let bytes = read::<[u64; LINK_HEADER_LEN_MAX / 8]>(header, 0)?;
        // SAFETY: the same number of bytes, of which every pattern is a value.
        frame.link_header = unsafe {
            core::mem::transmute::<[u64; LINK_HEADER_LEN_MAX / 8], [u8; LINK_HEADER_LEN_MAX]>(bytes)
        };
        frame.link_header_len = frame.hard_header_len.min(LINK_HEADER_LEN_MAX as u16);
    }
    Ok(())
}

/// A bridge that hands a packet to the IP tables keeps the ports in an extension of the `sk_buff`
/// (`nf_bridge_info_get`, `include/linux/netfilter_bridge.h`).
#[inline(always)]
fn fill_bridge<F: Form>(frame: &mut Traversal, skb: Skb) -> Result<(), Gap> {
    /// `SKB_EXT_BRIDGE_NF` is the first of `enum skb_ext_id` where the kernel has it (`include/linux/skbuff.h`).
    const BRIDGE_NF: u8 = 0;

    if offset!(skb_active_extensions) == ABSENT || offset!(bridge_physoutdev) == ABSENT {
        return Ok(());
    }
    let active: u8 = F::read(skb.0, offset!(skb_active_extensions))?;
    if active & (1 << BRIDGE_NF) == 0 {
        return Ok(());
    }
    let extensions: u64 = F::read(skb.0, offset!(skb_extensions))?;
    let chunk: u8 = read(extensions, offset!(extension_offset) + u32::from(BRIDGE_NF))?;
    let bridge = extensions + u64::from(chunk) * 8;
    if offset!(bridge_physinif) == ABSENT {
        let port_in: u64 = read(bridge, offset!(bridge_physindev))?;
        if port_in != 0 {
            frame.port_in_ifindex = read(port_in, offset!(device_ifindex))?;
            frame.port_in = read(port_in, offset!(device_name))?;
        }
    } else {
        frame.port_in_ifindex = read(bridge, offset!(bridge_physinif))?;
    }
    let port_out: u64 = read(bridge, offset!(bridge_physoutdev))?;
    if port_out != 0 {
        frame.port_out_ifindex = read(port_out, offset!(device_ifindex))?;
        frame.port_out = read(port_out, offset!(device_name))?;
    }
    Ok(())
}

/// `skb->_nfct` holds the `nf_conn` and, in its low three bits, the `enum ip_conntrack_info`
/// (`nf_ct_get`, `include/net/netfilter/nf_conntrack.h`).
#[inline(always)]
fn fill_conntrack<F: Form>(frame: &mut Traversal, skb: u64) -> Result<(), Gap> {
    if offset!(skb_nfct) == ABSENT {
        return Ok(());
    }
    let nfct: u64 = F::read(skb, offset!(skb_nfct))?;
    frame.conntrack_info = (nfct & 7) as u8;
    frame.conntrack = nfct & !7;
    if frame.conntrack == 0 || offset!(conntrack_status) == ABSENT {
        return Ok(());
    }
    frame.conntrack_status = read(frame.conntrack, offset!(conntrack_status))?;
    if offset!(conntrack_mark) != ABSENT {
        frame.conntrack_mark = read(frame.conntrack, offset!(conntrack_mark))?;
    }
    frame.flags |= flags::CONNTRACK;
    Ok(())
}

/// What `nf_log_dump_sk_uid_gid` (`net/netfilter/nf_log_syslog.c`) prints: the owner of the file that the
/// socket belongs to, where it is a full socket of this network namespace.
#[inline(always)]
fn fill_owner<F: Form>(frame: &mut Traversal, arguments: &Arguments) -> Result<(), Gap> {
    /// `TCP_TIME_WAIT` and `TCP_NEW_SYN_RECV` (`include/net/tcp_states.h`) are no full sockets.
    const NOT_FULL: [u8; 2] = [6, 12];

    let sock: u64 = F::read(arguments.skb, offset!(skb_sk))?;
    if sock == 0 || NOT_FULL.contains(&F::read(sock, offset!(sock_state))?) {
        return Ok(());
    }
    let net: u64 = F::read(arguments.state, offset!(state_net))?;
    if F::read::<u64>(sock, offset!(sock_net))? != net {
        return Ok(());
    }
    let socket: u64 = F::read(sock, offset!(sock_socket))?;
    if socket == 0 {
        return Ok(());
    }
    let file: u64 = F::read(socket, offset!(socket_file))?;
    if file == 0 {
        return Ok(());
    }
    let cred: u64 = F::read(file, offset!(file_cred))?;
    frame.uid = F::read(cred, offset!(cred_fsuid))?;
    frame.gid = F::read(cred, offset!(cred_fsgid))?;
    frame.flags |= flags::OWNER;
    Ok(())
}

/// A kprobe sees the return of a legacy table: closes the frame of this call, if it has one, and sends the record.
#[inline(always)]
pub(crate) fn leave(invocation: Invocation, verdict: u32) {
    if let Some((key, frame)) = close(invocation, verdict) {
        end(frame);
        frames::hashed::close(key);
    }
}

/// A trampoline sees it, and the arguments again.
#[inline(always)]
pub(crate) fn returned(skb: u64, frame: u64, verdict: u32) {
    let Some(slot) = frames::slots::find(Trampoline::number(frame)) else {
        return;
    };
    if let Some(frame) = frames::slots::frame(slot) {
        complete::<Trampoline>(frame, skb, verdict);
        end(frame);
    }
    frames::slots::close(slot);
}

/// Sends the record of a legacy table.
#[inline(always)]
fn end(frame: &mut Traversal) {
    // The function read the table's rules some time between the two probes. The kernel waits for it before it
    // gives the old ones back, so the same address at both ends is the same generation throughout.
    let same =
        matches!(rules::address_of(frame.table), Ok(address) if address == frame.generation.table_info);
    if !same || rules::is_unsure(&frame.generation) {
        frame.flags |= flags::GENERATION_UNSURE;
    }
    verify::end(frame);
    send(frame);
}

/// Completes the record of a call that a kprobe sees return, if it has a frame, which comes with the key to close it
/// by.
#[inline(always)]
pub(crate) fn close(invocation: Invocation, verdict: u32) -> Option<(u64, &'static mut Traversal)> {
    let Call { state, .. } = call::end(invocation)?;
    let frame = frames::hashed::find(state)?;
    complete::<Kprobe>(frame, frame.skb, verdict);
    Some((state, frame))
}

/// Notes what is only known at return.
#[inline(always)]
fn complete<F: Form>(frame: &mut Traversal, skb: u64, verdict: u32) {
    frame.left_ns = now_ns();
    frame.verdict = verdict;
    if verdict & NF_VERDICT_MASK == NF_STOLEN {
        frame.flags |= flags::GONE_AT_EXIT;
    } else if fill_after::<F>(frame, skb).is_err() {
        note_gap(frame);
    }
    connection::follow(frame);
}

/// Sends a record.
#[inline(always)]
pub(crate) fn send(frame: &Traversal) {
    count(if emit_traversal(frame) {
        Counter::Delivered
    } else {
        Counter::RingFull
    });
}

/// What is asked of the packet at return: its mark, and its connection, which the nat table may just have given
/// its other addresses (`nf_nat_setup_info`, `net/netfilter/nf_nat_core.c`).
#[inline(always)]
fn fill_after<F: Form>(frame: &mut Traversal, skb: u64) -> Result<(), Gap> {
    frame.mark_after = Skb(skb).mark::<F>()?;
    if offset!(skb_nfct) == ABSENT
        || offset!(conntrack_status) == ABSENT
        || offset!(conntrack_tuplehash) == ABSENT
        || offset!(tuplehash_tuple) == ABSENT
    {
        return Ok(());
    }
    let conntrack = F::read::<u64>(skb, offset!(skb_nfct))? & !7;
    frame.conntrack_after = conntrack;
    if conntrack == 0 {
        return Ok(());
    }
    frame.conntrack_status_after = read(conntrack, offset!(conntrack_status))?;
    let original = offset!(conntrack_tuplehash) + offset!(tuplehash_tuple);
    frame.original = read::<[u8; TUPLE_LEN]>(conntrack, original)?;
    // `struct nf_conntrack_tuple_hash` is the list node and the tuple, without padding.
    let reply = original + offset!(tuplehash_tuple) + TUPLE_LEN as u32;
    frame.reply = read::<[u8; TUPLE_LEN]>(conntrack, reply)?;
    frame.flags |= flags::TUPLES;
    Ok(())
}

#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}
