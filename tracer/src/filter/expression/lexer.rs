//! Splits an expression into words and signs, each with its place.

use std::ops::Range;

/// A word or a sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// Letters, digits and what stands between them in names and addresses.
    Word(&'a str),
    /// Anything else that has a meaning.
    Sign(&'static str),
}

/// The signs, longer ones before their beginnings.
const SIGNS: [&str; 24] = [
    "&&", "||", "==", "!=", "<=", ">=", "<<", ">>", "(", ")", "[", "]", "!", "=", "<", ">", "&", "|", "^",
    "+", "-", "*", "/", "%",
];

/// All words and signs. The error is the place of a character that has no meaning.
pub(super) fn tokens(text: &str) -> Result<Vec<(Token<'_>, Range<usize>)>, Range<usize>> {
    let mut tokens = Vec::new();
    let mut brackets: u32 = 0;
    let mut at = 0;
    while let Some(next) = text[at..].chars().next() {
        if next.is_whitespace() {
            at += next.len_utf8();
            continue;
        }
        let len = word_len(&text[at..], brackets > 0);
        let (token, len) = if len > 0 {
            (Token::Word(&text[at..at + len]), len)
        } else if brackets > 0 && next == ':' {
            (Token::Sign(":"), 1)
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| text[at..].starts_with(sign)) {
            match sign {
                "[" => brackets += 1,
                "]" => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            (Token::Sign(sign), sign.len())
        } else {
            return Err(at..at + next.len_utf8());
        };
        tokens.push((token, at..at + len));
        at += len;
    }
    Ok(tokens)
}

/// Bytes of the word that the text begins with. Colons belong to addresses, but not within brackets, where they
/// stand before a length; a hyphen belongs to a name or range where it is between its letters or digits.
fn word_len(text: &str, in_brackets: bool) -> usize {
    let bytes = text.as_bytes();
    let is_colon = |at: usize| !in_brackets && bytes.get(at) == Some(&b':');
    let is_part = |at: usize| {
        is_colon(at)
            || bytes
                .get(at)
                .is_some_and(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_'))
    };
    let start = usize::from(bytes.first() == Some(&b'\\'));
    let mut len = start;
    while is_part(len) || (len > start && bytes.get(len) == Some(&b'-') && is_part(len + 1)) {
        len += 1;
    }
    if len == start { 0 } else { len }
}
