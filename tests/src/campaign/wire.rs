//! Packets, byte by byte.

/// An IPv4 header and what follows it.
#[derive(Clone, Debug)]
pub(super) struct V4 {
    pub(super) from: [u8; 4],
    pub(super) to: [u8; 4],
    pub(super) protocol: u8,
    pub(super) id: u16,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    /// Flags and offset.
    pub(super) fragment: u16,
    /// A multiple of four bytes.
    pub(super) options: Vec<u8>,
}

impl V4 {
    pub(super) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let words = u8::try_from(header_len / 4).unwrap_or(5);
        let len = u16::try_from(header_len + payload.len()).unwrap_or(u16::MAX);
        let mut packet = vec![0x40 | words, self.tos];
        packet.extend(len.to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.from);
        packet.extend(self.to);
        packet.extend(&self.options);
        let sum = fold(add(0, &packet));
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(payload);
        packet
    }

    /// What the checksums of TCP and UDP begin with.
    pub(super) fn pseudo(&self, len: usize) -> u32 {
        let sum = add(add(0, &self.from), &self.to) + u32::from(self.protocol);
        sum + u32::try_from(len).unwrap_or(0)
    }
}

/// An IPv6 header and what follows it.
#[derive(Clone, Debug)]
pub(super) struct V6 {
    pub(super) from: [u8; 16],
    pub(super) to: [u8; 16],
    pub(super) hop_limit: u8,
    pub(super) class: u8,
    pub(super) flow: u16,
    /// Extension headers: the number of each, and all its bytes but the first (the next header's number).
    pub(super) extensions: Vec<(u8, Vec<u8>)>,
    pub(super) protocol: u8,
}

impl V6 {
    pub(super) fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let numbers: Vec<u8> = self
            .extensions
            .iter()
            .map(|(number, _)| *number)
            .chain([self.protocol])
            .collect();
        let mut rest = Vec::new();
        for ((_, bytes), next) in self.extensions.iter().zip(&numbers[1..]) {
            rest.push(*next);
            rest.extend(bytes);
        }
        rest.extend(payload);
        let len = u16::try_from(rest.len()).unwrap_or(u16::MAX);
        let mut packet = vec![0x60 | self.class >> 4, self.class << 4];
        packet.extend(self.flow.to_be_bytes());
        packet.extend(len.to_be_bytes());
        packet.extend([numbers[0], self.hop_limit]);
        packet.extend(self.from);
        packet.extend(self.to);
        packet.extend(rest);
        packet
    }

    pub(super) fn pseudo(&self, len: usize) -> u32 {
        let sum = add(add(0, &self.from), &self.to) + u32::from(self.protocol);
        sum + u32::try_from(len).unwrap_or(0)
    }
}

/// A TCP segment; its checksum is right.
pub(super) fn tcp(
    [from, to]: [u16; 2],
    flags: u8,
    sequence: u32,
    options: &[u8],
    data: &[u8],
    pseudo: impl Fn(usize) -> u32,
) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap_or(5);
    let mut segment = Vec::new();
    segment.extend(from.to_be_bytes());
    segment.extend(to.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend([words << 4, flags]);
    segment.extend(1024_u16.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment.extend(data);
    let sum = fold(add(pseudo(segment.len()), &segment));
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// A UDP datagram; its checksum is right.
pub(super) fn udp([from, to]: [u16; 2], data: &[u8], pseudo: impl Fn(usize) -> u32) -> Vec<u8> {
    let len = 8 + data.len();
    let mut datagram = Vec::new();
    datagram.extend(from.to_be_bytes());
    datagram.extend(to.to_be_bytes());
    datagram.extend(u16::try_from(len).unwrap_or(8).to_be_bytes());
    datagram.extend([0; 2]);
    datagram.extend(data);
    let sum = fold(add(pseudo(len), &datagram));
    datagram[6..8].copy_from_slice(&sum.to_be_bytes());
    datagram
}

/// A message of ICMP (`pseudo` is 0) or ICMPv6; its checksum is right.
pub(super) fn icmp([kind, code]: [u8; 2], rest: &[u8], pseudo: impl Fn(usize) -> u32) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    let sum = fold(add(pseudo(message.len()), &message));
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

fn add(sum: u32, bytes: &[u8]) -> u32 {
    bytes.chunks(2).fold(sum, |sum, pair| {
        sum + (u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
    })
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_over_a_packet_with_its_checksum_is_zero() {
        let header = V4 {
            from: [10, 1, 0, 2],
            to: [10, 2, 0, 2],
            protocol: 17,
            id: 7,
            ttl: 64,
            tos: 0,
            fragment: 0,
            options: vec![1; 4],
        };
        let datagram = udp([1, 2], b"odd", |len| header.pseudo(len));
        let packet = header.packet(&datagram);
        assert_eq!(fold(add(0, &packet[..24])), 0);
        assert_eq!(fold(add(header.pseudo(11), &packet[24..])), 0);
    }
}
