//! What fingers type that know tcpdump: told what to type here. Flags that both have mean what ours mean.

use anyhow::anyhow;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::exit::{Exit, Failure};

/// Flags of tcpdump that are none of ours, and what to do instead.
const FLAGS: [(&[&str], &str); 9] = [
    (
        &["-n", "-N", "-f"],
        "leave it out: addresses and ports are never resolved",
    ),
    (
        &["-v"],
        "leave it out: `--format tree` tells what there is, `--format json` every field",
    ),
    (
        &["-A", "-X", "-x"],
        "`--output FILE.pcapng` has the bytes, for Wireshark or `tshark -x`",
    ),
    (
        &["-e"],
        "leave it out: IP tables see no link layer; devices are told at every hook",
    ),
    (&["-l", "-U"], "leave it out: what is known is written at once"),
    (&["-q"], "`--format line` is one line for each packet"),
    (
        &["-r"],
        "`tracer show FILE` shows what `tracer trace --write FILE` has kept; it does not read pcap files",
    ),
    (&["-w"], "`--output FILE.pcapng` is for Wireshark"),
    (&["-D"], "`ip link` lists devices"),
];

/// What to say instead of clap, if `words` look like tcpdump's.
pub(super) fn instead(error: &clap::Error, words: &[String]) -> Option<Failure> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let (typed, hint) = match error.kind() {
        ErrorKind::InvalidSubcommand => (context(ContextKind::InvalidSubcommand)?, command_first(words)),
        ErrorKind::UnknownArgument => {
            let typed = context(ContextKind::InvalidArg)?;
            let found = FLAGS.iter().find(|(flags, _)| flags.contains(&typed));
            let hint = match found {
                _ if words.first().is_some_and(|word| word.starts_with('-')) => command_first(words),
                Some((_, hint)) => (*hint).to_owned(),
                None => return None,
            };
            (typed, hint)
        }
        ErrorKind::ValueValidation => {
            let (flag, value) = (
                context(ContextKind::InvalidArg)?,
                context(ContextKind::InvalidValue)?,
            );
            let is_length = value.bytes().all(|byte| byte.is_ascii_digit());
            if !flag.starts_with("--src ") || !is_length {
                return None;
            }
            let hint = "-s is the source address here; the first 256 bytes of a packet are kept anyway";
            (value, hint.to_owned())
        }
        _ => return None,
    };
    let error = anyhow!("failed to read the command line: unexpected: {typed}");
    Some(Failure::hinted(Exit::Usage, error, hint))
}

fn command_first(words: &[String]) -> String {
    format!(
        "a command comes first: `tracer trace {}`; `tracer --help` lists them",
        words.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn said(line: &str) -> Option<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let error = Cli::try_parse_from(["tracer"].into_iter().chain(line.split(' '))).unwrap_err();
        Some(instead(&error, &words)?.to_string())
    }

    #[test]
    fn flags_of_tcpdump_are_answered() {
        for (line, hint) in [
            ("trace -n", "never resolved"),
            ("trace -nn -i eth0", "never resolved"),
            ("trace -nni eth0", "never resolved"),
            ("trace -vvv", "--format tree"),
            ("trace -c 5 -A", "FILE.pcapng"),
            ("drops -e", "link layer"),
            ("trace -r file", "tracer show FILE"),
            ("show file -w other", "FILE.pcapng"),
            ("trace -s 0", "source address"),
            ("-i eth0 port 80", "`tracer trace -i eth0 port 80`"),
            ("-n", "a command comes first"),
            ("port 80", "`tracer trace port 80`"),
        ] {
            let said = said(line).unwrap_or_else(|| panic!("no hint: {line}"));
            assert!(
                said.starts_with("error: failed to read the command line: unexpected: ")
                    && said.contains("\nhint: ")
                    && said.contains(hint),
                "{line}: {said}"
            );
        }
    }

    #[test]
    fn other_mistakes_are_left_to_clap() {
        for line in ["trace --nonsense", "trace --port x", "trace --src x", "trace -z"] {
            assert_eq!(said(line), None, "{line}");
        }
    }

    #[test]
    fn flags_that_are_ours_are_taken() {
        for line in ["trace -c 5 -w file -i eth0", "show -c 5 file", "drops -c 1"] {
            let words = ["tracer"].into_iter().chain(line.split(' '));
            assert!(Cli::try_parse_from(words).is_ok(), "{line}");
        }
        let flags = FLAGS.iter().flat_map(|(flags, _)| *flags);
        for flag in flags {
            let line = ["tracer", "trace", flag, "x"];
            assert!(
                *flag == "-w" || Cli::try_parse_from(line).is_err(),
                "{flag} is ours"
            );
        }
    }
}
