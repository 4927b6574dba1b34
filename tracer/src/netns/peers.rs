//! Which network namespace the other end of a device is in: asked from the kernel over rtnetlink.
//!
//! Nothing is changed by asking: the numbers by which namespaces know each other are given when a device with two ends
//! is made or set up (`rtnl_fill_link_netnsid`, `net/core/rtnetlink.c`), and only devices that packets pass, so that are
//! up, are asked for.

use std::{
    collections::HashMap,
    io,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use super::{Netns, NetnsError, link};
use crate::{nftables::source::Socket, recent::Recent};

/// Devices remembered.
const KNOWN_MAX: usize = 8192;
/// Namespaces whose numbers for others are remembered.
const NUMBERED_MAX: usize = 256;
/// How long an answer is good: the other end may be moved. Reading the numbers looks at every process.
const GOOD_FOR: Duration = Duration::from_secs(5);
/// The same for the numbers when a device is new, for which they may be as well.
const GOOD_FOR_NEW: Duration = Duration::from_millis(100);

/// Looks up where devices have their other ends.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: Recent<(u32, u32), (Option<u32>, Instant), KNOWN_MAX>,
    numbers: Recent<u32, Numbers, NUMBERED_MAX>,
}

/// By which numbers a namespace knows others, with their inode numbers.
#[derive(Clone, Debug)]
struct Numbers {
    inodes: HashMap<i32, u32>,
    read: Instant,
}

impl Peers {
    /// Inode number of the namespace that the other end of a device is in; `None` where it has none, or none in another
    /// namespace, or that one cannot be found.
    pub(super) fn of(&mut self, netns: u32, ifindex: u32) -> Option<u32> {
        let now = Instant::now();
        let good_for = match self.known.get(&(netns, ifindex)) {
            Some((peer, asked)) if now.saturating_duration_since(*asked) < GOOD_FOR => return *peer,
            Some(_) => GOOD_FOR,
            None => GOOD_FOR_NEW,
        };
        let numbers = self.numbers.get(&netns);
        let numbers = numbers.filter(|numbers| now.saturating_duration_since(numbers.read) < good_for);
        let peer = match ask(netns, ifindex, numbers.cloned()) {
            Some((nsid, numbers)) => {
                let peer = numbers.inodes.get(&nsid).copied();
                self.numbers.insert(netns, numbers);
                peer
            }
            None => None,
        };
        self.known.insert((netns, ifindex), (peer, now));
        peer
    }
}

/// The number of the namespace where a device has its other end, with all numbers, those that are known or else as they
/// are now.
fn ask(netns: u32, ifindex: u32, known: Option<Numbers>) -> Option<(i32, Numbers)> {
    fn put(socket: &mut Socket, question: &[u8], read: fn(&[u8]) -> Option<i32>) -> io::Result<Option<i32>> {
        socket.send(question)?;
        socket.receive(|answer| Ok(read(answer)))
    }
    let answered = || {
        let mut socket = Socket::of_routing()?;
        let Some(nsid) = put(&mut socket, &link::ask_link(ifindex), link::peer_nsid)? else {
            return Ok(None);
        };
        if let Some(known) = known {
            return Ok(Some((nsid, known)));
        }
        let mut numbers = Numbers {
            inodes: HashMap::new(),
            read: Instant::now(),
        };
        for other in Netns::all() {
            let question = link::ask_nsid(other.file.as_raw_fd());
            if let Some(nsid) = put(&mut socket, &question, link::nsid)? {
                numbers.inodes.insert(nsid, other.inode());
            }
        }
        Ok::<_, io::Error>(Some((nsid, numbers)))
    };
    let here = Netns::by_inode(netns)?;
    let answer = here.enter(|| Ok::<_, NetnsError>(answered()));
    answer.ok()?.ok()?
}
