//! One line for each traversal:
//!
//! ```text
//! 11:02:03.123456 #1 nat:OUTPUT ACCEPT out=lo TCP 10.0.0.1:44522 > 10.0.0.1:80 SYN len=60 ct=NEW mark=0x0>0x4000
//! ```
//!
//! Local time, number of the packet in order of appearance (the same at each of its traversals), table and
//! built-in chain, verdict, devices, the packet at entry, its length in bytes, conntrack state, packet mark
//! before and after where it changed, owner of the socket. What is not there is left out; what may be wrong or
//! missing is said in brackets at the end.

use std::{
    collections::HashMap,
    io::{self, Write},
};

use anstyle::{AnsiColor, Style};
use jiff::{Timestamp, tz::TimeZone};
use nix::time::{ClockId, clock_gettime};

use super::Output;
use crate::{
    packet::Packet,
    traversal::{Conntrack, PacketId, Traversal, Verdict},
};

/// Packets whose number is remembered. A packet that is seen again after so many others gets a new one.
const NUMBERS_MAX: usize = 100_000;

pub(super) struct Line {
    writer: Box<dyn Write>,
    own_netns: Option<u32>,
    numbers: Numbers,
    clock: Clock,
}

impl Line {
    pub(super) fn new(writer: Box<dyn Write>, own_netns: Option<u32>) -> Self {
        Self {
            writer,
            own_netns,
            numbers: Numbers::default(),
            clock: Clock::system(),
        }
    }
}

