//! `conntrack_mt_v1` to `_v3`, `net/netfilter/xt_conntrack.c`; `state_mt`, `net/netfilter/xt_state.c`.
//!
//! Only what belongs to the packet is replayed: its relation to the connection and its direction, which lie in
//! `skb->_nfct`. Status and mark of a connection change under the hands of other packets, on other CPUs, at any time;
//! so whoever asks for them, `connmark` too, has to be observed.

use super::{Answer, Call};
use crate::replay::data::Data;
use crate::replay::path::Gap;
use crate::replay::view::Connection;
use crate::traversal::ConntrackState;

/// `XT_CONNTRACK_*`, `include/uapi/linux/netfilter/xt_conntrack.h`.
mod asks {
    pub(super) const STATE: u16 = 0x0001;
    pub(super) const STATUS: u16 = 0x0040;
    pub(super) const DIRECTION: u16 = 0x1000;
    /// All that is not the packet's: protocol, addresses and ports of both tuples, status, time to live.
    pub(super) const MORE: u16 = 0x0fbe | STATUS;
}

/// `XT_CONNTRACK_STATE_*` and `XT_STATE_*`.
mod state_bit {
    pub(super) const INVALID: u32 = 1 << 0;
    pub(super) const ESTABLISHED: u32 = 1 << 1;
    pub(super) const RELATED: u32 = 1 << 2;
    pub(super) const NEW: u32 = 1 << 3;
    /// `XT_STATE_UNTRACKED`, of `state` alone.
    pub(super) const STATE_UNTRACKED: u32 = 1 << 6;
    pub(super) const SNAT: u32 = 1 << 6;
    pub(super) const DNAT: u32 = 1 << 7;
    pub(super) const UNTRACKED: u32 = 1 << 8;
}

/// `IPS_SRC_NAT` and `IPS_DST_NAT`, `include/uapi/linux/netfilter/nf_conntrack_common.h`.
const STATUS_SRC_NAT: u32 = 1 << 4;
const STATUS_DST_NAT: u32 = 1 << 5;

/// Where the flags lie is the same in all revisions.
const ASKED: usize = 146;
/// The same of the states asked for.
const STATES: usize = 150;

pub(super) fn knows(data: Data<'_>) -> bool {
    // The states of a NAT, which are in the status, lie in the first byte in every revision.
    let nat = u32::from(data.u8(STATES).unwrap_or(0)) & (state_bit::SNAT | state_bit::DNAT) != 0;
    data.u16(ASKED)
        .is_ok_and(|asked| asked & asks::MORE == 0 && !(asked & asks::STATE != 0 && nat))
}

/// `struct xt_conntrack_mtinfo1` to `3`: what is asked 146, inversions 148, states and statuses 150, of one byte
/// each in revision 1, of two bytes each after it.
pub(super) fn conntrack(call: &Call<'_>) -> Answer {
    let data = call.data;
    let (asked, invert) = (data.u16(ASKED)?, data.u16(148)?);
    let (states, statuses) = match call.revision {
        1 => (u32::from(data.u8(150)?), u32::from(data.u8(151)?)),
        _ => (u32::from(data.u16(150)?), u32::from(data.u16(152)?)),
    };
    let is = |bit: u16, value: bool| value != (invert & bit != 0);
    if asked & asks::STATE != 0 {
        let mut bits = state_bits(call, state_bit::UNTRACKED)?;
        if let Connection::Tracked { status, .. } = call.view.connection
            && states & (state_bit::SNAT | state_bit::DNAT) != 0
        {
            let status = status.ok_or(Gap::Connection)?;
            for (nat, bit) in [
                (STATUS_SRC_NAT, state_bit::SNAT),
                (STATUS_DST_NAT, state_bit::DNAT),
            ] {
                if status & nat != 0 {
                    bits |= bit;
                }
            }
        }
        if !is(asks::STATE, states & bits != 0) {
            return Ok(false);
        }
    }
    let Connection::Tracked { reply, status, .. } = call.view.connection else {
        if call.view.connection == Connection::Unknown {
            return Err(Gap::Connection.into());
        }
        return Ok(asked & asks::STATE != 0);
    };
    if asked & asks::DIRECTION != 0 && !is(asks::DIRECTION, !reply) {
        return Ok(false);
    }
    if asked & asks::STATUS != 0 && !is(asks::STATUS, statuses & status.ok_or(Gap::Connection)? != 0) {
        return Ok(false);
    }
    if asked & asks::MORE != 0 {
        return Err(Gap::Connection.into());
    }
    Ok(true)
}

/// `struct xt_state_info`: states 0.
pub(super) fn state(call: &Call<'_>) -> Answer {
    Ok(call.data.u32(0)? & state_bits(call, state_bit::STATE_UNTRACKED)? != 0)
}

/// `XT_CONNTRACK_STATE_BIT` and `XT_STATE_BIT`.
fn state_bits(call: &Call<'_>, untracked: u32) -> Result<u32, Gap> {
    match call.view.connection {
        Connection::None | Connection::Orphaned => Ok(state_bit::INVALID),
        Connection::Untracked => Ok(untracked),
        Connection::Tracked { state, .. } => match state {
            ConntrackState::Established => Ok(state_bit::ESTABLISHED),
            ConntrackState::Related => Ok(state_bit::RELATED),
            ConntrackState::New => Ok(state_bit::NEW),
            ConntrackState::Other(_) => Err(Gap::Connection),
        },
        Connection::Unknown => Err(Gap::Connection),
    }
}
