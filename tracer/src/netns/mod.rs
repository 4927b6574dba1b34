//! Network namespaces: found by name, process or inode number, and entered.
//!
//! A namespace is entered by a thread that lives for that alone; the caller's thread never moves.

mod link;
pub mod names;
mod peers;
pub mod places;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind};
use std::iter;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::thread;

use nix::net::if_::if_indextoname;
use nix::sched::{CloneFlags, setns};
use nix::sys::statfs::{FsType, fstatfs};
use thiserror::Error;

/// `NSFS_MAGIC`, `include/uapi/linux/magic.h`.
const NSFS: FsType = FsType(0x6e73_6673);
/// Where namespaces have names: `ip netns` and CNI, Docker.
const NAMED: [&str; 2] = ["run/netns", "run/docker/netns"];

/// Why a network namespace could not be used.
#[derive(Debug, Error)]
pub enum NetnsError {
    /// What was given is no network namespace, or is gone.
    #[error("failed to open network namespace: {namespace}: {cause}")]
    Open {
        /// Where it should be.
        namespace: String,
        /// Why not.
        cause: io::Error,
    },
    /// The kernel does not let us in.
    #[error("failed to enter network namespace: {namespace}: {cause}")]
    Enter {
        /// Where it is.
        namespace: String,
        /// Why not.
        cause: io::Error,
    },
    /// No thread to work in.
    #[error("failed to start a thread: {0}")]
    Thread(io::Error),
}

impl NetnsError {
    /// Whether a right is missing: `CAP_SYS_ADMIN` to enter a namespace.
    #[must_use]
    pub fn is_permission(&self) -> bool {
        match self {
            Self::Open { cause, .. } | Self::Enter { cause, .. } => {
                cause.kind() == ErrorKind::PermissionDenied
            }
            Self::Thread(_) => false,
        }
    }
}

/// A network namespace, kept alive as long as this is.
#[derive(Debug)]
pub struct Netns {
    file: File,
    name: String,
    inode: u32,
}

impl Netns {
    /// The namespace of the calling thread.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when `/proc` is not mounted.
    pub fn current() -> Result<Self, NetnsError> {
        Self::from_path(Path::new("/proc/thread-self/ns/net"))
    }

    /// The namespace of a process.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when there is no such process, or it is not ours to look at.
    pub fn from_pid(pid: u32) -> Result<Self, NetnsError> {
        Self::from_path(Path::new(&format!("/proc/{pid}/ns/net")))
    }

