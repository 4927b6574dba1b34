//! Words → [`Expression`].
//!
//! `and` and `or` have the same precedence and go from left to right, as in libpcap: `a or b and c` is
//! `(a or b) and c`. A value without keywords takes those of the value before it: `port 80 or 443`.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use tracer_common::Prefix;

use super::{
    Arithmetic, Expression, Layer, Operator, ParseError, Relation, Side,
    lexer::{self, Token},
    names,
};
use crate::{filter::headers::has_ports, traversal::Family};

/// Bytes of an expression. The parser goes as deep as there are parentheses.
const TEXT_LEN_MAX: usize = 4096;
/// Parentheses, brackets and negations within one another.
const DEPTH_MAX: u32 = 64;

/// Reads an expression.
///
/// # Errors
/// What is wrong with it, and where.
pub fn parse(text: &str) -> Result<Expression, ParseError> {
    if text.len() > TEXT_LEN_MAX {
        let text: String = text.chars().take(40).collect();
        return Err(ParseError {
            text: format!("{text}…"),
            place: 0..0,
            message: format!("longer than {TEXT_LEN_MAX} bytes"),
            hint: None,
        });
    }
    let tokens = lexer::tokens(text).map_err(|place| {
        let (message, hint) = match &text[place.clone()] {
            "," => ("no commas here", "say `or`: port 8080 or 443"),
            _ => ("unknown character", "for example: tcp port 80 and host 10.0.0.1"),
        };
        ParseError {
            text: text.to_owned(),
            place,
            message: message.to_owned(),
            hint: Some(hint.to_owned()),
        }
    })?;
    let mut parser = Parser {
        text,
        tokens,
        at: 0,
        depth: 0,
        before: Qualifiers::default(),
    };
    if parser.tokens.is_empty() {
        return Err(parser.error("empty", Some("leave it out to see every packet")));
    }
    let from = parser.at;
    let node = parser.terms()?;
    let expression = parser.condition(node, from)?;
    match parser.peek() {
        None => Ok(expression),
        Some(Token::Sign(")")) => Err(parser.error("`)` without `(`", None)),
        Some(_) => Err(parser.error("expected `and` or `or`", None)),
    }
}

/// What a part of an expression is.
enum Node {
    Condition(Expression),
    Number(Arithmetic),
}

