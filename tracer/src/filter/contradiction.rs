//! Filters that no packet can satisfy, as far as that can be told from the filter alone.

use std::{borrow::Cow, fmt, ops::RangeInclusive};

use tracer_common::criteria;

use super::{
    Wanted,
    criteria::within,
    expression::{Expression, Side, protocol_name},
    headers::has_ports,
};

/// Two conditions of which no packet satisfies both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contradiction {
    /// A port, and a protocol that has none.
    NoPorts(u8),
    /// Two protocols.
    Protocols(u8, u8),
    /// Two ports on one side.
    Ports(Side),
    /// Two addresses on one side.
    Addresses(Side),
}

impl Contradiction {
    /// The first that is found. Of conditions that programs cannot decide, only those are looked at that must hold in
    /// any case.
    #[must_use]
    pub fn of(wanted: &Wanted) -> Option<Self> {
        let rest = match &wanted.rest {
            None => &[][..],
            Some(Expression::All(conditions)) => conditions,
            Some(condition) => std::slice::from_ref(condition),
        };
        rest.iter()
            .find_map(|condition| with_filter(wanted, condition))
            .or_else(|| without_ports(wanted, rest))
    }

    /// What to type instead.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoPorts(_) => "leave the port out, or ask for tcp or udp",
            Self::Protocols(..) => "`tcp or udp` are packets of either",
            Self::Ports(_) => "`dst port 80 or 443` is either; `port 80 and port 443` is one on each side",
            Self::Addresses(_) => "`or` is either; `host A and host B` is one on each side",
        }
    }
}

impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: &Side| match side {
            Side::Source => "source",
            Side::Destination => "destination",
            Side::Either => "other",
        };
        write!(f, "no packet can match: ")?;
        match self {
            Self::NoPorts(protocol) => write!(f, "{} has no ports", name(*protocol)),
            Self::Protocols(one, other) => {
                write!(f, "none is both {} and {}", name(*one), name(*other))
            }
            Self::Ports(of) => write!(f, "none has two {} ports", side(of)),
            Self::Addresses(of) => write!(f, "none has two {} addresses", side(of)),
        }
    }
}

impl std::error::Error for Contradiction {}

fn name(protocol: u8) -> Cow<'static, str> {
    match protocol_name(protocol) {
        Some(name) => name.into(),
        None => format!("protocol {protocol}").into(),
    }
}

/// A condition that must hold, against what the programs look for.
fn with_filter(wanted: &Wanted, condition: &Expression) -> Option<Contradiction> {
    let filter = &wanted.filter;
    let asks = |criterion| filter.criteria & criterion != 0;
    match condition {
        Expression::Protocol(other) if asks(criteria::PROTOCOL) && *other != filter.protocol => {
            Some(Contradiction::Protocols(filter.protocol, *other))
        }
        Expression::Ports { min, max, side } => {
            let (criterion, ports) = match side {
                Side::Source => (
                    criteria::SOURCE_PORT,
                    filter.source_port_min..=filter.source_port_max,
                ),
                Side::Destination => (
                    criteria::DESTINATION_PORT,
                    filter.destination_port_min..=filter.destination_port_max,
                ),
                Side::Either => return None,
            };
            (asks(criterion) && are_apart(&ports, &(*min..=*max))).then_some(Contradiction::Ports(*side))
        }
        Expression::Address { prefix, side, .. } => {
            let (criterion, other) = match side {
                Side::Source => (criteria::SOURCE, &filter.source),
                Side::Destination => (criteria::DESTINATION, &filter.destination),
                Side::Either => return None,
            };
            let apart = !within(&prefix.address, other) && !within(&other.address, prefix);
            (asks(criterion) && apart).then_some(Contradiction::Addresses(*side))
        }
        _ => None,
    }
}

fn are_apart(one: &RangeInclusive<u16>, other: &RangeInclusive<u16>) -> bool {
    one.end() < other.start() || other.end() < one.start()
}

/// A port of a protocol that has none.
fn without_ports(wanted: &Wanted, rest: &[Expression]) -> Option<Contradiction> {
    const PORTS: u32 = criteria::SOURCE_PORT | criteria::DESTINATION_PORT | criteria::EITHER_PORT;

    let filter = &wanted.filter;
    let asks_for_ports = filter.criteria & PORTS != 0 || rest.iter().any(needs_ports);
    let protocol = filter.protocol;
    (filter.criteria & criteria::PROTOCOL != 0 && !has_ports(protocol) && asks_for_ports)
        .then_some(Contradiction::NoPorts(protocol))
}

/// Whether only packets with ports satisfy it.
fn needs_ports(condition: &Expression) -> bool {
    match condition {
        Expression::Ports { .. } => true,
        Expression::All(conditions) => conditions.iter().any(needs_ports),
        Expression::Any(conditions) => conditions.iter().all(needs_ports),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use tracer_common::Filter;

    use super::*;
    use crate::{
        filter::expression::{lower, parse},
        kernel::preflight::Families,
    };

    fn of(text: &str) -> Option<Contradiction> {
        let expression = parse(text).unwrap();
        Contradiction::of(&lower(expression, Families::ALL, Filter::EVERYTHING))
    }

    #[test]
    fn what_no_packet_can_be_is_found() {
        for (text, said) in [
            ("icmp and port 80", "icmp has no ports"),
            ("port 80 or port 443 and icmp", "icmp has no ports"),
            ("proto 89 and src port 1", "protocol 89 has no ports"),
            ("tcp and udp", "none is both tcp and udp"),
            ("dst port 80 and dst port 443", "two destination ports"),
            ("src 10.0.0.1 and src 10.0.0.2", "two source addresses"),
            ("src net 10.0.0.0/8 and src 192.168.0.1", "two source addresses"),
        ] {
            let found = of(text).unwrap_or_else(|| panic!("nothing found: {text}"));
            assert!(found.to_string().contains(said), "{text}: {found}");
        }
    }

    #[test]
    fn what_a_packet_can_be_is_left_alone() {
        for text in [
            "tcp and port 80 and port 443",
            "tcp or udp",
            "icmp or port 80",
            "icmp and not port 80",
            "host 10.0.0.1 and host 10.0.0.2",
            "src net 10.0.0.0/8 and src 10.0.0.1",
            "dst portrange 80-90 and dst portrange 85-95",
            "tcp and tcp",
            "sctp port 80",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
