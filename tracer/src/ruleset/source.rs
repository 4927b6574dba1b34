//! Reads the tables of a network namespace from the kernel, and their text from `iptables-save`, without
//! changing anything.
//!
//! Whoever asks the kernel for a table that does not exist creates it (`xt_request_find_table_lock`,
//! `net/netfilter/x_tables.c`), and from then on every packet passes through it. So the names of the tables that
//! exist are read first, from `ip_tables_names` and `ip6_tables_names`, and nothing else is asked for.

use std::ffi::{c_int, c_void};
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::iter;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;

use super::blob::{self, BlobError, Info, TABLE_LEN_MAX, TABLE_NAME_LEN};
use super::model::Table;
use crate::netns::{Netns, NetnsError};
use crate::traversal::Family;

/// Attempts to read a table that changes between two questions.
const ATTEMPTS_MAX: u32 = 16;
/// Tables that a namespace can have; the kernel knows five of each family.
const TABLES_MAX: usize = 32;
/// Questions that the kernel answered for a table that was read, each of which looks the table up: its layout, its
/// rules, its layout again. Only if they all met the same rules it is one and the same ruleset that was read.
pub const QUESTIONS: u64 = 3;
/// `IPT_SO_GET_INFO`, `IP6T_SO_GET_INFO`
const GET_INFO: c_int = 64;
/// `IPT_SO_GET_ENTRIES`, `IP6T_SO_GET_ENTRIES`
const GET_ENTRIES: c_int = 65;
/// `struct ipt_get_entries` up to its entries: name, size, padding.
const GET_ENTRIES_HEADER_LEN: usize = TABLE_NAME_LEN + 8;
/// The most that `iptables-save` may take and print.
const SAVE_TIME_MAX: Duration = Duration::from_secs(20);
const SAVE_LEN_MAX: u64 = 256 << 20;

/// Why tables could not be read.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The namespace cannot be opened or entered.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// The names of the tables could not be read.
    #[error("failed to read names of tables: {path}: {cause}")]
    Names {
        /// The file that has them.
        path: String,
        /// Why not.
        cause: io::Error,
    },
    /// There is no socket to ask with.
    #[error("failed to open raw socket for {command}: {cause}")]
    Socket {
        /// `iptables`, `ip6tables`
        command: &'static str,
        /// Why not.
        cause: io::Error,
    },
    /// The kernel did not answer.
    #[error("failed to read table: {command} -t {table}: {cause}")]
    Read {
        /// `iptables`, `ip6tables`
        command: &'static str,
        /// Name of the table.
        table: String,
        /// Why not.
        cause: io::Error,
    },
    /// The table was replaced all the time.
    #[error("failed to read table: {command} -t {table}: it changed during each of {ATTEMPTS_MAX} attempts")]
    Unsteady {
        /// `iptables`, `ip6tables`
        command: &'static str,
        /// Name of the table.
        table: String,
    },
    /// The kernel's answer is no table.
    #[error("failed to decode table: {command} -t {table}: {cause}")]
    Decode {
        /// `iptables`, `ip6tables`
        command: &'static str,
        /// Name of the table.
        table: String,
        /// Why not.
        cause: BlobError,
    },
    /// The rules of nf_tables could not be read.
    #[error("failed to read rules of nf_tables: {namespace}: {cause}")]
    Nftables {
        /// The namespace.
        namespace: String,
        /// Why not.
        cause: io::Error,
    },
    /// A tool that prints rules could not be run, or failed.
    #[error("failed to run: {command}: {cause}")]
    Tool {
        /// The command line.
        command: String,
        /// Why not.
        cause: String,
    },
}

impl SourceError {
    /// Whether a right is missing: `CAP_SYS_ADMIN` to enter a namespace, `CAP_NET_RAW` and `CAP_NET_ADMIN` to
    /// ask for tables.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Netns(error) => error.is_permission(),
            Self::Names { cause, .. }
            | Self::Socket { cause, .. }
            | Self::Nftables { cause, .. }
            | Self::Read { cause, .. } => cause.kind() == ErrorKind::PermissionDenied,
            Self::Unsteady { .. } | Self::Decode { .. } | Self::Tool { .. } => false,
        }
    }
}

impl Netns {
    /// Reads all legacy tables that exist in the namespace, those of IPv4 first; none if the modules are not
    /// loaded.
    ///
    /// A table can be replaced by one of the very same size while it is read, which cannot be seen from here;
    /// who needs to know compares the address of its `xt_table_info` before and after.
    ///
    /// # Errors
    /// Those of entering the namespace, and the first table that could not be read.
    pub fn tables(&self) -> Result<Vec<Table>, SourceError> {
        self.enter(|| {
            let mut tables = Vec::new();
            for family in [Family::Ipv4, Family::Ipv6] {
                let names = table_names(family)?;
                if names.is_empty() {
                    continue;
                }
                let socket = socket(family)?;
                for name in names {
                    tables.extend(read(&socket, family, &name)?);
                }
            }
            Ok(tables)
        })
    }

