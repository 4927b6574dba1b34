//! What a person needs to see of a difference.

use std::fmt::Write as _;

use super::compare::{self, Comparison};
use super::observe::Accounts;

/// Lines of a packet shown before those that differ are cut.
const LINES_MAX: usize = 60;

/// Lines of the kernel's without a partner that are shown.
const UNEXCUSED_MAX: usize = 12;

/// How to see a ruleset again.
pub(super) fn rerun(backend: &str, seed: u64, index: u64) -> String {
    let kernel = std::env::var("TRACER_TEST_SERIES").unwrap_or_else(|_| "SERIES".to_owned());
    let more = if backend == "legacy" {
        "--shrink"
    } else {
        "--verbose"
    };
    format!(
        "again: cargo xtask oracle --backend {backend} --kernel {kernel} --seed {seed} --only {index} {more}\n"
    )
}

/// The lines around the place at which the two sides differ.
pub(super) fn difference(accounts: &Accounts, comparison: &Comparison) -> String {
    let Comparison::Different {
        kernel: unexcused,
        tracer: unfound,
    } = comparison
    else {
        return String::new();
    };
    let (kernel, tracer) = (unexcused.first().copied(), unfound.first().copied());
    let (kernel_line, tracer_line) = (
        kernel.and_then(|place| accounts.kernel.lines.get(place)),
        tracer.and_then(|place| accounts.tracer.lines.get(place)),
    );
    let mut text = format!(
        "kernel line without partner:  {}\ntracer's traversal not found: {}\nwithout partner, {}:\n",
        kernel_line.map_or("none", String::as_str),
        tracer_line.map_or("none", String::as_str),
        unexcused.len()
    );
    for place in unexcused.iter().take(UNEXCUSED_MAX) {
        text += &format!("  {}\n", accounts.kernel.lines[*place]);
    }
    let Some(packet) = tracer_line.or(kernel_line).map(|line| compare::packet(line)) else {
        return text;
    };
    let of_packet = |lines: &[String], place: Option<usize>| -> Vec<String> {
        let mut is_last = false;
        let near = place.map_or(0, |place| place.saturating_sub(LINES_MAX));
        let chosen = lines.iter().skip(near).filter(|line| {
            if !line.starts_with("PARTIAL: ") {
                is_last = compare::packet(line) == packet;
            }
            is_last
        });
        chosen.map(|line| line.trim_end().to_owned()).collect()
    };
    let of_kernel = of_packet(&accounts.kernel.lines, kernel);
    let of_tracer = of_packet(&accounts.tracer.lines, tracer);
    text += "the packet, - only the kernel, + only tracer:\n";
    for line in diff(&of_kernel, &of_tracer).iter().take(LINES_MAX) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Everything that both sides said.
pub(super) fn whole(accounts: &Accounts) -> String {
    format!(
        "kernel:\n{}\ntracer:\n{}\n",
        accounts.kernel.lines.join("\n"),
        accounts.tracer.lines.join("\n")
    )
}

/// By longest common subsequence.
fn diff(left: &[String], right: &[String]) -> Vec<String> {
    let (rows, columns) = (left.len(), right.len());
    let mut lengths = vec![vec![0_usize; columns + 1]; rows + 1];
    for row in (0..rows).rev() {
        for column in (0..columns).rev() {
            lengths[row][column] = if left[row] == right[column] {
                lengths[row + 1][column + 1] + 1
            } else {
                lengths[row + 1][column].max(lengths[row][column + 1])
            };
        }
    }
    let (mut row, mut column) = (0, 0);
    let mut lines = Vec::new();
    while row < rows || column < columns {
        if row < rows && column < columns && left[row] == right[column] {
            lines.push(format!("  {}", left[row]));
            (row, column) = (row + 1, column + 1);
        } else if column == columns || (row < rows && lengths[row + 1][column] >= lengths[row][column + 1]) {
            lines.push(format!("- {}", left[row]));
            row += 1;
        } else {
            lines.push(format!("+ {}", right[column]));
            column += 1;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_either_side_are_marked() {
        let lines = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(
            diff(&lines("a b c"), &lines("a d c")),
            ["  a", "- b", "+ d", "  c"]
        );
    }
}
