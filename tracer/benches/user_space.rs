//! What a journey costs in user space: each stage alone, then all of them together on one core.
//!
//! ```sh
//! cargo bench -p tracer                       # the recording that the tests have
//! RECORDING=file.rec cargo bench -p tracer    # one of `tracer trace --write`
//! ```

#![expect(missing_docs, reason = "the macro makes a public function")]

use std::{env, fs, hint::black_box, io, path::PathBuf, time::Duration};

use clap::ValueEnum as _;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tracer::{
    event::{End, Event},
    explain::{Explainer, Explanation},
    journey::{Journey, Journeys},
    output::{self, Clock, Context, Format, Homes, Screen, Unit},
    passage::Passage,
    recording::{Entry, Item, Reader, Recorded},
    replay::{Completeness, walk},
    ruleset::blob::{self, Info},
    traversal::{Family, Hook, Traversal, Verdict},
};

/// A recording, taken apart.
struct Recording {
    records: Vec<Vec<u8>>,
    /// Its tables, as its bytes again: what is learned of them belongs to one explainer.
    bytes: Vec<u8>,
}

impl Recording {
    fn open() -> Self {
        let own = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/fixtures/golden/nodeport-local.rec"
        );
        let path = env::var_os("RECORDING").map_or_else(|| PathBuf::from(own), PathBuf::from);
        let bytes = fs::read(&path)
            .unwrap_or_else(|error| panic!("failed to read: recording {}: {error}", path.display()));
        let mut recording = Self {
            records: Vec::new(),
            bytes,
        };
        let entries = recording.entries();
        let records = entries.filter_map(|entry| match entry {
            Entry::Record(bytes) => Some(bytes),
            _ => None,
        });
        recording.records = records.collect();
        recording
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        let mut reader =
            Reader::open(io::Cursor::new(self.bytes.clone())).expect("the recording can be read");
        std::iter::from_fn(move || {
            loop {
                match reader.next()? {
                    Item::Entry(entry) => return Some(entry),
                    Item::Damage(_) => {}
                }
            }
        })
    }

    /// One that knows the recording's rules.
    fn explainer(&self) -> Explainer {
        let mut explainer = Explainer::default();
        for entry in self.entries() {
            match entry {
                Entry::Table(table) => explainer.learn(table.netns, table.generation, table.rules),
                Entry::Nftables(read) => {
                    explainer.learn_nftables(read.netns, read.generation, read.rules);
                }
                _ => {}
            }
        }
        explainer
    }

    fn events(&self) -> Vec<Event> {
        let events = self.records.iter().map(|bytes| Event::decode(bytes));
        events
            .collect::<Result<_, _>>()
            .expect("every record can be decoded")
    }
}

/// What comes after the replay.
enum Explained {
    Traversal(Box<Traversal>, Explanation),
    End(End),
}

fn explain(events: Vec<Event>, explainer: &mut Explainer) -> Vec<Explained> {
    let events = events.into_iter();
    let explained = events.filter_map(|event| match event {
        Event::Traversal(traversal) => {
            let explanation = explainer.explain(&traversal, &mut Recorded::default());
            Some(Explained::Traversal(traversal, explanation))
        }
        Event::End(end) => Some(Explained::End(end)),
        _ => None,
    });
    explained.collect()
}

fn join(explained: Vec<Explained>) -> Vec<Journey> {
    let mut journeys = Journeys::default();
    let mut over = Vec::new();
    for one in explained {
        let now_ns = match one {
            Explained::Traversal(traversal, explanation) => {
                let now_ns = traversal.left_ns;
                journeys.passage(Passage::of(*traversal, Some(&explanation)));
                now_ns
            }
            Explained::End(end) => {
                journeys.end(&end, |_| None);
                end.ended_ns
            }
        };
        over.extend(journeys.over(now_ns));
    }
    over.extend(journeys.rest());
    over
}

fn output(format: Format) -> Box<dyn output::Output> {
    let context = Context {
        homes: Homes::default(),
        clock: Clock::with_offset_ns(0),
        screen: Screen::None,
    };
    output::new(format, Box::new(io::sink()), context).expect("nothing can fail to be thrown away")
}

