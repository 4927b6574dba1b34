//! `cargo xtask build`: the eBPF object first, then tracer with the object inside.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::process;
use crate::setup;
use crate::workspace::Workspace;

#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask build                        prints the path of the finished binary
  sudo $(cargo xtask build) trace          what `cargo xtask run` does

Plain `cargo build` and `cargo test` work too, without bpf-linker; a tracer that was built so has no
eBPF programs in it.")]
pub(crate) struct Args {}

pub(crate) fn command(_: &Args) -> Result<()> {
    println!("{}", tracer(&Workspace::find()?)?.display());
    Ok(())
}

/// Builds the eBPF programs and returns the path of the object.
pub(crate) fn ebpf(ws: &Workspace) -> Result<PathBuf> {
    only(executables(ebpf_cargo(ws, "build")?)?, "tracer-ebpf")
}

/// `cargo COMMAND` for the eBPF programs and their target.
pub(crate) fn ebpf_cargo(ws: &Workspace, command: &str) -> Result<Command> {
    let linker = setup::bpf_linker(ws)?;
    // The flags replace the user's RUSTFLAGS, which are meant for another machine.
    let rustflags = format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH);
    let mut cargo = cargo(ws, command, &ws.target().join("ebpf"));
    cargo
        .args(["--package=tracer-ebpf", "--bin=tracer-ebpf", "--release"])
        .args(["--target=bpfel-unknown-none", "-Zbuild-std=core"])
        // No prebuilt core exists for this target, and building one is unstable: this makes a stable
        // compiler do it, so that one toolchain builds everything.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags)
        .env("PATH", path_with(linker.parent().unwrap_or(Path::new("")))?);
    Ok(cargo)
}

/// Builds tracer with the eBPF object inside and returns the path of the binary.
pub(crate) fn tracer(ws: &Workspace) -> Result<PathBuf> {
    let object = ebpf(ws)?;
    let mut cargo = cargo(ws, "build", &ws.target());
    cargo
        .args(["--package=tracer", "--bin=tracer", "--release"])
        .env("TRACER_EBPF_OBJECT", object);
    only(executables(cargo)?, "tracer")
}

/// Builds tracer for any node: with the C library inside, stripped.
///
/// The target is named so that the flags are tracer's alone: build scripts and macros run on this machine.
pub(crate) fn static_tracer(ws: &Workspace) -> Result<PathBuf> {
    let object = ebpf(ws)?;
    let target = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let mut cargo = cargo(ws, "build", &ws.target().join("dist/build"));
    cargo
        .args(["--package=tracer", "--bin=tracer", "--release", "--locked"])
        .args(["--target", &target])
        .env("TRACER_EBPF_OBJECT", object)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Ctarget-feature=+crt-static\x1f-Cstrip=symbols",
        );
    only(executables(cargo)?, "tracer")
}

/// Runs an example of the tracer package with one argument.
pub(crate) fn run_example(ws: &Workspace, name: &str, argument: &Path) -> Result<()> {
    let mut cargo = cargo(ws, "build", &ws.target());
    cargo.args(["--package=tracer", "--example", name]);
    let example = only(executables(cargo)?, name)?;
    process::output(Command::new(example).arg(argument)).map(drop)
}

/// Builds what runs in guests: tracer and the release binaries of the `tests` package.
///
/// In one go and with the object for both: built by turns with and without it, the library would be compiled anew
/// each time.
pub(crate) fn for_guests(ws: &Workspace) -> Result<(PathBuf, Vec<PathBuf>)> {
    let object = ebpf(ws)?;
    let mut cargo = cargo(ws, "build", &ws.target());
    cargo
        .args(["--package=tracer", "--package=tests", "--bins", "--release"])
        .env("TRACER_EBPF_OBJECT", object);
    let (tracer, tests) = executables(cargo)?
        .into_iter()
        .partition(|path| path.file_name().is_some_and(|name| name == "tracer"));
    Ok((only(tracer, "tracer")?, tests))
}

fn cargo(ws: &Workspace, command: &str, target_dir: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(&ws.root)
        .args([
            command,
            "--message-format=json-render-diagnostics",
            "--target-dir",
        ])
        .arg(target_dir);
    cargo
}

/// Runs the build, with cargo's own progress and diagnostics on stderr, and returns what it made.
fn executables(mut cargo: Command) -> Result<Vec<PathBuf>> {
    let output = cargo
        .stderr(Stdio::inherit())
        .output()
        .context("failed to run: cargo build")?;
    if !output.status.success() {
        bail!("failed to build: see the messages above: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(executable)
        .collect())
}

/// The executable that one line of cargo's JSON messages tells of.
fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    message.get("executable")?.as_str().map(PathBuf::from)
}

fn only(mut executables: Vec<PathBuf>, name: &str) -> Result<PathBuf> {
    match executables.pop() {
        Some(path) if executables.is_empty() => Ok(path),
        _ => bail!("failed to build: {name}: cargo did not report exactly one binary"),
    }
}

fn path_with(first: &Path) -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(first.to_owned()).chain(env::split_paths(&path));
    env::join_paths(dirs).context("failed to extend PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_messages() {
        let artifact = r#"{"reason":"compiler-artifact","target":{"name":"x"},"executable":"/t/release/x"}"#;
        assert_eq!(executable(artifact), Some(PathBuf::from("/t/release/x")));
        assert_eq!(
            executable(r#"{"reason":"compiler-artifact","executable":null}"#),
            None
        );
        assert_eq!(executable(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(executable("plain text"), None);
    }
}
