//! What is said at the end of a trace, or at any time on SIGUSR1: what was done, and everything that was lost.

use tracer_common::{CONNECTIONS_MAX, Counter};

use crate::{
    explain::Explainer,
    filter::Selection,
    kernel::attach::{Counts, Forms, ReturnProbe},
};

/// What to do where no packet was seen that was asked for.
pub(super) fn nothing_matched() -> String {
    "nothing matched. Does any packet pass tables here? `tracer trace --count 5` shows the next five, `tracer trace host \
     ADDRESS` all of one host; `tcpdump -ni any host ADDRESS` whether they reach this machine at all\n"
        .to_owned()
}

/// Why packets are there that do not match.
pub(super) const CONNECTIONS_FOLLOWED: &str = "filter: packets that match, and all of their connections from then on (replies, after NAT); --no-connections: \
     only what matches\n";

/// How the kernel is looked at.
pub(super) fn probes_summary(forms: &Forms) -> String {
    let Forms {
        trampolines,
        kprobes,
        tracepoints,
        refusal,
        return_probes,
        took,
    } = forms;
    let mut text = format!(
        "probes: {trampolines} trampolines, {kprobes} kprobes, {tracepoints} tracepoints, attached in {} ms\n",
        took.as_millis()
    );
    if let Some(refusal) = refusal {
        let first = refusal.lines().next().unwrap_or_default();
        text.push_str(&format!("tables are seen by kprobes, which cost more: {first}\n"));
    }
    for ReturnProbe { function, cause } in return_probes {
        text.push_str(&format!(
            "{function} is seen to return by a return probe, which may miss calls within calls: {cause}\n"
        ));
    }
    text
}

/// What the filter could not decide, if anything.
pub(super) fn undecided(selection: &Selection) -> String {
    match selection.undecided {
        0 => String::new(),
        count => format!("{count} packets followed although too little of them was recorded to decide\n"),
    }
}

/// How many paths are certain, and how they compare with the kernel's own steps.
pub(super) fn paths_summary(explainer: &Explainer) -> String {
    let paths = format!(
        "paths: {} complete, {} partial\n",
        explainer.complete, explainer.partial
    );
    match &explainer.verification {
        Some(verification) => format!("{paths}{verification}"),
        None => paths,
    }
}

/// What was done with so many results, and everything that was lost on the way.
/// Where nothing was, `span` says for how long that holds: ` while recording`.
pub(super) fn summary(done: &str, span: &str, counts: &Counts) -> String {
    let lost = [
        (
            Counter::RingFull,
            "ring buffer full: traversals not shown (a larger --ring-kib or a narrower filter helps)",
        ),
        (
            Counter::FramesFull,
            "too many traversals under way at once: traversals not shown",
        ),
        (Counter::ExitMissed, "return not seen: traversals not shown"),
        (
            Counter::TraversalsShed,
            "left out to keep a limit: traversals not shown, of whole packets (--max-rate, --max-cpu)",
        ),
        (
            Counter::PacketsFull,
            "too many packets at once: packets not followed beyond one table",
        ),
        (
            Counter::ReadFailed,
            "reads of kernel memory failed: a traversal is incomplete or missing for each",
        ),
        (
            Counter::GenerationsFull,
            "too many tables at once: paths are not certain once one of them is replaced",
        ),
        (
            Counter::EndMissed,
            "end of a packet not seen: noticed when its address was used again",
        ),
        (Counter::EndRingFull, "ring buffer full: ends of packets not told"),
        (
            Counter::HeadersFull,
            "ring buffer full: headers after a target or rule not seen, what it changed is not known (a larger \
             --ring-kib helps)",
        ),
    ];
    let mut text = done.to_owned();
    let mut losses: Vec<String> = lost
        .into_iter()
        .filter(|(counter, _)| counts.get(*counter) > 0)
        .map(|(counter, meaning)| format!("  {:>8}  {meaning}\n", counts.get(counter)))
        .collect();
    let skipped = counts.skipped.unwrap_or_default();
    for (runs, meaning) in [
        (skipped.tables, "traversals not seen"),
        (
            skipped.extensions,
            "answers of matches or targets not seen, their paths are partial",
        ),
        (skipped.steps, "steps not witnessed, their paths are not verified"),
        (
            skipped.rules,
            "replacements of rules not seen, paths are not certain",
        ),
        (
            skipped.life,
            "ends of packets perhaps not seen, the next packet at the address is told by its headers",
        ),
    ] {
        if runs > 0 {
            losses.push(format!(
                "  {runs:>8}  probe runs skipped by the kernel: {meaning}\n"
            ));
        }
    }
    let forgotten = counts
        .get(Counter::ConnectionsFollowed)
        .saturating_sub(u64::from(CONNECTIONS_MAX));
    if forgotten > 0 {
        losses.push(format!(
            "  {forgotten:>8}  connections forgotten that were not used for long: their replies may not be shown\n"
        ));
    }
    if losses.is_empty() {
        text.push_str(", nothing lost");
        text.push_str(span);
    } else {
        text.push_str("; lost:");
    }
    if counts.skipped.is_none() {
        text.push_str(" (this kernel does not count probe runs that it skips)");
    } else if counts.skips_uncounted {
        text.push_str(" (of some kprobes this kernel does not tell the runs that it skips)");
    }
    text.push('\n');
    text.extend(losses);
    text
}
