//! Does a packet satisfy an expression?

use super::{Arithmetic, Expression, Layer, Operator, Relation, Side};
use crate::{
    filter::{
        all, any, criteria,
        headers::{Headers, Transport},
    },
    traversal::Family,
};

/// Why a comparison has no numbers.
enum Missing {
    /// The packet has no such header, or is not that long: the comparison does not hold.
    InPacket,
    /// The packet may have it, but it was not recorded.
    InRecord,
}

impl Expression {
    /// Whether the packet with these headers satisfies it; `None` where the bytes that would decide were not
    /// recorded.
    #[must_use]
    pub fn holds(&self, headers: &Headers<'_>) -> Option<bool> {
        match self {
            Self::All(conditions) => all(conditions.iter().map(|condition| condition.holds(headers))),
            Self::Any(conditions) => any(conditions.iter().map(|condition| condition.holds(headers))),
            Self::Not(condition) => condition.holds(headers).map(|holds| !holds),
            Self::Family(family) => Some(headers.family == *family),
            Self::Protocol(number) => headers.transport().map(|(protocol, _)| protocol == *number),
            Self::Address { family, prefix, side } => {
                if headers.family != *family {
                    return Some(false);
                }
                let (source, destination) = headers.addresses()?;
                let within = |address| criteria::within(address, prefix);
                Some(side.holds(within(&source), within(&destination)))
            }
            Self::Ports { min, max, side } => Some(headers.ports()?.is_some_and(|(source, destination)| {
                let range = min..=max;
                side.holds(range.contains(&&source), range.contains(&&destination))
            })),
            Self::Relation(relation) => {
                let (left, relation, right) = &**relation;
                match (left.value(headers), right.value(headers)) {
                    (Ok(left), Ok(right)) => Some(relation.holds(left, right)),
                    (Err(Missing::InPacket), _) | (_, Err(Missing::InPacket)) => Some(false),
                    (Err(Missing::InRecord), _) | (_, Err(Missing::InRecord)) => None,
                }
            }
        }
    }
}

impl Side {
    fn holds(self, source: bool, destination: bool) -> bool {
        match self {
            Self::Source => source,
            Self::Destination => destination,
            Self::Either => source || destination,
        }
    }
}

impl Relation {
    fn holds(self, left: u32, right: u32) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

impl Arithmetic {
    fn value(&self, headers: &Headers<'_>) -> Result<u32, Missing> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Length => Ok(headers.packet_len),
            Self::Load { layer, at, len } => {
                let start = layer.start(headers)?;
                let at = at.value(headers)?;
                load(headers, start, at, *len)
            }
            Self::Of(of) => {
                let (left, operator, right) = &**of;
                operator.of(left.value(headers)?, right.value(headers)?)
            }
        }
    }
}

impl Layer {
    /// Where the header begins.
    fn start(self, headers: &Headers<'_>) -> Result<usize, Missing> {
        let is_of = |family: Family| headers.family == family;
        match self {
            Self::Network(family) if is_of(family) => Ok(0),
            Self::Transport(_, Some(family)) if !is_of(family) => Err(Missing::InPacket),
            Self::Network(_) => Err(Missing::InPacket),
            Self::Transport(wanted, _) => match headers.transport() {
                Some((protocol, Transport::At(at))) if protocol == wanted => Ok(at),
                Some(_) => Err(Missing::InPacket),
                None => Err(Missing::InRecord),
            },
        }
    }
}

fn load(headers: &Headers<'_>, start: usize, at: u32, len: u8) -> Result<u32, Missing> {
    let at = start.checked_add(at as usize).ok_or(Missing::InPacket)?;
    let end = at.checked_add(usize::from(len)).ok_or(Missing::InPacket)?;
    if end > headers.packet_len as usize {
        return Err(Missing::InPacket);
    }
    let bytes = headers.bytes.get(at..end).ok_or(Missing::InRecord)?;
    Ok(bytes.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
}

impl Operator {
    /// As the virtual machine of packet filters calculates (`net/core/filter.c`), but that a shift by more bits
    /// than there are leaves none.
    fn of(self, left: u32, right: u32) -> Result<u32, Missing> {
        Ok(match self {
            Self::Add => left.wrapping_add(right),
            Self::Subtract => left.wrapping_sub(right),
            Self::Multiply => left.wrapping_mul(right),
            // A packet filter ends without a match there.
            Self::Divide => left.checked_div(right).ok_or(Missing::InPacket)?,
            Self::Remainder => left.checked_rem(right).ok_or(Missing::InPacket)?,
            Self::And => left & right,
            Self::Or => left | right,
            Self::Xor => left ^ right,
            Self::ShiftLeft => left.checked_shl(right).unwrap_or(0),
            Self::ShiftRight => left.checked_shr(right).unwrap_or(0),
        })
    }
}
