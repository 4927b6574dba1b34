//! What is written is read again; what is damaged is told, and takes nothing else with it.

use std::io::{self, Write};

use tracer_common::{Counter, Generation, Traversal as Record};

use super::*;
use crate::{
    explain::{NoRules, Rules, Source as _},
    kernel::attach::{Counts, Skipped},
    netns::places::Named,
    ruleset::{
        Labels,
        builder::{ACCEPT, TableBuilder, rule},
        text::Texts,
    },
    traversal::{Family, Hook},
};

fn host() -> Host {
    Host {
        tracer: "0.1.0".into(),
        name: "node-1".into(),
        kernel: "6.12.1".into(),
        machine: std::env::consts::ARCH.into(),
        command: vec!["tracer".into(), "trace".into()],
        record: RecordLayout::OWN,
        clock_offset_ns: 1_700_000_000_000_000_000,
        netns: Some(4_026_531_840),
    }
}

fn rules() -> Rules {
    let table = TableBuilder::new(Family::Ipv4, "filter")
        .built_in(Hook::LocalIn, ACCEPT)
        .rule(rule().comment("a").jump("WEB"))
        .built_in(Hook::Forward, ACCEPT)
        .chain("WEB")
        .rule(rule().protocol(6).verdict(0))
        .table();
    let save = "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:WEB - [0:0]\n\
        -A INPUT -m comment --comment a -j WEB\n-A WEB -p tcp -j DROP\nCOMMIT\n";
    Rules {
        labels: Labels::new(&table),
        texts: Texts::saved(&table, save).unwrap(),
        table,
    }
}

const GENERATION: Generation = Generation {
    table_info: 0xffff_8880_0123_4567,
    made_ns: 42,
};

fn record(number: u64) -> Vec<u8> {
    let record = Record {
        family: 2,
        skb: number,
        ..Record::EMPTY
    };
    record.bytes().to_vec()
}

/// A recording of three frames: the host, a table with two records, a record with the end.
fn recording() -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &host()).unwrap();
    writer.table(7, GENERATION, &rules());
    writer.record(&record(1));
    writer.record(&record(2));
    writer.flush().unwrap();
    writer.record(&record(3));
    writer.finish(&End::default()).unwrap()
}

/// The numbers of the records that are read, whether the end was, and the damage.
fn read(bytes: &[u8]) -> (Vec<u64>, bool, Vec<Damage>) {
    let (mut records, mut ended, mut damages) = (Vec::new(), false, Vec::new());
    for item in Reader::open(bytes).unwrap() {
        match item {
            Item::Entry(Entry::Record(bytes)) => records.push(Record::from_bytes(&bytes).unwrap().skb),
            Item::Entry(Entry::End(_)) => ended = true,
            Item::Entry(_) => {}
            Item::Damage(damage) => damages.push(damage),
        }
    }
    (records, ended, damages)
}

/// Where each frame begins.
fn frames(bytes: &[u8]) -> Vec<usize> {
    (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(&frame::SYNC))
        .collect()
}

