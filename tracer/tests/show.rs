//! `tracer show`, of a recording that was made in a test machine: an HTTP request to the `NodePort` of a Kubernetes
//! node. What each format shows of it is kept beside it, in `tests/fixtures/golden`.
//!
//! `cargo xtask golden` makes the recording and these files anew. That is needed where records are laid out anew, for
//! `show` then refuses the recording, and where a format is meant to show something else: look at what git says has changed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use clap::ValueEnum as _;
use tracer::{
    output::Format,
    recording::{Entry, Host, Item, Reader, Writer},
};

/// Set by `cargo xtask golden`: the files are written, not compared.
const RENEW: &str = "TRACER_GOLDEN_RENEW";
/// What to type where the recording or the files are out of date.
const HINT: &str =
    "hint: cargo xtask golden makes the recording and what is shown of it anew; look at the differences";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/fixtures")
        .join(name)
}

fn show(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tracer"));
    command.arg("show").args(arguments).env("TZ", "UTC");
    command.output().expect("failed to run: tracer show")
}

/// Standard output of a run that went well.
fn shown_bytes(arguments: &[&str]) -> Vec<u8> {
    let output = show(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}\n{HINT}");
    output.stdout
}

/// The same, as text.
fn shown(arguments: &[&str]) -> String {
    String::from_utf8(shown_bytes(arguments)).expect("no text")
}

fn recording() -> String {
    fixture("golden/nodeport-local.rec").display().to_string()
}

/// What another tracer would have recorded on the same machine: the same, but for its header.
fn other_recording() -> Vec<u8> {
    let bytes = fs::read(recording()).expect("no recording");
    let reader = Reader::open(&bytes[..]).expect("no recording");
    let host = Host {
        clock_offset_ns: reader.host().clock_offset_ns + 1,
        ..reader.host().clone()
    };
    let mut writer = Writer::new(Vec::new(), &host).expect("failed to write");
    for item in reader {
        match item {
            Item::Entry(Entry::Record(bytes)) => writer.record(&bytes),
            Item::Entry(Entry::Table(table)) => writer.table(table.netns, table.generation, &table.rules),
            Item::Entry(Entry::Device(device)) => writer.device(&device),
            Item::Entry(Entry::Place(place)) => writer.place(&place),
            Item::Entry(Entry::Function(function)) => writer.function(&function),
            Item::Entry(Entry::Counted(counted)) => writer.counted(&counted),
            Item::Entry(Entry::End(end)) => return writer.finish(&end).expect("failed to write"),
            other => panic!("{other:?}"),
        }
    }
    panic!("no end");
}

/// `table:chain:kind:number`
fn steps(log: &str) -> Vec<&str> {
    let steps = log.lines().filter_map(|line| line.strip_prefix("TRACE: "));
    steps.filter_map(|line| line.split(' ').next()).collect()
}

#[test]
fn the_steps_are_those_that_were_published() {
    let published = fs::read_to_string(fixture("nodeport-local.log")).unwrap();
    let log = shown(&[&recording(), "--format", "log"]);
    assert!(!log.contains("PARTIAL"), "{log}");
    let syn = 19;
    let (own, published) = (steps(&log), steps(&published));
    // There the TRACE rule itself was the first of raw, so the policy came second.
    assert_eq!(
        (own[0], published[0]),
        ("raw:OUTPUT:policy:1", "raw:OUTPUT:policy:2")
    );
    assert_eq!(own[1..syn], published[1..syn]);
}

#[test]
fn every_format_shows_what_it_has_shown() {
    for format in Format::value_variants() {
        let name = format.to_possible_value().expect("a format without a name");
        let name = name.get_name();
        let file = fixture(&format!("golden/nodeport-local.{name}"));
        let own = shown_bytes(&[&recording(), "--format", name]);
        if env::var_os(RENEW).is_some() {
            fs::write(&file, &own).expect("failed to write");
            continue;
        }
        let expected = fs::read(&file).unwrap_or_default();
        if own != expected {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (own, expected) = (text(&own), text(&expected));
            let (mut own_lines, mut lines) = (own.lines(), expected.lines());
            let mut number = 0;
            let (own, expected) = loop {
                number += 1;
                let pair = (own_lines.next(), lines.next());
                if pair.0 != pair.1 || pair == (None, None) {
                    break pair;
                }
            };
            panic!("{name}: line {number}:\n  now {own:?}\n  was {expected:?}\n{HINT}");
        }
    }
}

