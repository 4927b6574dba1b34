//! Shows tracer at work on the node of the `NodePort` case. Only tracer writes to standard output.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::command::Running;
use tests::{node, wait};

const READY_FILE: &str = "/run/tracer.ready";

fn main() -> ExitCode {
    match demo() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    eprintln!("setting up a Kubernetes node: kube-proxy, flannel and docker rules, a pod behind a NodePort");
    let node = node::nodeport()?;
    let address = node.address();
    let port = address.port().to_string();

    let mut command = Command::new("tracer");
    command
        .args(["trace", "--port", &port, "--ready-file", READY_FILE])
        .args(std::env::args_os().skip(1));
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    eprintln!("starting: tracer {}", words.join(" "));
    let mut tracer = Running(command.spawn().context("failed to start: tracer")?);
    wait::until("tracer to be ready", || {
        match tracer.0.try_wait().context("failed to wait for tracer")? {
            Some(status) => bail!("failed to start: tracer: {status}"),
            None => Ok(Path::new(READY_FILE).exists()),
        }
    })?;

    eprintln!("getting a page: http://{address}/");
    node.get_page()?;
    eprintln!("the page came back; stopping tracer");
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
