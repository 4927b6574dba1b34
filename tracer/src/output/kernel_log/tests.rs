use tracer_common::{HEADERS_LEN_MAX, OBSERVED_MAX, Traversal as Record, flags};

use super::{Cut, TEXT_LEN_MAX};
use crate::traversal::Traversal;

/// The line of a packet that has kept its length.
fn line(to: &mut String, prefix: &str, traversal: &Traversal, headers: &[u8], mark: u32) -> Result<(), Cut> {
    super::line(to, prefix, traversal, headers, traversal.packet_len, mark)
}

/// Lines that kernels of real clusters have logged.
const CLUSTERS: &str = include_str!("testdata/clusters.log");

/// Packets that root sent over the loopback device: name, family, mark, bytes; and what kernel 7.3 logged for
/// them at OUTPUT and PREROUTING. Kernels 5.10, 6.1 and 6.12 logged the same, except for the TCP bit AE.
const LOOPBACK: &str = include_str!("testdata/loopback.log");

/// A record of a packet that nothing is known of but its bytes.
fn record(family: u8, packet: &[u8]) -> Record {
    let mut record = Record {
        family,
        packet_len: u32::try_from(packet.len()).unwrap(),
        // The recorded logs are a kernel's that names it.
        flags: flags::NAMES_AE,
        ..Record::EMPTY
    };
    let len = packet.len().min(HEADERS_LEN_MAX);
    record.headers[..len].copy_from_slice(&packet[..len]);
    record.headers_len = u16::try_from(len).unwrap();
    record
}

fn set_in_device(record: &mut Record, name: &str) {
    record.in_ifindex = 2;
    record.in_device[..name.len()].copy_from_slice(name.as_bytes());
}

fn set_link_header(record: &mut Record, header: &[u8]) {
    record.link_header[..header.len()].copy_from_slice(header);
    record.link_header_len = u16::try_from(header.len()).unwrap();
    record.hard_header_len = record.link_header_len;
}

fn decode(record: &Record) -> Traversal {
    Traversal::decode(record.bytes()).unwrap()
}

fn written(record: &Record) -> (String, Result<(), Cut>) {
    let traversal = decode(record);
    let mut text = String::new();
    let result = line(
        &mut text,
        "filter:INPUT:rule:1",
        &traversal,
        &traversal.headers,
        record.mark_before,
    );
    (text, result)
}

/// What is logged after `IN= OUT= `.
fn fields(family: u8, packet: &[u8]) -> String {
    let (text, result) = written(&record(family, packet));
    assert_eq!(result, Ok(()), "{text}");
    text.strip_prefix("TRACE: filter:INPUT:rule:1 IN= OUT= ")
        .unwrap()
        .to_owned()
}

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// Puts the big-endian `value` at `at`.
fn put<const N: usize>(packet: &mut [u8], at: usize, value: [u8; N]) {
    packet[at..at + N].copy_from_slice(&value);
}

