//! What targets do to the packet and to the walk.

mod connection;
mod fields;
mod mark;
mod queue;

use super::data::Data;
use super::path::Gap;
use super::view::View;
use crate::ruleset::Extension;
use crate::traversal::{Family, Verdict};

/// `XT_CONTINUE`, `include/uapi/linux/netfilter/x_tables.h`.
pub(super) const CONTINUE: u32 = 0xffff_ffff;

/// What a target does.
#[derive(Clone, Copy)]
pub(super) enum Effect {
    /// It lets the walk go on, after it has changed the packet as the function does.
    Continues(fn(&Use<'_>, &mut View) -> Result<(), Gap>),
    /// It ends the walk with the verdict that the kernel gave, which has to be one that it can give.
    Ends {
        /// Whether it can give this verdict.
        gives: fn(&Use<'_>, Verdict) -> Result<bool, Gap>,
        /// Whether the packet's mark stays as it is.
        keeps_mark: bool,
    },
    /// What it does has to be observed. Where it lets the walk go on, the mark may have changed, and also:
    Observed(Touches),
}

/// What a target changes besides the mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Touches {
    /// Which headers.
    pub(super) headers: Headers,
    /// The connection that is attached to the packet, or its mark or status.
    pub(super) connection: bool,
}

/// Which headers a target changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Headers {
    /// None.
    None,
    /// The transport header, but not its ports; maybe the length of the packet.
    Transport,
    /// Any.
    All,
}

/// A use of a target in a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Use<'a> {
    /// `par->targinfo`
    pub(super) data: Data<'a>,
    /// `par->target->revision`
    pub(super) revision: u8,
    /// `xt_family(par)`
    pub(super) family: Family,
}

impl<'a> Use<'a> {
    pub(super) fn new(extension: &Extension, family: Family, data: Data<'a>) -> Self {
        Self {
            data,
            revision: extension.revision,
            family,
        }
    }
}

const TRANSPORT: Effect = Effect::Observed(Touches {
    headers: Headers::Transport,
    connection: false,
});
const HEADERS: Effect = Effect::Observed(Touches {
    headers: Headers::All,
    connection: false,
});
const MARK_ALONE: Effect = Effect::Observed(Touches {
    headers: Headers::None,
    connection: false,
});
const ANYTHING: Effect = Effect::Observed(Touches {
    headers: Headers::All,
    connection: true,
});

/// What a target does. Of a target that is not known, anything.
pub(super) fn effect(extension: &Extension, target: &Use<'_>) -> Effect {
    use Family::{Ipv4, Ipv6};
    match (extension.name.as_str(), extension.revision, target.family) {
        // They leave no trace on the packet that a rule or a line could show: not its priority (`CLASSIFY`),
        // security mark, or trace bit. `TEE` sends a copy its own way.
        ("AUDIT" | "CLASSIFY" | "CONNSECMARK" | "LED" | "LOG" | "NFLOG" | "RATEEST" | "TRACE", 0, _)
        | ("IDLETIMER" | "SECMARK" | "TEE", 0 | 1, _)
        | ("SET", 0..=2, _) => Effect::Continues(|_, _| Ok(())),
        ("SET", 3, _) if mark::set_maps_nothing(target) => Effect::Continues(|_, _| Ok(())),
        ("MARK", 2, _) => Effect::Continues(mark::mark),
        // What it restores is the connection's, which other packets change at any time.
        ("CONNMARK", 1 | 2, _) => MARK_ALONE,
        ("CT", 0..=2, _) => Effect::Continues(connection::ct),
        ("NOTRACK", 0, _) => Effect::Continues(connection::notrack),
        ("TTL", 0, Ipv4) => Effect::Continues(fields::ttl),
        ("HL", 0, Ipv6) => Effect::Continues(fields::hop_limit),
        ("DSCP", 0, _) => Effect::Continues(fields::dscp),
        ("TOS", 1, _) => Effect::Continues(fields::tos),
        // `nf_nat_setup_info`, `net/netfilter/nf_nat_core.c`, accepts or drops.
        ("DNAT" | "SNAT", 0..=2, _) | ("MASQUERADE" | "NETMAP" | "REDIRECT", 0, _) => Effect::Ends {
            gives: |_, verdict| Ok(matches!(verdict, Verdict::Accept | Verdict::Drop)),
            keeps_mark: true,
        },
        // `net/netfilter/xt_TPROXY.c` sets the mark of what it accepts.
        ("TPROXY", 0 | 1, _) => Effect::Ends {
            gives: |_, verdict| Ok(matches!(verdict, Verdict::Accept | Verdict::Drop)),
            keeps_mark: false,
        },
        ("REJECT", 0, _) => Effect::Ends {
            gives: |_, verdict| Ok(verdict == Verdict::Drop),
            keeps_mark: true,
        },
        ("NFQUEUE", 0..=3, _) => Effect::Ends {
            gives: queue::gives,
            keeps_mark: true,
        },
        ("CHECKSUM" | "TCPMSS" | "TCPOPTSTRIP", 0, _) => TRANSPORT,
        ("ECN", 0, Ipv4) | ("DNPT" | "SNPT", 0, Ipv6) => HEADERS,
        ("HMARK", 0, _) | ("SET", 3, _) | ("SYNPROXY", 0, _) => MARK_ALONE,
        _ => ANYTHING,
    }
}

/// Whether what this use of a target does is replayed.
pub(super) fn is_pure(extension: &Extension, family: Family, data: Data<'_>) -> bool {
    let target = Use::new(extension, family, data);
    !matches!(effect(extension, &target), Effect::Observed(_))
}

/// Whether it changes headers in a way that is not replayed.
pub(super) fn changes_headers(extension: &Extension, family: Family, data: Data<'_>) -> bool {
    let target = Use::new(extension, family, data);
    matches!(effect(extension, &target), Effect::Observed(touches) if touches.headers != Headers::None)
}
