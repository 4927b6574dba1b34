//! One line for each traversal:
//!
//! ```text
//! 11:02:03.123456 #1 nat:OUTPUT ACCEPT out=lo TCP 10.0.0.1:44522 > 10.0.0.1:80 SYN len=60 ct=NEW mark=0x0>0x4000
//! ```
//!
//! Local time, number of the packet in order of appearance (the same at each of its traversals), table and built-in
//! chain (of nf_tables with the family: `nft inet filter:input`), verdict, devices, the packet at entry, its length in
//! bytes, conntrack state, packet mark before and after where it changed, owner of the socket. What is not there is left
//! out; what may be wrong or missing is said in brackets at the end.

use std::io::{self, Write};

use super::{
    Homes, Output,
    clock::Clock,
    words::{Numbers, details, printable, verdict_style},
};
use crate::{explain::Explanation, packet::Packet, traversal::Traversal};

pub(super) struct Tables {
    writer: Box<dyn Write>,
    homes: Homes,
    numbers: Numbers,
    clock: Clock,
}

impl Tables {
    pub(super) fn new(writer: Box<dyn Write>, homes: Homes, clock: Clock) -> Self {
        Self {
            writer,
            homes,
            numbers: Numbers::default(),
            clock,
        }
    }
}

impl Output for Tables {
    fn traversal(&mut self, traversal: &Traversal, explanation: Option<&Explanation>) -> io::Result<()> {
        let number = self.numbers.of(traversal.packet);
        let time = self.clock.local(traversal.entered_ns);
        let mut line = render(traversal, number, &time, &self.homes);
        // Where nothing else shows rules a path is asked for only to be verified.
        if let Some(why) = explanation.and_then(Explanation::partial) {
            line.push_str(&format!(" [partial: {}]", printable(&why)));
        }
        writeln!(self.writer, "{line}")
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

fn render(traversal: &Traversal, number: u64, time: &str, homes: &Homes) -> String {
    let style = verdict_style(traversal.verdict);
    let mut line = format!(
        "{time} #{number} {}:{} {style}{}{style:#}",
        printable(&traversal.table_in_words()),
        printable(&traversal.chain),
        traversal.verdict
    );
    details(
        &mut line,
        traversal,
        Packet::parse(&traversal.headers).as_ref(),
        homes,
    );
    line
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
        let line = render(&traversal(change), 1, "11:02:03.123456", &Homes::of([Some(7)]));
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
    fn a_base_chain_of_nf_tables_is_told_with_the_family_of_its_table() {
        let line = rendered(|record| {
            record.backend = tracer_common::BACKEND_NFTABLES;
            record.table_family = 1;
            record.chain_name[..3].copy_from_slice(b"out");
        });
        assert!(line.contains(" #1 nft inet nat:out ACCEPT out=lo "), "{line}");
    }

    #[test]
    fn a_bridge_port_is_shown_with_who_has_its_other_end() {
        let mut traversal = traversal(|_| ());
        traversal.port_in = Some(crate::traversal::Device {
            name: "veth1".into(),
            ifindex: 3,
            peer: Some("pod default/web-1".into()),
        });
        let line = render(&traversal, 1, "11:02:03.123456", &Homes::of([Some(7)]));
        let line = anstream::adapter::strip_str(&line).to_string();
        assert!(
            line.ends_with("len=40 physin=veth1 (pod default/web-1)"),
            "{line}"
        );
    }

    #[test]
    fn what_changed_is_shown_with_before_and_after() {
        let line = rendered(|record| {
            record.mark_after = 0x4000;
            record.conntrack = 0x1000;
            record.conntrack_info = 2;
            record.flags = tracer_common::flags::OWNER | tracer_common::flags::CONNTRACK;
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
}
