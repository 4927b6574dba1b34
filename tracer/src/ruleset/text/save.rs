//! Reads what `iptables-save` prints.

use std::collections::HashMap;

use thiserror::Error;

/// One table of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedTable {
    /// Its name.
    pub name: String,
    /// Its chains, in the order of their declaration.
    pub chains: Vec<SavedChain>,
}

/// One chain of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedChain {
    /// Its name.
    pub name: String,
    /// The policy of a built-in chain.
    pub policy: Option<String>,
    /// Its rules as they are printed, `-A` and the name of the chain included, counters not.
    pub rules: Vec<String>,
}

/// A line that `iptables-save` does not print, or not there.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("line {0} is not understood")]
pub struct ParseError(usize);

/// Reads the text, which may have any number of tables.
///
/// # Errors
/// The first line that is not understood. A rule may not go on in a second line, as it can when a comment has a
/// line break.
pub fn parse(text: &str) -> Result<Vec<SavedTable>, ParseError> {
    let mut tables = Vec::new();
    let mut open: Option<SavedTable> = None;
    let mut places = HashMap::new();
    let mut last = 0;
    for (index, line) in text.lines().enumerate() {
        let error = ParseError(index + 1);
        last = index + 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match &mut open {
            None => {
                let name = line.strip_prefix('*').ok_or(error)?;
                places.clear();
                open = Some(SavedTable {
                    name: name.to_owned(),
                    chains: Vec::new(),
                });
            }
            Some(_) if line == "COMMIT" => tables.extend(open.take()),
            Some(table) if line.starts_with(':') => {
                let mut words = line[1..].split(' ');
                let (Some(name), Some(policy)) = (words.next(), words.next()) else {
                    return Err(error);
                };
                if places.insert(name, table.chains.len()).is_some() {
                    return Err(error);
                }
                table.chains.push(SavedChain {
                    name: name.to_owned(),
                    policy: (policy != "-").then(|| policy.to_owned()),
                    rules: Vec::new(),
                });
            }
            Some(table) => {
                let rule = without_counters(line);
                let chain = rule.strip_prefix("-A ").and_then(|rest| rest.split(' ').next());
                let place = chain.and_then(|chain| places.get(chain)).ok_or(error)?;
                table.chains[*place].rules.push(rule.to_owned());
            }
        }
    }
    match open {
        Some(_) => Err(ParseError(last + 1)),
        None => Ok(tables),
    }
}

/// `iptables-save -c` begins a rule with its counters, `[12:3456] -A …`.
fn without_counters(line: &str) -> &str {
    let rest = line.strip_prefix('[').and_then(|rest| rest.split_once("] "));
    rest.map_or(line, |(_, rule)| rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rules_of_a_node_are_read() {
        let text = include_str!("../../../../tests/fixtures/nodeport-local.rules.v4");
        let tables = parse(text).unwrap();
        let sums: Vec<_> = tables
            .iter()
            .map(|table| {
                let rules: usize = table.chains.iter().map(|chain| chain.rules.len()).sum();
                (table.name.as_str(), table.chains.len(), rules)
            })
            .collect();
        let lines = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
        assert_eq!(
            sums.iter().map(|(name, ..)| *name).collect::<Vec<_>>(),
            ["raw", "mangle", "filter", "nat"]
        );
        assert_eq!(
            sums.iter().map(|(_, chains, _)| chains).sum::<usize>(),
            lines(":")
        );
        assert_eq!(sums.iter().map(|(.., rules)| rules).sum::<usize>(), lines("-A "));
        let forward = &tables[2].chains[1];
        assert_eq!(
            (forward.name.as_str(), forward.policy.as_deref()),
            ("FORWARD", Some("DROP"))
        );
        assert_eq!(
            forward.rules[4],
            "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
        );
        let docker = &tables[2].chains[3];
        assert_eq!((docker.policy.as_deref(), docker.rules.len()), (None, 0));
    }

    #[test]
    fn counters_are_left_out() {
        let tables = parse("*raw\n:A - [0:0]\n[12:34] -A A -j B\nCOMMIT\n").unwrap();
        assert_eq!(tables[0].chains[0].rules, ["-A A -j B"]);
    }

    #[test]
    fn other_lines_are_refused() {
        for (text, line) in [
            ("-A INPUT", 1),
            ("*raw\n-A INPUT\nCOMMIT", 2),
            ("*raw\n:A - [0:0]\n-A A -m comment --comment \"a\nb\"\nCOMMIT", 4),
            ("*raw\n:A - [0:0]\n:A - [0:0]\nCOMMIT", 3),
            ("*raw\n:A - [0:0]\n", 3),
            ("*raw\n:A\n", 2),
            ("é\n", 1),
        ] {
            assert_eq!(parse(text), Err(ParseError(line)), "{text}");
        }
        assert_eq!(parse(""), Ok(Vec::new()));
    }

    #[test]
    fn arbitrary_text_never_panics() {
        bolero::check!().for_each(|bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            let _ = parse(&text);
            let _ = parse(&format!("*t\n:A - [0:0]\n{text}\nCOMMIT"));
        });
    }
}
