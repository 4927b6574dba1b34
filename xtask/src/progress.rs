//! Progress on stderr: a spinner for a person at a terminal, plain lines for a log.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

const TICK: Duration = Duration::from_millis(100);

/// One thing that takes a while. Dropped before [`Step::done`], it leaves the error to speak.
pub(crate) struct Step {
    what: String,
    start: Instant,
    /// None where stderr is not a terminal.
    spinner: Option<ProgressBar>,
}

impl Step {
    pub(crate) fn begin(what: impl Into<String>) -> Self {
        let what = what.into();
        let spinner = std::io::stderr().is_terminal().then(|| {
            let spinner = ProgressBar::new_spinner().with_prefix(what.clone());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix}: {wide_msg} {elapsed}") {
                spinner.set_style(style);
            }
            spinner.enable_steady_tick(TICK);
            spinner
        });
        Self {
            what,
            start: Instant::now(),
            spinner,
        }
    }

    /// What is being done now.
    pub(crate) fn now(&self, doing: &str) {
        match &self.spinner {
            Some(spinner) => spinner.set_message(doing.to_owned()),
            None => eprintln!("{}: {doing}", self.what),
        }
    }

    /// How far it is, shown to a person only: in a log it would be noise.
    pub(crate) fn percent(&self, doing: &str, percent: f32) {
        self.fleeting(|| format!("{doing} {percent:.0} %"));
    }

    /// What is being done now, shown to a person only.
    pub(crate) fn fleeting(&self, doing: impl FnOnce() -> String) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(doing());
        }
    }

    /// Writes something else to the terminal, with the spinner out of the way.
    pub(crate) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.spinner {
            Some(spinner) => spinner.suspend(write),
            None => write(),
        }
    }

    pub(crate) fn done(mut self, outcome: &str) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
        eprintln!(
            "{}: {outcome} ({:.1} s)",
            self.what,
            self.start.elapsed().as_secs_f32()
        );
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}
