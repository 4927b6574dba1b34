//! Fits text to the columns of a terminal. Chinese and other wide characters take two columns, combining ones none.

use unicode_width::UnicodeWidthChar;

/// Fewer columns than these are not enough for anything but a start of a rule's text.
const USEFUL_MIN: usize = 24;

/// Columns that a text takes on a terminal; it has no escape sequences. Counted by character: what terminals make of
/// sequences (emoji, flags) differs.
pub(super) fn columns(text: &str) -> usize {
    text.chars().filter_map(UnicodeWidthChar::width).sum()
}

/// The text, or as much of its start and end as fits into so many columns, with `…` for what is left out. The end of
/// a rule says what it does, so the middle goes first.
pub(super) fn shortened(text: &str, columns_max: usize) -> String {
    if columns(text) <= columns_max {
        return text.to_owned();
    }
    let Some(rest) = columns_max.checked_sub(1) else {
        return String::new();
    };
    let tail_max = rest / 2;
    let head = prefix(text.chars(), rest - tail_max);
    let tail: String = prefix(text.chars().rev(), tail_max).chars().rev().collect();
    format!("{head}…{tail}")
}

fn prefix(text: impl Iterator<Item = char>, columns_max: usize) -> String {
    let mut taken = 0;
    text.take_while(|c| {
        taken += c.width().unwrap_or(0);
        taken <= columns_max
    })
    .collect()
}

/// Where a rule's text goes that follows a label.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On the same line, so much of it.
    Behind(String),
    /// On a line of its own, indented by so many columns.
    Below(String, usize),
}

/// Finds room for a text behind a label that ends at column `used`, when something of `after` columns follows. On a
/// narrow terminal it goes below, indented as far as there is room.
pub(super) fn place(text: &str, used: usize, after: usize, indent: usize, width: Option<usize>) -> Place {
    /// Between label and text.
    const GAP: usize = 2;

    let Some(width) = width else {
        return Place::Behind(text.to_owned());
    };
    let room = width.saturating_sub(used + GAP + after);
    if columns(text) <= room || room >= USEFUL_MIN {
        return Place::Behind(shortened(text, room));
    }
    let indent = (indent + GAP).min(width.saturating_sub(USEFUL_MIN));
    Place::Below(shortened(text, width.saturating_sub(indent)), indent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_left_out() {
        assert_eq!(shortened("-A INPUT -j ACCEPT", 18), "-A INPUT -j ACCEPT");
        assert_eq!(shortened("-A INPUT -p tcp -j ACCEPT", 17), "-A INPUT…j ACCEPT");
        assert_eq!(shortened("abc", 1), "…");
        assert_eq!(shortened("abc", 0), "");
    }

    #[test]
    fn wide_characters_take_two_columns() {
        assert_eq!(columns("默认服务"), 8);
        assert_eq!(columns("é"), 1);
        assert_eq!(columns("e\u{301}"), 1);
        let short = shortened("-m comment --comment \"默认服务的端口\" -j KUBE-SVC", 30);
        assert!(columns(&short) <= 30, "{short}");
    }

    #[test]
    fn what_is_short_of_room_goes_below() {
        let text = "-A KUBE-SERVICES -m comment --comment x -j KUBE-NODEPORTS";
        assert_eq!(place(text, 90, 0, 4, None), Place::Behind(text.to_owned()));
        assert!(matches!(place(text, 20, 0, 4, Some(80)), Place::Behind(_)));
        let Place::Below(short, indent) = place(text, 50, 0, 4, Some(60)) else {
            panic!("behind");
        };
        assert_eq!(indent, 6);
        assert!(columns(&short) + indent <= 60, "{short}");
    }

    #[test]
    fn nothing_is_wider_than_the_terminal() {
        bolero::check!().with_type::<(String, u8, u8, u8, u8)>().for_each(
            |(text, used, after, indent, width)| {
                let text: String = text.chars().filter(|c| !c.is_control()).collect();
                let width = usize::from(*width).max(USEFUL_MIN);
                let used = usize::from(*used);
                match place(
                    &text,
                    used,
                    usize::from(*after),
                    usize::from(*indent),
                    Some(width),
                ) {
                    Place::Behind(short) => {
                        assert!(
                            columns(&short) == 0 || used + 2 + columns(&short) + usize::from(*after) <= width
                        );
                    }
                    Place::Below(short, indent) => assert!(indent + columns(&short) <= width),
                }
            },
        );
    }
}