/// Wireshark's format is read by another reader than the one that belongs to its writer.
#[test]
fn pcapng_has_every_packet_with_its_path() {
    use pcap_parser::{Block, PcapBlockOwned, pcapng::OptionCode, traits::PcapReaderIterator as _};

    let bytes = shown_bytes(&[&recording(), "--format", "pcapng"]);
    let mut reader = pcap_parser::PcapNGReader::new(1 << 16, &bytes[..]).expect("no pcapng");
    let (mut interfaces, mut comments) = (0, Vec::new());
    loop {
        match reader.next() {
            Ok((used, block)) => {
                match block {
                    PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                        interfaces += 1;
                        assert_eq!(interface.linktype, pcap_parser::Linktype::RAW);
                        assert_eq!(interface.if_tsresol, 9);
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                        assert!(packet.if_id < interfaces, "a packet of no interface");
                        assert_eq!(packet.data.first().map(|first| first >> 4), Some(4));
                        let comment = packet
                            .options
                            .iter()
                            .find(|option| option.code == OptionCode::Comment);
                        let comment = comment.expect("no comment").value();
                        comments.push(String::from_utf8(comment.to_vec()).expect("no text"));
                    }
                    _ => {}
                }
                reader.consume(used);
            }
            Err(pcap_parser::PcapError::Eof) => break,
            Err(pcap_parser::PcapError::Incomplete(_)) => reader.refill().expect("failed to read"),
            Err(error) => panic!("{error:?}"),
        }
    }
    assert!(
        interfaces > 1 && comments.len() > 10,
        "{interfaces} interfaces, {} packets",
        comments.len()
    );
    let first = &comments[0];
    assert!(
        first.starts_with("tracer #1 OUTPUT\nraw:OUTPUT ACCEPT\n"),
        "{first}"
    );
    assert!(
        first.contains("nat:KUBE-SEP-YO2DYWAEPAUV7YLG:rule:2  -A KUBE-SEP"),
        "{first}"
    );
}

#[test]
fn filters_choose_from_it() {
    let count = |filter: &[&str]| {
        let recording = recording();
        let arguments = [&[&recording[..], "--format", "tables"], filter].concat();
        shown(&arguments).lines().count()
    };
    let all = count(&[]);
    assert_eq!(count(&["tcp", "port", "32275"]), all);
    assert_eq!(count(&["tcp port 32275 and host 192.168.199.34"]), all);
    assert_eq!(count(&["udp"]), 0);
    assert_eq!(count(&["--table", "nat"]), 2);
    let one_way = count(&["dst port 32275", "--no-connections"]);
    assert!(one_way > 0 && one_way < all, "{one_way} of {all}");
}

#[test]
fn two_recordings_are_merged_and_each_line_says_whose_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.rec").display().to_string();
    fs::write(&other, other_recording()).unwrap();
    let alone = shown(&[&recording(), "--format", "tables"]);
    let both = shown(&[&recording(), &other, "--format", "tables"]);
    assert_eq!(both.lines().count(), 2 * alone.lines().count());
    assert_eq!(both.matches("other.rec").count(), alone.lines().count());
    let times: Vec<&str> = both.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.is_sorted(), "{both}");
}

