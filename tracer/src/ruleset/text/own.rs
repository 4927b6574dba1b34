//! Our own form of a rule's text: as `iptables` prints it where the extensions are known here, and with the bytes
//! of their data where they are not.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::model::{Extension, HeaderMatch, Offset, Standard, Table, Target};
use crate::traversal::{Family, Verdict};

/// `IPT_INV_*`, the same in both families.
mod inverted {
    pub(super) const IN_DEVICE: u8 = 0x01;
    pub(super) const OUT_DEVICE: u8 = 0x02;
    pub(super) const SOURCE: u8 = 0x08;
    pub(super) const DESTINATION: u8 = 0x10;
    pub(super) const FRAGMENT: u8 = 0x20;
    pub(super) const PROTOCOL: u8 = 0x40;
}

/// `IPT_F_FRAG`
const FRAGMENT: u8 = 1;

/// The text of the rule at `place`; `None` where `iptables` shows nothing.
pub(super) fn text(table: &Table, place: usize) -> Option<String> {
    let rule = table.rules.get(place)?;
    if let Some(built_in) = table.hooks.iter().find(|chain| chain.underflow == rule.offset) {
        let Target::Standard(Standard::Verdict(policy)) = rule.target else {
            return None;
        };
        return Some(format!("-P {} {}", built_in.hook, Verdict::from(policy)));
    }
    let next_is_head = table
        .rules
        .get(place + 1)
        .is_some_and(|next| matches!(next.target, Target::Head { .. }));
    if matches!(rule.target, Target::Head { .. }) || next_is_head {
        return None;
    }
    let mut text = format!("-A {}", chain_of(table, place)?);
    header(&mut text, table.family, &rule.header);
    for extension in &rule.matches {
        matching(&mut text, table, extension);
    }
    match &rule.target {
        Target::Standard(Standard::Jump(to)) if *to == rule.next => (),
        Target::Standard(Standard::Jump(to)) => {
            let how = if rule.is_goto(table.family) { "-g" } else { "-j" };
            match chain_at(table, *to) {
                Some(chain) => push(&mut text, format_args!(" {how} {chain}")),
                None => push(&mut text, format_args!(" {how} offset-{to}")),
            }
        }
        Target::Standard(Standard::Return) => text.push_str(" -j RETURN"),
        Target::Standard(Standard::Verdict(verdict)) => {
            // A plain QUEUE has no number; NFQUEUE is an extension.
            match Verdict::from(*verdict) {
                Verdict::Queue { number: 0, .. } => text.push_str(" -j QUEUE"),
                verdict => push(&mut text, format_args!(" -j {verdict}")),
            }
        }
        Target::Extension(extension) => target(&mut text, table, extension),
        Target::Head { .. } => return None,
    }
    Some(text)
}

/// The user-defined chain whose first rule is at `offset`.
pub(crate) fn chain_at(table: &Table, offset: Offset) -> Option<&str> {
    let place = super::index_of(&table.rules, offset)?;
    match &table.rules.get(place.checked_sub(1)?)?.target {
        Target::Head { chain } => Some(chain),
        Target::Standard(_) | Target::Extension(_) => None,
    }
}

/// Name of the chain that the rule at `place` is in.
fn chain_of(table: &Table, place: usize) -> Option<String> {
    for rule in table.rules[..=place].iter().rev() {
        if let Target::Head { chain } = &rule.target {
            return Some(chain.clone());
        }
        if let Some(built_in) = table.hooks.iter().find(|chain| chain.entry == rule.offset) {
            return Some(built_in.hook.to_string());
        }
    }
    None
}

fn push(text: &mut String, arguments: fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = text.write_fmt(arguments);
}

/// An exclamation mark where `bit` is set.
fn not(set: bool) -> &'static str {
    if set { " !" } else { "" }
}

