//! Every format of journeys, with the same three packets: a request to a `NodePort`, its reply, and one that is rejected.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use pcap_file::pcapng::{Block, PcapNgReader, blocks::enhanced_packet::EnhancedPacketOption};
use serde_json::Value;

use super::*;
use crate::{
    journey::{
        nodes,
        tests::{delivered, samples},
    },
    nftables::Family as TableFamily,
    passage::{Action, Backend},
    ruleset::Kind,
    traversal::Verdict,
};

/// Collects what is written.
#[derive(Clone, Default)]
struct Sheet(Arc<Mutex<Vec<u8>>>);

impl Write for Sheet {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn written(format: Format, width: Option<usize>) -> Vec<u8> {
    written_of(format, width, &samples())
}

fn written_of(format: Format, width: Option<usize>, journeys: &[Journey]) -> Vec<u8> {
    let sheet = Sheet::default();
    let context = Context {
        homes: Homes::of([Some(0); 2]),
        clock: Clock::with_offset_ns(1_700_000_000_000_000_000),
        screen: width.map_or(Screen::None, |columns| Screen::Fixed(Size { columns, rows: 24 })),
    };
    let mut output = new(format, Box::new(sheet.clone()), context).unwrap();
    for journey in journeys {
        output.journey(journey).unwrap();
    }
    output.finish().unwrap();
    drop(output);
    sheet.0.lock().unwrap().split_off(0)
}

fn text(format: Format, width: Option<usize>) -> String {
    let text = String::from_utf8(written(format, width)).unwrap();
    anstream::adapter::strip_str(&text).to_string()
}

/// Of packets that go over two nodes.
fn text_of_nodes(format: Format) -> String {
    let text = String::from_utf8(written_of(format, None, &nodes::tests::samples())).unwrap();
    anstream::adapter::strip_str(&text).to_string()
}

#[test]
fn json_is_what_the_schema_says() {
    let schema: Value = serde_json::from_str(include_str!("../../../docs/journey.schema.json")).unwrap();
    let mut schemas = boon::Schemas::new();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("journey.schema.json", schema).unwrap();
    let schema = compiler.compile("journey.schema.json", &mut schemas).unwrap();
    let valid = |object: &Value| {
        schemas
            .validate(object, schema)
            .map_err(|error| error.to_string())
    };
    let lines = text(Format::Json, None) + &text_of_nodes(Format::Json);
    assert_eq!(lines.lines().count(), 5);
    for line in lines.lines() {
        let object: Value = serde_json::from_str(line).unwrap();
        valid(&object).unwrap_or_else(|error| panic!("{error}\n{line}"));
        // The schema does look.
        let mut other = object.clone();
        other["tables"][0]["surprise"] = 1.into();
        assert!(valid(&other).is_err());
    }
    let example = include_str!("../../../docs/json.md");
    let (_, example) = example.split_once("```json\n").unwrap();
    let (example, _) = example.split_once("```").unwrap();
    let example: Value = serde_json::from_str(example).unwrap();
    valid(&example).unwrap_or_else(|error| panic!("the example: {error}"));
}

#[test]
fn a_way_over_nodes_says_where_it_goes_on() {
    let tree = text_of_nodes(Format::Tree);
    for expected in [
        "  --> in a tunnel's packet\n  is now UDP 172.16.0.1:5555 > 172.16.0.2:8472\n",
        "  --> on to node-1\n",
        "  --> taken out of the tunnel's packet\n  is now ICMP ",
        "  [source 10.244.1.2>172.16.0.1] on the way to the next node\n",
        "  --> on to node-1, with other addresses: by NAT that was not recorded\n",
        " node=node-0 ",
    ] {
        assert!(tree.contains(expected), "{expected}: {tree}");
    }
    let line = text_of_nodes(Format::Line);
    let (first, second) = line.split_once('\n').unwrap();
    assert!(
        first.contains(
            " node=node-0: PREROUTING(eth0) FORWARD(eth0>eth1) POSTROUTING(eth0>eth1) OUTPUT(eth1) POSTROUTING(eth0>eth1) \
             node=node-1: PREROUTING(eth0) "
        ),
        "{first}"
    );
    assert!(
        second.contains(" source=10.244.1.2>172.16.0.1 (on the way to the next node)"),
        "{second}"
    );
    let drawing = text_of_nodes(Format::Diagram);
    assert!(
        drawing.contains("  node-0: eth1 -->\n      |\n      |  in a tunnel's packet\n"),
        "{drawing}"
    );
    let objects: Vec<Value> = text_of_nodes(Format::Json)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects[0]["joints"][1]["how"], "sent");
    assert_eq!(objects[1]["changes"][0]["by"], "node");
}

