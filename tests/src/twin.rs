//! IPv6 twins of IPv4 rulesets and addresses: the same shape, with each address at the end of an IPv6 one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::neighbours::Family;

/// What has no twin of its own name.
const OTHERS: [(&str, &str); 4] = [
    ("127.0.0.0/8", "::1/128"),
    ("224.0.0.0/4", "ff00::/8"),
    ("cali40masq-ipam-pools", "cali60masq-ipam-pools"),
    ("cali40all-ipam-pools", "cali60all-ipam-pools"),
];

/// Bits before the IPv4 address.
const PREFIX_LEN: u8 = 96;

/// An address, as this family has it: `10.0.0.1` is `fd00::10.0.0.1`.
#[must_use]
pub fn address(family: Family, address: Ipv4Addr) -> IpAddr {
    match family {
        Family::V4 => address.into(),
        Family::V6 => v6(address).into(),
    }
}

/// Length of a prefix, as this family has it.
#[must_use]
pub fn prefix_len(family: Family, len: u8) -> u8 {
    match family {
        Family::V4 => len,
        Family::V6 => PREFIX_LEN + len,
    }
}

/// A ruleset of IPv4, as this family has it.
#[must_use]
pub fn rules(family: Family, text: &str) -> String {
    if family == Family::V4 {
        return text.to_owned();
    }
    let lines = text.lines().map(|line| {
        let words: Vec<String> = line.split(' ').map(word).collect();
        words.join(" ") + "\n"
    });
    lines.collect()
}

fn v6(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    Ipv6Addr::from([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])
}

fn word(word: &str) -> String {
    if let Some((_, twin)) = OTHERS.iter().find(|(known, _)| *known == word) {
        return (*twin).to_owned();
    }
    let parse = |text: &str| text.parse::<Ipv4Addr>().ok().map(v6);
    let prefix = || {
        let (network, len) = word.split_once('/')?;
        Some(format!(
            "{}/{}",
            parse(network)?,
            PREFIX_LEN + len.parse::<u8>().ok()?
        ))
    };
    let endpoint = || {
        let (host, port) = word.split_once(':')?;
        Some(format!("[{}]:{port}", parse(host)?))
    };
    parse(word)
        .map(|host| host.to_string())
        .or_else(prefix)
        .or_else(endpoint)
        .unwrap_or_else(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_addresses_and_nothing_else() {
        let text = "-A A ! -s 10.244.0.0/16 -d 10.0.0.1 -p tcp -j DNAT --to-destination 10.0.0.2:80\n\
                    -A B -s 127.0.0.0/8 -m comment --comment \"a/b: c\" -m mark --mark 0x1/0x2 -j C\n";
        assert_eq!(rules(Family::V4, text), text);
        assert_eq!(
            rules(Family::V6, text),
            "-A A ! -s fd00::af4:0/112 -d fd00::a00:1 -p tcp -j DNAT --to-destination [fd00::a00:2]:80\n\
             -A B -s ::1/128 -m comment --comment \"a/b: c\" -m mark --mark 0x1/0x2 -j C\n"
        );
    }
}
