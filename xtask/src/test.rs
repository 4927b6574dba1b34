//! `cargo xtask test`: unit tests on this machine, scenarios on every kernel.

use std::collections::BTreeMap;
use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::ops::AddAssign;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::error::hinted;
use crate::progress::Step;
use crate::setup::{Kernel, Series};
use crate::vm::{Job, Lab};
use crate::workspace::Workspace;

/// Guests at a time; each has two processors, but one of them is idle most of the time.
const GUESTS: usize = 2;
/// Tests of what tracer prints and how, which is the same on all kernels: where no kernel and no test is named they run on
/// [`OUTPUT_KERNEL`] alone.
const OF_OUTPUT: [&str; 4] = [
    "pages::",
    "terminals::",
    "recordings::filtered_afterwards",
    "recordings::shown_as_it_was_seen",
];
const OUTPUT_KERNEL: Series = Series::V6_12;

/// Options of `cargo xtask test`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only unit tests (`unit`) or only those in test machines (`vm`); and a part of the names to run
    #[arg(value_name = "unit|vm] [FILTER", num_args = 0..=2)]
    words: Vec<String>,
    /// Kernel to test on; all if there is none, but then tests of the output run on 6.12 alone
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<Series>,
    /// Seconds after which a kernel's tests are given up
    #[arg(long, default_value_t = 3000, value_name = "SECONDS")]
    timeout: u64,
    /// Run only the test of exactly the name FILTER
    #[arg(long)]
    exact: bool,
}

impl Args {
    /// The part asked for, and the filter.
    fn words(&self) -> Result<(Option<Part>, Option<&str>)> {
        let part = |word: &str| match word {
            "unit" => Some(Part::Unit),
            "vm" => Some(Part::Vm),
            _ => None,
        };
        match self.words.as_slice() {
            [] => Ok((None, None)),
            [word] => Ok(part(word).map_or((None, Some(word)), |part| (Some(part), None))),
            [word, filter, ..] => match part(word) {
                Some(part) => Ok((Some(part), Some(filter))),
                None => bail!("failed to choose tests: {word}: neither `unit` nor `vm`"),
            },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// cargo test, on this machine
    Unit,
    /// vm-tests, in a guest of each kernel
    Vm,
}

/// Tests that passed and failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl Count {
    /// Reads a line like `test result: ok. 3 passed; 0 failed; …`, which cargo's and our harness print.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("test result: ")?.split(['.', ';', ' ']);
        let mut before = |what: &str| {
            let mut last = None;
            for word in words.by_ref().filter(|word| !word.is_empty()) {
                if word == what {
                    return last;
                }
                last = word.parse().ok();
            }
            None
        };
        Some(Self {
            passed: before("passed")?,
            failed: before("failed")?,
        })
    }

    /// The sum of all such lines; `None` if there is none.
    fn sum(text: &str) -> Option<Self> {
        text.lines().filter_map(Self::parse).reduce(|mut sum, count| {
            sum += count;
            sum
        })
    }
}

/// One line of the summary.
struct Tally {
    name: String,
    count: Count,
    remark: String,
}

