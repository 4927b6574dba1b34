//! The pages of `docs/cases`: what they show is what tracer shows.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::demo::{Case, Traffic, case, page, page_of_diagram, page_of_drops};
use crate::tracer::{Tracer, exit, show};
use crate::traffic::{self, stay_on_processor};

/// Name, text, and the test of both.
type Page = (&'static str, &'static str, fn() -> Result<()>);

/// A page by its name.
macro_rules! pages {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../docs/cases/", $name, ".md")),
            || shows_what_it_says($name),
        )
    };
}

/// Each page as it is in the documentation.
const PAGES: [Page; 11] = [
    pages!("nodeport-local"),
    pages!("nodeport-from-outside"),
    pages!("clusterip"),
    pages!("calico-pod-to-pod"),
    pages!("docker-calico-1-host-to-container"),
    pages!("docker-calico-2-container-to-host"),
    pages!("docker-calico-3-container-to-other-node"),
    pages!("docker-calico-4-other-node-to-container-dropped"),
    pages!("docker-calico-5-container-to-container"),
    pages!("docker-calico-6-container-to-container-of-other-node"),
    pages!("two-nodes"),
];

pub(super) fn trials() -> Vec<Trial> {
    PAGES
        .into_iter()
        .map(|(name, _, test)| trial(&format!("pages::{name}"), test))
        .collect()
}

/// Plays a case and compares.
fn shows_what_it_says(name: &str) -> Result<()> {
    let (_, text, _) = PAGES
        .into_iter()
        .find(|(known, ..)| *known == name)
        .context("no such page")?;
    let mut blocks = text.split("```text\n").skip(1);
    let mut next = || Some(blocks.next()?.split_once("```")?.0);
    let expected = next().with_context(|| format!("the page shows nothing: {name}"))?;
    // Another format, where the page shows one.
    let other = next().map(|expected| {
        if text.contains("`tracer drops") {
            ("drops", page_of_drops as fn(&str) -> String, expected)
        } else {
            ("diagram", page_of_diagram as fn(&str) -> String, expected)
        }
    });
    let case = case(name)?;
    stay_on_processor(0)?;
    let send = (case.set_up)()?;
    if case.other_node.is_some() {
        let shown = page(&over_two_nodes(&case, &send)?);
        ensure!(shown == expected, "{name}: tracer shows:\n{shown}");
        return Ok(());
    }
    let tracer = Tracer::start(&format!("--format tree {}", case.filter))?;
    let other = match other {
        Some((format, page, expected)) => {
            let tracer = Tracer::start(&format!("--format {format} {}", case.filter))?;
            Some((tracer, page, expected))
        }
        None => None,
    };
    send()?;
    traffic::settle()?;
    let shown = page(&tracer.stop_as_text()?.shown);
    ensure!(shown == expected, "{name}: tracer shows:\n{shown}");
    if let Some((tracer, page, expected)) = other {
        let shown = page(&tracer.stop_as_text()?.shown);
        ensure!(shown == expected, "{name}: in the other format:\n{shown}");
    }
    Ok(())
}

/// Traces each of two nodes for itself; what is shown of both together.
fn over_two_nodes(case: &Case, send: &Traffic) -> Result<String> {
    let directory = tempfile::tempdir().context("failed to create directory")?;
    let recordings = case.recordings(directory.path()).context("no second node")?;
    let (lines, files): (Vec<String>, Vec<PathBuf>) = recordings.into_iter().unzip();
    let tracers = Tracer::start_all(&lines)?;
    send()?;
    traffic::settle()?;
    for tracer in tracers {
        tracer.stop_as_text()?;
    }
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    let (code, text) = show(&format!("{} --format tree", files.join(" ")))?;
    ensure!(code == Some(exit::DONE), "{}", text.said);
    Ok(text.shown)
}