#[test]
fn what_was_written_is_read() {
    let mut counts = Counts::default();
    counts.set(Counter::RingFull, 3);
    counts.skipped = Some(Skipped {
        rules: 2,
        ..Skipped::default()
    });
    let device = DeviceName {
        netns: 7,
        ifindex: 3,
        name: "veth0".into(),
    };
    let place = PlaceName::from(&Named::Peer(7, 3, Some("pod default/web".into())));
    let mut writer = Writer::new(Vec::new(), &host()).unwrap();
    assert_eq!(writer.due(), None);
    writer.table(7, GENERATION, &rules());
    writer.device(&device);
    writer.place(&place);
    writer.record(&record(1));
    assert!(writer.due().is_some());
    let counted = Counted::new(1, &counts, &["set".into()]);
    let end = End {
        counted: counted.clone(),
    };
    let bytes = writer.finish(&end).unwrap();

    let mut reader = Reader::open(&bytes[..]).unwrap();
    assert_eq!(*reader.host(), host());
    let Some(Item::Entry(Entry::Table(read))) = reader.next() else {
        panic!("no table");
    };
    let expected = rules();
    assert_eq!((read.netns, read.generation), (7, GENERATION));
    assert_eq!(read.rules.table.blob, expected.table.blob);
    assert_eq!(read.rules.table.rules, expected.table.rules);
    assert_eq!(read.rules.table.hooks, expected.table.hooks);
    for rule in &expected.table.rules {
        let text = |rules: &Rules| {
            rules
                .texts
                .of(&rules.table, rule.offset)
                .map(std::borrow::Cow::into_owned)
        };
        assert_eq!(text(&read.rules), text(&expected));
    }
    assert!(matches!(reader.next(), Some(Item::Entry(Entry::Device(read))) if read == device));
    assert!(matches!(reader.next(), Some(Item::Entry(Entry::Place(read))) if read == place));
    assert!(matches!(reader.next(), Some(Item::Entry(Entry::Record(bytes))) if bytes == record(1)));
    let Some(Item::Entry(Entry::End(read))) = reader.next() else {
        panic!("no end");
    };
    assert_eq!(read.counted, counted);
    assert_eq!(read.counted.counts(), counts);
    assert!(reader.next().is_none());
}

#[test]
fn a_copy_is_known_whole_or_cut_off_and_no_other_recording_is_taken_for_one() {
    let bytes = recording();
    let whole = Reader::open(&bytes[..]).unwrap();
    for len in [
        bytes.len(),
        bytes.len() - 1,
        frames(&bytes)[1] + 3,
        frames(&bytes)[1],
    ] {
        assert!(whole.is_same(&Reader::open(&bytes[..len]).unwrap()), "{len}");
    }
    let with = |host: &Host, number| {
        let mut writer = Writer::new(Vec::new(), host).unwrap();
        writer.record(&record(number));
        writer.finish(&End::default()).unwrap()
    };
    let later = Host {
        clock_offset_ns: host().clock_offset_ns + 1,
        ..host()
    };
    let one = with(&host(), 1);
    for other in [with(&host(), 2), with(&later, 1)] {
        let one = Reader::open(&one[..]).unwrap();
        assert!(!one.is_same(&Reader::open(&other[..]).unwrap()));
    }
}

#[test]
fn rules_of_nf_tables_are_read_with_their_places_and_texts() {
    use crate::nftables::{
        Base, Chain, Changes, Family, Rule, Ruleset, Statement, Table, explain::Rules as NftablesRules,
        text::Texts,
    };

    let rule = |handle, statement| Rule {
        handle,
        is_tail: false,
        statement,
        changes: Changes::default(),
        changes_on_the_way: Changes {
            mark: true,
            headers: false,
        },
        key: vec![crate::nftables::KeyPart::Protocol],
        text: "[own]".into(),
    };
    let chain = |name: &str, base, rules| Chain {
        name: name.into(),
        handle: 3,
        base,
        rules,
    };
    let base = Base {
        hook: Hook::Other(9),
        priority: -300,
        policy: crate::traversal::Verdict::Queue {
            number: 7,
            bypass: true,
        },
    };
    let jump = Statement::Chain("web".into());
    let mut ruleset = Ruleset {
        tables: vec![Table {
            family: Family::Other(77),
            name: "filter".into(),
            handle: 1,
            chains: vec![
                chain("in", Some(base), vec![rule(4, Statement::Verdict), rule(6, jump)]),
                chain("web", None, vec![rule(5, Statement::Named("LOG".into()))]),
            ],
            places: std::collections::HashMap::new(),
        }],
    };
    ruleset.find_places();
    let texts = Texts::from_lines([((1, 5), "-A web -j LOG".into())]);
    let rules = NftablesRules {
        ruleset,
        texts: Some(texts),
    };

    let mut writer = Writer::new(Vec::new(), &host()).unwrap();
    writer.nftables(7, GENERATION, &rules);
    let bytes = writer.finish(&End::default()).unwrap();
    let mut reader = Reader::open(&bytes[..]).unwrap();
    let Some(Item::Entry(Entry::Nftables(read))) = reader.next() else {
        panic!("no rules");
    };
    assert_eq!((read.netns, read.generation), (7, GENERATION));
    assert_eq!(read.rules.ruleset, rules.ruleset);
    assert_eq!(read.rules.ruleset.tables[0].places[&5], (1, 0));
    let lines = |rules: &NftablesRules| rules.texts.as_ref().map(Texts::lines);
    assert_eq!(lines(&read.rules), lines(&rules));
}

