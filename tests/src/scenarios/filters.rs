//! Every filter flag, each with packets that it takes and packets that it leaves, of both families.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::errno::Errno;
use nix::libc;

use super::trial;
use crate::neighbours::{FAMILIES, Family, LEFT, NODE, Neighbours, RIGHT};
use crate::tracer::{Line, THIS_NETNS, Tracer};
use crate::traffic::{Place, connection, send};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("filters::by_header", || check(&BY_HEADER)),
        trial("filters::by_expression", || check(&BY_EXPRESSION)),
        trial("filters::by_device_mark_and_namespace", || check(&BY_DEVICE)),
        trial("filters::tables_and_hooks_to_show", tables_and_hooks_to_show),
    ]
}

/// Flags, and the packets that are to be shown: all others are not.
type Case = (&'static str, &'static str);

/// Packets, each once for IPv4 (`4…`) and once for IPv6 (`6…`), IPv6 options only for that:
///
/// | name | way | ports |
/// |---|---|---|
/// | udp | over loopback | 1111 to 2222 |
/// | more | over loopback | 3333 to 4444 |
/// | mark | over loopback, marked 0x30 by mangle OUTPUT | 3333 to 6666 |
/// | tcp | over loopback, a whole connection | any to 5555 and back |
/// | ping | over loopback, there and back | |
/// | in | from the left neighbour to the node | 1111 to 2222 |
/// | frag | the same in three fragments | 1111 to 2222 |
/// | out | from the node to the right neighbour | 3333 to 4444 |
/// | opts | over loopback, with destination options | 1111 to 2222 |
const BY_HEADER: [Case; 22] = [
    ("-4", "4udp 4more 4mark 4tcp 4ping 4in 4frag 4out"),
    ("-6", "6udp 6more 6mark 6tcp 6ping 6in 6frag 6out 6opts"),
    (
        "--proto udp",
        "4udp 4more 4mark 4in 4frag 4out 6udp 6more 6mark 6in 6frag 6out 6opts",
    ),
    ("--proto tcp", "4tcp 6tcp"),
    ("-p icmp", "4ping"),
    ("-p icmpv6", "6ping"),
    ("-p 58", "6ping"),
    ("--src 127.0.0.0/8", "4udp 4more 4mark 4tcp 4ping"),
    ("--src 10.77.1.2", "4in 4frag"),
    ("--src fd77:0:0:1::/64", "6in 6frag"),
    ("-s ::1", "6udp 6more 6mark 6tcp 6ping 6opts"),
    ("--dst 10.77.2.0/24", "4out"),
    ("-d fd77:0:0:2::2/128", "6out"),
    ("--sport 1111", "4udp 4in 4frag 6udp 6in 6frag 6opts"),
    ("--sport 5555", "4tcp 6tcp"),
    ("--dport 4444", "4more 4out 6more 6out"),
    ("--dport 4000-7000", "4more 4out 4mark 4tcp 6more 6out 6mark 6tcp"),
    ("--port 2222", "4udp 4in 4frag 6udp 6in 6frag 6opts"),
    ("--port 3333", "4more 4mark 4out 6more 6mark 6out"),
    ("--dport 3333", ""),
    ("-6 --sport 1111 --dport 2222 --proto udp -s ::1", "6udp 6opts"),
    ("--src 10.77.1.2 --dport 4444", ""),
];

/// In tcpdump's syntax: what the programs decide, what user space does, and both together.
const BY_EXPRESSION: [Case; 12] = [
    ("host 10.77.1.2", "4in 4frag"),
    ("tcp port 5555 or icmp6", "4tcp 6tcp 6ping"),
    // Later fragments have no port at all.
    (
        "udp and not dst port 2222",
        "4more 4mark 4out 4frag 6more 6mark 6out 6frag",
    ),
    // From left to right: IPv6 as well to 6666.
    (
        "ip and udp and dst port 2222 or 6666",
        "4udp 4in 4frag 4mark 6mark",
    ),
    ("src net 127 and udp and less 130", "4udp"),
    ("net fd77:0:0:2::/64", "6out"),
    ("icmp[icmptype] = icmp-echo", "4ping"),
    ("tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", "4tcp 6tcp"),
    ("ip6[6] = 60", "6opts"),
    ("udp src port 1111 and ip6 and greater 1000", "6frag"),
    (
        "-o + dst port 4444 or 2222",
        "4udp 4more 4out 6udp 6more 6out 6opts",
    ),
    // A packet is followed into the next namespace.
    (
        "not net 127 and not ip6 --table filter --hook INPUT",
        "4in 4frag 4out",
    ),
];