fn header(text: &mut String, family: Family, header: &HeaderMatch) {
    let has = |bit| header.inverted & bit != 0;
    for (option, network, bit) in [
        ("-s", &header.source, inverted::SOURCE),
        ("-d", &header.destination, inverted::DESTINATION),
    ] {
        if *network != ([0; 16], [0; 16]) || has(bit) {
            let network = Network(family, network);
            push(text, format_args!("{} {option} {network}", not(has(bit))));
        }
    }
    for (option, device, bit) in [
        ("-i", &header.in_device, inverted::IN_DEVICE),
        ("-o", &header.out_device, inverted::OUT_DEVICE),
    ] {
        if device.1 != [0; 16] || has(bit) {
            push(
                text,
                format_args!("{} {option} {}", not(has(bit)), device_name(device)),
            );
        }
    }
    if header.protocol != 0 || has(inverted::PROTOCOL) {
        let protocol = Protocol(header.protocol);
        push(
            text,
            format_args!("{} -p {protocol}", not(has(inverted::PROTOCOL))),
        );
    }
    if family == Family::Ipv4 && header.flags & FRAGMENT != 0 {
        push(text, format_args!("{} -f", not(has(inverted::FRAGMENT))));
    }
}

/// An address with its mask: `10.0.0.0/8`.
struct Network<'a>(Family, &'a ([u8; 16], [u8; 16]));

impl fmt::Display for Network<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(family, (address, mask)) = *self;
        let len = match family {
            Family::Ipv4 => 4,
            Family::Ipv6 => 16,
        };
        let ones: u32 = mask[..len].iter().map(|byte| byte.leading_ones()).sum();
        let is_prefix = mask[..len].iter().map(|byte| byte.count_ones()).sum::<u32>() == ones
            && mask[..len].is_sorted_by(|left, right| *left == 0xff || *right == 0);
        write!(f, "{}/", ip(family, address))?;
        if is_prefix {
            write!(f, "{ones}")
        } else {
            write!(f, "{}", ip(family, mask))
        }
    }
}

/// The address at the beginning of `union nf_inet_addr`.
fn ip(family: Family, bytes: &[u8; 16]) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
        Family::Ipv6 => Ipv6Addr::from(*bytes).into(),
    }
}

/// Name and mask as they were typed: `eth0`, `eth+`.
fn device_name((name, mask): &([u8; 16], [u8; 16])) -> String {
    let masked = mask.iter().take_while(|&&byte| byte != 0).count();
    match name[..masked].iter().position(|&byte| byte == 0) {
        Some(end) => String::from_utf8_lossy(&name[..end]).into_owned(),
        None => format!("{}+", String::from_utf8_lossy(&name[..masked])),
    }
}

/// The names that `iptables` has for itself, `xtables_chain_protos` of `libxtables/xtables.c`.
struct Protocol(u16);

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            0 => "all",
            1 => "icmp",
            6 => "tcp",
            17 => "udp",
            50 => "esp",
            51 => "ah",
            58 => "ipv6-icmp",
            132 => "sctp",
            135 => "mobility-header",
            136 => "udplite",
            other => return write!(f, "{other}"),
        })
    }
}

fn matching(text: &mut String, table: &Table, extension: &Extension) {
    let data = Data(table.data(&extension.data));
    let len = text.len();
    push(text, format_args!(" -m {}", typed_name(extension, data)));
    if known_match(text, extension, data).is_none() {
        text.truncate(len);
        unknown(text, "-m", extension, data);
    }
}

fn target(text: &mut String, table: &Table, extension: &Extension) {
    let data = Data(table.data(&extension.data));
    let len = text.len();
    push(text, format_args!(" -j {}", extension.name));
    if known_target(text, table.family, extension, data).is_none() {
        text.truncate(len);
        unknown(text, "-j", extension, data);
    }
}

/// The name that the match was typed with.
fn typed_name<'a>(extension: &'a Extension, data: Data<'_>) -> &'a str {
    let is_state = extension.name == "conntrack"
        && extension.revision >= 2
        && data
            .u16(CONNTRACK_ASKED)
            .is_some_and(|asked| asked & CONNTRACK_ALIAS != 0);
    if is_state { "state" } else { &extension.name }
}

/// Name, revision and bytes, without the zeros at the end.
fn unknown(text: &mut String, option: &str, extension: &Extension, data: Data<'_>) {
    push(
        text,
        format_args!(" {option} {}[{}]", extension.name, extension.revision),
    );
    let len = data
        .0
        .iter()
        .rposition(|&byte| byte != 0)
        .map_or(0, |last| last + 1);
    if len > 0 {
        text.push_str(" 0x");
    }
    for byte in &data.0[..len] {
        push(text, format_args!("{byte:02x}"));
    }
}