/// What stands before a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Qualifiers {
    protocol: Option<(u8, Option<Family>)>,
    family: Option<Family>,
    sides: Option<Sides>,
    kind: Option<Kind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sides {
    One(Side),
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Protocol,
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<(Token<'a>, Range<usize>)>,
    at: usize,
    depth: u32,
    /// Those of the last value, for one that has none.
    before: Qualifiers,
}

type Result<T, E = ParseError> = std::result::Result<T, E>;

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Token<'a>> {
        self.peek_at(0)
    }

    fn peek_at(&self, ahead: usize) -> Option<Token<'a>> {
        self.tokens.get(self.at + ahead).map(|(token, _)| *token)
    }

    fn word(&self) -> Option<&'a str> {
        match self.peek() {
            Some(Token::Word(word)) => Some(word),
            _ => None,
        }
    }

    /// Takes the next token if it is this one.
    fn takes(&mut self, text: &str) -> bool {
        let found = match self.peek() {
            Some(Token::Word(word)) => word == text,
            Some(Token::Sign(sign)) => sign == text,
            None => false,
        };
        self.at += usize::from(found);
        found
    }

    /// An error at the next token, or behind the last one.
    fn error(&self, message: &str, hint: Option<&str>) -> ParseError {
        let end = self.text.len();
        let place = self.tokens.get(self.at);
        self.error_at(place.map_or(end..end, |(_, place)| place.clone()), message, hint)
    }

    /// An error of everything from a token to the last one that was taken.
    fn error_from(&self, from: usize, message: &str, hint: Option<&str>) -> ParseError {
        let last = self.at.saturating_sub(1).max(from);
        let start = self
            .tokens
            .get(from)
            .map_or(self.text.len(), |(_, place)| place.start);
        let end = self
            .tokens
            .get(last)
            .map_or(self.text.len(), |(_, place)| place.end);
        self.error_at(start..end, message, hint)
    }

    fn error_at(&self, place: Range<usize>, message: &str, hint: Option<&str>) -> ParseError {
        ParseError {
            text: self.text.to_owned(),
            place,
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
        }
    }

    fn deeper<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEPTH_MAX {
            return Err(self.error("too deep", Some("take some parentheses away")));
        }
        self.depth += 1;
        let result = body(self);
        self.depth -= 1;
        result
    }

    fn condition(&self, node: Node, from: usize) -> Result<Expression> {
        match node {
            Node::Condition(expression) => Ok(expression),
            Node::Number(_) => Err(self.error_from(
                from,
                "a number is no condition",
                Some("compare it, for example with `!= 0`; of a port say `port`"),
            )),
        }
    }

    fn terms(&mut self) -> Result<Node> {
        let from = self.at;
        let mut left = self.term()?;
        loop {
            let all = if self.takes("and") || self.takes("&&") {
                true
            } else if self.takes("or") || self.takes("||") {
                false
            } else {
                return Ok(left);
            };
            let first = self.condition(left, from)?;
            let from_right = self.at;
            let right = self.term()?;
            let right = self.condition(right, from_right)?;
            left = Node::Condition(join(all, first, right));
        }
    }

    fn term(&mut self) -> Result<Node> {
        if !(self.takes("not") || self.takes("!")) {
            return self.operand();
        }
        let from = self.at;
        let node = self.deeper(Self::term)?;
        let expression = self.condition(node, from)?;
        Ok(Node::Condition(Expression::Not(Box::new(expression))))
    }

    /// A condition, or the first number of a comparison with what follows.
    fn operand(&mut self) -> Result<Node> {
        let from = self.at;
        if self.takes("(") {
            let node = self.deeper(Self::terms)?;
            if !self.takes(")") {
                return Err(self.error("expected `)`", None));
            }
            return match node {
                Node::Condition(_) => Ok(node),
                Node::Number(first) => self.relation(first, from),
            };
        }
        if self.begins_number() {
            let first = self.number_operand()?;
            return self.relation(first, from);
        }
        self.primitive().map(Node::Condition)
    }

    /// Whether a comparison begins here, and not a value: a header's bytes, a number with an operator behind it.
    fn begins_number(&self) -> bool {
        match (self.peek(), self.peek_at(1)) {
            (Some(Token::Sign("-")), _) => true,
            (Some(Token::Word("len")), _) => true,
            (Some(Token::Word(word)), next) => {
                let is_sign = |sign| next == Some(Token::Sign(sign));
                let is_layer = names::family(word).is_some() || names::protocol(word).is_some();
                let is_number = number(word).is_some() || names::constant(word).is_some();
                let ends = next.is_none()
                    || matches!(next, Some(Token::Word("and" | "or")))
                    || [")", "&&", "||"].into_iter().any(is_sign);
                is_layer && is_sign("[") || is_number && !(ends && self.before.kind.is_some())
            }
            _ => false,
        }
    }

    /// What follows the first number: operators, and the comparison, unless that is outside of the parentheses.
    fn relation(&mut self, first: Arithmetic, from: usize) -> Result<Node> {
        let left = self.operators(first, 0, from)?;
        let relation = match self.peek() {
            Some(Token::Sign("=" | "==")) => Relation::Equal,
            Some(Token::Sign("!=")) => Relation::NotEqual,
            Some(Token::Sign("<")) => Relation::Less,
            Some(Token::Sign("<=")) => Relation::LessOrEqual,
            Some(Token::Sign(">")) => Relation::Greater,
            Some(Token::Sign(">=")) => Relation::GreaterOrEqual,
            _ => return Ok(Node::Number(left)),
        };
        self.at += 1;
        let from = self.at;
        let first = self.number_operand()?;
        let right = self.operators(first, 0, from)?;
        Ok(Node::Condition(Expression::Relation(Box::new((
            left, relation, right,
        )))))
    }

    /// Operators that bind at least so strongly.
    fn operators(&mut self, first: Arithmetic, strength_min: u8, from: usize) -> Result<Arithmetic> {
        let mut left = first;
        while let Some((operator, strength)) = self.peek().and_then(operator) {
            if strength < strength_min {
                break;
            }
            self.at += 1;
            let from_right = self.at;
            let first = self.number_operand()?;
            let right = self.deeper(|parser| parser.operators(first, strength + 1, from_right))?;
            if matches!(operator, Operator::Divide | Operator::Remainder) && right == Arithmetic::Number(0) {
                return Err(self.error_from(from, "division by zero", None));
            }
            left = Arithmetic::Of(Box::new((left, operator, right)));
        }
        Ok(left)
    }

    fn number_operand(&mut self) -> Result<Arithmetic> {
        if self.takes("-") {
            let operand = self.deeper(Self::number_operand)?;
            let zero = Arithmetic::Number(0);
            return Ok(Arithmetic::Of(Box::new((zero, Operator::Subtract, operand))));
        }
        let from = self.at;
        if self.takes("(") {
            let node = self.deeper(Self::terms)?;
            let Node::Number(number) = node else {
                return Err(self.error_from(from, "expected a number, not a condition", None));
            };
            if !self.takes(")") {
                return Err(self.error("expected `)`", None));
            }
            return Ok(number);
        }
        let Some(word) = self.word() else {
            return Err(self.error("expected a number", None));
        };
        let layer = match (names::family(word), names::protocol(word)) {
            (Some(family), _) => Some(Layer::Network(family)),
            (_, Some((protocol, family))) => Some(Layer::Transport(protocol, family)),
            _ => None,
        };
        if let Some(layer) = layer {
            self.at += 1;
            return self.load(layer);
        }
        let found = match word {
            "len" => Some(Arithmetic::Length),
            _ => number(word)
                .or_else(|| names::constant(word))
                .map(Arithmetic::Number),
        };
        match found {
            Some(found) => {
                self.at += 1;
                Ok(found)
            }
            None if word.contains('-') => {
                Err(self.error("expected a number", Some("put spaces around a minus sign")))
            }
            None => Err(self.error("expected a number", None)),
        }
    }

    /// `[at]` or `[at:len]` behind the name of a header.
    fn load(&mut self, layer: Layer) -> Result<Arithmetic> {
        if !self.takes("[") {
            return Err(self.error("expected `[`", Some("bytes of a header are written tcp[13]")));
        }
        let from = self.at;
        let node = self.deeper(Self::terms)?;
        let Node::Number(at) = node else {
            return Err(self.error_from(from, "expected a number", None));
        };
        let mut len = 1;
        if self.takes(":") {
            len = match self.word().and_then(number) {
                Some(1) => 1,
                Some(2) => 2,
                Some(4) => 4,
                _ => return Err(self.error("expected 1, 2 or 4 bytes", None)),
            };
            self.at += 1;
        }
        if !self.takes("]") {
            return Err(self.error("expected `]`", None));
        }
        Ok(Arithmetic::Load {
            layer,
            at: Box::new(at),
            len,
        })
    }

    /// Keywords with a value, or a keyword that stands for itself.
    fn primitive(&mut self) -> Result<Expression> {
        let from = self.at;
        let Some(word) = self.word() else {
            return Err(self.error(
                "expected a condition",
                Some("for example: tcp port 80 and host 10.0.0.1"),
            ));
        };
        if let Some(hint) = names::elsewhere(word) {
            return Err(self.error(&format!("`{word}` is not known in an IP table"), Some(hint)));
        }
        if word == "less" || word == "greater" {
            self.at += 1;
            return self.length(word);
        }
        let mut qualifiers = Qualifiers::default();
        if let Some(family) = names::family(word) {
            self.at += 1;
            qualifiers.family = Some(family);
            if !self.continues() {
                return Ok(Expression::Family(family));
            }
        } else if let Some(protocol) = names::protocol(word) {
            self.at += 1;
            qualifiers.protocol = Some(protocol);
            if !self.continues() {
                return Ok(of_protocol(protocol));
            }
        }
        qualifiers.sides = self.sides()?;
        qualifiers.kind = self.kind();
        if self.at == from {
            qualifiers = self.before;
        }
        let expression = self.value(qualifiers, from)?;
        self.before = qualifiers;
        Ok(expression)
    }

    /// Whether a value, or keywords that belong to one, comes next.
    fn continues(&self) -> bool {
        match self.peek() {
            Some(Token::Word("and" | "or")) | None => false,
            Some(Token::Word(_)) => true,
            Some(Token::Sign(_)) => false,
        }
    }

    fn sides(&mut self) -> Result<Option<Sides>> {
        let side = |parser: &mut Self| {
            if parser.takes("src") {
                Some(Side::Source)
            } else if parser.takes("dst") {
                Some(Side::Destination)
            } else {
                None
            }
        };
        let from = self.at;
        let Some(first) = side(self) else {
            return Ok(None);
        };
        let other = match first {
            Side::Source => "dst",
            Side::Destination | Side::Either => "src",
        };
        let joined = match (self.peek(), self.peek_at(1)) {
            (Some(Token::Word("or") | Token::Sign("||")), Some(Token::Word(word))) if word == other => {
                Sides::One(Side::Either)
            }
            (Some(Token::Word("and") | Token::Sign("&&")), Some(Token::Word(word))) if word == other => {
                Sides::Both
            }
            _ => return Ok(Some(Sides::One(first))),
        };
        self.at += 2;
        if self.peek().is_none() {
            return Err(self.error_from(from, "expected what both stand for", Some("src or dst port 80")));
        }
        Ok(Some(joined))
    }

    fn kind(&mut self) -> Option<Kind> {
        let kind = match self.word()? {
            "host" => Kind::Host,
            "net" => Kind::Net,
            "port" => Kind::Port,
            "portrange" => Kind::PortRange,
            "proto" => Kind::Protocol,
            _ => return None,
        };
        self.at += 1;
        Some(kind)
    }

    /// `less N`, `greater N`: both with N itself.
    fn length(&mut self, word: &str) -> Result<Expression> {
        let Some(len) = self.word().and_then(number) else {
            return Err(self.error(&format!("expected a length in bytes after `{word}`"), None));
        };
        self.at += 1;
        let relation = if word == "less" {
            Relation::LessOrEqual
        } else {
            Relation::GreaterOrEqual
        };
        Ok(Expression::Relation(Box::new((
            Arithmetic::Length,
            relation,
            Arithmetic::Number(len),
        ))))
    }

    fn value(&mut self, qualifiers: Qualifiers, from: usize) -> Result<Expression> {
        let what = match qualifiers.kind {
            None if qualifiers == Qualifiers::default() => "a condition",
            None | Some(Kind::Host) => "an address",
            Some(Kind::Net) => "a network",
            Some(Kind::Port) => "a port",
            Some(Kind::PortRange) => "a range of ports",
            Some(Kind::Protocol) => "a protocol",
        };
        let Some(word) = self.word() else {
            let hint = match qualifiers.kind {
                None if from != self.at => Some("for example: src host 10.0.0.1, dst port 80"),
                _ => None,
            };
            return Err(self.error(&format!("expected {what}"), hint));
        };
        let condition = match qualifiers.kind {
            None | Some(Kind::Host) => self.address(word, qualifiers, what)?,
            Some(Kind::Net) => self.network(word, qualifiers)?,
            Some(Kind::Port) => self.ports(word, qualifiers, false)?,
            Some(Kind::PortRange) => self.ports(word, qualifiers, true)?,
            Some(Kind::Protocol) => self.protocol(word, qualifiers)?,
        };
        let mut conditions = Vec::new();
        conditions.extend(qualifiers.family.map(Expression::Family));
        conditions.extend(qualifiers.protocol.map(of_protocol));
        conditions.push(condition);
        Ok(all(conditions))
    }

    fn address(&mut self, word: &str, qualifiers: Qualifiers, what: &str) -> Result<Expression> {
        let slash = self.peek_at(1) == Some(Token::Sign("/"));
        if slash && qualifiers.kind == Some(Kind::Host) {
            return Err(self.error("an address has no length", Some("use `net` for a prefix")));
        }
        if slash && (qualifiers != Qualifiers::default() || word.parse::<IpAddr>().is_ok()) {
            return self.network(word, qualifiers);
        }
        let Ok(address) = word.parse::<IpAddr>() else {
            return Err(self.not_an_address(word, qualifiers, what));
        };
        let len = if address.is_ipv4() { 32 } else { 128 };
        let expression = self.prefix(address, len, qualifiers)?;
        self.at += 1;
        Ok(expression)
    }

    fn not_an_address(&self, word: &str, qualifiers: Qualifiers, what: &str) -> ParseError {
        if let Some(hint) = names::elsewhere(word) {
            return self.error(&format!("`{word}` is not known in an IP table"), Some(hint));
        }
        const KEYWORDS: [&str; 16] = [
            "host",
            "net",
            "port",
            "portrange",
            "proto",
            "src",
            "dst",
            "and",
            "or",
            "not",
            "tcp",
            "udp",
            "icmp",
            "icmp6",
            "ip",
            "ip6",
        ];
        let message = format!("expected {what}, not `{word}`");
        let lower = word.to_ascii_lowercase();
        let hint = if KEYWORDS.contains(&lower.as_str()) && lower != word {
            Some("keywords are in lower case".to_owned())
        } else if number(word).is_some() {
            Some(format!(
                "a port is `port {word}`, a protocol `proto {word}`, a network `net {word}`"
            ))
        } else if let Some(keyword) = KEYWORDS.iter().find(|keyword| is_near(keyword, word)) {
            Some(format!("did you mean `{keyword}`?"))
        } else if qualifiers != Qualifiers::default() && !word.contains(['.', ':']) || word.contains('.') {
            Some("names are not looked up; give the address".to_owned())
        } else {
            Some("for example: tcp port 80 and host 10.0.0.1".to_owned())
        };
        self.error(&message, hint.as_deref())
    }

    /// `10`, `10.1`, `10.1.0.0/16`, `10.1.0.0 mask 255.255.0.0`, `fd00::/8`
    fn network(&mut self, word: &str, qualifiers: Qualifiers) -> Result<Expression> {
        let from = self.at;
        let (address, given_len): (IpAddr, u8) = if let Ok(address) = word.parse::<Ipv6Addr>() {
            (address.into(), 128)
        } else if let Some((address, len)) = partial_ipv4(word) {
            (address.into(), len)
        } else {
            return Err(self.not_an_address(word, qualifiers, "a network"));
        };
        self.at += 1;
        let len_max = if address.is_ipv4() { 32 } else { 128 };
        let len = if self.takes("/") {
            let len = self
                .word()
                .and_then(number)
                .and_then(|len| u8::try_from(len).ok());
            let Some(len) = len.filter(|len| *len <= len_max) else {
                return Err(self.error(&format!("expected a length from 0 to {len_max}"), None));
            };
            self.at += 1;
            len
        } else if address.is_ipv4() && self.takes("mask") {
            let mask = self.word().and_then(|word| word.parse::<Ipv4Addr>().ok());
            let mask = mask
                .map(u32::from)
                .filter(|mask| mask.leading_ones() + mask.trailing_zeros() >= 32);
            let Some(mask) = mask else {
                return Err(self.error("expected a mask such as 255.255.0.0", None));
            };
            self.at += 1;
            u8::try_from(mask.leading_ones()).unwrap_or(32)
        } else {
            given_len
        };
        self.prefix(address, len, qualifiers).map_err(|error| ParseError {
            place: self.error_from(from, "", None).place,
            ..error
        })
    }

    fn prefix(&self, address: IpAddr, len: u8, qualifiers: Qualifiers) -> Result<Expression> {
        let family = if address.is_ipv4() {
            Family::Ipv4
        } else {
            Family::Ipv6
        };
        let implied = qualifiers
            .family
            .or(qualifiers.protocol.and_then(|(_, family)| family));
        if implied.is_some_and(|implied| implied != family) {
            return Err(self.error("an address of the other family", None));
        }
        let mask = u128::MAX
            .checked_shl(128 - u32::from(len))
            .unwrap_or(0)
            .to_be_bytes();
        let mut bytes = [0; 16];
        match address {
            IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
            IpAddr::V6(address) => bytes = address.octets(),
        }
        if bytes.iter().zip(mask).any(|(byte, mask)| byte & !mask != 0) {
            return Err(self.error("the address has bits beyond its length", None));
        }
        let prefix = Prefix { address: bytes, mask };
        Ok(on_sides(qualifiers.sides, |side| Expression::Address {
            family,
            prefix,
            side,
        }))
    }

    fn ports(&mut self, word: &str, qualifiers: Qualifiers, range: bool) -> Result<Expression> {
        if let Some((protocol, _)) = qualifiers.protocol
            && !has_ports(protocol)
        {
            let hint = "leave the port out, or ask for tcp or udp";
            return Err(self.error("this protocol has no ports", Some(hint)));
        }
        let port = |word: &str| {
            number(word)
                .and_then(|port| u16::try_from(port).ok())
                .or_else(|| names::port(word))
        };
        let (min, max) = match word.split_once('-') {
            Some((min, max)) if range => (port(min), port(max)),
            Some(_) if number(&word[..1]).is_some() => {
                return Err(self.error("expected one port", Some("use `portrange` for a range")));
            }
            _ if range => {
                return Err(self.error(
                    "expected a range of ports",
                    Some("for example: portrange 8000-8080"),
                ));
            }
            _ => (port(word), port(word)),
        };
        let (Some(min), Some(max)) = (min, max) else {
            let hint = "a number from 0 to 65535, or a well-known name";
            return Err(self.error("expected a port", Some(hint)));
        };
        self.at += 1;
        Ok(on_sides(qualifiers.sides, |side| Expression::Ports {
            min: min.min(max),
            max: min.max(max),
            side,
        }))
    }

    fn protocol(&mut self, word: &str, qualifiers: Qualifiers) -> Result<Expression> {
        if qualifiers.sides.is_some() || qualifiers.protocol.is_some() {
            return Err(self.error("only `ip` or `ip6` can stand before `proto`", None));
        }
        let name = word.strip_prefix('\\').unwrap_or(word);
        let number = number(name).and_then(|number| u8::try_from(number).ok());
        let found = number.or_else(|| names::protocol(name).map(|(number, _)| number));
        let Some(found) = found else {
            return Err(self.error(
                "expected a protocol",
                Some("a name such as tcp, or a number up to 255"),
            ));
        };
        self.at += 1;
        Ok(Expression::Protocol(found))
    }
}

