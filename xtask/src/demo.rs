//! `cargo xtask demo`: tracer at work on a case of the articles, in a guest.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::setup::Series;
use crate::vm::{Job, Lab};
use crate::workspace::Workspace;

/// The formats of tracer; `--help` has them without building it.
const FORMATS: [&str; 10] = [
    "tree", "line", "drops", "stats", "tables", "log", "json", "diagram", "mermaid", "pcapng",
];
/// The cases of `tests/src/demo.rs`.
const CASES: [&str; 11] = [
    "nodeport-local",
    "nodeport-from-outside",
    "clusterip",
    "calico-pod-to-pod",
    "docker-calico-1-host-to-container",
    "docker-calico-2-container-to-host",
    "docker-calico-3-container-to-other-node",
    "docker-calico-4-other-node-to-container-dropped",
    "docker-calico-5-container-to-container",
    "docker-calico-6-container-to-container-of-other-node",
    "two-nodes",
];

const LIMIT: Duration = Duration::from_secs(300);

/// Options of `cargo xtask demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel to boot
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: Series,
    /// Output format of tracer
    #[arg(long, value_name = "FORMAT", value_parser = FORMATS)]
    format: Option<String>,
    /// What to show: a case of the articles
    #[arg(long, value_name = "CASE", default_value = CASES[0], value_parser = CASES)]
    case: String,
    /// Keep the recording of it in this file instead of showing it; `tracer show` shows it
    #[arg(long, value_name = "FILE", conflicts_with = "format")]
    write: Option<PathBuf>,
}

impl Args {
    /// Those that keep the recording of the first case.
    pub(crate) fn recording(kernel: Series, file: PathBuf) -> Self {
        Self {
            kernel,
            format: None,
            case: CASES[0].to_owned(),
            write: Some(file),
        }
    }
}

/// Boots the guest and runs the demonstration there; tracer's output is all that goes to standard output.
pub(crate) fn command(args: Args) -> Result<ExitCode> {
    let mut argv = vec!["demo".to_owned(), args.case];
    argv.extend(
        args.format
            .into_iter()
            .flat_map(|format| ["--format".to_owned(), format]),
    );
    let mut out: Box<dyn io::Write + Send> = match &args.write {
        None => Box::new(io::stdout()),
        Some(path) => {
            // The port of the guest is a terminal, but one that changes nothing.
            argv.extend(["--write".to_owned(), "/proc/self/fd/1".to_owned()]);
            Box::new(File::create(path).with_context(|| format!("failed to create: {}", path.display()))?)
        }
    };
    let lab = Lab::open(Workspace::find()?, &[args.kernel])?;
    let kernel = lab
        .kernels()
        .first()
        .context("failed to start guest: no kernel")?;
    eprintln!("demo: booting kernel {}", kernel.release);
    let outcome = lab.run(
        kernel,
        Some(LIMIT),
        &Job::command(argv),
        &mut out,
        &mut io::stderr(),
    )?;
    if let Some(console) = outcome.console {
        eprintln!("hint: the console is in {}", console.display());
    }
    Ok(ExitCode::from(outcome.code))
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn formats_are_those_of_tracer() {
        let formats = ::tracer::output::Format::value_variants().iter();
        let names: Vec<String> = formats
            .filter_map(|format| Some(format.to_possible_value()?.get_name().to_owned()))
            .collect();
        assert_eq!(names, FORMATS);
    }

    #[test]
    fn cases_are_those_of_the_guest() {
        assert_eq!(::tests::demo::CASES.map(|case| case.name), CASES);
    }
}