/// Data of an extension: structs of `include/uapi/linux/netfilter/`, in the byte order of the machine.
#[derive(Clone, Copy)]
struct Data<'a>(&'a [u8]);

impl Data<'_> {
    fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }

    fn u16(self, at: usize) -> Option<u16> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u16::from_ne_bytes(*bytes))
    }

    fn u32(self, at: usize) -> Option<u32> {
        let bytes = self.0.get(at..)?.first_chunk()?;
        Some(u32::from_ne_bytes(*bytes))
    }

    /// A port in network byte order.
    fn port(self, at: usize) -> Option<u16> {
        self.u16(at).map(u16::from_be)
    }

    fn address(self, family: Family, at: usize) -> Option<IpAddr> {
        let bytes = self.0.get(at..)?;
        Some(match family {
            Family::Ipv4 => Ipv4Addr::from(*bytes.first_chunk::<4>()?).into(),
            Family::Ipv6 => Ipv6Addr::from(*bytes.first_chunk::<16>()?).into(),
        })
    }
}

/// Appends the options of a match; `None` if it, or what it asks, is not known here.
fn known_match(text: &mut String, extension: &Extension, data: Data<'_>) -> Option<()> {
    match (extension.name.as_str(), extension.revision) {
        ("comment", 0) => {
            let end = data.0.iter().position(|&byte| byte == 0)?;
            text.push_str(" --comment ");
            quote(text, &String::from_utf8_lossy(&data.0[..end]));
        }
        // struct xt_tcp
        ("tcp", 0) => {
            let inverted = data.u8(11)?;
            if inverted & !7 != 0 || data.u8(8)? != 0 {
                return None;
            }
            ports(text, data, inverted)?;
            let (mask, compare) = (data.u8(9)?, data.u8(10)?);
            if mask != 0 || inverted & 4 != 0 {
                let (mask, compare) = (TcpFlags(mask), TcpFlags(compare));
                push(
                    text,
                    format_args!("{} --tcp-flags {mask} {compare}", not(inverted & 4 != 0)),
                );
            }
        }
        // struct xt_udp
        ("udp", 0) => ports(text, data, data.u8(8)?)?,
        // struct ipt_icmp, struct ip6t_icmp
        ("icmp" | "icmp6", 0) => {
            let option = if extension.name == "icmp" {
                "--icmp-type"
            } else {
                "--icmpv6-type"
            };
            let (kind, first, last, inverted) = (data.u8(0)?, data.u8(1)?, data.u8(2)?, data.u8(3)?);
            push(text, format_args!("{} {option} ", not(inverted & 1 != 0)));
            match (kind, first, last) {
                (0xff, ..) if extension.name == "icmp" => text.push_str("any"),
                (_, 0, 0xff) => push(text, format_args!("{kind}")),
                (_, first, last) if first == last => push(text, format_args!("{kind}/{first}")),
                _ => return None,
            }
        }
        // struct xt_mark_mtinfo1, struct xt_connmark_mtinfo1
        ("mark" | "connmark", 1) => {
            let (mark, mask, inverted) = (data.u32(0)?, data.u32(4)?, data.u8(8)?);
            push(text, format_args!("{} --mark {mark:#x}", not(inverted != 0)));
            if mask != u32::MAX {
                push(text, format_args!("/{mask:#x}"));
            }
        }
        ("conntrack", 2 | 3) => conntrack_state(text, data)?,
        ("addrtype", 1) => {
            let flags = data.u32(4)?;
            if flags & !0xf != 0 {
                return None;
            }
            address_type(text, "--src-type", data.u16(0)?, flags & 1 != 0)?;
            address_type(text, "--dst-type", data.u16(2)?, flags & 2 != 0)?;
            if flags & 4 != 0 {
                text.push_str(" --limit-iface-in");
            }
            if flags & 8 != 0 {
                text.push_str(" --limit-iface-out");
            }
        }
        // struct xt_statistic_info
        ("statistic", 0) => {
            let (mode, flags) = (data.u16(0)?, data.u16(2)?);
            let inverted = not(flags & 1 != 0);
            match mode {
                0 => {
                    let probability = f64::from(data.u32(4)?) / f64::from(1_u32 << 31);
                    push(
                        text,
                        format_args!(" --mode random{inverted} --probability {probability:.11}"),
                    );
                }
                1 => {
                    let (every, packet) = (data.u32(4)?.wrapping_add(1), data.u32(8)?);
                    push(
                        text,
                        format_args!(" --mode nth{inverted} --every {every} --packet {packet}"),
                    );
                }
                _ => return None,
            }
        }
        ("multiport", 1) => multiport(text, data)?,
        _ => return None,
    }
    Some(())
}

