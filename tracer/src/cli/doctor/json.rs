//! `tracer doctor --json`: the report as one object, as `docs/doctor.schema.json` says.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::exit::Exit;
use crate::kernel::preflight::{Outcome, Report};

/// Version of the object. A new field is no new version.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Object<'a> {
    version: u32,
    kind: &'static str,
    tracer: &'static str,
    kernel: &'a str,
    traceable: bool,
    exit_code: u8,
    obstacle: Option<String>,
    hint: Option<String>,
    checks: Vec<Check<'a>>,
    probes: Vec<Probe>,
}

#[derive(Serialize)]
struct Check<'a> {
    name: &'static str,
    result: &'static str,
    seen: &'a str,
    meaning: Option<String>,
    hint: Option<String>,
}

#[derive(Serialize)]
struct Probe {
    form: &'static str,
    function: &'static str,
    place: String,
    found: bool,
    optional: bool,
}

/// Writes the object on one line.
pub(super) fn write(report: &Report, kernel: &str, out: &mut impl Write) -> io::Result<()> {
    let obstacle = report.first_obstacle();
    let checks = report.findings.iter().map(|finding| {
        let (result, meaning, hint) = match &finding.outcome {
            Outcome::Ok => ("ok", None, None),
            Outcome::Warn { meaning, hint } => ("warn", Some(meaning.clone()), Some(hint.clone())),
            Outcome::Fail(obstacle) => ("fail", Some(obstacle.to_string()), Some(obstacle.hint())),
        };
        Check {
            name: finding.name,
            result,
            seen: &finding.seen,
            meaning,
            hint,
        }
    });
    let probes = report.probes.iter().map(|probe| Probe {
        form: probe.form.name(),
        function: probe.function,
        place: probe.place.to_string(),
        found: probe.place.is_found(),
        optional: probe.optional,
    });
    let object = Object {
        version: VERSION,
        kind: "doctor",
        tracer: env!("CARGO_PKG_VERSION"),
        kernel,
        traceable: obstacle.is_none(),
        exit_code: obstacle.map_or(Exit::Done, Exit::from).code(),
        obstacle: obstacle.map(ToString::to_string),
        hint: obstacle.map(crate::kernel::obstacle::Obstacle::hint),
        checks: checks.collect(),
        probes: probes.collect(),
    };
    serde_json::to_writer(&mut *out, &object)?;
    writeln!(out)
}
