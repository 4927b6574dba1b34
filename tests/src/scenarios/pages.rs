//! The pages of `docs/cases`: what they show is what tracer shows.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::demo::{case, page, page_of_diagram, page_of_drops};
use crate::tracer::Tracer;
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
const PAGES: [Page; 10] = [
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
