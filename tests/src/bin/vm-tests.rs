//! Runs the scenarios in a guest, one after the other.

use std::process::ExitCode;

use libtest_mimic::Arguments;
use tests::{scenarios, trace_log};

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // The kernel's log is one for all.
    arguments.test_threads = Some(1);
    if let Err(error) = trace_log::allow_all_namespaces() {
        eprintln!("{error:#}");
        return ExitCode::FAILURE;
    }
    let conclusion = libtest_mimic::run(&arguments, scenarios::all());
    print!("slowest:\n{}", scenarios::slowest());
    conclusion.exit_code()
}
