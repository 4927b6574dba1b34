//! Targets that are extensions.

use fastrand::Rng;

use super::{Place, Target};

/// What a target needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Where {
    Any,
    Table(&'static str),
    /// A table, and only these hooks.
    Hooks(&'static str, &'static [&'static str]),
}

const DNAT_HOOKS: &[&str] = &["PREROUTING", "OUTPUT"];
const SNAT_HOOKS: &[&str] = &["POSTROUTING", "INPUT"];
const TCP: Option<&str> = Some("-p tcp");
/// With the header looked for: `-p tcp` holds of a packet whose extension headers claim to be longer than the packet, and
/// for that the kernel dies in `synproxy_tg6`, which takes a checksum up to where the header should be (`BUG_ON(len)` in
/// `__skb_checksum`, `net/core/skbuff.c`, seen on 5.10), so that there is nothing to compare.
const TCP_WHOLE: Option<&str> = Some("-p tcp -m tcp");
const SYN: Option<&str> = Some("-p tcp -m tcp --tcp-flags SYN,RST SYN");
/// Where CLASSIFY and TCPMSS with the path's MTU can be.
const OUT_HOOKS: &[&str] = &["FORWARD", "OUTPUT", "POSTROUTING"];

/// Where, for which protocol, whether the packet ends in this table, and the text for IPv4 and IPv6.
type Choice = (Where, Option<&'static str>, bool, &'static str, &'static str);

use Where::{Any, Hooks, Table};

const CHOICES: &[Choice] = &[
    (Any, None, false, "MARK --set-mark 0x1", "MARK --set-mark 0x1"),
    (
        Any,
        None,
        false,
        "MARK --set-xmark 0x4000/0xff00",
        "MARK --or-mark 0x10",
    ),
    (Any, None, false, "MARK --and-mark 0xff", "MARK --xor-mark 0x3"),
    (
        Any,
        None,
        false,
        "CONNMARK --set-mark 0x7",
        "CONNMARK --set-mark 0x7",
    ),
    (
        Any,
        None,
        false,
        "CONNMARK --save-mark",
        "CONNMARK --save-mark --mask 0xff",
    ),
    (
        Any,
        None,
        false,
        "CONNMARK --restore-mark",
        "CONNMARK --restore-mark --mask 0xff",
    ),
    (
        Any,
        None,
        false,
        "CONNMARK --or-mark 0x100",
        "CONNMARK --and-mark 0xf",
    ),
    (
        Any,
        None,
        false,
        "LOG --log-prefix seen:",
        "LOG --log-prefix seen: --log-ip-options",
    ),
    (Any, None, false, "NFLOG --nflog-group 5", "NFLOG --nflog-group 5"),
    (
        Any,
        None,
        false,
        "TEE --gateway 10.2.0.2",
        "TEE --gateway fd00:2::2",
    ),
    (
        Any,
        None,
        false,
        "TEE --gateway 10.1.0.2",
        "TEE --gateway fd00:1::2",
    ),
    (
        Any,
        None,
        true,
        "NFQUEUE --queue-num 3 --queue-bypass",
        "NFQUEUE --queue-num 3 --queue-bypass",
    ),
    (
        Any,
        None,
        false,
        "SET --add-set hosts4 src",
        "SET --add-set hosts6 src",
    ),
    (
        Any,
        None,
        false,
        "SET --del-set hosts4 dst",
        "SET --del-set hosts6 dst",
    ),
    (
        Any,
        None,
        false,
        "SET --add-set ports dst",
        "SET --del-set ports src",
    ),
    (Table("raw"), None, false, "CT --notrack", "CT --notrack"),
    (Table("raw"), None, false, "NOTRACK", "NOTRACK"),
    (Table("raw"), None, false, "CT --zone 3", "CT --zone 3"),
    (Table("raw"), TCP, false, "CT --ctevents new", "CT --ctevents new"),
    (Table("mangle"), None, false, "TTL --ttl-set 40", "HL --hl-set 40"),
    (Table("mangle"), None, false, "TTL --ttl-inc 2", "HL --hl-inc 2"),
    (Table("mangle"), None, false, "TTL --ttl-dec 1", "HL --hl-dec 1"),
    (
        Table("mangle"),
        None,
        false,
        "TOS --set-tos 0x10/0x3f",
        "TOS --set-tos 0x10/0x3f",
    ),
    (
        Table("mangle"),
        None,
        false,
        "TOS --or-tos 0x04",
        "TOS --xor-tos 0x08",
    ),
    (
        Table("mangle"),
        None,
        false,
        "DSCP --set-dscp 0x1a",
        "DSCP --set-dscp 0x2e",
    ),
    (
        Table("mangle"),
        None,
        false,
        "DSCP --set-dscp-class EF",
        "DSCP --set-dscp-class CS1",
    ),
    (
        Table("mangle"),
        TCP,
        false,
        "ECN --ecn-tcp-remove",
        "TCPOPTSTRIP --strip-options sack",
    ),
    (
        Table("mangle"),
        TCP,
        false,
        "TCPOPTSTRIP --strip-options timestamp",
        "TCPOPTSTRIP --strip-options mss",
    ),
    (
        Table("mangle"),
        None,
        false,
        "CHECKSUM --checksum-fill",
        "CHECKSUM --checksum-fill",
    ),
    (
        Table("mangle"),
        SYN,
        false,
        "TCPMSS --set-mss 900",
        "TCPMSS --set-mss 900",
    ),
    (
        Table("mangle"),
        None,
        false,
        "HMARK --hmark-tuple src,dst --hmark-mod 4 --hmark-offset 8 --hmark-rnd 1",
        "HMARK --hmark-tuple src,dst --hmark-mod 4 --hmark-offset 8 --hmark-rnd 1",
    ),
    (
        Hooks("mangle", DNAT_HOOKS),
        None,
        false,
        "MARK --set-mark 0x2",
        "DNPT --src-pfx fd00:1::/64 --dst-pfx fd00:2::/64",
    ),
    (
        Hooks("mangle", SNAT_HOOKS),
        None,
        false,
        "CONNMARK --set-mark 0x3",
        "SNPT --src-pfx fd00:2::/64 --dst-pfx fd00:1::/64",
    ),
    (
        Hooks("mangle", &["PREROUTING"]),
        TCP,
        true,
        "TPROXY --on-port 80 --tproxy-mark 0x1",
        "TPROXY --on-port 80 --tproxy-mark 0x1",
    ),
    (
        Hooks("mangle", OUT_HOOKS),
        SYN,
        false,
        "TCPMSS --clamp-mss-to-pmtu",
        "TCPMSS --clamp-mss-to-pmtu",
    ),
    (
        Hooks("mangle", OUT_HOOKS),
        None,
        false,
        "CLASSIFY --set-class 1:2",
        "CLASSIFY --set-class 1:2",
    ),
    (
        Hooks("filter", OUT_HOOKS),
        None,
        false,
        "CLASSIFY --set-class 1:3",
        "CLASSIFY --set-class 1:3",
    ),
    (
        Table("filter"),
        None,
        true,
        "REJECT --reject-with icmp-port-unreachable",
        "REJECT --reject-with icmp6-port-unreachable",
    ),
    (
        Table("filter"),
        None,
        true,
        "REJECT --reject-with icmp-host-prohibited",
        "REJECT --reject-with icmp6-adm-prohibited",
    ),
    (
        Table("filter"),
        TCP,
        true,
        "REJECT --reject-with tcp-reset",
        "REJECT --reject-with tcp-reset",
    ),
    (
        Hooks("filter", &["INPUT", "FORWARD"]),
        TCP_WHOLE,
        true,
        "SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1460",
        "SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1440",
    ),
    (
        Hooks("nat", DNAT_HOOKS),
        None,
        true,
        "DNAT --to-destination 10.2.0.2",
        "DNAT --to-destination fd00:2::2",
    ),
    (
        Hooks("nat", DNAT_HOOKS),
        TCP,
        true,
        "DNAT --to-destination 10.2.0.2:81",
        "DNAT --to-destination [fd00:2::2]:81",
    ),
    (
        Hooks("nat", DNAT_HOOKS),
        Some("-p udp"),
        true,
        "DNAT --to-destination 10.1.0.1-10.1.0.2:5000-5002 --random",
        "DNAT --to-destination [fd00:1::2]:5000-5002",
    ),
    (
        Hooks("nat", DNAT_HOOKS),
        TCP,
        true,
        "REDIRECT --to-ports 80",
        "REDIRECT --to-ports 80",
    ),
    (Hooks("nat", DNAT_HOOKS), None, true, "REDIRECT", "REDIRECT"),
    (
        Hooks("nat", DNAT_HOOKS),
        None,
        true,
        "NETMAP --to 10.2.0.0/30",
        "NETMAP --to fd00:2::/126",
    ),
    (
        Hooks("nat", SNAT_HOOKS),
        None,
        true,
        "SNAT --to-source 10.1.0.1",
        "SNAT --to-source fd00:1::1",
    ),
    (
        Hooks("nat", SNAT_HOOKS),
        Some("-p udp"),
        true,
        "SNAT --to-source 10.2.0.1:6000-6010",
        "SNAT --to-source [fd00:2::1]:6000-6010",
    ),
    (
        Hooks("nat", &["POSTROUTING"]),
        None,
        true,
        "MASQUERADE",
        "MASQUERADE",
    ),
    (
        Hooks("nat", &["POSTROUTING"]),
        TCP,
        true,
        "MASQUERADE --to-ports 7000-7010",
        "MASQUERADE --random",
    ),
    (
        Hooks("nat", SNAT_HOOKS),
        None,
        true,
        "NETMAP --to 10.2.0.4/30",
        "NETMAP --to fd00:2::4/126",
    ),
];

fn fits(choice: &Choice, place: &Place<'_>) -> bool {
    match choice.0 {
        Any => true,
        Table(table) => place.table == table,
        Hooks(table, hooks) => place.table == table && place.only(hooks),
    }
}

/// One of those that can be there; those that are for this table are as likely as all others together.
pub(super) fn extension(rng: &mut Rng, place: &Place<'_>) -> Target {
    let of = |own: bool| -> Vec<&Choice> {
        CHOICES
            .iter()
            .filter(|choice| fits(choice, place) && (choice.0 != Any) == own)
            .collect()
    };
    let (own, any) = (of(true), of(false));
    let from = if !own.is_empty() && rng.bool() { own } else { any };
    let (_, protocol, ends, v4, v6) = from[rng.usize(..from.len())];
    Target {
        text: format!("-j {}", place.by_family(v4, v6)),
        protocol: *protocol,
        ends: *ends,
    }
}
