//! Test machines: `cargo xtask vm`, and what `test` and `demo` are built on.

mod console;
mod cpio;
mod image;
mod job;
mod modules;
mod qemu;
mod session;
mod terminal;

use std::ffi::OsString;
use std::io::{self, Read as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

pub(crate) use image::{Image, Programs};
pub(crate) use job::Job;
pub(crate) use qemu::{Accelerator, VmOptions};
use session::{Failure, Outcome, Session};
pub(crate) use terminal::restore as restore_terminal;

use crate::build;
use crate::error::hinted;
use crate::setup::{self, Kernel, Series, VmTools};
use crate::workspace::Workspace;

/// Options of `cargo xtask vm`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kernel to boot
    #[arg(long, value_name = "SERIES", default_value = "6.12")]
    kernel: Series,
    /// Seconds after which a command is given up
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
    /// Read standard input to its end and give it to the command
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Put pwru and bpftrace into the guest as well (the first time 67 MB are downloaded)
    #[arg(long)]
    peers: bool,
    /// Command to run in the guest; a shell if there is none
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// What all sessions of one call of xtask have in common.
pub(crate) struct Lab {
    pub(crate) ws: Workspace,
    tools: VmTools,
    kernels: Vec<Kernel>,
    programs: Programs,
    options: VmOptions,
}

impl Lab {
    /// Gets and builds what is missing: tools, kernels, our programs.
    pub(crate) fn open(ws: Workspace, series: &[Series]) -> Result<Self> {
        let tools = setup::vm_tools(&ws)?;
        let kernels = setup::kernels(&ws, series)?;
        let (tracer, tests) = build::for_guests(&ws)?;
        let programs = Programs {
            tests,
            tracer: Some(tracer),
            peers: None,
        };
        let first = kernels
            .first()
            .context("failed to start guest: no kernel asked for")?;
        let accelerator = qemu::accelerator(&ws, &tools, first, &programs)?;
        Ok(Self {
            ws,
            tools,
            kernels,
            programs,
            options: VmOptions::new(accelerator),
        })
    }

    /// Puts other tracers into the machines, getting them where they are missing.
    pub(crate) fn add_peers(&mut self) -> Result<()> {
        self.programs.peers = Some(setup::peers(&self.ws)?);
        Ok(())
    }

    /// The kernels asked for.
    pub(crate) fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// What an ordinary machine is like.
    pub(crate) fn options(&self) -> &VmOptions {
        &self.options
    }

    /// Runs a job on a kernel; `limit` is for everything.
    pub(crate) fn run(
        &self,
        kernel: &Kernel,
        limit: Option<Duration>,
        job: &Job,
        stdout: &mut (dyn io::Write + Send),
        stderr: &mut (dyn io::Write + Send),
    ) -> Result<Outcome> {
        self.run_with(&self.options, kernel, limit, job, stdout, stderr)
    }

    /// The same in a machine that is not the ordinary one.
    pub(crate) fn run_with(
        &self,
        options: &VmOptions,
        kernel: &Kernel,
        limit: Option<Duration>,
        job: &Job,
        stdout: &mut (dyn io::Write + Send),
        stderr: &mut (dyn io::Write + Send),
    ) -> Result<Outcome> {
        let image = Image::build(&self.ws, &self.tools, kernel, &self.programs)?;
        let options = VmOptions {
            time_limit: limit,
            ..options.clone()
        };
        let session = Session {
            ws: &self.ws,
            tools: &self.tools,
            kernel,
            image: &image,
            options,
        };
        let typed = job
            .terminal
            .map(|_| Box::new(io::stdin()) as Box<dyn io::Read + Send>);
        let raw = job.terminal.map(|_| terminal::RawMode::enter()).transpose()?;
        let outcome = session.run(job, stdout, stderr, typed);
        drop(raw);
        outcome.map_err(|Failure { cause, place }| match place {
            Some(place) => hinted(
                format!("{cause:#}"),
                format!("the console is in {}", place.join("console.log").display()),
            ),
            None => cause,
        })
    }
}

/// `cargo xtask vm`: a command, or a shell, in a guest.
pub(crate) fn command(args: Args) -> Result<ExitCode> {
    let shell = args.command.is_empty();
    let mut job = if shell {
        Job::command(["sh", "-l"])
    } else {
        Job::command(args.command)
    };
    if shell && terminal::is_interactive() {
        job.terminal = Some(terminal::size());
        job.env.push(("PS1".into(), r"\u@\h:\w\$ ".into()));
        job.env
            .extend(std::env::var_os("TERM").map(|term| ("TERM".into(), term)));
    } else if shell || args.stdin {
        let mut input = Vec::new();
        io::stdin()
            .read_to_end(&mut input)
            .context("failed to read standard input")?;
        job.stdin = Some(input);
    }
    let mut lab = Lab::open(Workspace::find()?, &[args.kernel])?;
    if args.peers {
        lab.add_peers()?;
    }
    let kernel = lab
        .kernels()
        .first()
        .context("failed to start guest: no kernel")?;
    if job.terminal.is_some() {
        eprintln!(
            "booting {}: `exit` or ^D ends the shell, ^] a guest that hangs",
            kernel.release
        );
    }
    let limit = job.terminal.is_none().then(|| Duration::from_secs(args.timeout));
    let outcome = lab.run(kernel, limit, &job, &mut io::stdout(), &mut io::stderr())?;
    Ok(ExitCode::from(outcome.code))
}