#[test]
fn json_has_the_rules_that_decided() {
    let lines = text(Format::Json, None);
    let objects: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(objects[0]["changes"][0]["by"], "step");
    assert_eq!(objects[0]["outcome"]["leaves_as"]["destination_port"], 8080);
    assert_eq!(
        objects[1]["changes"][0]["decided_by"]["rule"],
        "nat:KUBE-POSTROUTING:rule:2"
    );
    assert_eq!(
        objects[2]["outcome"]["rule"]["rule"],
        "filter:cali-tw-cali1:rule:2"
    );
}

#[test]
fn a_line_has_the_way_and_who_changed_the_packet() {
    let lines = text(Format::Line, None);
    let lines: Vec<&str> = lines.lines().collect();
    assert!(
        lines[0].contains(
            " #1 ACCEPT TCP 192.168.199.34:35318 > 192.168.199.34:32275 SYN len=40 OUTPUT POSTROUTING(flannel.1) \
             ct=NEW destination=192.168.199.34:32275>10.244.3.3:8080 by nat:KUBE-SEP-X:rule:2 "
        ),
        "{}",
        lines[0]
    );
    assert!(
        lines[2].contains("; rejected by filter:cali-tw-cali1:rule:2  -A"),
        "{}",
        lines[2]
    );
}

#[test]
fn drops_are_the_packets_that_netfilter_dropped() {
    let lines = text(Format::Drops, None);
    assert_eq!(lines.lines().count(), 1);
    assert!(
        lines.contains(
            "REJECT TCP 192.168.199.34:1 > 10.244.3.3:2 SYN len=40 in=eth0 out=cali1 by filter:cali-tw"
        ),
        "{lines}"
    );
    assert!(
        lines.contains("# to the workload at cali1  (FORWARD > cali-FORWARD > cali-tw-cali1)"),
        "{lines}"
    );
    let table = text(Format::Stats, None);
    assert!(
        table.starts_with("   packets  dropped by, of 3 packets\n         1  filter:cali-tw-cali1"),
        "{table}"
    );
}

#[test]
fn a_tree_fits_a_narrow_terminal() {
    let wide = text(Format::Tree, None);
    assert!(wide.contains("默认拒绝"), "{wide}");
    assert!(
        wide.contains("= rejected by filter:cali-tw-cali1:rule:2"),
        "{wide}"
    );
    assert!(
        wide.contains("NAT undone, decided by nat:KUBE-SEP-X:rule:2 for #1"),
        "{wide}"
    );
    let narrow = text(Format::Tree, Some(60));
    for line in narrow.lines().filter(|line| line.contains("-A ")) {
        assert!(layout::columns(line) <= 60 || line.contains('['), "{line}");
    }
}

#[test]
fn nf_tables_are_named_with_their_family_in_every_text_format() {
    let mut journey = samples().remove(2);
    for passage in &mut journey.passages {
        let backend = Backend::Nftables(TableFamily::Inet);
        (passage.backend, passage.traversal.backend) = (backend, backend);
    }
    let journeys = [journey];
    let written = |format| {
        let text = String::from_utf8(written_of(format, None, &journeys)).unwrap();
        anstream::adapter::strip_str(&text).to_string()
    };
    for (format, expected) in [
        (Format::Tree, " nft inet filter:FORWARD DROP "),
        (Format::Tree, "= rejected by nft inet filter:cali-tw-cali1:rule:2"),
        (
            Format::Line,
            "; rejected by nft inet filter:cali-tw-cali1:rule:2  -A",
        ),
        (Format::Drops, " by nft inet filter:cali-tw-cali1:rule:2  -A"),
        (
            Format::Stats,
            "         1  nft inet filter:cali-tw-cali1:rule:2  -A",
        ),
        (Format::Diagram, "  [nft inet filter] cali-FORWARD\n"),
        (
            Format::Diagram,
            "= rejected by nft inet filter:cali-tw-cali1:rule:2",
        ),
        (Format::Mermaid, "[\"nft inet filter: cali-FORWARD\"]"),
        (
            Format::Json,
            "\"backend\":\"nf_tables\",\"table_family\":\"inet\"",
        ),
    ] {
        let text = written(format);
        assert!(text.contains(expected), "{format:?}: {expected}: {text}");
    }
}

#[test]
fn a_drawing_goes_from_chain_to_chain() {
    let drawing = text(Format::Diagram, None);
    let (_, last) = drawing.split_once("#3 ").unwrap();
    assert_eq!(
        last,
        "TCP 192.168.199.34:1 > 10.244.3.3:2 SYN\n\n  --> eth0\n      |\n      V\n  [filter] FORWARD\n      |\n      \
         |  rule 1\n      V\n  [filter] cali-FORWARD\n      |\n      |  rule 4\n      V\n  [filter] cali-tw-cali1  \
         (to the workload at cali1)\n      |\n      |  rule 2: REJECT\n      V\n  \
         = rejected by filter:cali-tw-cali1:rule:2\n\n"
    );
    let mermaid = text(Format::Mermaid, None);
    assert_eq!(mermaid.matches("```mermaid\nflowchart TD\n").count(), 3);
    assert!(mermaid.contains("n2 -- \"rule 4\" --> n3"), "{mermaid}");
}

