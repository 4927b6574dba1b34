//! Shows tracer at work on a case: `demo CASE`, and what more there is goes to `tracer trace`. Only tracer writes to
//! standard output.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::command::Running;
use tests::{demo, traffic, wait};

const READY_FILE: &str = "/run/tracer.ready";

fn main() -> ExitCode {
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let case = demo::case(&words.next().unwrap_or_else(|| "nodeport-local".to_owned()))?;
    eprintln!("setting up: {}", case.about);
    let send = (case.set_up)()?;

    let words: Vec<String> = words.collect();
    let recordings = case.recordings(Path::new("/run"));
    let traces: Vec<Vec<String>> = match &recordings {
        Some(recordings) => recordings.iter().map(|(line, _)| split(line)).collect(),
        None => vec![[split(case.filter), words.clone()].concat()],
    };
    let mut tracers = Vec::new();
    for arguments in traces {
        tracers.push(start(&arguments)?);
    }

    eprintln!("sending");
    send()?;
    traffic::settle()?;
    eprintln!("all went as it should; stopping tracer");
    for tracer in tracers {
        stop(tracer)?;
    }
    let Some([(_, one), (_, other)]) = recordings else {
        return Ok(());
    };
    let mut show = Command::new("tracer");
    show.arg("show").args([one, other]).args(words);
    tell(&show);
    let status = show.status().context("failed to run: tracer show")?;
    ensure!(status.success(), "failed to run: tracer show: {status}");
    Ok(())
}

fn split(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

fn tell(command: &Command) {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    eprintln!("starting: tracer {}", words.join(" "));
}

/// Starts a trace; returns when records flow.
fn start(arguments: &[String]) -> Result<Running> {
    let ready = Path::new(READY_FILE);
    // That of the one before.
    drop(fs::remove_file(ready));
    let mut command = Command::new("tracer");
    command
        .arg("trace")
        .args(arguments)
        .args(["--ready-file", READY_FILE]);
    tell(&command);
    let mut tracer = Running(command.spawn().context("failed to start: tracer")?);
    wait::until("tracer to be ready", || {
        match tracer.0.try_wait().context("failed to wait for tracer")? {
            Some(status) => bail!("failed to start: tracer: {status}"),
            None => Ok(ready.exists()),
        }
    })?;
    Ok(tracer)
}

/// Ends a trace as `^C` does.
fn stop(mut tracer: Running) -> Result<()> {
    let pid = i32::try_from(tracer.0.id()).context("failed to read process id")?;
    kill(Pid::from_raw(pid), Signal::SIGINT).context("failed to stop tracer")?;
    wait::until("tracer to end", || {
        Ok(tracer
            .0
            .try_wait()
            .context("failed to wait for tracer")?
            .is_some())
    })?;
    let status = tracer.0.wait().context("failed to wait for tracer")?;
    ensure!(status.success(), "failed to run: tracer: {status}");
    Ok(())
}