#[test]
fn a_recording_that_was_cut_off_is_read_up_to_the_last_whole_frame() {
    let bytes = recording();
    let last = frames(&bytes)[2];
    assert_eq!(read(&bytes), (vec![1, 2, 3], true, Vec::new()));
    for end in last + 1..bytes.len() {
        let cut = Damage::Cut { at: last as u64 };
        assert_eq!(read(&bytes[..end]), (vec![1, 2], false, vec![cut]), "{end}");
    }
    assert_eq!(read(&bytes[..last]), (vec![1, 2], false, Vec::new()));
}

#[test]
fn a_damaged_frame_takes_no_other_with_it() {
    let bytes = recording();
    let starts = frames(&bytes);
    for at in starts[1]..starts[2] {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        let (records, ended, damages) = read(&bytes);
        assert_eq!((records, ended), (vec![3], true), "byte {at}");
        let frame = starts[1] as u64;
        let expected = if at < starts[1] + frame::HEADER_LEN {
            vec![
                Damage::Gap {
                    at: frame,
                    len: (starts[2] - starts[1]) as u64,
                },
                Damage::Missing {
                    at: starts[2] as u64,
                    count: 1,
                },
            ]
        } else {
            vec![Damage::Frame { at: frame }]
        };
        assert_eq!(damages, expected, "byte {at}");
    }
}

#[test]
fn frames_that_are_gone_are_missed() {
    let mut bytes = recording();
    let starts = frames(&bytes);
    bytes.drain(starts[1]..starts[2]);
    let missing = Damage::Missing {
        at: starts[1] as u64,
        count: 1,
    };
    assert_eq!(read(&bytes), (vec![3], true, vec![missing]));
}

#[test]
fn a_second_recording_is_not_taken_for_the_rest_of_the_first() {
    let bytes = recording();
    let (records, ended, damages) = read(&[&bytes[..], &bytes[..]].concat());
    assert_eq!((records, ended), (vec![1, 2, 3], true));
    assert!(matches!(
        damages[..],
        [Damage::Gap { len: 12, .. }, Damage::Another { .. }]
    ));
}

#[test]
fn entries_of_a_newer_version_are_skipped_and_counted() {
    let mut writer = Writer::new(Vec::new(), &host()).unwrap();
    writer.record(&record(1));
    writer.unknown(77);
    writer.unknown(77);
    writer.record(&record(2));
    let bytes = writer.finish(&End::default()).unwrap();
    assert_eq!(read(&bytes), (vec![1, 2], true, Vec::new()));
    let mut reader = Reader::open(&bytes[..]).unwrap();
    while reader.next().is_some() {}
    assert_eq!(reader.unknown().iter().collect::<Vec<_>>(), [(&77, &2)]);
}

