//! Which network namespace the other end of a device is in: asked from the kernel over rtnetlink.
//!
//! Nothing is changed by asking: the numbers by which namespaces know each other are given when a device with two ends
//! is made or set up (`rtnl_fill_link_netnsid`, `net/core/rtnetlink.c`), and only devices that packets pass, so that are
//! up, are asked for.

use std::{
    io,
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use super::{Netns, NetnsError, link};
use crate::{nftables::source::Socket, recent::Recent};

/// Devices remembered.
const KNOWN_MAX: usize = 8192;
/// How long an answer is good: the other end may be moved.
const GOOD_FOR: Duration = Duration::from_secs(5);

/// Looks up where devices have their other ends.
#[derive(Debug, Default)]
pub(super) struct Peers {
    known: Recent<(u32, u32), (Option<u32>, Instant), KNOWN_MAX>,
}

impl Peers {
    /// Inode number of the namespace that the other end of a device is in; `None` where it has none, or none in another
    /// namespace, or that one cannot be found.
    pub(super) fn of(&mut self, netns: u32, ifindex: u32) -> Option<u32> {
        let now = Instant::now();
        if let Some((peer, asked)) = self.known.get(&(netns, ifindex))
            && now.saturating_duration_since(*asked) < GOOD_FOR
        {
            return *peer;
        }
        let peer = ask(netns, ifindex);
        self.known.insert((netns, ifindex), (peer, now));
        peer
    }
}

fn ask(netns: u32, ifindex: u32) -> Option<u32> {
    let here = Netns::by_inode(netns)?;
    let enter = |body: &(dyn Fn(&mut Socket) -> io::Result<Option<u32>> + Sync)| {
        here.enter(|| Ok::<_, NetnsError>(Socket::of_routing().and_then(|mut socket| body(&mut socket))))
    };
    let ask = |socket: &mut Socket, question: &[u8], read: fn(&[u8]) -> Option<i32>| {
        socket.send(question)?;
        socket.receive(|answer| Ok(read(answer)))
    };
    let found = enter(&|socket| {
        let Some(nsid) = ask(socket, &link::ask_link(ifindex), link::peer_nsid)? else {
            return Ok(None);
        };
        for other in Netns::all() {
            let question = link::ask_nsid(other.file.as_raw_fd());
            if ask(socket, &question, link::nsid)? == Some(nsid) {
                return Ok(Some(other.inode()));
            }
        }
        Ok(None)
    });
    found.ok()?.ok()?
}
