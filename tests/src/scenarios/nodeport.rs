//! The `NodePort` case: a request from the node itself to a pod on another node.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::command::run;
use crate::node;
use crate::trace_log::{self, Line, TraceLog};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "nodeport::kernel_logs_the_published_path",
        kernel_logs_the_published_path,
    )]
}

/// How many steps the case shows for the first packet of the connection.
const SYN_STEPS: usize = 19;

fn kernel_logs_the_published_path() -> Result<()> {
    let node = node::nodeport()?;
    trace_log::enable()?;
    run("iptables-legacy -t raw -A OUTPUT -p tcp --dport 32275 -j TRACE")?;
    let mut log = TraceLog::from_now()?;
    node.get_page()?;
    let lines = log.lines()?;
    let syn: Vec<String> = lines
        .iter()
        .filter(|line| line.has("SYN") && !line.has("ACK"))
        .map(Line::step)
        .collect();
    ensure!(
        syn.len() == SYN_STEPS,
        "{} steps instead of {SYN_STEPS}: {syn:#?}",
        syn.len()
    );
    ensure!(
        syn.first().is_some_and(|step| step == "raw:OUTPUT:policy:2"),
        "first: {syn:#?}"
    );
    ensure!(
        syn.last()
            .is_some_and(|step| step == "nat:KUBE-POSTROUTING:rule:1"),
        "last: {syn:#?}"
    );
    Ok(())
}