fn of_protocol((number, family): (u8, Option<Family>)) -> Expression {
    let mut conditions: Vec<_> = family.map(Expression::Family).into_iter().collect();
    conditions.push(Expression::Protocol(number));
    all(conditions)
}

fn on_sides(sides: Option<Sides>, one: impl Fn(Side) -> Expression) -> Expression {
    match sides {
        None => one(Side::Either),
        Some(Sides::One(side)) => one(side),
        Some(Sides::Both) => all(vec![one(Side::Source), one(Side::Destination)]),
    }
}

fn all(mut conditions: Vec<Expression>) -> Expression {
    match conditions.len() {
        1 => conditions.remove(0),
        _ => Expression::All(conditions),
    }
}

/// Two conditions as one; a longer row of the same kind stays flat.
fn join(all: bool, first: Expression, second: Expression) -> Expression {
    match (all, first) {
        (true, Expression::All(mut conditions)) => {
            conditions.push(second);
            Expression::All(conditions)
        }
        (false, Expression::Any(mut conditions)) => {
            conditions.push(second);
            Expression::Any(conditions)
        }
        (true, first) => Expression::All(vec![first, second]),
        (false, first) => Expression::Any(vec![first, second]),
    }
}

/// Decimal, or hexadecimal after `0x`. Octal numbers are not known: `010` is ten to most people.
fn number(word: &str) -> Option<u32> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None if word.bytes().all(|byte| byte.is_ascii_digit()) => word.parse().ok(),
        None => None,
    }
}

