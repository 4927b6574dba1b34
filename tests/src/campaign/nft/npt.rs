//! What SNPT and DNPT make of an address: the kernel's first message of a run has the headers as the rule leaves them.

use std::net::Ipv6Addr;

/// What is left of an address when it has been translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Translation {
    /// Whether it is the source, else the destination.
    pub(super) of_source: bool,
    from: Prefix,
    to: Prefix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    bits: Ipv6Addr,
    len: u32,
}

impl Prefix {
    fn parse(text: &str) -> Option<Self> {
        let (bits, len) = text.split_once('/')?;
        Some(Self {
            bits: bits.parse().ok()?,
            len: len.parse().ok()?,
        })
    }

    fn sum(self) -> u16 {
        self.bits.segments().into_iter().fold(0, add)
    }
}

/// Adds as checksums are added.
fn add(one: u16, other: u16) -> u16 {
    let (sum, carries) = one.overflowing_add(other);
    sum + u16::from(carries)
}

impl Translation {
    /// Of a rule as iptables writes it, if it has such a target.
    pub(super) fn parse(rule: &str) -> Option<Self> {
        let words: Vec<&str> = rule.split_whitespace().collect();
        let after = |word: &str| {
            let at = words.iter().position(|other| *other == word)?;
            words.get(at + 1).copied()
        };
        let of_source = match after("-j")? {
            "SNPT" => true,
            "DNPT" => false,
            _ => return None,
        };
        Some(Self {
            of_source,
            from: Prefix::parse(after("--src-pfx")?)?,
            to: Prefix::parse(after("--dst-pfx")?)?,
        })
    }

    /// As `ip6t_npt_map_pfx` does it (`net/ipv6/netfilter/ip6t_NPT.c`).
    pub(super) fn apply(self, address: Ipv6Addr) -> Ipv6Addr {
        let len = self.from.len.max(self.to.len);
        let mask = u128::MAX.checked_shr(len).unwrap_or(0);
        let prefixed = address.to_bits() & mask | self.to.bits.to_bits() & !mask;
        let mut words = Ipv6Addr::from_bits(prefixed).segments();
        let place = if len <= 48 {
            Some(3)
        } else {
            (4..words.len()).find(|at| words[*at] != u16::MAX)
        };
        if let Some(place) = place {
            let adjustment = add(self.from.sum(), !self.to.sum());
            words[place] = match add(words[place], adjustment) {
                u16::MAX => 0,
                sum => sum,
            };
        }
        Ipv6Addr::from(words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_keeps_its_checksum() {
        let rule = "-A POSTROUTING -o l+ -j SNPT --src-pfx fd00:2::/64 --dst-pfx fd00:1::/64";
        let translation = Translation::parse(rule).unwrap();
        assert!(translation.of_source);
        let address: Ipv6Addr = "fd00:2::2".parse().unwrap();
        let expected: Ipv6Addr = "fd00:1::1:0:0:2".parse().unwrap();
        assert_eq!(translation.apply(address), expected);
        assert_eq!(Translation::parse("-A POSTROUTING -j ACCEPT"), None);
    }

    #[test]
    fn short_prefixes_have_their_fourth_word_adjusted() {
        // The example of RFC 6296, 3.1.
        let rule = "-A A -j DNPT --src-pfx fd01:203:405::/48 --dst-pfx 2001:db8:1::/48";
        let address: Ipv6Addr = "fd01:203:405:1::1234".parse().unwrap();
        let expected: Ipv6Addr = "2001:db8:1:d550::1234".parse().unwrap();
        assert_eq!(Translation::parse(rule).unwrap().apply(address), expected);
    }
}