fn stages(criterion: &mut Criterion) {
    let recording = Recording::open();
    let mut explainer = recording.explainer();
    let events = recording.events();
    let traversals = events
        .iter()
        .filter(|event| matches!(event, Event::Traversal(_)))
        .count();

    let mut group = criterion.benchmark_group("stage");
    group.throughput(Throughput::Elements(recording.records.len() as u64));
    group.bench_function("decode a record", |bencher| {
        bencher.iter(|| black_box(recording.events()));
    });
    group.throughput(Throughput::Elements(traversals as u64));
    group.bench_function("replay a traversal", |bencher| {
        bencher.iter_batched(
            || events.clone(),
            |events| explain(events, &mut explainer),
            BatchSize::SmallInput,
        );
    });
    group.throughput(Throughput::Elements(recording.records.len() as u64));
    let mut explainer = recording.explainer();
    group.bench_function("join a record to its journey", |bencher| {
        bencher.iter_batched(
            || explain(events.clone(), &mut explainer),
            join,
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

fn outputs(criterion: &mut Criterion) {
    let recording = Recording::open();
    let mut explainer = recording.explainer();
    let explained = explain(recording.events(), &mut explainer);
    let journeys = join(explain(recording.events(), &mut explainer));

    let mut group = criterion.benchmark_group("write");
    for format in Format::value_variants() {
        let mut output = output(*format);
        let name = format!("{format:?}").to_lowercase();
        if format.shows() == Unit::Journey {
            group.throughput(Throughput::Elements(journeys.len() as u64));
            group.bench_function(&name, |bencher| {
                bencher.iter(|| journeys.iter().try_for_each(|journey| output.journey(journey)));
            });
        } else {
            group.throughput(Throughput::Elements(explained.len() as u64));
            group.bench_function(&name, |bencher| {
                bencher.iter(|| {
                    explained.iter().try_for_each(|one| match one {
                        Explained::Traversal(traversal, explanation) => {
                            output.traversal(traversal, Some(explanation))
                        }
                        Explained::End(_) => Ok(()),
                    })
                });
            });
        }
    }
    group.finish();
}

/// From the bytes of records to lines.
fn whole(criterion: &mut Criterion) {
    let recording = Recording::open();
    let mut explainer = recording.explainer();
    let count = join(explain(recording.events(), &mut explainer)).len();

    let mut group = criterion.benchmark_group("journeys on one core");
    group.throughput(Throughput::Elements(count as u64));
    for format in [Format::Line, Format::Tree, Format::Json] {
        let mut output = output(format);
        group.bench_function(format!("{format:?}").to_lowercase(), |bencher| {
            bencher.iter(|| {
                let journeys = join(explain(recording.events(), &mut explainer));
                journeys.iter().try_for_each(|journey| output.journey(journey))
            });
        });
    }
    group.finish();
}

/// As many rules as kube-proxy has for some 12,000 services.
const RULES: u32 = 100_000;

/// A filter table with so many rules in INPUT, as the kernel gives it: `struct ipt_entry` and a standard target each. Every rule
/// but the policy asks for another destination.
fn table() -> (Info, Vec<u8>) {
    const ENTRY_LEN: u16 = 112;
    const TARGET_LEN: u16 = 40;
    const ERROR_LEN: u16 = 64;
    /// Where `target_offset` is in the entry; `next_offset` follows.
    const TARGET_OFFSET: usize = 88;
    const DESTINATION_OFFSET: usize = 4;
    const MASK_OFFSET: usize = 12;
    /// `-NF_ACCEPT - 1`
    const ACCEPT: i32 = -2;

    let entry = |target_len: u16, name: &[u8], data: &[u8]| {
        let mut bytes = vec![0; usize::from(ENTRY_LEN + target_len)];
        bytes[TARGET_OFFSET..][..2].copy_from_slice(&ENTRY_LEN.to_ne_bytes());
        bytes[TARGET_OFFSET + 2..][..2].copy_from_slice(&(ENTRY_LEN + target_len).to_ne_bytes());
        let target = &mut bytes[usize::from(ENTRY_LEN)..];
        target[..2].copy_from_slice(&target_len.to_ne_bytes());
        target[2..][..name.len()].copy_from_slice(name);
        target[32..][..data.len()].copy_from_slice(data);
        bytes
    };
    let policy = entry(TARGET_LEN, b"", &ACCEPT.to_ne_bytes());
    let mut rule = policy.clone();
    rule[MASK_OFFSET..][..4].fill(0xff);
    let mut blob = Vec::new();
    for number in 1..RULES {
        rule[DESTINATION_OFFSET..][..4].copy_from_slice(&number.to_be_bytes());
        blob.extend(&rule);
    }
    blob.extend(policy);
    blob.extend(entry(ERROR_LEN, b"ERROR", b"ERROR"));
    let hook = usize::from(Hook::LocalIn.number());
    let mut underflow = [0; 5];
    underflow[hook] = (RULES - 1) * u32::from(ENTRY_LEN + TARGET_LEN);
    let info = Info {
        name: "filter".to_owned(),
        valid_hooks: 1 << hook,
        hook_entry: [0; 5],
        underflow,
        entries_count: RULES + 1,
        size: u32::try_from(blob.len()).expect("a table is no larger"),
    };
    (info, blob)
}

fn tables(criterion: &mut Criterion) {
    let (info, blob) = table();
    let mut group = criterion.benchmark_group("table");
    group
        .sample_size(10)
        .throughput(Throughput::Elements(RULES.into()));
    group.bench_function("decode 100,000 rules", |bencher| {
        bencher.iter_batched(
            || blob.clone(),
            |blob| blob::decode(Family::Ipv4, &info, blob).expect("a table"),
            BatchSize::LargeInput,
        );
    });
    let table = blob::decode(Family::Ipv4, &info, blob).expect("a table");
    let traversal = input();
    group.bench_function("pass 100,000 rules", |bencher| {
        bencher.iter(|| {
            let path = walk(&table, &traversal, &[]);
            assert_eq!((path.steps.len(), path.completeness), (1, Completeness::Complete));
        });
    });
    group.finish();
}

/// A packet in INPUT that only the policy is for.
fn input() -> Traversal {
    const AF_INET: u8 = 2;

    let record = tracer_common::Traversal {
        family: AF_INET,
        ..tracer_common::Traversal::EMPTY
    };
    let mut traversal = Traversal::decode(record.bytes()).expect("a record");
    traversal.table = "filter".to_owned();
    traversal.hook = Hook::LocalIn;
    traversal.verdict = Verdict::Accept;
    traversal.headers = vec![0; 20];
    traversal.headers[0] = 0x45;
    traversal.packet_len = 20;
    traversal
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = stages, outputs, whole, tables
}
criterion_main!(benches);
