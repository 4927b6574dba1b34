//! Writes the man pages and the shell completions of `tracer`, made of its command line, into a directory.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap_complete::Shell;

const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> ExitCode {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: documents DIRECTORY");
        return ExitCode::from(2);
    };
    match write(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("failed to write: {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// `man/*.1`, one for each command, and `completions/`.
fn write(directory: &Path) -> io::Result<()> {
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    clap_mangen::generate_to(tracer::cli::command().disable_help_subcommand(true), &man)?;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut tracer::cli::command(), "tracer", &completions)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn documents() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        write(directory.path()).unwrap();
        directory
    }

    #[test]
    fn every_command_has_a_man_page() {
        let directory = documents();
        for page in ["tracer", "tracer-trace", "tracer-show", "tracer-doctor"] {
            let text = fs::read_to_string(directory.path().join("man").join(format!("{page}.1"))).unwrap();
            assert!(text.contains(".TH "), "{page}: {text}");
        }
        let trace = fs::read_to_string(directory.path().join("man/tracer-trace.1")).unwrap();
        assert!(
            trace.contains("ring") && trace.contains("Expressions:"),
            "{trace}"
        );
    }

    /// Bash is on every machine that this is built on; the others are tried where they are.
    #[test]
    fn the_shells_understand_their_completions() {
        let directory = documents();
        for (shell, file, needed) in [
            ("bash", "tracer.bash", true),
            ("zsh", "_tracer", false),
            ("fish", "tracer.fish", false),
        ] {
            let file = directory.path().join("completions").join(file);
            assert!(fs::read_to_string(&file).unwrap().contains("trace"));
            match Command::new(shell).arg("-n").arg(&file).output() {
                Ok(output) => assert!(output.status.success(), "{shell}: {output:?}"),
                Err(error) => assert!(!needed, "{shell}: {error}"),
            }
        }
    }

    #[test]
    fn bash_completes_commands_and_flags() {
        let directory = documents();
        let script = directory.path().join("completions/tracer.bash");
        let complete = |line: &str| {
            let script = format!(
                "source {}; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
                 _tracer tracer \"${{COMP_WORDS[COMP_CWORD]}}\" \"\"; echo \"${{COMPREPLY[*]}}\"",
                script.display()
            );
            let output = Command::new("bash")
                .args(["--norc", "-c", &script])
                .output()
                .unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        assert_eq!(complete("tracer tr").trim(), "trace");
        assert_eq!(complete("tracer trace --ring").trim(), "--ring-kib");
    }
}