/// An operator, and how strongly it binds: those of C.
fn operator(token: Token<'_>) -> Option<(Operator, u8)> {
    let Token::Sign(sign) = token else {
        return None;
    };
    Some(match sign {
        "|" => (Operator::Or, 0),
        "^" => (Operator::Xor, 1),
        "&" => (Operator::And, 2),
        "<<" => (Operator::ShiftLeft, 3),
        ">>" => (Operator::ShiftRight, 3),
        "+" => (Operator::Add, 4),
        "-" => (Operator::Subtract, 4),
        "*" => (Operator::Multiply, 5),
        "/" => (Operator::Divide, 5),
        "%" => (Operator::Remainder, 5),
        _ => return None,
    })
}

/// The first bytes of an IPv4 address, and how many bits they are.
fn partial_ipv4(word: &str) -> Option<(Ipv4Addr, u8)> {
    let mut octets = [0; 4];
    let mut len = 0;
    for part in word.split('.') {
        let value = number(part).and_then(|value| u8::try_from(value).ok())?;
        *octets.get_mut(usize::from(len) / 8)? = value;
        len += 8;
    }
    Some((octets.into(), len))
}

/// Whether a word is a keyword with one letter wrong, missing, too many, or swapped with the next.
fn is_near(keyword: &str, word: &str) -> bool {
    let (a, b) = (keyword.as_bytes(), word.as_bytes());
    if a.len() < 3 || a.len().abs_diff(b.len()) > 1 || a == b {
        return false;
    }
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (rest_a, rest_b) = (&a[same..], &b[same..]);
    let skip = |bytes: &[u8], count: usize| bytes.get(count..).unwrap_or_default().to_vec();
    skip(rest_a, 1) == skip(rest_b, 1)
        || skip(rest_a, 1) == rest_b
        || rest_a == skip(rest_b, 1)
        || (rest_a.len() >= 2
            && rest_b.len() >= 2
            && rest_a[0] == rest_b[1]
            && rest_a[1] == rest_b[0]
            && rest_a[2..] == rest_b[2..])
}