/// As `xtables_save_string` of `libxtables/xtables.c` quotes.
fn quote(text: &mut String, value: &str) {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !value.is_empty() && value.bytes().all(plain) {
        text.push_str(value);
        return;
    }
    text.push('"');
    for character in value.chars() {
        if matches!(character, '"' | '\\' | '\'') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

/// The two port ranges that `struct xt_tcp` and `struct xt_udp` begin with.
fn ports(text: &mut String, data: Data<'_>, inverted: u8) -> Option<()> {
    for (option, at, bit) in [("--sport", 0, 1), ("--dport", 4, 2)] {
        let (first, last) = (data.u16(at)?, data.u16(at + 2)?);
        let inverted = inverted & bit != 0;
        if (first, last) == (0, u16::MAX) && !inverted {
            continue;
        }
        push(
            text,
            format_args!("{} {option} {}", not(inverted), Range(first, last)),
        );
    }
    Some(())
}

/// `80`, `80:90`.
struct Range(u16, u16);

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        if self.1 != self.0 {
            write!(f, ":{}", self.1)?;
        }
        Ok(())
    }
}

/// `SYN,ACK`
struct TcpFlags(u8);

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG"];
        if self.0 == 0 {
            return f.write_str("NONE");
        }
        if self.0 >> names.len() != 0 {
            return write!(f, "{:#x}", self.0);
        }
        let set = names
            .iter()
            .enumerate()
            .filter(|(bit, _)| self.0 & (1 << bit) != 0);
        let set: Vec<_> = set.map(|(_, name)| *name).collect();
        f.write_str(&set.join(","))
    }
}

/// Where `match_flags` is in `struct xt_conntrack_mtinfo2` and `3`; `invert_flags` and `state_mask` follow.
const CONNTRACK_ASKED: usize = 146;
/// `XT_CONNTRACK_STATE_ALIAS`: typed as `-m state`; no meaning of its own.
const CONNTRACK_ALIAS: u16 = 1 << 13;

/// `struct xt_conntrack_mtinfo2` and `3`, when nothing but the state is asked for.
fn conntrack_state(text: &mut String, data: Data<'_>) -> Option<()> {
    const STATE: u16 = 1;
    let asked = data.u16(CONNTRACK_ASKED)?;
    let (inverted, state) = (data.u16(CONNTRACK_ASKED + 2)?, data.u16(CONNTRACK_ASKED + 4)?);
    if asked & !CONNTRACK_ALIAS != STATE || inverted & !STATE != 0 {
        return None;
    }
    let option = if asked & CONNTRACK_ALIAS == 0 {
        " --ctstate "
    } else {
        " --state "
    };
    let names = [
        (1 << 0, "INVALID"),
        (1 << 3, "NEW"),
        (1 << 2, "RELATED"),
        (1 << 1, "ESTABLISHED"),
        (1 << 8, "UNTRACKED"),
        (1 << 6, "SNAT"),
        (1 << 7, "DNAT"),
    ];
    list(text, option, state, inverted & STATE != 0, &names)
}

/// `1 << RTN_*` of `include/uapi/linux/rtnetlink.h`.
fn address_type(text: &mut String, option: &str, types: u16, inverted: bool) -> Option<()> {
    if types == 0 {
        return Some(());
    }
    let names = [
        (1 << 0, "UNSPEC"),
        (1 << 1, "UNICAST"),
        (1 << 2, "LOCAL"),
        (1 << 3, "BROADCAST"),
        (1 << 4, "ANYCAST"),
        (1 << 5, "MULTICAST"),
        (1 << 6, "BLACKHOLE"),
        (1 << 7, "UNREACHABLE"),
        (1 << 8, "PROHIBIT"),
        (1 << 9, "THROW"),
        (1 << 10, "NAT"),
        (1 << 11, "XRESOLVE"),
    ];
    list(text, &format!(" {option} "), types, inverted, &names)
}