#[test]
fn a_chain_that_was_left_with_nothing_done_is_not_drawn_nor_is_the_rule_that_called_it() {
    let jump = |chain, number, to: &str, depth| (chain, Kind::Rule, number, Action::Jump(to.into()), depth);
    let goto = |chain, number, to: &str, depth| (chain, Kind::Rule, number, Action::Goto(to.into()), depth);
    let back = |chain, number, depth| (chain, Kind::Return, number, Action::Return, depth);
    let log = Action::Target {
        name: "LOG".into(),
        verdict: None,
    };
    let log = ("FW-A", Kind::Rule, 2, log, 1);
    let policy = ("INPUT", Kind::Policy, 2, Action::Verdict(Verdict::Accept), 0);
    let by_policy = "  [filter] INPUT\n      |\n      |  policy 2: ACCEPT\n      V\n  = delivered\n\n";
    let into = "  [filter] INPUT\n      |\n      |  rule 1\n      V\n  [filter] FW-A\n      |\n";
    let policy_edges = ["start --> n0", "n0 -- \"policy 2: ACCEPT\" --> stop"];
    for (steps, drawing, edges) in [
        (
            &[
                jump("INPUT", 1, "FW-A", 0),
                jump("FW-A", 1, "FW-B", 1),
                back("FW-B", 1, 2),
                back("FW-A", 2, 1),
                policy.clone(),
            ][..],
            by_policy.to_owned(),
            &policy_edges[..],
        ),
        (
            &[jump("INPUT", 1, "FW-A", 0), back("FW-A", 1, 1), policy.clone()],
            by_policy.to_owned(),
            &policy_edges,
        ),
        // The end of what a goto went to is the end of the chain that it left.
        (
            &[
                jump("INPUT", 1, "FW-A", 0),
                goto("FW-A", 1, "FW-B", 1),
                back("FW-B", 1, 1),
                policy.clone(),
            ],
            by_policy.to_owned(),
            &policy_edges,
        ),
        (
            &[
                jump("INPUT", 1, "FW-A", 0),
                jump("FW-A", 1, "FW-B", 1),
                back("FW-B", 1, 2),
                log,
                back("FW-A", 3, 1),
                policy,
            ],
            format!("{into}      |  rule 2: LOG\n      V\n{by_policy}"),
            &[
                "start --> n0",
                "n0 -- \"rule 1\" --> n1",
                "n1 -- \"rule 2: LOG\" --> n2",
                "n2 -- \"policy 2: ACCEPT\" --> stop",
            ],
        ),
        // What came then is not known.
        (
            &[jump("INPUT", 1, "FW-A", 0), jump("FW-A", 1, "FW-B", 1)],
            format!("{into}      |  rule 1: jump FW-B\n      V\n  = delivered\n\n"),
            &[
                "start --> n0",
                "n0 -- \"rule 1\" --> n1",
                "n1 -- \"rule 1: jump FW-B\" --> stop",
            ],
        ),
    ] {
        let journey = [delivered(steps)];
        let written = |format| String::from_utf8(written_of(format, None, &journey)).unwrap();
        assert_eq!(
            written(Format::Diagram),
            format!("#1 TCP 10.244.3.3:1 > 192.168.199.34:2 SYN\n\n{drawing}")
        );
        let chart = written(Format::Mermaid);
        let lines = chart.lines().map(str::trim);
        let arrows: Vec<&str> = lines.filter(|line| line.contains("-->")).collect();
        assert_eq!(arrows, edges, "{chart}");
    }
}

#[test]
fn pcapng_is_read_back_with_a_comment_for_each_hook() {
    let bytes = written(Format::Pcapng, None);
    let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
    let mut packets = Vec::new();
    let mut interfaces = 0;
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(_) => interfaces += 1,
            Block::EnhancedPacket(packet) => {
                let comment = packet.options.iter().find_map(|option| match option {
                    EnhancedPacketOption::Comment(comment) => Some(comment.to_string()),
                    _ => None,
                });
                packets.push((packet.original_len, packet.timestamp.as_secs(), comment.unwrap()));
            }
            _ => {}
        }
    }
    assert_eq!(packets.len(), 5);
    assert_eq!(interfaces, 3);
    assert!(
        packets
            .iter()
            .all(|(len, seconds, _)| (*len, *seconds) == (40, 1_700_000_000))
    );
    assert!(
        packets[4]
            .2
            .ends_with("= rejected by filter:cali-tw-cali1:rule:2"),
        "{}",
        packets[4].2
    );
}