    /// The namespace that a path leads to: `/run/netns/pod`, `/proc/1/ns/net`.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when there is none.
    pub fn from_path(path: &Path) -> Result<Self, NetnsError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Self::from_file(file, name),
            Err(cause) => Err(NetnsError::Open {
                namespace: name,
                cause,
            }),
        }
    }

    /// The namespace of an open descriptor.
    ///
    /// # Errors
    /// [`NetnsError::Open`] when it is something else.
    pub fn from_fd(fd: OwnedFd) -> Result<Self, NetnsError> {
        let name = format!("descriptor {}", fd.as_raw_fd());
        Self::from_file(File::from(fd), name)
    }

    /// The namespace of an inode number, which is all that a packet's record has: looked for among those that
    /// have a name in `/run/netns` and those of processes and threads. `None` if it is not there, for example
    /// because it is gone.
    ///
    /// In the worst case it looks at every thread of the machine, so remember where it was found; what it finds
    /// itself keeps the namespace alive.
    #[must_use]
    pub fn by_inode(inode: u32) -> Option<Self> {
        find(Path::new("/"), inode).find_map(|path| Self::if_still(&path, inode))
    }

    /// The same, where it was found before (by [`Self::name`]), if it is still there.
    #[must_use]
    pub fn if_still(path: &Path, inode: u32) -> Option<Self> {
        let found = Self::from_path(path).ok()?;
        (found.inode == inode).then_some(found)
    }

    /// Every namespace that can be found, this process's own first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut seen = BTreeSet::new();
        let own = PathBuf::from("/proc/self/ns/net");
        iter::once(own)
            .chain(places(Path::new("/")))
            .filter(|path| fs::metadata(path).is_ok_and(|found| seen.insert(found.ino())))
            .filter_map(|path| Self::from_path(&path).ok())
            .collect()
    }

    fn from_file(file: File, name: String) -> Result<Self, NetnsError> {
        let inode = || {
            if fstatfs(&file)?.filesystem_type() != NSFS {
                return Err(io::Error::other("not a network namespace"));
            }
            // What the kernel counts namespaces by: `unsigned int inum`, `include/linux/ns_common.h`.
            u32::try_from(file.metadata()?.ino()).map_err(io::Error::other)
        };
        match inode() {
            Ok(inode) => Ok(Self { file, name, inode }),
            Err(cause) => Err(NetnsError::Open {
                namespace: name,
                cause,
            }),
        }
    }

    /// Its inode number, by which records name it.
    #[must_use]
    pub fn inode(&self) -> u32 {
        self.inode
    }

    /// Where it was found.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Name of the network device with this index; `None` if there is none.
    #[must_use]
    pub fn device_name(&self, ifindex: NonZeroU32) -> Option<String> {
        let name = self.enter(|| Ok::<_, NetnsError>(if_indextoname(ifindex.get()).ok()));
        Some(name.ok()??.to_string_lossy().into_owned())
    }

    /// Runs something in a thread that is in the namespace and ends with it.
    ///
    /// # Errors
    /// Those of entering it, and of `body`.
    pub fn enter<T: Send, E: From<NetnsError> + Send>(
        &self,
        body: impl FnOnce() -> Result<T, E> + Send,
    ) -> Result<T, E> {
        let enter = || {
            // Who is there already needs no right to enter.
            let here = fs::metadata("/proc/thread-self/ns/net").map(|here| here.ino());
            if here.is_ok_and(|here| here == u64::from(self.inode)) {
                return body();
            }
            match setns(&self.file, CloneFlags::CLONE_NEWNET) {
                Ok(()) => body(),
                Err(errno) => Err(NetnsError::Enter {
                    namespace: self.name.clone(),
                    cause: errno.into(),
                }
                .into()),
            }
        };
        thread::scope(|scope| {
            let thread = thread::Builder::new().name(reader_name());
            let thread = thread.spawn_scoped(scope, enter).map_err(NetnsError::Thread)?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// Paths that lead to the namespace of an inode number.
fn find(root: &Path, inode: u32) -> impl Iterator<Item = PathBuf> {
    places(root).filter(move |path| leads_to(path, inode))
}

/// Paths that may lead to namespaces: those that have a name, then those of processes, then those of threads.
fn places(root: &Path) -> impl Iterator<Item = PathBuf> {
    let threads = processes(root)
        .flat_map(|process| numbered(&process.join("task")))
        .map(|thread| thread.join("ns/net"));
    named(root)
        .chain(processes(root).map(|process| process.join("ns/net")))
        .chain(threads)
}

/// Files that namespaces are mounted on.
fn named(root: &Path) -> impl Iterator<Item = PathBuf> {
    let root = root.to_owned();
    NAMED
        .into_iter()
        .flat_map(move |directory| entries(&root.join(directory)))
}

/// Directories of processes.
fn processes(root: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    numbered(&root.join("proc"))
}

/// Whether the path leads to the namespace of an inode number.
fn leads_to(path: &Path, inode: u32) -> bool {
    fs::metadata(path).is_ok_and(|found| found.ino() == u64::from(inode))
}

/// Name of the thread that asks the kernel for rules. The eBPF programs know it by this name, and tell which
/// rules it got. Chance makes it this process's own: process ids are the same in different pid namespaces.
#[must_use]
pub fn reader_name() -> String {
    static NAME: LazyLock<String> = LazyLock::new(|| {
        let chance = RandomState::new().hash_one(std::process::id());
        format!("tr-{:012x}", chance & 0xffff_ffff_ffff)
    });
    NAME.clone()
}

/// The directory's entries; none if it cannot be read.
fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path()))
}

/// Those of the directory's entries whose names are numbers.
fn numbered(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    entries(directory).filter(|path| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_found_by_its_inode() {
        let root = tempfile::tempdir().unwrap();
        let path = |path: &str| root.path().join(path);
        for directory in ["run/netns", "proc/7/ns", "proc/7/task/9/ns", "proc/sys/ns"] {
            fs::create_dir_all(path(directory)).unwrap();
        }
        for file in [
            "run/netns/pod",
            "proc/7/ns/net",
            "proc/7/task/9/ns/net",
            "proc/sys/ns/net",
        ] {
            fs::write(path(file), "").unwrap();
        }
        let search = |file: &str| {
            let inode = u32::try_from(fs::metadata(path(file)).unwrap().ino()).unwrap();
            find(root.path(), inode).collect::<Vec<_>>()
        };
        for file in ["run/netns/pod", "proc/7/ns/net", "proc/7/task/9/ns/net"] {
            assert_eq!(search(file), [path(file)]);
        }
        assert!(search("proc/sys/ns/net").is_empty());
    }

    #[test]
    fn a_file_is_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = Netns::from_path(file.path()).unwrap_err();
        assert!(
            error.to_string().ends_with(": not a network namespace"),
            "{error}"
        );
        let error = Netns::from_path(Path::new("/nonexistent/netns")).unwrap_err();
        let expected = "failed to open network namespace: /nonexistent/netns: ";
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(!error.is_permission());
    }
}