/// Runs the tests, prints a line per part, and last of all the sum.
pub(crate) fn command(args: &Args) -> Result<ExitCode> {
    let (part, filter) = args.words()?;
    let ws = Workspace::find()?;
    let mut results = Vec::new();
    if part != Some(Part::Vm) {
        results.push(unit(&ws, filter, args)?);
    }
    if part != Some(Part::Unit) {
        results.extend(guests(ws, filter, args)?);
    }
    println!();
    let mut sum = Count::default();
    for Tally { name, count, remark } in &results {
        println!(
            "{name:<12} {} passed, {} failed{remark}",
            count.passed, count.failed
        );
        sum += *count;
    }
    println!("{} passed, {} failed", sum.passed, sum.failed);
    if let (Some(filter), 0) = (filter, sum.passed + sum.failed) {
        let whose = if args.exact {
            "is called"
        } else {
            "has a name with"
        };
        return Err(hinted(
            format!("failed to choose tests: none {whose} {filter}"),
            "`cargo xtask test unit` and `cargo xtask test vm` run one part of them, a second word chooses by name",
        ));
    }
    Ok(if sum.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs `cargo test`, copying its output and counting.
fn unit(ws: &Workspace, filter: Option<&str>, args: &Args) -> Result<Tally> {
    eprintln!("unit tests: cargo test");
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["test", "--no-fail-fast"])
        .current_dir(&ws.root)
        .stdout(Stdio::piped());
    command
        .arg("--")
        .args(filter)
        .args(args.exact.then_some("--exact"));
    let mut cargo = command.spawn().context("failed to run: cargo test")?;
    let mut count = Count::default();
    if let Some(stdout) = cargo.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let line = line.context("failed to read: output of cargo test")?;
            println!("{line}");
            if let Some(found) = Count::parse(&line) {
                count += found;
            }
        }
    }
    let status = cargo.wait().context("failed to wait for cargo test")?;
    let mut remark = String::new();
    if !status.success() && count.failed == 0 {
        // It did not compile, or a test took the whole process with it.
        count.failed = 1;
        remark = format!(" (cargo test: {status})");
    }
    Ok(Tally {
        name: "unit".to_owned(),
        count,
        remark,
    })
}

/// Runs the tests in guests, two at a time; the output of each is printed in one piece.
fn guests(ws: Workspace, filter: Option<&str>, args: &Args) -> Result<Vec<Tally>> {
    let series = if args.kernel.is_empty() {
        Series::ALL.to_vec()
    } else {
        args.kernel.clone()
    };
    let lab = Lab::open(ws, &series)?;
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let workers = if processors >= 2 { GUESTS } else { 1 };
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let step = Step::begin("test machines");
    let progress = Mutex::new(BTreeMap::new());
    thread::scope(|scope| {
        for _ in 0..workers.min(series.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(kernel) = lab.kernels().get(index) else {
                        return;
                    };
                    step.now(&format!("testing on {}", kernel.release));
                    let watch = Watch::new(&step, &progress, kernel.series);
                    let (part, output) = guest(&lab, kernel, filter, args, watch);
                    step.aside(|| print(kernel, &output));
                    if let Ok(mut results) = results.lock() {
                        results.push((index, part));
                    }
                }
            });
        }
    });
    step.done(&format!("{} kernels tested", lab.kernels().len()));
    let mut results = results.into_inner().unwrap_or_default();
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, part)| part).collect())
}

fn print(kernel: &Kernel, output: &[u8]) {
    let mut stdout = io::stdout().lock();
    // A closed standard output shows at the summary.
    drop(writeln!(stdout, "\nkernel {}", kernel.release));
    drop(stdout.write_all(output));
}

/// Keeps what a guest prints, and tells meanwhile how far it is and what has failed.
struct Watch<'a> {
    step: &'a Step,
    /// How far each guest is.
    progress: &'a Mutex<BTreeMap<Series, String>>,
    series: Series,
    output: Vec<u8>,
    /// Where the line begins that is not whole yet.
    line_at: usize,
    tests: usize,
    done: usize,
    /// The test under way, if it has printed something.
    name: String,
}

impl<'a> Watch<'a> {
    fn new(step: &'a Step, progress: &'a Mutex<BTreeMap<Series, String>>, series: Series) -> Self {
        Self {
            step,
            progress,
            series,
            output: Vec::new(),
            line_at: 0,
            tests: 0,
            done: 0,
            name: String::new(),
        }
    }