const BY_DEVICE: [Case; 11] = [
    ("--in-interface left", "4in 4frag 6in 6frag"),
    ("-i le+", "4in 4frag 6in 6frag"),
    ("-i lef", ""),
    (
        "-i lo",
        "4udp 4more 4mark 4tcp 4ping 6udp 6more 6mark 6tcp 6ping 6opts",
    ),
    ("--out-interface right", "4out 6out"),
    ("-o + --dport 4444", "4more 4out 6more 6out"),
    ("--mark 0x30", "4mark 6mark"),
    ("--mark 0x10/0x11", "4mark 6mark"),
    ("-m 0x31", ""),
    // Only the right neighbour has tables.
    ("--netns right", "4out 6out"),
    ("--netns left", ""),
];

fn check(cases: &[Case]) -> Result<()> {
    let neighbours = Neighbours::new()?;
    for family in FAMILIES {
        family.restore(
            "*mangle\n-A OUTPUT -p udp --dport 6666 -j MARK --set-mark 0x30\nCOMMIT\n*filter\nCOMMIT\n",
        )?;
        neighbours.right.run(&format!("{} -A INPUT", family.tool()))?;
    }
    // All at once, so that all see the same packets.
    let arguments: Vec<String> = cases
        .iter()
        .map(|(flags, _)| {
            let netns = if flags.contains("--netns") { "" } else { THIS_NETNS };
            format!("{flags} {netns} --ring-kib 256")
        })
        .collect();
    let tracers = Tracer::start_all(&arguments)?;
    for family in FAMILIES {
        packets(family, &neighbours).with_context(|| format!("failed to send packets: {family:?}"))?;
    }
    // Not whether anything was lost: so many tracers keep a processor so long that the kernel skips probes for
    // what it sends of itself. That every packet of the table is there says more.
    for (report, (flags, expected)) in Tracer::stop_all(tracers)?.into_iter().zip(cases) {
        let lines = report.lines;
        let shown: BTreeSet<String> = lines.iter().filter_map(name).collect();
        let expected: BTreeSet<String> = expected.split_whitespace().map(str::to_owned).collect();
        ensure!(
            shown == expected,
            "{flags} shows {shown:?} instead of {expected:?}: {lines:#?}"
        );
    }
    Ok(())
}

/// Bytes that the datagrams carry, by name.
const LENS: [(&str, usize); 7] = [
    ("udp", 100),
    ("more", 110),
    ("mark", 120),
    ("in", 130),
    ("out", 140),
    ("opts", 150),
    ("frag", 3000),
];

fn len_of(name: &str) -> Result<usize> {
    let found = LENS.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, len)| *len)
        .with_context(|| format!("no such packet: {name}"))
}

fn packets(family: Family, neighbours: &Neighbours) -> Result<()> {
    let loopback = family.loopback();
    let (left, right) = (Place::There(&neighbours.left), Place::There(&neighbours.right));
    let (node_left, node_right) = (family.address(LEFT, NODE), family.address(RIGHT, NODE));
    let neighbour = Neighbours::right(family);
    // Where somebody listens, nothing is answered.
    let _receivers = [
        Place::Here.udp(any(family), 2222)?,
        Place::Here.udp(any(family), 4444)?,
        Place::Here.udp(any(family), 6666)?,
        right.udp(any(family), 4444)?,
    ];
    let from_1111 = Place::Here.udp(loopback, 1111)?;
    let from_3333 = Place::Here.udp(loopback, 3333)?;
    send(&from_1111, (loopback, 2222).into(), len_of("udp")?)?;
    send(&from_3333, (loopback, 4444).into(), len_of("more")?)?;
    send(&from_3333, (loopback, 6666).into(), len_of("mark")?)?;
    let from_left = left.udp(Neighbours::left(family), 1111)?;
    send(&from_left, (node_left, 2222).into(), len_of("in")?)?;
    send(&from_left, (node_left, 2222).into(), len_of("frag")?)?;
    let to_right = Place::Here.udp(node_right, 3333)?;
    send(&to_right, (neighbour, 4444).into(), len_of("out")?)?;
    if family == Family::V6 {
        add_destination_options(&from_1111)?;
        send(&from_1111, (loopback, 2222).into(), len_of("opts")?)?;
    }
    let listener = Place::Here.listen((loopback, 5555).into())?;
    connection(Place::Here, (loopback, 5555).into(), &listener)?;
    Place::Here.ping(loopback, 100)
}

