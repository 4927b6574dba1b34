//! Targets that attach a connection: `xt_ct_target_v0`, `xt_ct_target_v1` and `notrack_tg`,
//! `net/netfilter/xt_CT.c`. They do nothing to a packet that has one, or is untracked already.

use super::Use;
use crate::replay::path::Gap;
use crate::replay::view::{Connection, View};
use crate::traversal::ConntrackState;

/// `struct xt_ct_target_info` and `_v1`: flags 0. Without `XT_CT_NOTRACK` the packet gets a template as a new
/// connection, whose status differs between kernels and whose mark any packet may have set.
pub(super) fn ct(target: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    /// `XT_CT_NOTRACK`, `include/uapi/linux/netfilter/xt_CT.h`.
    const NOTRACK: u16 = 1;

    let attached = if target.data.u16(0)? & NOTRACK != 0 {
        Connection::Untracked
    } else {
        Connection::Tracked {
            state: ConntrackState::New,
            reply: false,
            status: None,
            mark: None,
        }
    };
    attach(view, attached);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "all effects have one signature")]
pub(super) fn notrack(_: &Use<'_>, view: &mut View) -> Result<(), Gap> {
    attach(view, Connection::Untracked);
    Ok(())
}

fn attach(view: &mut View, connection: Connection) {
    if view.connection == Connection::None {
        view.connection = connection;
    }
}
