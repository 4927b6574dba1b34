//! `tracer show`, of a recording that was made in a test machine (`cargo xtask demo --write FILE`): an HTTP request to
//! the `NodePort` of a Kubernetes node.
//!
//! Where records are laid out anew the recording has to be made anew: `show` refuses it, and so do these tests.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

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
fn shown(arguments: &[&str]) -> String {
    let output = show(arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{arguments:?}: {said}\nhint: after a change of the record, make tests/fixtures/nodeport-local.rec anew: \
         cargo xtask demo --write FILE"
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn recording() -> String {
    fixture("nodeport-local.rec").display().to_string()
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
fn every_format_shows_it() {
    for (format, expected) in [
        ("tree", "KUBE-SEP-YO2DYWAEPAUV7YLG:rule:2"),
        ("tables", "nat:OUTPUT ACCEPT"),
        ("line", "10.244.3.3:8080"),
        ("json", "KUBE-SEP-YO2DYWAEPAUV7YLG"),
        ("log", "TRACE: nat:KUBE-SEP-YO2DYWAEPAUV7YLG:rule:2 "),
    ] {
        let text = shown(&[&recording(), "--format", format]);
        assert!(text.contains(expected), "{format}: {text}");
        assert!(!text.contains("partial:"), "{format}: {text}");
    }
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
    let copy = directory.path().join("other.rec").display().to_string();
    fs::copy(recording(), &copy).unwrap();
    let alone = shown(&[&recording(), "--format", "tables"]);
    let both = shown(&[&recording(), &copy, "--format", "tables"]);
    assert_eq!(both.lines().count(), 2 * alone.lines().count());
    assert_eq!(both.matches("other.rec").count(), alone.lines().count());
    let times: Vec<&str> = both.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(times.is_sorted(), "{both}");
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
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("ends before its trace did, within a frame"),
        "{said}"
    );
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
