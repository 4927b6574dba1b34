//! Running other programs, with their last words in the error.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};

/// How much of a failed program's stderr is repeated.
const LAST_WORDS_LINES: usize = 20;

/// Runs to the end and returns stdout.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let mut text = String::new();
    lines(command, |line| {
        text.push_str(line);
        text.push('\n');
    })?;
    Ok(text)
}

/// Runs to the end and hands over each line of stdout as it comes.
///
/// The program gets no stdin: nothing that xtask starts may stop and ask.
pub(crate) fn lines(command: &mut Command, mut each: impl FnMut(&str)) -> Result<()> {
    let name = describe(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to run: {name}"))?;
    let stdout = child
        .stdout
        .take()
        .with_context(|| format!("failed to run: {name}: no stdout"))?;
    let mut stderr = child
        .stderr
        .take()
        .with_context(|| format!("failed to run: {name}: no stderr"))?;
    let complaint = thread::spawn(move || {
        let mut text = Vec::new();
        // What cannot be read cannot be shown; the exit code is what counts.
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.with_context(|| format!("failed to read the output: {name}"))?;
        each(&String::from_utf8_lossy(&line));
    }
    let status = child.wait().with_context(|| format!("failed to wait: {name}"))?;
    let complaint = complaint.join().unwrap_or_default();
    if !status.success() {
        bail!("failed to run: {name}: {status}{}", last_words(&complaint));
    }
    Ok(())
}

/// The first of these names on PATH or in the directories of system programs, which an ordinary user's
/// PATH lacks on Debian.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata()
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The program and its first word of argument: enough to know it again, short enough for one line.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program
        .file_name()
        .unwrap_or(program.as_os_str())
        .to_string_lossy();
    let word = command
        .get_args()
        .map(|arg| arg.to_string_lossy())
        .find(|arg| !arg.starts_with('-'));
    match word {
        Some(word) => format!("{program} {word}"),
        None => program.into_owned(),
    }
}

fn last_words(complaint: &str) -> String {
    let lines: Vec<&str> = complaint.lines().collect();
    let from = lines.len().saturating_sub(LAST_WORDS_LINES);
    lines[from..]
        .iter()
        .fold(String::new(), |text, line| text + "\n  " + line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_carries_the_last_words() {
        let error = output(Command::new("sh").args(["-c", "echo first; echo why >&2; exit 3"])).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.starts_with("failed to run: sh"), "{text}");
        assert!(text.contains("exit status: 3") && text.ends_with("why"), "{text}");
    }

    #[test]
    fn output_is_stdout_only() {
        let text = output(Command::new("sh").args(["-c", "echo one; echo two; echo no >&2"])).unwrap();
        assert_eq!(text, "one\ntwo\n");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = output(&mut Command::new("no-such-program-here")).unwrap_err();
        assert!(format!("{error:#}").starts_with("failed to run: no-such-program-here: "));
    }
}