/// Makes of a logged line the record that it must come from. The fields are read one after the other, as they
/// stand: nothing is looked up by name that the line could have twice.
fn record_of(line: &str) -> (String, Record) {
    let mut words = line
        .strip_prefix("TRACE: ")
        .unwrap()
        .split_whitespace()
        .peekable();
    let prefix = words.next().unwrap().to_owned();
    let mut value = |name: &str| {
        let word = words.next_if(|word| word.starts_with(name))?;
        word[name.len()..].strip_prefix('=')
    };
    let mut packet = vec![0; 20];
    packet[0] = 0x45;
    let mut record = Record {
        family: 2,
        ..Record::EMPTY
    };
    match value("IN").unwrap() {
        "" => {}
        name => set_in_device(&mut record, name),
    }
    let name = value("OUT").unwrap();
    record.out_ifindex = u32::from(!name.is_empty());
    record.out_device[..name.len()].copy_from_slice(name.as_bytes());
    if let Some(mac) = value("MAC") {
        set_link_header(&mut record, &hex(&mac.replace(':', "")));
    }
    let mut number = |name: &str| {
        let text = value(name).unwrap();
        text.strip_prefix("0x")
            .map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16))
            .unwrap_or_else(|_| u32::from(text.parse::<std::net::Ipv4Addr>().unwrap()))
    };
    let short = |number: u32| u16::try_from(number).unwrap().to_be_bytes();
    let byte = |number: u32| u8::try_from(number).unwrap();
    put(&mut packet, 12, number("SRC").to_be_bytes());
    put(&mut packet, 16, number("DST").to_be_bytes());
    record.packet_len = number("LEN");
    put(&mut packet, 2, short(record.packet_len));
    packet[1] = byte(number("TOS") | number("PREC"));
    packet[8] = byte(number("TTL"));
    put(&mut packet, 4, short(number("ID")));
    if words.next_if_eq(&"DF").is_some() {
        packet[6] = 0x40;
    }
    let mut value = |name: &str| {
        let word = words.next_if(|word| word.starts_with(name))?;
        word[name.len()..].strip_prefix('=')
    };
    let protocol = value("PROTO").unwrap();
    let mut number = |name: &str| {
        let text = value(name).unwrap();
        text.strip_prefix("0x")
            .map_or_else(|| text.parse(), |digits| u32::from_str_radix(digits, 16))
            .unwrap()
    };
    if protocol == "ICMP" {
        packet[9] = 1;
        packet.resize(28, 0);
        packet[20] = byte(number("TYPE"));
        packet[21] = byte(number("CODE"));
        put(&mut packet, 24, short(number("ID")));
        put(&mut packet, 26, short(number("SEQ")));
    } else {
        assert_eq!(protocol, "TCP");
        packet[9] = 6;
        packet.resize(40, 0);
        put(&mut packet, 20, short(number("SPT")));
        put(&mut packet, 22, short(number("DPT")));
        put(&mut packet, 24, number("SEQ").to_be_bytes());
        put(&mut packet, 28, number("ACK").to_be_bytes());
        put(&mut packet, 34, short(number("WINDOW")));
        assert_eq!(number("RES"), 0);
        for (bit, flag) in [(4, "ACK"), (3, "PSH"), (2, "RST"), (1, "SYN"), (0, "FIN")] {
            packet[33] |= u8::from(words.next_if_eq(&flag).is_some()) << bit;
        }
        assert_eq!(words.next(), Some("URGP=0"));
        if words.next_if_eq(&"OPT").is_some() {
            packet.extend(hex(words.next().unwrap().trim_matches(['(', ')'])));
        }
        packet[32] = u8::try_from((packet.len() - 20) / 4).unwrap() << 4;
    }
    record.headers[..packet.len()].copy_from_slice(&packet);
    record.headers_len = u16::try_from(packet.len()).unwrap();
    if let Some(word) = words.next_if(|word| word.starts_with("UID=")) {
        record.flags = flags::OWNER;
        record.uid = word["UID=".len()..].parse().unwrap();
        record.gid = words.next().unwrap()["GID=".len()..].parse().unwrap();
    }
    if let Some(word) = words.next_if(|word| word.starts_with("MARK=")) {
        record.mark_before = u32::from_str_radix(&word["MARK=0x".len()..], 16).unwrap();
    }
    assert_eq!(words.next(), None);
    (prefix, record)
}

#[test]
fn lines_of_real_clusters_come_out_as_they_were_logged() {
    for expected in CLUSTERS.lines() {
        let (prefix, record) = record_of(expected);
        let traversal = decode(&record);
        let mut text = String::new();
        let result = line(
            &mut text,
            &prefix,
            &traversal,
            &traversal.headers,
            record.mark_before,
        );
        assert_eq!(result, Ok(()), "{expected}");
        // The files that the lines are from have lost the space at the end.
        assert_eq!(text.strip_suffix(' '), Some(expected.trim_end()));
    }
    assert!(CLUSTERS.lines().count() > 150);
}

/// A packet of [`LOOPBACK`] and its lines.
struct Sent {
    family: u8,
    mark: u32,
    bytes: Vec<u8>,
    lines: Vec<&'static str>,
}

fn sent() -> Vec<Sent> {
    let mut all = Vec::<Sent>::new();
    for text in LOOPBACK.lines() {
        if text.starts_with("TRACE: ") {
            all.last_mut().unwrap().lines.push(text);
            continue;
        }
        let words: Vec<&str> = text.split(' ').collect();
        let ["PACKET", _name, family, mark, bytes] = words[..] else {
            panic!("{text}");
        };
        all.push(Sent {
            family: if family == "4" { 2 } else { 10 },
            mark: u32::from_str_radix(mark.strip_prefix("0x").unwrap(), 16).unwrap(),
            bytes: hex(bytes),
            lines: Vec::new(),
        });
    }
    all
}

