//! What several formats say in the same words: numbers of packets, names, verdicts in colour, and the
//! details of a traversal.

use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};

use super::Homes;
use crate::{
    journey::{By, Journey, Outcome, What, is_before_queue, is_behind_queue},
    packet::{Packet, Transport},
    recent::Recent,
    traversal::{Conntrack, Device, PacketId, Traversal, Verdict},
};

/// Packets whose number is remembered. A packet that is seen again after so many others gets a new one.
const NUMBERS_MAX: usize = 100_000;

/// Fewer bytes than these and the packet's ports or flags may be missing.
const HEADERS_NEEDED: usize = 40;

/// Appends what there is to say of a traversal beside its table and verdict, each part with a space before it:
/// devices, the packet where it is given, its length, bridge ports, conntrack state, mark, owner, namespace, and in brackets
/// what may be wrong or missing.
pub(super) fn details(to: &mut String, traversal: &Traversal, packet: Option<&Packet>, homes: &Homes) {
    // Writing to a string cannot fail.
    let mut put = |text: std::fmt::Arguments<'_>| {
        let _ = write!(to, " {text}");
    };
    if let Some(in_device) = &traversal.in_device {
        put(format_args!("in={}", device(in_device)));
    }
    if let Some(out_device) = &traversal.out_device {
        put(format_args!("out={}", device(out_device)));
    }
    if let Some(packet) = packet {
        put(format_args!("{packet} len={}", traversal.packet_len));
    }
    for (key, port) in [("physin", &traversal.port_in), ("physout", &traversal.port_out)] {
        if let Some(port) = port.as_ref().filter(|port| !port.name.is_empty()) {
            put(format_args!("{key}={}", device(port)));
        }
    }
    match traversal.conntrack {
        Conntrack::None | Conntrack::Orphaned => {}
        Conntrack::Untracked => put(format_args!("ct=UNTRACKED")),
        Conntrack::Tracked { state, reply, .. } => {
            put(format_args!("ct={state}{}", if reply { ",reply" } else { "" }));
        }
    }
    match traversal.mark_after {
        Some(after) if after != traversal.mark_before => {
            put(format_args!("mark={:#x}>{after:#x}", traversal.mark_before));
        }
        _ if traversal.mark_before != 0 => put(format_args!("mark={:#x}", traversal.mark_before)),
        _ => {}
    }
    if let Some(owner) = traversal.owner {
        put(format_args!("uid={} gid={}", owner.uid, owner.gid));
    }
    if let Some(node) = &traversal.node {
        put(format_args!("node={}", printable(node)));
    }
    if !homes.has(traversal.packet.recording(), traversal.netns) {
        put(format_args!("netns={}", traversal.netns));
        if let Some(name) = &traversal.netns_name {
            put(format_args!("({})", printable(name)));
        }
    }
    if traversal.incomplete {
        put(format_args!("[incomplete: a read of kernel memory failed]"));
    }
    if traversal.headers_cut && traversal.headers.len() < HEADERS_NEEDED {
        put(format_args!("[headers cut: the rest is not in linear memory]"));
    }
    if traversal.not_followed {
        put(format_args!("[not followed: too many packets at once]"));
    }
}

/// Names come from whoever made the table or device; control characters must not reach a terminal.
pub(crate) fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

/// A device with whoever has its other end: `cali282b0776936 (pod default/web-1)`.
pub(super) fn device(device: &Device) -> String {
    let name = printable(&device.name);
    match &device.peer {
        Some(peer) => format!("{name} ({})", printable(peer)),
        None => name,
    }
}

/// `12.3µs`, `4.56ms`
pub(super) fn duration(ns: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let ns_float = ns as f64;
    match ns {
        0..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{:.1}µs", ns_float / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2}ms", ns_float / 1e6),
        _ => format!("{:.2}s", ns_float / 1e9),
    }
}

/// What became of a journey, in words, without the rule that decided it.
pub(super) fn fate(journey: &Journey) -> String {
    let last = &journey.last().traversal;
    let by = |known: &Option<Device>| known.as_ref().map_or_else(|| "?".to_owned(), device);
    match &journey.outcome {
        Outcome::Dropped { rejected: true, .. } => "rejected".to_owned(),
        Outcome::Dropped { .. } => "dropped".to_owned(),
        Outcome::DroppedByHook {
            function,
            some_tables,
        } => {
            let by = match last.verdict {
                Verdict::Queue { number, .. } if is_before_queue(function) => {
                    format!("at queue {number}: no program takes packets from it, or it is full")
                }
                Verdict::Queue { number, .. } if is_behind_queue(function) => {
                    format!("in queue {number} by its program, or by another hook function after it")
                }
                _ if *some_tables => {
                    "by a table that is left out (--table, --hook), or by another hook function".to_owned()
                }
                _ => format!(
                    "by another hook function after {}:{}",
                    printable(&last.table_in_words()),
                    last.hook
                ),
            };
            format!("dropped {by} (in {})", printable(function))
        }
        Outcome::DroppedByKernel {
            function: Some(function),
        } => {
            let usual = if is_usual_for_echo_replies(last, function) {
                " (usual for echo replies: raw sockets got a copy before)"
            } else if frees_a_socket(function) {
                " (usual at the end of a connection: it lay in its socket until that was gone)"
            } else {
                ""
            };
            format!(
                "accepted, then dropped by the kernel in {}{usual}",
                printable(function)
            )
        }
        Outcome::DroppedByKernel { function: None } => "accepted, then dropped by the kernel".to_owned(),
        Outcome::Delivered => "delivered".to_owned(),
        Outcome::Sent => format!("sent by {}", by(&last.out_device)),
        Outcome::Stolen => "taken by a target".to_owned(),
        Outcome::Queued { number } => format!("in queue {number}"),
        Outcome::Passed => "accepted".to_owned(),
        Outcome::Accepted => "accepted; its end was not seen".to_owned(),
    }
}

