//! What a packet was looked up by in a verdict map: which element it met.
//!
//! The kernel does not say. But where the key is made of nothing but fields of the packet, they are known: what a rule
//! loads into registers is read off it ([`Registers`]), and the fields are those that the packet had when it met the rule.

use std::collections::BTreeMap;

use super::{
    model::{IpVersion, KeyPart},
    netlink::Attributes,
};
use crate::{
    packet::{Packet, Transport},
    traversal::Device,
};

// Attributes: include/uapi/linux/netfilter/nf_tables.h.
const PAYLOAD_REGISTER: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LEN: u16 = 4;
const PAYLOAD_SOURCE: u16 = 5;
const META_REGISTER: u16 = 1;
const META_KEY: u16 = 2;
pub(super) const LOOKUP_SET: u16 = 1;
const LOOKUP_SOURCE: u16 = 2;
const LOOKUP_REGISTER: u16 = 3;
/// `NFT_REG_VERDICT`
pub(super) const VERDICT: u32 = 0;
/// `NFT_REG_4`: these are four words long.
const LAST_OF_FOUR_WORDS: u32 = 4;
/// `NFT_REG32_00`, `NFT_REG32_15`: these are one word long, and lie in the same place.
const OF_ONE_WORD: [u32; 2] = [8, 23];

/// The registers while a rule's expressions run: fields of the packet, by the word that they begin in.
#[derive(Debug, Default)]
pub(super) struct Registers {
    parts: BTreeMap<u32, KeyPart>,
    /// Fields are not those that the packet came with any more.
    is_changed: bool,
}

impl Registers {
    /// Runs an expression; the key, if it looks up a verdict.
    pub(super) fn run(
        &mut self,
        name: &str,
        data: Attributes<'_>,
        key_len: &dyn Fn(&str) -> Option<u32>,
    ) -> Option<Vec<KeyPart>> {
        let load = |part: Option<KeyPart>, register| Some((word(data.be32(register)?)?, part?));
        match name {
            "payload" if data.get(PAYLOAD_SOURCE).is_none() => {
                self.put(load(payload(data), PAYLOAD_REGISTER));
            }
            "meta" if data.get(META_REGISTER).is_some() => self.put(load(meta(data), META_REGISTER)),
            "lookup" if data.be32(LOOKUP_REGISTER) == Some(VERDICT) => {
                let len = key_len(&data.string(LOOKUP_SET)?)?;
                return self.key(word(data.be32(LOOKUP_SOURCE)?)?, len);
            }
            // These leave the registers as they are.
            "cmp" | "range" | "counter" | "limit" | "quota" | "log" | "match" | "last" => {}
            "lookup" if data.get(LOOKUP_REGISTER).is_none() => {}
            "payload" | "exthdr" | "target" => {
                self.is_changed = true;
            }
            _ => self.parts.clear(),
        }
        None
    }

    fn put(&mut self, load: Option<(u32, KeyPart)>) {
        match load {
            Some((word, part)) => {
                self.parts.insert(word, part);
            }
            // Whatever it is, and wherever it ends.
            None => self.parts.clear(),
        }
    }

    /// The key of so many bytes that begins in a word. Each part begins in a word of its own.
    fn key(&self, mut word: u32, len: u32) -> Option<Vec<KeyPart>> {
        let mut parts = Vec::new();
        let mut words = 0;
        while words * 4 < len {
            let part = self.parts.get(&word)?;
            words += part.len().div_ceil(4);
            word += part.len().div_ceil(4);
            parts.push(*part);
        }
        let is_whole = match parts[..] {
            [only] => only.len() == len,
            _ => words * 4 == len,
        };
        (is_whole && !self.is_changed).then_some(parts)
    }
}

impl KeyPart {
    /// Its bytes in a key.
    fn len(self) -> u32 {
        match self {
            Self::Source(IpVersion::V4) | Self::Destination(IpVersion::V4) => 4,
            Self::Source(IpVersion::V6)
            | Self::Destination(IpVersion::V6)
            | Self::InDevice
            | Self::OutDevice => 16,
            Self::Protocol => 1,
            Self::SourcePort | Self::DestinationPort => 2,
        }
    }
}

/// The word in which a register begins.
fn word(register: u32) -> Option<u32> {
    match register {
        1..=LAST_OF_FOUR_WORDS => Some((register - 1) * 4),
        _ if register >= OF_ONE_WORD[0] && register <= OF_ONE_WORD[1] => Some(register - OF_ONE_WORD[0]),
        _ => None,
    }
}

/// The field that is loaded from the packet.
fn payload(data: Attributes<'_>) -> Option<KeyPart> {
    /// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`
    const BASES: (u32, u32) = (1, 2);

    let number = |attribute| data.be32(attribute);
    let place = (
        number(PAYLOAD_BASE)?,
        number(PAYLOAD_OFFSET)?,
        number(PAYLOAD_LEN)?,
    );
    Some(match place {
        (base, 12, 4) if base == BASES.0 => KeyPart::Source(IpVersion::V4),
        (base, 16, 4) if base == BASES.0 => KeyPart::Destination(IpVersion::V4),
        (base, 8, 16) if base == BASES.0 => KeyPart::Source(IpVersion::V6),
        (base, 24, 16) if base == BASES.0 => KeyPart::Destination(IpVersion::V6),
        (base, 0, 2) if base == BASES.1 => KeyPart::SourcePort,
        (base, 2, 2) if base == BASES.1 => KeyPart::DestinationPort,
        _ => return None,
    })
}

/// The same of what goes with it.
fn meta(data: Attributes<'_>) -> Option<KeyPart> {
    Some(match data.be32(META_KEY)? {
        6 => KeyPart::InDevice,
        7 => KeyPart::OutDevice,
        16 => KeyPart::Protocol,
        _ => return None,
    })
}

/// The key of a packet, as `nft` writes it: `10.96.0.10 . udp . 53`.
pub(super) fn key_of(parts: &[KeyPart], headers: &[u8], devices: [Option<&Device>; 2]) -> Option<String> {
    let packet = Packet::parse(headers)?;
    let (source_port, destination_port) = match packet.transport {
        Transport::Tcp {
            source, destination, ..
        }
        | Transport::Ports { source, destination } => (Some(source), Some(destination)),
        _ => (None, None),
    };
    let said = parts.iter().map(|part| {
        Some(match part {
            KeyPart::Source(version) => address(packet.source, *version)?,
            KeyPart::Destination(version) => address(packet.destination, *version)?,
            KeyPart::Protocol => packet.protocol_name().to_lowercase(),
            KeyPart::SourcePort => source_port?.to_string(),
            KeyPart::DestinationPort => destination_port?.to_string(),
            KeyPart::InDevice => devices[0]?.name.clone(),
            KeyPart::OutDevice => devices[1]?.name.clone(),
        })
    });
    Some(said.collect::<Option<Vec<_>>>()?.join(" . "))
}

fn address(address: std::net::IpAddr, version: IpVersion) -> Option<String> {
    (address.is_ipv4() == (version == IpVersion::V4)).then(|| address.to_string())
}