#[test]
fn what_cannot_be_read_at_all_says_why() {
    let refused = |bytes: &[u8]| Reader::open(bytes).unwrap_err().to_string();
    assert_eq!(refused(b""), "empty");
    assert!(refused(b"\x89TRA").starts_with("damaged at its beginning"));
    assert_eq!(
        refused(b"\xd4\xc3\xb2\xa1 a pcap file"),
        "not a recording of tracer"
    );
    let mut newer = recording();
    newer[8] = 2;
    assert_eq!(
        refused(&newer),
        "a recording of format version 2; this tracer reads version 1"
    );
    let mut damaged = recording();
    damaged[40] ^= 1;
    assert!(refused(&damaged).starts_with("damaged at its beginning"));
    let layout = RecordLayout { version: 9, len: 800 };
    let other = Host {
        record: layout,
        ..host()
    };
    let other = Writer::new(Vec::new(), &other).unwrap();
    assert!(
        refused(&other.finish(&End::default()).unwrap())
            .starts_with("made by tracer 0.1.0 with record layout 9 of 800 bytes; this tracer reads layout ")
    );
    let other = Host {
        machine: "pdp11".into(),
        ..host()
    };
    let other = Writer::new(Vec::new(), &other).unwrap();
    assert!(refused(&other.finish(&End::default()).unwrap()).starts_with("made on pdp11; "));
}

/// Has room for so many bytes.
struct Disk {
    bytes: Vec<u8>,
    room: usize,
}

impl Write for Disk {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + buf.len() > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_a_full_disk_has_can_be_read() {
    let mut disk = Disk {
        bytes: Vec::new(),
        room: 1200,
    };
    let mut written = Vec::new();
    let mut writer = Writer::new(&mut disk, &host()).unwrap();
    for number in 1.. {
        writer.record(&record(number));
        if let Err(error) = writer.flush() {
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            break;
        }
        written.push(number);
    }
    assert!(!written.is_empty());
    assert_eq!(read(&disk.bytes), (written, false, Vec::new()));
}

#[test]
fn a_file_is_created_for_its_owner_and_never_written_over() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.rec");
    let mut file = File::create(&path).unwrap();
    file.write_all(b"whole").unwrap();
    file.sync().unwrap();
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(matches!(File::create(&path), Err(CreateError::Exists)));
    assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    let mut full = File::create("/dev/full".as_ref()).unwrap();
    assert_eq!(
        full.write_all(b"more").unwrap_err().kind(),
        io::ErrorKind::StorageFull
    );
}

#[test]
fn rules_that_are_not_in_the_recording_are_told_as_they_were_told_then() {
    let mut recorded = Recorded::default();
    let why = |recorded: &mut Recorded| recorded.read(7, Family::Ipv4, "filter").unwrap_err();
    let unreadable = |why: &str| NoRules::Unreadable(why.to_owned());
    assert_eq!(why(&mut recorded), unreadable("not in the recording"));
    recorded.unread(Unread {
        id: TableId::new(7, Family::Ipv4, "filter"),
        why: "gone".into(),
    });
    assert_eq!(why(&mut recorded), unreadable("gone"));
    recorded.table(&RecordedTable {
        netns: 7,
        generation: GENERATION,
        rules: rules(),
    });
    assert_eq!(why(&mut recorded), NoRules::Replaced);
    recorded.damaged();
    assert_eq!(why(&mut recorded), unreadable("the recording is damaged"));
}

#[test]
fn any_bytes_are_read_or_refused() {
    let whole = recording();
    bolero::check!().for_each(|bytes: &[u8]| {
        if let Ok(reader) = Reader::open(bytes) {
            for _ in reader {}
        }
        // A recording with other bytes in it.
        let mut damaged = whole.clone();
        for pair in bytes.chunks_exact(3) {
            let at = usize::from(u16::from_le_bytes([pair[0], pair[1]])) % damaged.len();
            damaged[at] = pair[2];
        }
        if let Ok(reader) = Reader::open(&damaged[..]) {
            for _ in reader {}
        }
        // Entries that a frame holds, whole as far as the frame can tell.
        for tag in 0..11 {
            let _ = Entry::decode(tag, bytes);
        }
    });
}