    /// Names of the legacy tables that exist in the namespace, those of IPv4 first.
    ///
    /// # Errors
    /// Those of entering the namespace, and a list of names that cannot be read.
    pub fn table_names(&self) -> Result<Vec<(Family, String)>, SourceError> {
        self.enter(|| {
            let mut all = Vec::new();
            for family in [Family::Ipv4, Family::Ipv6] {
                all.extend(table_names(family)?.into_iter().map(|name| (family, name)));
            }
            Ok(all)
        })
    }

    /// Reads one table; `None` if it does not exist in the namespace.
    ///
    /// # Errors
    /// As of [`Self::tables`].
    pub fn table(&self, family: Family, name: &str) -> Result<Option<Table>, SourceError> {
        self.enter(|| {
            if !table_names(family)?.iter().any(|existing| existing == name) {
                return Ok(None);
            }
            read(&socket(family)?, family, name)
        })
    }

    /// What `iptables-save -t` prints of a table; `None` if the table does not exist in the namespace or there is
    /// no such tool for legacy tables.
    ///
    /// The tool asks the kernel for nothing but the table and revisions of the extensions that its rules use, so
    /// it creates and loads nothing either; by `--modprobe` it is kept from loading modules by itself.
    ///
    /// # Errors
    /// As of [`Self::tables`], and when the tool fails or does not end in time.
    pub fn save(&self, family: Family, table: &str) -> Result<Option<String>, SourceError> {
        self.enter(|| {
            if !table_names(family)?.iter().any(|existing| existing == table) {
                return Ok(None);
            }
            let Some(program) = save_program(family) else {
                return Ok(None);
            };
            let mut command = Command::new(program);
            command.args(["--modprobe=/bin/false", "-t", table]);
            output(&mut command).map(Some)
        })
    }
}

/// What administers the tables of a family.
pub(crate) fn command(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "iptables",
        Family::Ipv6 => "ip6tables",
    }
}

/// Names of the legacy tables that exist in the thread's namespace. There is no file, and no table, as long as
/// the module is not loaded.
fn table_names(family: Family) -> Result<Vec<String>, SourceError> {
    let path = match family {
        Family::Ipv4 => "/proc/thread-self/net/ip_tables_names",
        Family::Ipv6 => "/proc/thread-self/net/ip6_tables_names",
    };
    let failed = |cause| SourceError::Names {
        path: path.to_owned(),
        cause,
    };
    match fs::read_to_string(path) {
        Ok(names) => Ok(names.lines().take(TABLES_MAX).map(str::to_owned).collect()),
        Err(cause) if cause.kind() == ErrorKind::NotFound => {
            // Without /proc we could not tell.
            fs::metadata("/proc/thread-self/net").map_err(failed)?;
            Ok(Vec::new())
        }
        Err(cause) => Err(failed(cause)),
    }
}

/// A socket that table questions can be put to.
fn socket(family: Family) -> Result<OwnedFd, SourceError> {
    let domain = match family {
        Family::Ipv4 => libc::AF_INET,
        Family::Ipv6 => libc::AF_INET6,
    };
    // SAFETY: no pointers are involved.
    let fd = unsafe { libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_RAW) };
    match Errno::result(fd) {
        // SAFETY: the descriptor is new and nobody else has it.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(errno) => Err(SourceError::Socket {
            command: command(family),
            cause: errno.into(),
        }),
    }
}

/// Makes a table, without rules, in the thread's network namespace. That is for a namespace of one's own: elsewhere
/// only tables that exist are asked for.
///
/// # Errors
/// The kernel has no such table, or refuses.
pub(crate) fn create(family: Family, name: &str) -> Result<(), SourceError> {
    let asked = get_info(&socket(family)?, family, name);
    asked.map(drop).map_err(|errno| SourceError::Read {
        command: command(family),
        table: name.to_owned(),
        cause: errno.into(),
    })
}

