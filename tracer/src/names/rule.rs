//! What names need to know of a rule's text.

use std::borrow::Cow;

/// A rule's comment, and where it leads.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words<'a> {
    /// The first comment, without its quotes.
    pub(super) comment: Option<Cow<'a, str>>,
    /// The chain or target that it goes to.
    pub(super) target: Option<Cow<'a, str>>,
    /// Where it sends packets: `--to-destination 10.0.0.1:80`, `dnat to 10.0.0.1:80`.
    pub(super) destination: Option<Cow<'a, str>>,
}

impl<'a> Words<'a> {
    /// Reads the words of `iptables-save` or `nft`.
    pub(super) fn of(text: &'a str) -> Self {
        let mut found = Self::default();
        let mut words = words(text).peekable();
        while let Some(word) = words.next() {
            let place = match &*word {
                "--comment" | "comment" => &mut found.comment,
                "-j" | "-g" | "--jump" | "--goto" | "jump" | "goto" => &mut found.target,
                "--to-destination" => &mut found.destination,
                "dnat" => {
                    // `dnat to 10.0.0.1`, `dnat ip to 10.0.0.1`
                    words.next_if(|word| matches!(&**word, "ip" | "ip6"));
                    if words.next_if(|word| word == "to").is_none() {
                        continue;
                    }
                    &mut found.destination
                }
                _ => continue,
            };
            // What follows `-m comment` is an option, and a nft map may follow `jump`.
            if let Some(value) = words.next_if(|word| !word.starts_with('-'))
                && place.is_none()
            {
                *place = Some(value);
            }
        }
        found
    }
}

/// The words of a line; quotes keep words together, a backslash keeps the next character as it is.
fn words(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = text.trim_start();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let word;
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut end = quoted.len();
            let mut escaped = false;
            let mut escapes = false;
            for (at, c) in quoted.char_indices() {
                match c {
                    _ if escaped => escaped = false,
                    '\\' => (escaped, escapes) = (true, true),
                    '"' => {
                        end = at;
                        break;
                    }
                    _ => {}
                }
            }
            let inner = &quoted[..end];
            word = if escapes {
                Cow::Owned(unescaped(inner))
            } else {
                Cow::Borrowed(inner)
            };
            rest = quoted.get(end + 1..).unwrap_or_default();
        } else {
            let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
            word = Cow::Borrowed(&rest[..end]);
            rest = &rest[end..];
        }
        rest = rest.trim_start();
        Some(word)
    })
}

fn unescaped(text: &str) -> String {
    let mut escaped = false;
    text.chars()
        .filter(|c| {
            let skip = *c == '\\' && !escaped;
            escaped = skip;
            !skip
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_tools_texts_are_read() {
        let found = Words::of(
            r#"-A KUBE-SEP-X -p tcp -m comment --comment "default/a: \"b\" -j c" -m tcp -j DNAT --to-destination 10.0.0.1:80"#,
        );
        assert_eq!(found.comment.as_deref(), Some("default/a: \"b\" -j c"));
        assert_eq!(found.target.as_deref(), Some("DNAT"));
        assert_eq!(found.destination.as_deref(), Some("10.0.0.1:80"));
        let found = Words::of(r#"ip daddr 10.0.0.1 counter dnat ip to 10.0.0.2:80 comment "x y""#);
        assert_eq!(found.comment.as_deref(), Some("x y"));
        assert_eq!(found.destination.as_deref(), Some("10.0.0.2:80"));
        assert_eq!(Words::of("-A X -m comment --comment").comment, None);
        assert_eq!(
            Words::of("-A X --comment \"open").comment.as_deref(),
            Some("open")
        );
    }
}