/// The names of the bits of a set, separated by commas; `None` if one has no name.
fn list(text: &mut String, option: &str, set: u16, inverted: bool, names: &[(u16, &str)]) -> Option<()> {
    if names.iter().fold(set, |left, (bit, _)| left & !bit) != 0 {
        return None;
    }
    let names: Vec<_> = names
        .iter()
        .filter(|(bit, _)| set & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    push(text, format_args!("{}{option}{}", not(inverted), names.join(",")));
    Some(())
}

/// `struct xt_multiport_v1`
fn multiport(text: &mut String, data: Data<'_>) -> Option<()> {
    const PORTS: usize = 15;
    let option = match data.u8(0)? {
        0 => "--sports",
        1 => "--dports",
        2 => "--ports",
        _ => return None,
    };
    let count = usize::from(data.u8(1)?);
    if count > PORTS {
        return None;
    }
    let inverted = data.u8(2 + 2 * PORTS + PORTS)? != 0;
    push(text, format_args!("{} {option} ", not(inverted)));
    for index in 0..count {
        let range_goes_on = index > 0 && data.u8(2 + 2 * PORTS + index - 1)? != 0;
        let separator = match index {
            0 => "",
            _ if range_goes_on => ":",
            _ => ",",
        };
        push(text, format_args!("{separator}{}", data.u16(2 + 2 * index)?));
    }
    Some(())
}

/// Appends the options of a target; `None` if it, or what it does, is not known here.
fn known_target(text: &mut String, family: Family, extension: &Extension, data: Data<'_>) -> Option<()> {
    match (extension.name.as_str(), extension.revision) {
        // struct xt_mark_tginfo2
        ("MARK", 2) => push(
            text,
            format_args!(" --set-xmark {:#x}/{:#x}", data.u32(0)?, data.u32(4)?),
        ),
        ("MASQUERADE", 0) => nat(text, family, Some("--to-ports"), None, extension.revision, data)?,
        ("REDIRECT", 0) => nat(text, family, Some("--to-ports"), None, extension.revision, data)?,
        ("DNAT", _) => nat(
            text,
            family,
            None,
            Some("--to-destination"),
            extension.revision,
            data,
        )?,
        ("SNAT", _) => nat(text, family, None, Some("--to-source"), extension.revision, data)?,
        ("REJECT", 0) => {
            let names = match family {
                // enum ipt_reject_with
                Family::Ipv4 => [
                    "icmp-net-unreachable",
                    "icmp-host-unreachable",
                    "icmp-proto-unreachable",
                    "icmp-port-unreachable",
                    "",
                    "icmp-net-prohibited",
                    "icmp-host-prohibited",
                    "tcp-reset",
                    "icmp-admin-prohibited",
                ],
                // enum ip6t_reject_with
                Family::Ipv6 => [
                    "icmp6-no-route",
                    "icmp6-adm-prohibited",
                    "",
                    "icmp6-addr-unreachable",
                    "icmp6-port-unreachable",
                    "",
                    "tcp-reset",
                    "icmp6-policy-fail",
                    "icmp6-reject-route",
                ],
            };
            let name = names.get(usize::try_from(data.u32(0)?).ok()?)?;
            if name.is_empty() {
                return None;
            }
            push(text, format_args!(" --reject-with {name}"));
        }
        ("NOTRACK" | "TRACE", 0) => (),
        _ => return None,
    }
    Some(())
}

/// The range of a NAT target: `struct nf_nat_ipv4_multi_range_compat` (revision 0 of IPv4), `struct nf_nat_range`
/// (revision 1, and 0 of the IPv6 targets that had no other), `struct nf_nat_range2` (revision 2).
fn nat(
    text: &mut String,
    family: Family,
    ports_option: Option<&str>,
    address_option: Option<&str>,
    revision: u8,
    data: Data<'_>,
) -> Option<()> {
    const ADDRESSES: u32 = 1;
    const PORTS: u32 = 2;
    const RANDOM: u32 = 4;
    const PERSISTENT: u32 = 8;
    const RANDOM_FULLY: u32 = 16;
    let (flags, addresses, address_len, ports) = match (family, revision) {
        (Family::Ipv4, 0) if data.u32(0)? == 1 => (4, 8, 4, 16),
        (Family::Ipv4, 1 | 2) | (Family::Ipv6, 0..=2) => (0, 4, 16, 36),
        _ => return None,
    };
    let flags = data.u32(flags)?;
    if flags & !(ADDRESSES | PORTS | RANDOM | PERSISTENT | RANDOM_FULLY) != 0 {
        return None;
    }
    let (first, last) = (data.port(ports)?, data.port(ports + 2)?);
    let mut to = String::new();
    if flags & ADDRESSES != 0 {
        let (first, last) = (
            data.address(family, addresses)?,
            data.address(family, addresses + address_len)?,
        );
        let bracket = family == Family::Ipv6 && flags & PORTS != 0;
        let (open, close) = if bracket { ("[", "]") } else { ("", "") };
        push(&mut to, format_args!("{open}{first}{close}"));
        if last != first {
            push(&mut to, format_args!("-{open}{last}{close}"));
        }
    }
    if flags & PORTS != 0 {
        let colon = if address_option.is_some() { ":" } else { "" };
        push(&mut to, format_args!("{colon}{first}"));
        if last != first {
            push(&mut to, format_args!("-{last}"));
        }
    }
    if !to.is_empty() {
        push(text, format_args!(" {} {to}", address_option.or(ports_option)?));
    }
    for (bit, option) in [
        (RANDOM, " --random"),
        (RANDOM_FULLY, " --random-fully"),
        (PERSISTENT, " --persistent"),
    ] {
        if flags & bit != 0 {
            text.push_str(option);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::super::super::builder::{DROP, RuleBuilder, TableBuilder, rule};
    use super::*;
    use crate::traversal::Hook;

    /// The text of a rule of chain A, without `-A A `.
    fn text_of(family: Family, rule: RuleBuilder) -> String {
        let table = TableBuilder::new(family, "nat")
            .built_in(Hook::LocalOut, DROP)
            .chain("A")
            .rule(rule)
            .chain("B")
            .table();
        let text = text(&table, 2).unwrap();
        text.strip_prefix("-A A").unwrap().trim_start().to_owned()
    }

    fn v4(rule: RuleBuilder) -> String {
        text_of(Family::Ipv4, rule)
    }

    fn v6(rule: RuleBuilder) -> String {
        text_of(Family::Ipv6, rule)
    }

    #[test]
    fn headers_are_printed_as_iptables_does() {
        assert_eq!(v4(rule()), "");
        assert_eq!(v4(rule().verdict(DROP)), "-j DROP");
        assert_eq!(v4(rule().verdict(3)), "-j QUEUE");
        assert_eq!(v4(rule().return_()), "-j RETURN");
        assert_eq!(
            v4(rule()
                .not_source("10.0.0.0/8")
                .destination("10.1.2.3")
                .protocol(6)
                .jump("B")),
            "! -s 10.0.0.0/8 -d 10.1.2.3/32 -p tcp -j B"
        );
        assert_eq!(
            v6(rule()
                .source("2001:db8::/33")
                .not_in_device("eth+")
                .out_device("lo")
                .goto("B")),
            "-s 2001:db8::/33 ! -i eth+ -o lo -g B"
        );
        assert_eq!(v4(rule().bits(1, 0x20).not_protocol(99)), "! -p 99 ! -f");
        assert_eq!(v6(rule().bits(1, 0)), "");
        assert_eq!(
            v4(rule().not_destination("127.0.0.0/8").not_source("0.0.0.0/0")),
            "! -s 0.0.0.0/0 ! -d 127.0.0.0/8"
        );
        let mut odd = rule().source("10.0.0.1");
        odd.header.source.1[1] = 0xf0;
        assert_eq!(v4(odd), "-s 10.0.0.1/255.240.255.255");
        assert_eq!(v4(rule().in_device("+")), "");
    }

    #[test]
    fn policies_have_a_text_and_ends_of_chains_have_none() {
        let table = TableBuilder::new(Family::Ipv4, "nat")
            .built_in(Hook::LocalOut, DROP)
            .chain("A")
            .table();
        let texts: Vec<_> = (0..5).map(|place| text(&table, place)).collect();
        assert_eq!(texts, [Some("-P OUTPUT DROP".into()), None, None, None, None]);
    }

    #[test]
    fn extensions_that_are_known_are_printed_as_iptables_does() {
        let tcp = |bytes: [u8; 12]| v4(rule().matching("tcp", 0, &bytes));
        let port = 443_u16.to_ne_bytes();
        let any = [0, 0, 0xff, 0xff];
        let mut https = [0; 12];
        https[..4].copy_from_slice(&any);
        https[4..6].copy_from_slice(&port);
        https[6..8].copy_from_slice(&port);
        assert_eq!(tcp(https), "-m tcp --dport 443");
        https[9..12].copy_from_slice(&[0x17, 0x02, 2]);
        assert_eq!(tcp(https), "-m tcp ! --dport 443 --tcp-flags FIN,SYN,RST,ACK SYN");
        assert_eq!(v4(rule().comment("plain")), "-m comment --comment plain");
        assert_eq!(
            v4(rule().comment("a \"b\"")),
            "-m comment --comment \"a \\\"b\\\"\""
        );
        let words = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|word| word.to_ne_bytes()).collect() };
        assert_eq!(
            v4(rule().matching("mark", 1, &words(&[0x4000, 0x4000, 0]))),
            "-m mark --mark 0x4000/0x4000"
        );
        assert_eq!(
            v4(rule().matching("statistic", 0, &words(&[0, 1 << 30, 0, 0, 0, 0]))),
            "-m statistic --mode random --probability 0.50000000000"
        );
        assert_eq!(
            v4(rule().extension("MARK", 2, &words(&[0x4000, 0x4000]))),
            "-j MARK --set-xmark 0x4000/0x4000"
        );
        assert_eq!(
            v4(rule().extension("MASQUERADE", 0, &words(&[1, 0, 0, 0, 0]))),
            "-j MASQUERADE"
        );
        let mut range = words(&[1, 3]);
        range.extend([10, 244, 0, 3, 10, 244, 0, 3, 0, 53, 0, 53]);
        assert_eq!(
            v4(rule().extension("DNAT", 0, &range)),
            "-j DNAT --to-destination 10.244.0.3:53"
        );
        let mut range = words(&[3]);
        range.extend([0xfd; 32]);
        range.extend([0, 53, 0, 54, 0, 0]);
        assert_eq!(
            v6(rule().extension("DNAT", 2, &range)),
            "-j DNAT --to-destination [fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd]:53-54"
        );
        let mut state = [0; 168];
        state[146..148].copy_from_slice(&1_u16.to_ne_bytes());
        state[150..152].copy_from_slice(&6_u16.to_ne_bytes());
        assert_eq!(
            v4(rule().matching("conntrack", 3, &state)),
            "-m conntrack --ctstate RELATED,ESTABLISHED"
        );
        state[146..148].copy_from_slice(&0x2001_u16.to_ne_bytes());
        assert_eq!(
            v4(rule().matching("conntrack", 3, &state)),
            "-m state --state RELATED,ESTABLISHED"
        );
        state[146..148].copy_from_slice(&3_u16.to_ne_bytes());
        assert!(v4(rule().matching("conntrack", 3, &state)).starts_with("-m conntrack[3] 0x00"));
    }

    #[test]
    fn extensions_that_are_not_known_are_printed_with_their_bytes() {
        let rule = rule()
            .matching("mystery", 4, &[1, 0xab, 0, 0])
            .extension("EMPTY", 1, &[]);
        assert_eq!(v4(rule), "-m mystery[4] 0x01ab -j EMPTY[1]");
    }

    #[test]
    fn arbitrary_data_never_panics() {
        let names = [
            "comment",
            "tcp",
            "udp",
            "icmp",
            "icmp6",
            "mark",
            "conntrack",
            "addrtype",
            "statistic",
            "multiport",
        ];
        let targets = ["MARK", "MASQUERADE", "DNAT", "SNAT", "REJECT", "REDIRECT"];
        bolero::check!()
            .with_type::<(Vec<u8>, u8, u8)>()
            .for_each(|(data, which, revision)| {
                let data = &data[..data.len().min(200)];
                let which = usize::from(*which);
                let rule = rule()
                    .matching(names[which % names.len()], revision % 4, data)
                    .extension(targets[which % targets.len()], revision % 3, data);
                v4(rule.clone());
                v6(rule);
            });
    }
}
