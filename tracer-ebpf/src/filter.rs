//! Does this packet satisfy the user's filter?

use tracer_common::{ABSENT, TABLES_MAX, criteria};

use crate::{
    asked, asked_words,
    form::Form,
    ip::{Copied, Loaded, Start, Words},
    kernel::{Gap, Headers, Skb},
    offset,
    traversal::{Arguments, TableName},
};

/// Whether the packet is to be followed. Cheapest questions first; nothing is copied.
#[inline(always)]
pub(crate) fn satisfied<F: Form>(arguments: &Arguments, headers: Headers) -> Result<bool, Gap> {
    let criteria = asked!(criteria);
    // Each test costs most packets something, so what is seldom asked for is tested for together.
    if criteria & criteria::OUTSIDE != 0 && !outside_satisfies::<F>(arguments, criteria)? {
        return Ok(false);
    }
    if criteria & criteria::HEADERS != 0 {
        return headers_satisfy(headers.network(), arguments.family, criteria);
    }
    Ok(true)
}

/// What is not in the packet's headers.
#[inline(always)]
fn outside_satisfies<F: Form>(arguments: &Arguments, criteria: u32) -> Result<bool, Gap> {
    if criteria & criteria::NETNS != 0 && netns::<F>(arguments)? != asked!(netns) {
        return Ok(false);
    }
    let skb = Skb(arguments.skb);
    if criteria & criteria::MARK != 0 && skb.mark::<F>()? & asked!(mark_mask) != asked!(mark) {
        return Ok(false);
    }
    if criteria & criteria::IN_DEVICE != 0
        && !device_satisfies::<F>(
            F::read(arguments.state, offset!(state_in))?,
            asked_words!(in_device),
            asked_words!(in_device_mask),
        )?
    {
        return Ok(false);
    }
    if criteria & criteria::OUT_DEVICE != 0
        && !device_satisfies::<F>(
            F::read(arguments.state, offset!(state_out))?,
            asked_words!(out_device),
            asked_words!(out_device_mask),
        )?
    {
        return Ok(false);
    }
    Ok(true)
}

/// Inode number of the network namespace.
#[inline(always)]
pub(crate) fn netns<F: Form>(arguments: &Arguments) -> Result<u32, Gap> {
    let net: u64 = F::read(arguments.state, offset!(state_net))?;
    F::read(net, offset!(net_inum))
}

/// Names are compared as iptables compares them, over the bytes of the mask. No device satisfies no name.
#[inline(always)]
fn device_satisfies<F: Form>(device: u64, wanted: [u32; 4], mask: [u32; 4]) -> Result<bool, Gap> {
    Ok(device != 0 && equal_under(&F::read(device, offset!(device_name))?, &wanted, &mask))
}

#[inline(always)]
fn equal_under(words: &[u32; 4], wanted: &[u32; 4], mask: &[u32; 4]) -> bool {
    (words[0] ^ wanted[0]) & mask[0] == 0
        && (words[1] ^ wanted[1]) & mask[1] == 0
        && (words[2] ^ wanted[2]) & mask[2] == 0
        && (words[3] ^ wanted[3]) & mask[3] == 0
}

#[inline(always)]
fn headers_satisfy(header: u64, family: u8, criteria: u32) -> Result<bool, Gap> {
    if offset!(type_words) == ABSENT {
        let mut words = Words::uninit();
        start_satisfies(&Copied::read(&mut words, header, family)?, criteria)
    } else {
        start_satisfies(&Loaded { header, family }, criteria)
    }
}

#[inline(always)]
fn start_satisfies(start: &impl Start, criteria: u32) -> Result<bool, Gap> {
    if criteria & criteria::ADDRESSES != 0 && !addresses_satisfy(start, criteria) {
        return Ok(false);
    }
    if criteria & (criteria::PROTOCOL | criteria::PORTS) == 0 {
        return Ok(true);
    }
    let transport = start.transport()?;
    if criteria & criteria::PROTOCOL != 0 && transport.protocol != asked!(protocol) {
        return Ok(false);
    }
    if criteria & criteria::PORTS == 0 {
        return Ok(true);
    }
    let Some((source, destination)) = start.ports(&transport)? else {
        return Ok(false);
    };
    let source_wanted = asked!(source_port_min)..=asked!(source_port_max);
    let destination_wanted = asked!(destination_port_min)..=asked!(destination_port_max);
    let either_wanted = asked!(either_port_min)..=asked!(either_port_max);
    Ok(
        (criteria & criteria::SOURCE_PORT == 0 || source_wanted.contains(&source))
            && (criteria & criteria::DESTINATION_PORT == 0 || destination_wanted.contains(&destination))
            && (criteria & criteria::EITHER_PORT == 0
                || either_wanted.contains(&source)
                || either_wanted.contains(&destination)),
    )
}

#[inline(always)]
fn addresses_satisfy(start: &impl Start, criteria: u32) -> bool {
    if criteria & criteria::SOURCE != 0
        && !equal_under(
            &start.source(),
            &asked_words!(source.address),
            &asked_words!(source.mask),
        )
    {
        return false;
    }
    if criteria & criteria::DESTINATION != 0
        && !equal_under(
            &start.destination(),
            &asked_words!(destination.address),
            &asked_words!(destination.mask),
        )
    {
        return false;
    }
    if criteria & criteria::EITHER != 0 {
        let (wanted, mask) = (asked_words!(either.address), asked_words!(either.mask));
        if !equal_under(&start.source(), &wanted, &mask) && !equal_under(&start.destination(), &wanted, &mask)
        {
            return false;
        }
    }
    true
}

/// Whether traversals of this table at this hook are to be recorded.
#[inline(always)]
pub(crate) fn in_scope(hook: u8, table: &TableName) -> bool {
    if asked!(hooks) & (1 << (hook & 7)) == 0 {
        return false;
    }
    let wanted_len = asked!(tables_len) as usize;
    if wanted_len == 0 {
        return true;
    }
    for index in 0..TABLES_MAX {
        if index < wanted_len && asked_words!(tables[index]) == *table {
            return true;
        }
    }
    false
}