/// Whether it is an echo reply that came where it was to go: `icmp_rcv` (`net/ipv4/icmp.c`) and those that it calls drop
/// every one for which no ping socket waits, though `raw_local_deliver` has given the raw sockets, which `ping` mostly
/// has, copies before.
fn is_usual_for_echo_replies(last: &Traversal, function: &str) -> bool {
    const RECEIVERS: [&str; 3] = ["icmp_rcv", "ping_rcv", "icmpv6_rcv"];
    let packet = Packet::parse(&last.headers);
    let transport = packet.map(|packet| packet.transport);
    RECEIVERS.contains(&function) && matches!(transport, Some(Transport::Icmp { kind: 0 | 129, .. }))
}

/// Whether the function frees what a socket holds when it is gone: `net/core/stream.c`, `net/ipv4/af_inet.c`, `net/ipv4/tcp.c`.
fn frees_a_socket(function: &str) -> bool {
    ["sk_stream_kill_queues", "inet_sock_destruct", "tcp_disconnect"].contains(&function)
}

/// Who made a change, if that is not the step that it is shown at.
pub(super) fn author(by: &By) -> String {
    match by {
        By::Step => String::new(),
        By::Table => "by this table, it is not known which rule".to_owned(),
        By::Nat { undone, decided } => {
            let what = if *undone { "NAT undone" } else { "NAT" };
            match decided {
                Some(decided) if decided.journey == 0 => {
                    format!("{what}, decided by {}", printable(&decided.rule.to_string()))
                }
                Some(decided) => format!(
                    "{what}, decided by {} for #{}",
                    printable(&decided.rule.to_string()),
                    decided.journey
                ),
                None => format!(
                    "{what} of the connection, decided before the trace began or by a table that is left out"
                ),
            }
        }
        By::Forwarding => "forwarded".to_owned(),
        By::Namespace => "on the way into another network namespace".to_owned(),
        By::Node => "on the way to the next node".to_owned(),
        By::Unknown => "between two tables".to_owned(),
    }
}

/// Source and destination as the packet left its last table, with what NAT did afterwards; `None` where they are as
/// at the start.
pub(super) fn leaves_as(journey: &Journey) -> Option<Packet> {
    let mut packet = Packet::parse(&journey.last().traversal.headers)?;
    for change in &journey.changes {
        if change.passage + 1 == journey.passages.len() {
            match change.what {
                What::Source(_, after) => packet.set_source(after.address, after.port),
                What::Destination(_, after) => packet.set_destination(after.address, after.port),
                What::Mark(..) | What::Ttl(..) | What::Tos(..) => {}
            }
        }
    }
    (Some(packet) != Packet::parse(&journey.first().traversal.headers)).then_some(packet)
}

/// Colour of an outcome.
pub(super) fn outcome_style(outcome: &Outcome) -> Style {
    match outcome {
        Outcome::Dropped { .. } | Outcome::DroppedByHook { .. } => AnsiColor::Red.on_default().bold(),
        Outcome::Delivered | Outcome::Sent | Outcome::Passed | Outcome::Accepted => {
            AnsiColor::Green.on_default()
        }
        Outcome::DroppedByKernel { .. } | Outcome::Stolen | Outcome::Queued { .. } => {
            AnsiColor::Yellow.on_default()
        }
    }
}

pub(super) fn verdict_style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Drop => AnsiColor::Red.on_default().bold(),
        Verdict::Accept => AnsiColor::Green.on_default(),
        _ => AnsiColor::Yellow.on_default(),
    }
}

/// Numbers packets in order of appearance.
#[derive(Default)]
pub(super) struct Numbers {
    last: u64,
    by_packet: Recent<PacketId, u64, NUMBERS_MAX>,
}

impl Numbers {
    /// The number of a packet.
    pub(super) fn of(&mut self, packet: PacketId) -> u64 {
        *self.by_packet.get_or_insert_with(packet, || {
            self.last += 1;
            self.last
        })
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Traversal as Record;

    use super::*;

    #[test]
    fn packets_are_numbered_in_order_of_appearance_and_memory_is_bounded() {
        let mut numbers = Numbers::default();
        let packet = |skb| {
            Traversal::decode(
                Record {
                    family: 2,
                    skb,
                    ..Record::EMPTY
                }
                .bytes(),
            )
            .unwrap()
            .packet
        };
        assert_eq!(numbers.of(packet(1)), 1);
        assert_eq!(numbers.of(packet(2)), 2);
        assert_eq!(numbers.of(packet(1)), 1);
        for skb in 3..3 * NUMBERS_MAX as u64 {
            numbers.of(packet(skb));
        }
        assert!(numbers.by_packet.len() <= NUMBERS_MAX);
    }
}
