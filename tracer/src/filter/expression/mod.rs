//! Filter expressions in tcpdump's syntax (`pcap-filter(7)`), on what a table sees of a packet.
//!
//! | file | what it does |
//! |---|---|
//! | `lexer.rs` | text → words, each with its place |
//! | `parser.rs` | words → [`Expression`], or what is wrong where |
//! | `names.rs` | the names of protocols, ports and header fields |
//! | `eval.rs` | does a packet satisfy it |
//! | `lower.rs` | which parts the programs can decide |
//!
//! What differs from libpcap, because an IP table is no network card: lengths count from the IP header; there are
//! no link-layer primitives; IPv6 extension headers are looked through; `port` knows UDP-Lite and DCCP too;
//! `tcp[…]` also works for IPv6; and a comparison that looks beyond the end of the packet does not hold.

mod eval;
mod lexer;
mod lower;
mod names;
mod parser;
#[cfg(test)]
mod tests;

use std::{fmt, ops::Range};

use tracer_common::Prefix;

pub use lower::lower;
pub(super) use names::name_of as protocol_name;
pub use parser::parse;

use crate::traversal::Family;

/// A condition on a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expression {
    /// All hold.
    All(Vec<Expression>),
    /// Any holds.
    Any(Vec<Expression>),
    /// It does not hold.
    Not(Box<Expression>),
    /// The packet is of this family.
    Family(Family),
    /// Its transport protocol has this number.
    Protocol(u8),
    /// An address of it is in this prefix.
    Address {
        /// Family of the prefix.
        family: Family,
        /// The prefix.
        prefix: Prefix,
        /// Which address.
        side: Side,
    },
    /// A port of it is in this range.
    Ports {
        /// Lowest.
        min: u16,
        /// Highest.
        max: u16,
        /// Which port.
        side: Side,
    },
    /// Two numbers compare so.
    Relation(Box<(Arithmetic, Relation, Arithmetic)>),
}

/// Which end of the packet's way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Where it is from.
    Source,
    /// Where it goes.
    Destination,
    /// One of them.
    Either,
}

/// How two numbers compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// `=`, `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A number, 32 bits without sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// Itself.
    Number(u32),
    /// Length of the packet from its IP header on.
    Length,
    /// Bytes of a header.
    Load {
        /// Which header.
        layer: Layer,
        /// Where they begin in it.
        at: Box<Arithmetic>,
        /// How many: 1, 2 or 4.
        len: u8,
    },
    /// Of two others.
    Of(Box<(Arithmetic, Operator, Arithmetic)>),
}

/// A header that bytes are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The IP header, of a packet of this family.
    Network(Family),
    /// The header of this transport protocol, of a packet of this family if one is given.
    Transport(u8, Option<Family>),
}

/// What is done with two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are what they are called")]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    And,
    Or,
    Xor,
    ShiftLeft,
    ShiftRight,
}

/// What is wrong with an expression, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    text: String,
    place: Range<usize>,
    message: String,
    hint: Option<String>,
}

impl ParseError {
    /// What to type instead, where that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

/// The message, the expression, and a mark below the place.
impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One column for each character, whatever it is.
        let plain = |text: &str| -> String {
            text.chars()
                .map(|c| if c.is_control() || c == '\u{fffd}' { '?' } else { c })
                .collect()
        };
        let columns = |range: Range<usize>| self.text.get(range).map_or(0, |text| text.chars().count());
        let before = columns(0..self.place.start);
        let marked = columns(self.place.clone()).max(1);
        write!(
            f,
            "failed to read the filter: {}\n  {}\n  {:before$}^{:~<more$}",
            self.message,
            plain(&self.text),
            "",
            "",
            more = marked - 1
        )
    }
}

impl std::error::Error for ParseError {}