fn any(family: Family) -> IpAddr {
    match family {
        Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// Makes the socket send an extension header between the IPv6 and the UDP header: eight bytes of padding.
fn add_destination_options(socket: &std::net::UdpSocket) -> Result<()> {
    // Next header (the kernel fills it in), length 0 for 8 bytes, and the option PadN with 4 bytes.
    let header: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];
    // SAFETY: the pointer and the length are those of the array.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IPV6,
            libc::IPV6_DSTOPTS,
            header.as_ptr().cast(),
            8,
        )
    };
    Errno::result(result)
        .map(drop)
        .context("failed to set destination options")
}

/// Which of the packets a line is about; `None` for what the kernel sends of itself.
fn name(line: &Line) -> Option<String> {
    let (family, headers_len) = if line.source.address.is_ipv4() {
        (4, 28)
    } else {
        (6, 48)
    };
    let what = match line.protocol.as_str() {
        "TCP" => "tcp",
        "UDP" if line.len > 1000 || line.detail.starts_with("fragment") => "frag",
        "UDP" => {
            let len = usize::try_from(line.len - headers_len).ok()?;
            let found = LENS.iter().find(|(name, known)| {
                if *name == "opts" {
                    known + 8 == len
                } else {
                    *known == len
                }
            });
            found?.0
        }
        _ if line.detail.starts_with("type 8 ")
            || line.detail.starts_with("type 0 ")
            || line.detail.starts_with("type 128 ")
            || line.detail.starts_with("type 129 ") =>
        {
            "ping"
        }
        _ => return None,
    };
    Some(format!("{family}{what}"))
}

fn tables_and_hooks_to_show() -> Result<()> {
    const CASES: [(&str, &[&str]); 6] = [
        ("--table filter", &["filter:OUTPUT", "filter:INPUT"]),
        (
            "--table raw -t mangle --hook OUTPUT",
            &["raw:OUTPUT", "mangle:OUTPUT"],
        ),
        ("--hook INPUT", &["mangle:INPUT", "filter:INPUT"]),
        ("--hook postrouting", &["mangle:POSTROUTING"]),
        ("--table security", &[]),
        // The packet is followed from a table that is not shown.
        ("--table filter --hook INPUT -o lo", &["filter:INPUT"]),
    ];

    for family in FAMILIES {
        family.restore("*raw\nCOMMIT\n*mangle\nCOMMIT\n*filter\nCOMMIT\n")?;
    }
    let arguments = CASES.map(|(flags, _)| format!("{flags} --dport 7500 {THIS_NETNS} --ring-kib 256"));
    let tracers = Tracer::start_all(&arguments)?;
    for family in FAMILIES {
        let loopback = family.loopback();
        let _receiver = Place::Here.udp(loopback, 7500)?;
        send(&Place::Here.udp(loopback, 0)?, (loopback, 7500).into(), 1)?;
    }
    for (report, (flags, expected)) in Tracer::stop_all(tracers)?.into_iter().zip(CASES) {
        let lines = report.lines;
        for family in FAMILIES {
            let of_family = lines
                .iter()
                .filter(|line| line.source.address.is_ipv4() == (family == Family::V4));
            let shown: Vec<String> = of_family
                .map(|line| format!("{}:{}", line.table, line.chain))
                .collect();
            if shown != expected {
                bail!("{flags} shows {shown:?} instead of {expected:?} for {family:?}");
            }
        }
    }
    Ok(())
}