    /// Looks at a line such as `running 3 tests` or `test paths::nodeport::local ... ok`. What a test prints itself comes
    /// before its result, which has a line for itself then.
    fn line(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["running", tests, "test" | "tests"] => self.tests = tests.parse().unwrap_or(0),
            ["test", name, "...", rest @ ..] => {
                self.name = (*name).to_owned();
                match rest {
                    [result] => self.ended(result),
                    _ => return,
                }
            }
            [result @ ("ok" | "FAILED")] if !self.name.is_empty() => self.ended(result),
            _ => return,
        }
        let Ok(mut progress) = self.progress.lock() else {
            return;
        };
        progress.insert(self.series, format!("{} of {}", self.done, self.tests));
        self.step.fleeting(|| {
            let each = progress.iter().map(|(series, far)| format!("{series}: {far}"));
            each.collect::<Vec<_>>().join(", ")
        });
    }

    /// The test under way is over.
    fn ended(&mut self, result: &str) {
        let name = std::mem::take(&mut self.name);
        self.done += 1;
        if result == "FAILED" {
            self.step.aside(|| eprintln!("{}: {name} failed", self.series));
        }
    }
}

impl io::Write for Watch<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        while let Some(len) = self.output[self.line_at..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.output[self.line_at..][..len]).into_owned();
            self.line_at += len + 1;
            self.line(&line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn guest(
    lab: &Lab,
    kernel: &Kernel,
    filter: Option<&str>,
    args: &Args,
    mut watch: Watch<'_>,
) -> (Tally, Vec<u8>) {
    let mut job = Job::command(["vm-tests"]);
    job.argv.extend(filter.map(Into::into));
    job.argv.extend(args.exact.then(|| "--exact".into()));
    if filter.is_none() && args.kernel.is_empty() && kernel.series != OUTPUT_KERNEL {
        let skipped = OF_OUTPUT.iter().flat_map(|name| ["--skip", name]);
        job.argv.extend(skipped.map(Into::into));
    }
    job.env
        .push(("TRACER_TEST_KERNEL".into(), kernel.release.clone().into()));
    // What a scenario lets its user set.
    let settings = env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TRACER_TEST_"));
    job.env.extend(settings);
    let started = Instant::now();
    let mut errors = Vec::new();
    let result = lab.run(
        kernel,
        Some(Duration::from_secs(args.timeout)),
        &job,
        &mut watch,
        &mut errors,
    );
    let Watch { mut output, .. } = watch;
    let mut count = Count::sum(&String::from_utf8_lossy(&output)).unwrap_or_default();
    output.append(&mut errors);
    let remark = match result {
        Ok(outcome) => {
            if outcome.code != 0 && count.failed == 0 {
                count.failed = 1;
            }
            let console = outcome
                .console
                .map(|path| format!("\nhint: the console is in {}", path.display()));
            output.extend(console.unwrap_or_default().into_bytes());
            let code = if outcome.code == 0 {
                String::new()
            } else {
                format!(", exit code {}", outcome.code)
            };
            let (boot, all) = (outcome.boot_time.as_secs_f32(), started.elapsed().as_secs_f32());
            format!(" (boot {boot:.1} s, all {all:.1} s{code})")
        }
        Err(error) => {
            count.failed += 1;
            output.extend(format!("{error:#}\n").into_bytes());
            " (the guest failed)".to_owned()
        }
    };
    (
        Tally {
            name: format!("kernel {}", kernel.series),
            count,
            remark,
        },
        output,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_guest_is_follows_from_its_lines() {
        let (step, progress) = (Step::begin("test"), Mutex::new(BTreeMap::new()));
        let mut watch = Watch::new(&step, &progress, Series::ALL[0]);
        let text: &[u8] = b"running 4 tests\ntest paths::local  ... ok\ntest campaigns::nft ... 30 of 30\nok\ntest paths::fro";
        watch.write_all(text).unwrap();
        watch
            .write_all(b"m_outside ... FAILED\ntest ends::x ...")
            .unwrap();
        assert_eq!(progress.lock().unwrap()[&Series::ALL[0]], "3 of 4");
        assert!(watch.output.starts_with(text));
    }

    #[test]
    fn counts_results() {
        let text = "running 3 tests\ntest result: FAILED. 12 passed; 1 failed; 0 ignored; 0 measured\n\
                    test result: ok. 2 passed; 0 failed; 0 ignored; finished in 0.00s\n";
        assert_eq!(
            Count::sum(text),
            Some(Count {
                passed: 14,
                failed: 1
            })
        );
        assert_eq!(Count::sum("nothing"), None);
    }
}
