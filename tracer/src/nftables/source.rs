//! Reads the rules of nf_tables in a network namespace over nfnetlink, without changing anything.
//!
//! Only to be used where nf_tables is loaded: asking for it would load it (`nfnetlink_rcv_msg`,
//! `net/netfilter/nfnetlink.c`).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::errno::Errno;

use super::decode::Decoder;
use super::model::Ruleset;
use super::netlink::{DONE, DUMP, ERROR, INTERRUPTED, Message, REQUEST, Writer, kind, message};
use crate::{netns::Netns, ruleset::source::SourceError};

/// Attempts to read rules that change meanwhile.
const ATTEMPTS_MAX: u32 = 16;
/// Room for what a dump gives at once; the kernel fills at most 32 KiB (`netlink_dump`).
const BUFFER_LEN: usize = 1 << 16;
/// The longest that an answer may take.
const ANSWER_TIME_MAX_S: i64 = 20;

/// A socket of netlink, in the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> Self {
        socket.fd
    }
}

impl Socket {
    /// Opens one of nfnetlink.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> io::Result<Self> {
        Self::of(libc::NETLINK_NETFILTER)
    }

    /// Opens one of rtnetlink.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn of_routing() -> io::Result<Self> {
        Self::of(libc::NETLINK_ROUTE)
    }

    fn of(protocol: libc::c_int) -> io::Result<Self> {
        // SAFETY: the call has no preconditions; the result is checked.
        let fd = Errno::result(unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol)
        })?;
        // SAFETY: a descriptor that was just opened and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let time = libc::timeval {
            tv_sec: ANSWER_TIME_MAX_S,
            tv_usec: 0,
        };
        let len = libc::socklen_t::try_from(size_of::<libc::timeval>()).map_err(io::Error::other)?;
        // SAFETY: the value is a timeval of the size given, and lives for the call.
        Errno::result(unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVTIMEO,
                (&raw const time).cast(),
                len,
            )
        })?;
        Ok(Self {
            fd,
            buffer: vec![0; BUFFER_LEN],
        })
    }

    /// Sends messages to the kernel.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&self, messages: &[u8]) -> io::Result<()> {
        // SAFETY: the bytes live for the call. Not connected, it goes to the kernel.
        let sent = Errno::result(unsafe {
            libc::send(self.fd.as_raw_fd(), messages.as_ptr().cast(), messages.len(), 0)
        })?;
        if usize::try_from(sent).is_ok_and(|sent| sent == messages.len()) {
            Ok(())
        } else {
            Err(io::Error::other("the kernel took only a part of a message"))
        }
    }

    /// Waits for an answer and hands on its bytes.
    ///
    /// # Errors
    /// What the kernel or the reader says.
    pub fn receive<T>(&mut self, read: impl FnOnce(&[u8]) -> io::Result<T>) -> io::Result<T> {
        let buffer = &mut self.buffer;
        // SAFETY: the buffer lives for the call and is as long as said.
        let len = Errno::result(unsafe {
            libc::recv(
                self.fd.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                libc::MSG_TRUNC,
            )
        })?;
        match usize::try_from(len).ok().and_then(|len| buffer.get(..len)) {
            Some(bytes) => read(bytes),
            None => Err(io::Error::other("an answer of the kernel is too long")),
        }
    }

    /// Asks for all of a kind and hands on each answer. False where they changed meanwhile.
    fn dump(&mut self, what: u8, mut take: impl FnMut(&Message<'_>) -> io::Result<()>) -> io::Result<bool> {
        let mut request = Writer::default();
        request.message(kind(what), REQUEST | DUMP, u32::from(what), 0, 0, |_| {});
        self.send(request.bytes())?;
        let mut steady = true;
        loop {
            let done = self.receive(|bytes| {
                for answer in Message::all(bytes) {
                    if answer.sequence != u32::from(what) {
                        continue;
                    }
                    steady &= answer.flags & INTERRUPTED == 0;
                    match answer.kind {
                        DONE => return Ok(true),
                        ERROR => {
                            let errno = answer.error().unwrap_or_default();
                            return Err(io::Error::from_raw_os_error(errno));
                        }
                        _ => take(&answer)?,
                    }
                }
                Ok(false)
            })?;
            if done {
                return Ok(steady);
            }
        }
    }

    /// Names of the tables of every family.
    ///
    /// # Errors
    /// What the kernel says.
    fn table_names(&mut self) -> io::Result<Vec<String>> {
        let mut decoder = Decoder::default();
        self.dump(message::GET_TABLE, |answer| {
            // What cannot be understood has no name.
            let _ = decoder.take(answer);
            Ok(())
        })?;
        Ok(decoder
            .ruleset()
            .tables
            .into_iter()
            .map(|table| table.name)
            .collect())
    }

    /// All rules. They may have changed between its parts: who needs to know looks at the commits before and after.
    ///
    /// # Errors
    /// What the kernel says, and answers that cannot be understood.
    pub fn ruleset(&mut self) -> io::Result<Ruleset> {
        for _ in 0..ATTEMPTS_MAX {
            let mut decoder = Decoder::default();
            let mut steady = true;
            let mut strange = false;
            for what in [
                message::GET_TABLE,
                message::GET_CHAIN,
                message::GET_SET,
                message::GET_RULE,
            ] {
                steady &= self.dump(what, |answer| {
                    strange |= decoder.take(answer).is_none();
                    Ok(())
                })?;
            }
            // What belongs to nothing was made between the questions.
            if steady && !strange {
                return Ok(decoder.ruleset());
            }
        }
        Err(io::Error::other(
            "the rules changed during each attempt to read them",
        ))
    }
}

/// Reads all rules of nf_tables in a namespace.
///
/// # Errors
/// Those of entering the namespace, and what the kernel says.
pub fn ruleset(netns: &Netns) -> Result<Ruleset, SourceError> {
    netns.enter(|| {
        let read = Socket::open().and_then(|mut socket| socket.ruleset());
        read.map_err(|cause| SourceError::Nftables {
            namespace: netns.name().to_owned(),
            cause,
        })
    })
}

/// Names of the tables of nf_tables in a namespace, without their rules.
///
/// # Errors
/// Those of entering the namespace, and what the kernel says.
pub fn table_names(netns: &Netns) -> Result<Vec<String>, SourceError> {
    netns.enter(|| {
        let read = Socket::open().and_then(|mut socket| socket.table_names());
        read.map_err(|cause| SourceError::Nftables {
            namespace: netns.name().to_owned(),
            cause,
        })
    })
}