#[test]
fn a_recording_is_not_counted_twice() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (one, copy, cut, link) = (
        path("one.rec"),
        path("copy.rec"),
        path("cut.rec"),
        path("link.rec"),
    );
    let bytes = fs::read(recording()).unwrap();
    fs::write(&one, &bytes).unwrap();
    fs::write(&copy, &bytes).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    fs::hard_link(&one, &link).unwrap();
    let same_path = path("./one.rec");
    for (second, how) in [
        (&one, "the same file as"),
        (&same_path, "the same file as"),
        (&link, "the same file as"),
        (&copy, "a copy of"),
        (&cut, "a copy of"),
    ] {
        let output = show(&[&one, second, "--format", "tables"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(output.stdout.is_empty(), "{second}");
        assert_eq!(
            said,
            format!(
                "error: failed to open: recording {second}: {how} {one}\n\
                 hint: leave out one of them, the shorter one if they differ: every packet would be counted twice\n"
            )
        );
    }
}

#[test]
fn what_is_whole_of_a_damaged_recording_is_shown() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("damaged.rec");
    let mut bytes = fs::read(recording()).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 0xff;
    fs::write(&path, &bytes).unwrap();
    let output = show(&[&path.display().to_string(), "--format", "tables"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("damaged: the frame at byte ") && said.contains("hint: "),
        "{said}"
    );

    bytes.truncate(last);
    fs::write(&path, &bytes).unwrap();
    let output = show(&[&path.display().to_string(), "--format", "tables"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("ends before its trace did, within a frame"),
        "{said}"
    );
}

#[test]
fn a_recording_without_its_end_tells_only_what_was_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("killed.rec").display().to_string();
    let bytes = fs::read(recording()).unwrap();
    let entries: Vec<Entry> = Reader::open(&bytes[..])
        .unwrap()
        .filter_map(|item| match item {
            Item::Entry(entry) => Some(entry),
            Item::Damage(_) => None,
        })
        .collect();
    let Some(Entry::End(end)) = entries.last() else {
        panic!("no end");
    };
    let host = Reader::open(&bytes[..]).unwrap().host().clone();
    let said_of = |is_counted: bool| {
        let mut file = Vec::new();
        let mut writer = Writer::new(&mut file, &host).unwrap();
        for entry in &entries {
            if let Entry::Record(bytes) = entry {
                writer.record(bytes);
            }
        }
        if is_counted {
            writer.counted(&end.counted);
        }
        writer.flush().unwrap();
        fs::write(&path, &file).unwrap();
        let output = show(&[&path, "--format", "tables"]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(said.contains("killed.rec ends before its trace did: "), "{said}");
        assert!(!said.contains("lost while recording"), "{said}");
        said
    };
    let counted = format!(
        "killed.rec: {} traversals recorded when they were counted last, nothing lost until then",
        end.counted.traversals
    );
    let said = said_of(true);
    assert!(said.contains(&counted), "{said}");
    let said = said_of(false);
    assert!(
        said.contains("killed.rec: what was lost while it was recorded is not known\n"),
        "{said}"
    );
}

#[test]
fn what_comes_behind_the_end_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("longer.rec").display().to_string();
    let mut bytes = fs::read(recording()).unwrap();
    bytes.extend(b"garbage\n");
    fs::write(&path, &bytes).unwrap();
    let output = show(&[&path, "--format", "tables"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("longer.rec: damaged: 8 bytes at byte "), "{said}");
}

#[test]
fn a_recording_that_is_not_read_to_its_end_is_not_called_damaged() {
    let output = show(&[&recording(), "--format", "tables", "--count", "1"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains(": the rest was not read\n"), "{said}");
    assert!(!said.contains("ends before") && !said.contains("lost"), "{said}");
}

#[test]
fn a_filter_that_nothing_matches_is_told() {
    let output = show(&[&recording(), "udp"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("\nnothing matches; "), "{said}");
}

#[test]
fn each_output_has_a_file_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (directory.path().join("x"), directory.path().join("./x"));
    let (one, other) = (
        format!("json:{}", one.display()),
        format!("line:{}", other.display()),
    );
    for outputs in [[&one, &other], [&"tree:-".to_owned(), &"json:-".to_owned()]] {
        let output = show(&[&recording(), "--output", outputs[0], "--output", outputs[1]]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("two --output would both go there"), "{said}");
    }
    let files = ["json:/dev/null", "line:/dev/null"];
    shown(&[&recording(), "--output", files[0], "--output", files[1]]);
}

#[test]
fn where_tables_are_left_out_it_is_not_said_what_became_of_a_packet() {
    let all = shown(&[&recording(), "--format", "tree"]);
    assert!(all.contains("= sent by "), "{all}");
    let some = shown(&[&recording(), "--format", "tree", "-t", "nat"]);
    assert!(
        !some.contains("= sent by ") && some.contains("= accepted"),
        "{some}"
    );
}

#[test]
fn a_recording_is_not_written_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("only.rec").display().to_string();
    fs::copy(recording(), &path).unwrap();
    let output = show(&[&path, "--output", &path]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("would write over that recording"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), fs::read(recording()).unwrap());
}

#[test]
fn mistakes_are_explained() {
    let said = |arguments: &[&str]| {
        let output = show(arguments);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = said(&["no-such-file.rec"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.starts_with("error: failed to open: recording no-such-file.rec: "),
        "{text}"
    );
    let (code, text) = said(&[env!("CARGO_MANIFEST_PATH")]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("not a recording of tracer\nhint: `tracer trace --write FILE`"),
        "{text}"
    );
    let (code, text) = said(&["/dev/null"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.starts_with("error: failed to open: recording /dev/null: empty\nhint: "),
        "{text}"
    );
    let (code, text) = said(&[&recording(), "--netns", "1"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("by their inode numbers\nhint: `--netns net:["),
        "{text}"
    );
    let (code, text) = said(&[&recording(), "-4", "--src", "::1"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("hint: `tracer show --help` "), "{text}");
    let (code, text) = said(&[&recording(), "tcp prot 80"]);
    assert_eq!(code, Some(2), "{text}");
    assert_eq!(
        text,
        "error: failed to read the filter: expected an address, not `prot`\n  tcp prot 80\n      ^~~~\n\
         hint: did you mean `port`?\n"
    );
    let (code, text) = said(&[&recording(), "other.rec"]);
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("hint: other.rec is no file, so it was read as a filter"),
        "{text}"
    );
}

#[test]
fn what_two_tracers_of_one_machine_recorded_is_not_joined() {
    let directory = tempfile::tempdir().unwrap();
    let other = directory.path().join("other.rec").display().to_string();
    fs::write(&other, other_recording()).unwrap();
    let count = |text: &str| text.lines().filter(|line| line.starts_with('#')).count();
    let alone = shown(&[&recording(), "--format", "tree"]);
    let both = shown(&[&recording(), &other, "--format", "tree"]);
    assert_eq!(count(&both), 2 * count(&alone));
    assert!(!both.contains("--> on to"), "{both}");
}
