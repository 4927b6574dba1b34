//! Shows tracer at work on a case: `demo CASE`, and what more there is goes to `tracer trace`. Only tracer writes to
//! standard output.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
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

    let mut command = Command::new("tracer");
    command
        .arg("trace")
        .args(case.filter.split(' '))
        .args(["--ready-file", READY_FILE])
        .args(words);
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    eprintln!("starting: tracer {}", words.join(" "));
    let mut tracer = Running(command.spawn().context("failed to start: tracer")?);
    wait::until("tracer to be ready", || {
        match tracer.0.try_wait().context("failed to wait for tracer")? {
            Some(status) => bail!("failed to start: tracer: {status}"),
            None => Ok(Path::new(READY_FILE).exists()),
        }
    })?;

    eprintln!("sending");
    send()?;
    traffic::settle()?;
    eprintln!("all went as it should; stopping tracer");
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
    if !status.success() {
        bail!("failed to run: tracer: {status}");
    }
    Ok(())
}