#[test]
fn packets_over_loopback_come_out_as_the_kernel_logged_them() {
    let mut lines = 0;
    for sent in sent() {
        for expected in sent.lines {
            let mut record = record(sent.family, &sent.bytes);
            let prefix = if expected.contains("raw:OUTPUT") {
                record.out_ifindex = 1;
                record.out_device[..2].copy_from_slice(b"lo");
                record.flags |= flags::OWNER;
                "raw:OUTPUT:policy:2"
            } else {
                let ethertype: u16 = if sent.family == 2 { 0x0800 } else { 0x86dd };
                set_in_device(&mut record, "lo");
                set_link_header(&mut record, &[&[0; 12][..], &ethertype.to_be_bytes()].concat());
                "raw:PREROUTING:policy:1"
            };
            let mut text = String::new();
            let result = line(&mut text, prefix, &decode(&record), &sent.bytes, sent.mark);
            assert_eq!((text.as_str(), result), (expected, Ok(())));
            lines += 1;
        }
    }
    assert!(lines > 450, "{lines}");
}

/// An IPv4 header without options, to 10.0.0.2.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(20 + payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x45, 0, len[0], len[1], 0, 1, 0, 0, 64, protocol, 0, 0];
    packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(payload);
    packet
}

fn ipv6(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).unwrap().to_be_bytes();
    let mut packet = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xab, 0xcd]);
    packet.extend(payload);
    packet
}

#[test]
fn an_empty_packet_is_truncated() {
    assert_eq!(fields(2, &[]), "TRUNCATED");
    assert_eq!(fields(2, &[0x45; 19]), "TRUNCATED");
    assert_eq!(fields(10, &[0x60; 39]), "TRUNCATED");
}

#[test]
fn a_header_too_short_for_its_options_is_truncated() {
    let mut packet = ipv4(6, &[]);
    packet[0] = 0x46;
    assert_eq!(
        fields(2, &packet),
        "SRC=10.0.0.1 DST=10.0.0.2 LEN=20 TOS=0x00 PREC=0x00 TTL=64 ID=1 TRUNCATED"
    );
}

#[test]
fn a_header_said_to_be_shorter_than_it_is_is_read_as_the_kernel_does() {
    let mut packet = ipv4(17, &[]);
    packet[0] = 0x40;
    assert_eq!(
        fields(2, &packet),
        "SRC=10.0.0.1 DST=10.0.0.2 LEN=20 TOS=0x00 PREC=0x00 TTL=64 ID=1 PROTO=UDP SPT=16384 DPT=20 LEN=1 "
    );
}

