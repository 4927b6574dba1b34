//! Commits of nf_tables, and the rules that each of them brings: read by a thread of its own as soon as a commit is
//! over, whatever else is to be done, for the next one may come soon.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        mpsc::{self, Receiver},
    },
    thread,
    time::Duration,
};

use aya::maps::{HashMap, MapData, MapError, RingBuf};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use tracer_common::{Commit, Generation};

use super::rules::Found;
use crate::{
    netns::Netns,
    nftables::{Ruleset, source},
};

/// Times that rules are read again because of a commit meanwhile.
const ATTEMPTS_MAX: u32 = 16;
/// How long to wait for one that is under way.
const COMMIT_TIME: Duration = Duration::from_millis(1);

/// A [`Commit`] as the map holds it.
type Bytes = [u8; size_of::<Commit>()];

/// The last commit of each network namespace.
#[derive(Debug)]
pub struct Commits(HashMap<MapData, u32, Bytes>);

impl Commits {
    pub(super) fn new(map: HashMap<MapData, u32, Bytes>) -> Self {
        Self(map)
    }

    /// That of a network namespace; nothing but zeros where there was none since the start.
    fn last(&self, netns: &Netns) -> Result<Commit, String> {
        match self.0.get(&netns.inode(), 0) {
            // SAFETY: the same size (asserted by the type), and every bit pattern is a value.
            Ok(bytes) => Ok(unsafe { std::mem::transmute::<Bytes, Commit>(bytes) }),
            Err(MapError::KeyNotFound) => Ok(Commit::default()),
            Err(error) => Err(format!("failed to read: map COMMITS: {error}")),
        }
    }

    /// Whether these are the rules that a namespace has now.
    pub(super) fn are_in_force(&self, netns: &Netns, generation: Generation) -> bool {
        let last = self.last(netns);
        last.is_ok_and(|last| last.in_force() == Some(generation.made_ns))
    }

    /// Reads the rules that a namespace has now. Each commit is seen by the programs when it begins and when it is over;
    /// so rules that were read while none was under way, with the same last one before and after, are those that it
    /// made.
    pub(super) fn rules(&self, netns: &Netns) -> Result<(Generation, Ruleset), String> {
        for _ in 0..ATTEMPTS_MAX {
            let before = self.last(netns)?;
            let Some(made_ns) = before.in_force() else {
                thread::sleep(COMMIT_TIME);
                continue;
            };
            let ruleset = source::ruleset(netns).map_err(|error| error.to_string())?;
            if self.last(netns)? == before {
                let generation = Generation {
                    table_info: 0,
                    made_ns,
                };
                return Ok((generation, ruleset));
            }
        }
        Err("the rules of nf_tables were replaced each time they were read".to_owned())
    }
}

/// Commits as they happen. Each record of the ring buffer is the namespace of one.
pub struct Committed {
    ring: RingBuf<MapData>,
    commits: Arc<Commits>,
}

/// Rules that a commit has brought to a network namespace.
pub type Brought = (u32, Generation, Ruleset);

impl Committed {
    pub(super) fn new(ring: RingBuf<MapData>, commits: Arc<Commits>) -> Self {
        Self { ring, commits }
    }

    /// Reads rules from now on. The thread ends when nobody wants them any more.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn read_rules(mut self) -> std::io::Result<Receiver<Brought>> {
        let (sender, receiver) = mpsc::channel();
        let ring = self.ring.as_fd().try_clone_to_owned()?;
        let read = move || {
            let mut found = Found::default();
            while wait(&ring) {
                for inode in self.latest() {
                    let Some(netns) = found.netns(inode) else { continue };
                    // What cannot be read is read, or its failure told, when a packet meets it.
                    let Ok((generation, ruleset)) = self.commits.rules(&netns) else {
                        continue;
                    };
                    if sender.send((inode, generation, ruleset)).is_err() {
                        return;
                    }
                }
            }
        };
        thread::Builder::new().name("commits".to_owned()).spawn(read)?;
        Ok(receiver)
    }

    /// The namespaces that had commits, each once: only what one has now can be read.
    fn latest(&mut self) -> Vec<u32> {
        let mut latest = Vec::new();
        while let Some(record) = self.ring.next() {
            let Some(inode) = record.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) else {
                continue;
            };
            if !latest.contains(&inode) {
                latest.push(inode);
            }
        }
        latest
    }
}

/// Waits until there are commits; false where that is not possible.
fn wait(ring: &OwnedFd) -> bool {
    loop {
        let mut readable = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
        match poll(&mut readable, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            polled => return polled.is_ok(),
        }
    }
}