impl Output for Line {
    fn traversal(&mut self, traversal: &Traversal) -> io::Result<()> {
        let number = self.numbers.of(traversal.packet);
        let time = self.clock.local(traversal.entered_ns);
        let line = render(traversal, number, &time, self.own_netns);
        writeln!(self.writer, "{line}")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn render(traversal: &Traversal, number: u64, time: &str, own_netns: Option<u32>) -> String {
    use std::fmt::Write as _;

    let style = verdict_style(traversal.verdict);
    let mut line = format!(
        "{time} #{number} {}:{} {style}{}{style:#}",
        printable(&traversal.table),
        traversal.hook,
        traversal.verdict
    );
    // Writing to a string cannot fail.
    let mut put = |text: std::fmt::Arguments<'_>| {
        let _ = write!(line, " {text}");
    };
    if let Some(device) = &traversal.in_device {
        put(format_args!("in={}", printable(&device.name)));
    }
    if let Some(device) = &traversal.out_device {
        put(format_args!("out={}", printable(&device.name)));
    }
    match Packet::parse(&traversal.headers) {
        Some(packet) => put(format_args!("{packet}")),
        None => put(format_args!("(no readable IP header)")),
    }
    put(format_args!("len={}", traversal.packet_len));
    match traversal.conntrack {
        Conntrack::None => {}
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
    if own_netns != Some(traversal.netns) {
        put(format_args!("netns={}", traversal.netns));
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
    line
}

/// Fewer bytes than these and the packet's ports or flags may be missing from the line.
const HEADERS_NEEDED: usize = 40;

/// Names come from whoever made the table or device; control characters must not reach a terminal.
fn printable(name: &str) -> String {
    name.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn verdict_style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::Drop => AnsiColor::Red.on_default().bold(),
        Verdict::Accept => AnsiColor::Green.on_default(),
        _ => AnsiColor::Yellow.on_default(),
    }
}

/// Numbers packets in order of appearance.
#[derive(Default)]
struct Numbers {
    last: u64,
    by_packet: HashMap<PacketId, u64>,
    before: HashMap<PacketId, u64>,
}

impl Numbers {
    /// The number of a packet. Memory is bounded: two generations of half the limit, the older one dropped.
    fn of(&mut self, packet: PacketId) -> u64 {
        if let Some(&number) = self.by_packet.get(&packet) {
            return number;
        }
        if self.by_packet.len() >= NUMBERS_MAX / 2 {
            self.before = std::mem::take(&mut self.by_packet);
        }
        let number = self.before.get(&packet).copied().unwrap_or_else(|| {
            self.last += 1;
            self.last
        });
        self.by_packet.insert(packet, number);
        number
    }
}

/// Turns the kernel's monotonic clock into local time.
struct Clock {
    boot: Timestamp,
    zone: TimeZone,
}

impl Clock {
    fn system() -> Self {
        let monotonic_ns = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
            i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec())
        });
        let boot_ns = Timestamp::now().as_nanosecond() - monotonic_ns;
        Self {
            boot: Timestamp::from_nanosecond(boot_ns).unwrap_or(Timestamp::UNIX_EPOCH),
            zone: TimeZone::system(),
        }
    }

    fn local(&self, monotonic_ns: u64) -> String {
        let ns = self.boot.as_nanosecond() + i128::from(monotonic_ns);
        Timestamp::from_nanosecond(ns).map_or_else(
            |_| "??:??:??.??????".to_owned(),
            |time| {
                time.to_zoned(self.zone.clone())
                    .strftime("%H:%M:%S.%6f")
                    .to_string()
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use tracer_common::Traversal as Record;

    use super::*;

    fn traversal(change: impl FnOnce(&mut Record)) -> Traversal {
        let mut headers = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(44522, 80, 1, 1024)
            .syn()
            .write(&mut headers, &[])
            .unwrap();
        let mut record = Record {
            family: 2,
            hook: 3,
            verdict: 1,
            packet_len: 40,
            netns: 7,
            ..Record::EMPTY
        };
        record.table_name[..3].copy_from_slice(b"nat");
        record.out_ifindex = 1;
        record.out_device[..2].copy_from_slice(b"lo");
        record.headers[..40].copy_from_slice(&headers);
        record.headers_len = 40;
        change(&mut record);
        Traversal::decode(record.bytes()).unwrap()
    }

    fn rendered(change: impl FnOnce(&mut Record)) -> String {
        let line = render(&traversal(change), 1, "11:02:03.123456", Some(7));
        anstream::adapter::strip_str(&line).to_string()
    }

    #[test]
    fn a_plain_accept() {
        assert_eq!(
            rendered(|_| ()),
            "11:02:03.123456 #1 nat:OUTPUT ACCEPT out=lo TCP 10.0.0.1:44522 > 10.0.0.2:80 SYN len=40"
        );
    }

    #[test]
    fn what_changed_is_shown_with_before_and_after() {
        let line = rendered(|record| {
            record.mark_after = 0x4000;
            record.conntrack = 0x1000;
            record.conntrack_info = 2;
            record.flags = tracer_common::flags::OWNER;
            record.uid = 1000;
            record.gid = 100;
        });
        assert!(
            line.ends_with("len=40 ct=NEW mark=0x0>0x4000 uid=1000 gid=100"),
            "{line}"
        );
    }

    #[test]
    fn another_namespace_and_every_gap_are_said() {
        let line = rendered(|record| {
            record.netns = 8;
            record.headers_len = 24;
            record.flags = tracer_common::flags::READ_FAILED
                | tracer_common::flags::NOT_FOLLOWED
                | tracer_common::flags::HEADERS_NOT_LINEAR;
        });
        assert!(line.contains(" netns=8 [incomplete"), "{line}");
        assert!(line.contains("[headers cut"), "{line}");
        assert!(line.contains("[not followed"), "{line}");
    }

    #[test]
    fn a_mark_after_the_packet_is_gone_is_not_invented() {
        let line = rendered(|record| {
            record.mark_before = 0x1;
            record.verdict = 2;
            record.flags = tracer_common::flags::GONE_AT_EXIT;
        });
        assert!(line.contains("STOLEN") && line.ends_with("mark=0x1"), "{line}");
    }

    #[test]
    fn control_characters_in_names_do_not_reach_the_terminal() {
        let line = rendered(|record| record.out_device[..3].copy_from_slice(b"a\x1bb"));
        assert!(line.contains("out=a?b"), "{line}");
    }

    #[test]
    fn packets_are_numbered_in_order_of_appearance_and_memory_is_bounded() {
        let mut numbers = Numbers::default();
        let packet = |skb| traversal(|record| record.skb = skb).packet;
        assert_eq!(numbers.of(packet(1)), 1);
        assert_eq!(numbers.of(packet(2)), 2);
        assert_eq!(numbers.of(packet(1)), 1);
        for skb in 3..3 * NUMBERS_MAX as u64 {
            numbers.of(packet(skb));
        }
        assert!(numbers.by_packet.len() + numbers.before.len() <= NUMBERS_MAX);
    }
}
