//! What a line says about the packet besides its way: owner, length, connection.

use std::thread;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::trial;
use crate::account::Selection;
use crate::neighbours::{FAMILIES, Family};
use crate::tracer::{Line, THIS_NETNS, Tracer};
use crate::traffic::{Place, datagram, raw_packet, send, stay_on_processor};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("fields::owner_and_length", owner_and_length),
        trial("fields::states_of_connections", states_of_connections),
        trial("fields::no_state_without_tracking", no_state_without_tracking),
        trial("fields::every_tcp_flag_is_logged", every_tcp_flag_is_logged),
    ]
}

/// A segment with each combination of the bits that only some kernels name: the line is the running kernel's.
fn every_tcp_flag_is_logged() -> Result<()> {
    const FROM: u16 = 7201;

    stay_on_processor(0)?;
    Family::V4.restore("*filter\nCOMMIT\n")?;
    let selection = Selection {
        family: Family::V4,
        matches: "-p tcp --sport 7201",
        filter: "--proto tcp --sport 7201 --no-connections",
    };
    selection.log()?;
    let lines = selection.compare(|_| {
        for reserved in 0..16 {
            // The kernel fills in lengths and the checksum of the IP header; nobody looks at the other.
            let mut packet = vec![
                0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1,
            ];
            packet.extend(FROM.to_be_bytes());
            packet.extend([
                0,
                9,
                0,
                0,
                0,
                1,
                0,
                0,
                0,
                2,
                0x50 | reserved,
                0x04,
                4,
                0,
                0,
                0,
                0,
                0,
            ]);
            raw_packet(&packet)?;
        }
        Ok(())
    })?;
    ensure!(lines.len() >= 16, "{} lines", lines.len());
    Ok(())
}

/// The owner is shown wherever the packet has its socket, that is until it leaves or is received.
fn owner_and_length() -> Result<()> {
    const USER: u32 = 1234;
    const GROUP: u32 = 2345;

    for family in FAMILIES {
        family.restore("*mangle\nCOMMIT\n*filter\nCOMMIT\n")?;
    }
    let tracer = Tracer::start(&format!("--dport 7200 {THIS_NETNS} --no-connections"))?;
    for family in FAMILIES {
        let loopback = family.loopback();
        let _receiver = Place::Here.udp(loopback, 7200)?;
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                // Of this thread alone; the user last, as it takes the right to set the group.
                setfsgid(Gid::from_raw(GROUP));
                setfsuid(Uid::from_raw(USER));
                datagram(Place::Here, loopback, (loopback, 7200).into(), 123)
            });
            other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        datagram(Place::Here, loopback, (loopback, 7200).into(), 321)?;
    }
    let lines = tracer.stop()?.whole()?;
    ensure!(lines.len() == 4 * 6, "{lines:#?}");
    for line in &lines {
        // IPv4 and UDP headers have 28 bytes, IPv6 and UDP 48.
        let headers_len = if line.source.address.is_ipv4() { 28 } else { 48 };
        let owner = match line.len - headers_len {
            123 => (USER, GROUP),
            321 => (0, 0),
            _ => anyhow::bail!("length: {}", line.text),
        };
        // A socket that receives early does so at PREROUTING; the sender's is gone by then.
        let out = line.chain == "OUTPUT" || line.chain == "POSTROUTING";
        ensure!(!out || line.owner == Some(owner), "owner: {}", line.text);
        ensure!(
            out || line.owner.is_none_or(|shown| shown == owner),
            "owner: {}",
            line.text
        );
    }
    Ok(())
}

const TRACKED: &str = "*raw\n-A OUTPUT -p udp --dport 7203 -j CT --notrack\n\
                       -A PREROUTING -p udp --dport 7203 -j CT --notrack\nCOMMIT\n\
                       *filter\n-A INPUT -m conntrack --ctstate NEW -j ACCEPT\nCOMMIT\n";

fn states_of_connections() -> Result<()> {
    for family in FAMILIES {
        family.restore(TRACKED)?;
    }
    let tracer = Tracer::start(&format!("--table filter --hook OUTPUT --hook INPUT {THIS_NETNS}"))?;
    for family in FAMILIES {
        let loopback = family.loopback();
        let (one, other) = (Place::Here.udp(loopback, 7201)?, Place::Here.udp(loopback, 7202)?);
        send(&one, (loopback, 7202).into(), 1)?;
        other.recv(&mut [0]).context("nothing came")?;
        send(&other, (loopback, 7201).into(), 2)?;
        one.recv(&mut [0]).context("nothing came")?;
        send(&one, (loopback, 7202).into(), 3)?;
        send(&one, (loopback, 7203).into(), 4)?;
        // Nobody listens: the ICMP error is about a connection.
        datagram(Place::Here, loopback, (loopback, 7204).into(), 5)?;
    }
    let lines = tracer.stop()?.whole()?;
    for family in FAMILIES {
        let headers_len = if family == Family::V4 { 28 } else { 48 };
        let state = |of: &dyn Fn(&Line) -> bool| -> Vec<String> {
            let lines = lines
                .iter()
                .filter(|line| line.source.address.is_ipv4() == (family == Family::V4) && of(line));
            lines
                .map(|line| format!("{} {}", line.chain, line.conntrack))
                .collect()
        };
        for (len, expected) in [
            (1, "NEW"),
            (2, "ESTABLISHED,reply"),
            (3, "ESTABLISHED"),
            (4, "UNTRACKED"),
            (5, "NEW"),
        ] {
            let shown = state(&|line| line.protocol == "UDP" && line.len == headers_len + len);
            ensure!(
                shown == [format!("OUTPUT {expected}"), format!("INPUT {expected}")],
                "datagram {len}: {shown:?}: {lines:#?}"
            );
        }
        let errors = state(&|line| {
            line.protocol.starts_with("ICMP")
                && (line.detail == "type 3 code 3" || line.detail == "type 1 code 4")
        });
        // One for the tracked datagram; the one about the untracked datagram belongs to nothing.
        let related = errors
            .iter()
            .filter(|state| state.ends_with(" RELATED,reply"))
            .count();
        ensure!(related == 2 && errors.len() == 4, "errors: {errors:?}");
    }
    Ok(())
}

fn no_state_without_tracking() -> Result<()> {
    Family::V4.restore("*filter\nCOMMIT\n")?;
    let tracer = Tracer::start(&format!("-4 {THIS_NETNS}"))?;
    let loopback = Family::V4.loopback();
    datagram(Place::Here, loopback, (loopback, 7205).into(), 1)?;
    let lines = tracer.stop()?.whole()?;
    ensure!(
        !lines.is_empty() && lines.iter().all(|line| line.conntrack.is_empty()),
        "{lines:#?}"
    );
    Ok(())
}
