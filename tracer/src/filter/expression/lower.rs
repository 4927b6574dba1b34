//! Which parts of an expression the programs can decide: parts that all must hold, and that are of the kinds for
//! which the programs have a place each. The others are decided in user space, on the packets that are left.

use tracer_common::{Filter, criteria};

use super::{Expression, Side};
use crate::{filter::Wanted, kernel::preflight::Families, traversal::Family};

/// Adds what the programs can decide to their filter. Together, the three parts hold of exactly those packets of
/// which the filter and the expression did.
#[must_use]
pub fn lower(expression: Expression, families: Families, filter: Filter) -> Wanted {
    let mut wanted = Wanted {
        families,
        filter,
        rest: None,
        connections: false,
    };
    let mut rest = Vec::new();
    wanted.lower(expression, &mut rest);
    wanted.rest = match rest.len() {
        0 => None,
        1 => rest.pop(),
        _ => Some(Expression::All(rest)),
    };
    wanted
}

impl Wanted {
    fn lower(&mut self, expression: Expression, rest: &mut Vec<Expression>) {
        let done = match &expression {
            Expression::All(_) => {
                let Expression::All(conditions) = expression else {
                    return;
                };
                for condition in conditions {
                    self.lower(condition, rest);
                }
                return;
            }
            Expression::Family(family) => {
                self.only(*family);
                true
            }
            Expression::Protocol(number) => {
                let number = *number;
                self.place(criteria::PROTOCOL, |filter| &mut filter.protocol, number)
            }
            Expression::Address { family, prefix, side } => {
                let (family, prefix) = (*family, *prefix);
                let placed = match side {
                    Side::Source => self.place(criteria::SOURCE, |filter| &mut filter.source, prefix),
                    Side::Destination => {
                        self.place(criteria::DESTINATION, |filter| &mut filter.destination, prefix)
                    }
                    Side::Either => self.place(criteria::EITHER, |filter| &mut filter.either, prefix),
                };
                if placed {
                    self.only(family);
                }
                placed
            }
            Expression::Ports { min, max, side } => self.place_ports(*min, *max, *side),
            Expression::Any(_) | Expression::Not(_) | Expression::Relation(_) => false,
        };
        if !done {
            rest.push(expression);
        }
    }

    fn only(&mut self, family: Family) {
        self.families.ipv4 &= family == Family::Ipv4;
        self.families.ipv6 &= family == Family::Ipv6;
    }

    /// Puts a value in its place, if that is free or has the same.
    fn place<T: PartialEq>(
        &mut self,
        criterion: u32,
        place: impl Fn(&mut Filter) -> &mut T,
        value: T,
    ) -> bool {
        let taken = self.filter.criteria & criterion != 0;
        let place = place(&mut self.filter);
        if taken && *place != value {
            return false;
        }
        *place = value;
        self.filter.criteria |= criterion;
        true
    }

    fn place_ports(&mut self, min: u16, max: u16, side: Side) -> bool {
        let filter = &mut self.filter;
        let (criterion, low, high) = match side {
            Side::Source => (
                criteria::SOURCE_PORT,
                &mut filter.source_port_min,
                &mut filter.source_port_max,
            ),
            Side::Destination => (
                criteria::DESTINATION_PORT,
                &mut filter.destination_port_min,
                &mut filter.destination_port_max,
            ),
            Side::Either => (
                criteria::EITHER_PORT,
                &mut filter.either_port_min,
                &mut filter.either_port_max,
            ),
        };
        if filter.criteria & criterion != 0 && (*low, *high) != (min, max) {
            return false;
        }
        (*low, *high) = (min, max);
        filter.criteria |= criterion;
        true
    }
}
