//! Names that expressions know.

use tracer_common::protocols;

use crate::traversal::Family;

/// `IPPROTO_ICMP`
const ICMP: u8 = 1;
/// `IPPROTO_ICMPV6`
const ICMPV6: u8 = 58;

/// Protocols that can stand for themselves: name, number, and the family that the name implies.
const PROTOCOLS: [(&str, u8, Option<Family>); 13] = [
    ("tcp", protocols::TCP, None),
    ("udp", protocols::UDP, None),
    ("sctp", protocols::SCTP, None),
    ("dccp", protocols::DCCP, None),
    ("udplite", protocols::UDP_LITE, None),
    ("icmp", ICMP, Some(Family::Ipv4)),
    ("icmp6", ICMPV6, Some(Family::Ipv6)),
    ("igmp", 2, Some(Family::Ipv4)),
    ("gre", 47, None),
    ("esp", 50, None),
    ("ah", protocols::AUTHENTICATION, None),
    ("pim", 103, None),
    ("vrrp", 112, None),
];

/// A protocol that can stand for itself: its number, and the family that its name implies.
pub(super) fn protocol(name: &str) -> Option<(u8, Option<Family>)> {
    let (_, number, family) = PROTOCOLS.into_iter().find(|(known, ..)| *known == name)?;
    Some((number, family))
}

/// What a protocol is called here.
pub(crate) fn name_of(protocol: u8) -> Option<&'static str> {
    let (name, ..) = PROTOCOLS.into_iter().find(|(_, number, _)| *number == protocol)?;
    Some(name)
}

/// The family that a word names.
pub(super) fn family(name: &str) -> Option<Family> {
    match name {
        "ip" => Some(Family::Ipv4),
        "ip6" => Some(Family::Ipv6),
        _ => None,
    }
}

/// A port by the name that `/etc/services` has for it: those that people type.
pub(super) fn port(name: &str) -> Option<u16> {
    Some(match name {
        "ftp-data" => 20,
        "ftp" => 21,
        "ssh" => 22,
        "telnet" => 23,
        "smtp" => 25,
        "domain" => 53,
        "bootps" => 67,
        "bootpc" => 68,
        "tftp" => 69,
        "http" => 80,
        "ntp" => 123,
        "snmp" => 161,
        "bgp" => 179,
        "https" => 443,
        "syslog" => 514,
        "mysql" => 3306,
        "postgresql" => 5432,
        _ => return None,
    })
}

/// A number by the name that `pcap-filter(7)` gives it.
pub(super) fn constant(name: &str) -> Option<u32> {
    Some(match name {
        "tcpflags" => 13,
        "tcp-fin" => 0x01,
        "tcp-syn" => 0x02,
        "tcp-rst" => 0x04,
        "tcp-push" => 0x08,
        "tcp-ack" => 0x10,
        "tcp-urg" => 0x20,
        "tcp-ece" => 0x40,
        "tcp-cwr" => 0x80,
        "icmptype" | "icmp6type" | "icmp-echoreply" => 0,
        "icmpcode" | "icmp6code" | "icmp6-destinationunreach" => 1,
        "icmp-unreach" | "icmp6-timeexceeded" => 3,
        "icmp-sourcequench" | "icmp6-parameterproblem" => 4,
        "icmp-redirect" => 5,
        "icmp-echo" => 8,
        "icmp-routeradvert" => 9,
        "icmp-routersolicit" => 10,
        "icmp-timxceed" => 11,
        "icmp-paramprob" => 12,
        "icmp-tstamp" => 13,
        "icmp-tstampreply" => 14,
        "icmp-ireq" => 15,
        "icmp-ireqreply" => 16,
        "icmp-maskreq" => 17,
        "icmp-maskreply" => 18,
        "icmp6-packettoobig" => 2,
        "icmp6-echo" => 128,
        "icmp6-echoreply" => 129,
        "icmp6-multicastlistenerquery" => 130,
        "icmp6-multicastlistenerreportv1" => 131,
        "icmp6-multicastlistenerdone" => 132,
        "icmp6-routersolicit" => 133,
        "icmp6-routeradvert" => 134,
        "icmp6-neighborsolicit" => 135,
        "icmp6-neighboradvert" => 136,
        "icmp6-redirect" => 137,
        _ => return None,
    })
}

/// What to do instead with a word that tcpdump knows and that means nothing in an IP table.
pub(super) fn elsewhere(name: &str) -> Option<&'static str> {
    Some(match name {
        "vlan" | "mpls" | "pppoed" | "pppoes" | "geneve" | "vxlan" => {
            "the IP tables see packets without tags and tunnels; leave it out, or choose the device with --in-interface"
        }
        "ether" | "link" | "fddi" | "tr" | "wlan" | "llc" | "arp" | "rarp" | "stp" | "lldp" => {
            "the IP tables see IP packets only; leave it out"
        }
        "inbound" | "outbound" | "ifname" | "on" => "use --in-interface and --out-interface",
        "broadcast" => "give the address: dst host 255.255.255.255",
        "multicast" => "give the addresses: dst net 224.0.0.0/4, or dst net ff00::/8",
        "gateway" => "give the device: --out-interface",
        "protochain" => "use proto: extension headers are looked through anyway",
        _ => return None,
    })
}
