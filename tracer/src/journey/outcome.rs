//! What became of a packet, and who decided it.

use super::assemble::Ending;
use crate::{
    passage::Passage,
    traversal::{Hook, Verdict},
};

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A table dropped it.
    Dropped {
        /// Place of the passage in the journey; [`super::Journey::dropped_by`] has the rule.
        passage: usize,
        /// Whether the sender was told (`REJECT`).
        rejected: bool,
    },
    /// The tables accepted it, but another hook function of netfilter dropped it: connection tracking, another kind
    /// of tables, IPVS.
    DroppedByHook {
        /// The function of the kernel.
        function: String,
        /// Whether tables were left out, so that it may have been one of them.
        some_tables: bool,
    },
    /// The tables accepted it, but the kernel dropped it elsewhere.
    DroppedByKernel {
        /// The function of the kernel, where it could be told.
        function: Option<String>,
    },
    /// Delivered on this machine.
    Delivered,
    /// Sent, and not seen again.
    Sent,
    /// A target took it (`STOLEN`).
    Stolen,
    /// Waits in a queue for a process, or waited there when it was last seen. Of a packet that was cut into segments for
    /// the queue, these are packets of their own.
    Queued {
        /// Number of the queue.
        number: u16,
    },
    /// Every table that it met accepted it, and it was neither dropped later nor seen at the hook where it left.
    Passed,
    /// Every table that it met accepted it; its end was not seen.
    Accepted,
}

impl Outcome {
    /// Whether netfilter dropped it.
    #[must_use]
    pub fn is_drop(&self) -> bool {
        matches!(self, Self::Dropped { .. } | Self::DroppedByHook { .. })
    }

    /// What netfilter said, in one word: `DROP`, `REJECT`, `ACCEPT`, `STOLEN`, `QUEUE`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Dropped { rejected: true, .. } => "REJECT",
            Self::Dropped { .. } | Self::DroppedByHook { .. } => "DROP",
            Self::DroppedByKernel { .. } | Self::Delivered | Self::Sent | Self::Passed | Self::Accepted => {
                "ACCEPT"
            }
            Self::Stolen => "STOLEN",
            Self::Queued { .. } => "QUEUE",
        }
    }

    /// Of a journey that is over. Where only some tables are known the last one need not be the last that it met.
    pub(super) fn of(passages: &[Passage], ending: &Ending, some_tables: bool) -> Self {
        let Some((index, last)) = passages.iter().enumerate().next_back() else {
            return Self::Accepted;
        };
        match last.traversal.verdict {
            Verdict::Drop => Self::Dropped {
                passage: index,
                rejected: last
                    .decided_by()
                    .is_some_and(|step| step.action.is_one_of(&["REJECT"])),
            },
            Verdict::Stolen => Self::Stolen,
            Verdict::Queue { number, .. } if ending.is_in_queue() => Self::Queued { number },
            _ => match ending {
                Ending::Dropped(function) => match function {
                    Some(function) if is_hook_runner(function) => Self::DroppedByHook {
                        function: function.clone(),
                        some_tables,
                    },
                    function => Self::DroppedByKernel {
                        function: function.clone(),
                    },
                },
                Ending::Consumed if last.traversal.hook == Hook::LocalIn => Self::Delivered,
                Ending::Consumed if some_tables => Self::Passed,
                // What was forwarded and not dropped has left.
                Ending::Consumed if matches!(last.traversal.hook, Hook::Forward | Hook::PostRouting) => {
                    Self::Sent
                }
                Ending::Consumed => Self::Passed,
                Ending::Unseen => Self::Accepted,
            },
        }
    }
}

impl Ending {
    /// Of a packet that a table sent to a queue: whether it, or its segments, may wait there.
    fn is_in_queue(&self) -> bool {
        match self {
            Self::Unseen => true,
            Self::Dropped(function) => function.as_deref().is_some_and(is_cut_for_queue),
            Self::Consumed => false,
        }
    }
}

/// Whether a function drops packets because a hook function said so: `net/netfilter/core.c`, and `nft_do_chain`, which
/// drops at once from 6.12 on; or because of a queue.
fn is_hook_runner(function: &str) -> bool {
    let name = function.split(' ').next().unwrap_or(function);
    matches!(name, "nf_hook_slow" | "nf_hook_slow_list" | "nft_do_chain")
        || is_before_queue(function)
        || is_behind_queue(function)
}

/// Whether a function drops packets that do not get into their queue: `net/netfilter/nf_queue.c`.
#[must_use]
pub fn is_before_queue(function: &str) -> bool {
    function.split(' ').next() == Some("nf_queue")
}

/// Whether a function drops packets that were in a queue, because the program there said so or ended, or a hook function
/// behind it said so: `net/netfilter/nf_queue.c`, from 6.10 on `net/netfilter/nfnetlink_queue.c`, where it is inlined.
#[must_use]
pub fn is_behind_queue(function: &str) -> bool {
    let name = function.split(' ').next().unwrap_or(function);
    matches!(
        name,
        "nf_reinject" | "nfqnl_reinject" | "nfqnl_recv_verdict" | "nfqnl_recv_verdict_batch" | "nfqnl_flush"
    )
}

/// Whether a function frees a packet of which the segments wait in a queue instead: `net/netfilter/nfnetlink_queue.c`.
fn is_cut_for_queue(function: &str) -> bool {
    function.split(' ').next() == Some("nfqnl_enqueue_packet")
}