/// Reads a table that exists; `None` if it has ceased to.
fn read(socket: &OwnedFd, family: Family, name: &str) -> Result<Option<Table>, SourceError> {
    let failed = |errno: Errno| SourceError::Read {
        command: command(family),
        table: name.to_owned(),
        cause: errno.into(),
    };
    for _ in 0..ATTEMPTS_MAX {
        let info = match get_info(socket, family, name) {
            Ok(info) => info,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        let blob = match get_entries(socket, family, name, info.size) {
            Ok(blob) => blob,
            Err(Errno::EAGAIN) => continue,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => return Err(failed(errno)),
        };
        if get_info(socket, family, name) != Ok(info.clone()) {
            continue;
        }
        return match blob::decode(family, &info, blob) {
            Ok(table) => Ok(Some(table)),
            Err(cause) => Err(SourceError::Decode {
                command: command(family),
                table: name.to_owned(),
                cause,
            }),
        };
    }
    Err(SourceError::Unsteady {
        command: command(family),
        table: name.to_owned(),
    })
}

/// `get_info`, `net/ipv4/netfilter/ip_tables.c`
fn get_info(socket: &OwnedFd, family: Family, name: &str) -> nix::Result<Info> {
    let mut question = [0; Info::LEN];
    put_name(&mut question, name)?;
    ask(socket, family, GET_INFO, &mut question)?;
    Ok(Info::from_bytes(&question))
}

/// `get_entries`, `net/ipv4/netfilter/ip_tables.c`
fn get_entries(socket: &OwnedFd, family: Family, name: &str, size: u32) -> nix::Result<Vec<u8>> {
    if size > TABLE_LEN_MAX {
        return Err(Errno::EFBIG);
    }
    let mut question = vec![0; GET_ENTRIES_HEADER_LEN + size as usize];
    put_name(&mut question, name)?;
    question[TABLE_NAME_LEN..TABLE_NAME_LEN + 4].copy_from_slice(&size.to_ne_bytes());
    ask(socket, family, GET_ENTRIES, &mut question)?;
    question.drain(..GET_ENTRIES_HEADER_LEN);
    Ok(question)
}

/// Begins a question with the name of a table.
fn put_name(question: &mut [u8], name: &str) -> nix::Result<()> {
    if name.len() >= TABLE_NAME_LEN {
        return Err(Errno::ENAMETOOLONG);
    }
    question[..name.len()].copy_from_slice(name.as_bytes());
    Ok(())
}

/// Puts a question; the answer takes its place.
fn ask(socket: &OwnedFd, family: Family, option: c_int, question: &mut [u8]) -> nix::Result<()> {
    let level = match family {
        Family::Ipv4 => libc::IPPROTO_IP,
        Family::Ipv6 => libc::IPPROTO_IPV6,
    };
    let mut len = libc::socklen_t::try_from(question.len()).map_err(|_| Errno::EFBIG)?;
    // SAFETY: the kernel reads and writes at most `len` bytes, and that is how long the question is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            question.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    Errno::result(result).map(drop)
}

/// The program that prints legacy tables, if there is one. It is looked for once: rules that are replaced often
/// leave no time for more.
fn save_program(family: Family) -> Option<&'static str> {
    static FOUND: [OnceLock<Option<&str>>; 2] = [const { OnceLock::new() }; 2];

    let (found, candidates) = match family {
        Family::Ipv4 => (&FOUND[0], ["iptables-legacy-save", "iptables-save"]),
        Family::Ipv6 => (&FOUND[1], ["ip6tables-legacy-save", "ip6tables-save"]),
    };
    *found.get_or_init(|| {
        candidates.into_iter().find(|program| {
            // "iptables-save v1.8.9 (legacy)"; before 1.8 there was no other kind.
            let version = output(Command::new(program).arg("--version"));
            version.is_ok_and(|version| version.contains(" v1.") && !version.contains("nf_tables"))
        })
    })
}

/// Runs a program to its end, within limits, and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String, SourceError> {
    let words: Vec<_> = iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let failed = |cause: String| SourceError::Tool {
        command: words.join(" "),
        cause,
    };
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.take(SAVE_LEN_MAX).read_to_string(&mut text);
            // Nobody waits for it any more when the time is up.
            drop(sender.send(read.map(|_| text)));
        });
    }
    let text = receiver.recv_timeout(SAVE_TIME_MAX);
    if text.is_err() {
        // It may have ended by itself.
        drop(child.kill());
    }
    let status = child.wait().map_err(|error| failed(error.to_string()))?;
    match text {
        Err(_) => Err(failed(format!("not done after {} s", SAVE_TIME_MAX.as_secs()))),
        Ok(_) if !status.success() => Err(failed(status.to_string())),
        Ok(text) => text.map_err(|error| failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long_is_not_asked_for() {
        let mut question = [0; Info::LEN];
        assert_eq!(put_name(&mut question, &"x".repeat(31)), Ok(()));
        assert_eq!(put_name(&mut question, &"x".repeat(32)), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn what_a_program_prints_is_returned_and_its_failure_is_told() {
        assert_eq!(output(Command::new("echo").arg("v")).unwrap(), "v\n");
        let error = output(&mut Command::new("false")).unwrap_err();
        assert_eq!(error.to_string(), "failed to run: false: exit status: 1");
        assert!(output(&mut Command::new("/nonexistent/tool")).is_err());
    }
}