#[test]
fn a_negative_rest_is_printed_as_the_kernel_wraps_it() {
    // The quoted header says that it has 60 bytes: its options are not there, and nothing else is looked for.
    let mut quoted = ipv4(17, &[]);
    quoted[0] = 0x4f;
    let text = fields(2, &ipv4(1, &[&[3, 3, 0, 0, 0, 0, 0, 0][..], &quoted].concat()));
    assert!(text.ends_with("ID=1 TRUNCATED] "), "{text}");
    // An AH header that says it is longer than the packet, so UDP begins 76 bytes beyond the end.
    let header = [17, 20, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
    let text = fields(10, &ipv6(51, &header));
    assert!(
        text.ends_with("OPT ( AH SPI=0x1 ) PROTO=UDP INCOMPLETE [4294967220 bytes] "),
        "{text}"
    );
}

#[test]
fn segments_not_yet_cut_apart_have_the_length_of_the_whole() {
    let mut packet = ipv4(6, &[0; 20]);
    put(&mut packet, 2, [0, 0]);
    let mut big = record(2, &packet);
    assert!(written(&big).0.contains(" LEN=0 "));
    big.packet_len = 0x1_2345;
    assert!(written(&big).0.contains(" LEN=74565 "));
    let mut packet = ipv6(6, &[0; 20]);
    put(&mut packet, 4, [0, 0]);
    let mut big = record(10, &packet);
    assert!(written(&big).0.contains(" LEN=40 "));
    big.packet_len = 0x1_2345;
    assert!(written(&big).0.contains(" LEN=74565 "));
    // With a jumbo payload option the field stays what it is.
    big.headers[6] = 0;
    assert!(written(&big).0.contains(" LEN=40 "));
}

#[test]
fn a_link_header_is_as_long_as_those_of_the_device() {
    let with = |change: fn(&mut Record)| {
        let mut record = record(2, &ipv4(17, &[0; 8]));
        set_in_device(&mut record, "eth0");
        set_link_header(&mut record, b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\0");
        change(&mut record);
        let (text, result) = written(&record);
        let text = text
            .strip_prefix("TRACE: filter:INPUT:rule:1 IN=eth0 OUT= ")
            .unwrap();
        let end = text.find("SRC=").unwrap_or(text.len());
        (text[..end].to_owned(), result)
    };
    let whole = "MAC=ff:ff:ff:ff:ff:ff:02:00:00:00:00:01:08:00 ";
    assert_eq!(with(|_| ()), (whole.into(), Ok(())));
    assert_eq!(with(|it| it.link_header_len = 0), ("MAC= ".into(), Ok(())));
    // More than there is room for in a record.
    assert_eq!(
        with(|it| it.hard_header_len = 33),
        ("MAC=".into(), Err(Cut::LinkHeader))
    );
    assert_eq!(
        with(|it| it.device_type = 776),
        ("MAC=".into(), Err(Cut::LinkHeader))
    );
}

#[test]
fn the_ports_of_a_bridge_are_logged_where_they_are_not_the_devices() {
    let mut bridged = record(2, &ipv4(17, &[0; 8]));
    set_in_device(&mut bridged, "cni0");
    bridged.port_in_ifindex = 7;
    bridged.port_in[..5].copy_from_slice(b"veth1");
    bridged.port_out_ifindex = 8;
    bridged.port_out[..5].copy_from_slice(b"veth2");
    let (text, result) = written(&bridged);
    assert_eq!(result, Ok(()));
    assert!(
        text.contains(" IN=cni0 OUT= PHYSIN=veth1 PHYSOUT=veth2 MAC= SRC="),
        "{text}"
    );
    // The same device.
    bridged.port_in_ifindex = bridged.in_ifindex;
    assert!(written(&bridged).0.contains(" OUT= PHYSOUT=veth2 "));
    // A port that only has an index.
    bridged.port_out[..5].fill(0);
    assert_eq!(written(&bridged).1, Err(Cut::Bridge));
}

#[test]
fn a_failed_read_is_not_taken_for_a_short_packet() {
    let mut empty = record(2, &[]);
    empty.flags = flags::READ_FAILED;
    let (text, result) = written(&empty);
    assert_eq!(text, "TRACE: filter:INPUT:rule:1 IN= OUT= ");
    assert_eq!(result, Err(Cut::Headers));
}

#[test]
fn names_are_escaped_as_dev_kmsg_does() {
    let mut named = record(2, &ipv4(255, &[]));
    set_in_device(&mut named, "a\x1b\\\u{e4}");
    let (text, _) = written(&named);
    assert!(text.contains(r" IN=a\x1b\x5c\xc3\xa4 OUT= "), "{text}");
}

#[test]
fn what_stood_before_the_line_stays() {
    let traversal = decode(&record(2, &ipv4(255, &[])));
    let mut text = String::from("\u{e4}\n");
    line(&mut text, "raw:OUTPUT:rule:1", &traversal, &traversal.headers, 0).unwrap();
    assert!(text.starts_with("\u{e4}\nTRACE: raw:OUTPUT:rule:1 IN="), "{text}");
}

#[test]
fn a_line_ends_where_the_kernels_buffer_does() {
    let payload: Vec<u8> = std::iter::repeat_n([60, 0, 0, 0, 0, 0, 0, 0], 200)
        .flatten()
        .collect();
    let packet = ipv6(60, &payload);
    let mut long = record(10, &packet);
    let traversal = decode(&long);
    let mut text = String::new();
    line(&mut text, "raw:OUTPUT:rule:1", &traversal, &packet, 0).unwrap();
    assert_eq!(text.len(), TEXT_LEN_MAX);
    assert!(text.ends_with(" ) OP"), "{text}");
    // The same packet as far as a record holds it is cut before that.
    long.mark_before = 1;
    let (text, result) = written(&long);
    assert_eq!(result, Err(Cut::Headers));
    assert!(text.ends_with("OPT ( ) "), "{text}");
}

/// Whatever the packet, a line from part of it is the beginning of the line from the whole.
fn check(family: u8, bytes: &[u8], packet_len: u32, at: usize) {
    let bytes = &bytes[..bytes.len().min(HEADERS_LEN_MAX)];
    let mut record = record(family, bytes);
    record.packet_len = packet_len;
    record.flags |= flags::OWNER;
    let traversal = decode(&record);
    let write = |headers: &[u8]| {
        let mut text = String::new();
        let result = line(&mut text, "raw:OUTPUT:rule:1", &traversal, headers, 1);
        (text, result)
    };
    let (whole, result) = write(bytes);
    if packet_len as usize <= bytes.len() {
        assert_eq!(result, Ok(()), "{whole}");
    }
    let (part, part_result) = write(&bytes[..at.min(bytes.len())]);
    match part_result {
        Ok(()) => assert_eq!((part, part_result), (whole, result)),
        Err(_) => assert!(whole.starts_with(&part), "{part} is not the beginning of {whole}"),
    }
}

#[test]
fn packets_cut_anywhere_give_the_beginning_of_their_line() {
    for sent in sent() {
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        for at in 0..=sent.bytes.len().min(HEADERS_LEN_MAX) {
            let part = &sent.bytes[..at];
            check(sent.family, &sent.bytes, len(&sent.bytes), at);
            check(sent.family, part, len(&sent.bytes), at / 2);
            check(sent.family, part, len(part), at);
        }
    }
}

#[test]
fn arbitrary_packets_never_panic() {
    bolero::check!()
        .with_type::<(bool, Vec<u8>, Option<u32>, u8)>()
        .for_each(|(is_ipv4, bytes, len, at)| {
            let len = len.unwrap_or_else(|| u32::try_from(bytes.len()).unwrap());
            let family = if *is_ipv4 { 2 } else { 10 };
            check(family, bytes, len, usize::from(*at));
        });
}

#[test]
fn real_packets_with_bytes_changed_never_panic() {
    let sent = sent();
    bolero::check!()
        .with_type::<(u8, Vec<(u8, u8)>, u8)>()
        .for_each(|(which, changes, at)| {
            let sent = &sent[usize::from(*which) % sent.len()];
            let mut bytes = sent.bytes.clone();
            for (at, value) in changes.iter().take(8) {
                let at = usize::from(*at) % bytes.len();
                bytes[at] = *value;
            }
            let len = u32::try_from(bytes.len()).unwrap();
            check(sent.family, &bytes, len, usize::from(*at));
        });
}

#[test]
fn arbitrary_records_never_panic() {
    bolero::check!().for_each(|bytes: &[u8]| {
        let mut filled = bytes.to_vec();
        filled.resize(size_of::<Record>(), 0xa5);
        filled[..8].copy_from_slice(&tracer_common::kind::TRAVERSAL.to_ne_bytes());
        let len_at = std::mem::offset_of!(Record, observed_len);
        filled[len_at..len_at + 4].copy_from_slice(&u32::try_from(OBSERVED_MAX).unwrap().to_ne_bytes());
        let mut record = Record::from_bytes(&filled).unwrap();
        for family in [2, 10] {
            record.family = family;
            let _ = written(&record);
        }
    });
}

#[test]
fn a_kernel_that_does_not_name_ae_counts_it_among_the_reserved_bits() {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    packet.extend([0, 80, 0, 81, 0, 0, 0, 1, 0, 0, 0, 2, 0x5f, 0x02, 4, 0, 0, 0, 0, 0]);
    let mut record = record(2, &packet);
    let said = |record: &Record| {
        let (text, result) = written(record);
        assert_eq!(result, Ok(()), "{text}");
        text[text.find("RES=").unwrap()..].to_owned()
    };
    assert_eq!(said(&record), "RES=0x38 AE SYN URGP=0 ");
    record.flags &= !flags::NAMES_AE;
    assert_eq!(said(&record), "RES=0x3c SYN URGP=0 ");
}
