//! What the guest's console says: init's own lines, and the marks of a kernel that is lost.

/// First words of init once it runs; the same text is in the `tests` crate (`guest-init`).
const HELLO: &str = "guest-init: hello ";
/// The one line that ends a job.
const VERDICT: &str = "guest-init: verdict exit=";

/// Texts after which nothing good follows; waiting for the time limit would only cost time.
///
/// A warning is not among them: a stock kernel may warn and work. These are matched anywhere in a line
/// because the kernel puts a time stamp, and some versions a CPU or a thread id, before them.
const LOST: [&str; 15] = [
    "Kernel panic",
    "Oops:",
    " BUG: ",
    "kernel BUG at",
    "general protection fault",
    "Unable to handle kernel",
    "divide error:",
    "invalid opcode:",
    "double fault:",
    "stack segment:",
    "soft lockup",
    "hard LOCKUP",
    "detected stalls on CPU",
    "self-detected stall",
    "Attempted to kill init",
];

/// What a line of the console means to the session.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Init runs: the kernel has booted. Holds the release of the kernel.
    Hello(String),
    /// The job ended with this exit code, as init tells.
    Verdict(u8),
    /// The kernel is lost; names the mark.
    Lost(&'static str),
    /// Anything else.
    Talk,
}

/// Judges one line, without its line end.
pub(crate) fn judge(line: &str) -> Meaning {
    if let Some(release) = line.strip_prefix(HELLO) {
        return Meaning::Hello(release.to_owned());
    }
    if let Some(code) = line.strip_prefix(VERDICT).and_then(|code| code.parse().ok()) {
        return Meaning::Verdict(code);
    }
    match LOST.iter().find(|mark| line.contains(**mark)) {
        Some(mark) => Meaning::Lost(mark.trim_matches([':', ' '])),
        None => Meaning::Talk,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_lines_of_init() {
        assert_eq!(judge("guest-init: hello 6.12.1"), Meaning::Hello("6.12.1".into()));
        assert_eq!(judge("guest-init: verdict exit=130"), Meaning::Verdict(130));
        assert_eq!(judge("guest-init: verdict exit=many"), Meaning::Talk);
        assert_eq!(judge("echo guest-init: verdict exit=0"), Meaning::Talk);
    }

    #[test]
    fn knows_a_lost_kernel() {
        let panic = "[    2.1] Kernel panic - not syncing: sysrq triggered crash";
        assert_eq!(judge(panic), Meaning::Lost("Kernel panic"));
        assert_eq!(
            judge("[1.0][ C0] BUG: unable to handle page fault"),
            Meaning::Lost("BUG")
        );
        assert_eq!(judge("[    1.0] random: crng init done"), Meaning::Talk);
    }
}
