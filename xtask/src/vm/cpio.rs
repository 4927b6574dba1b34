//! Writes the `newc` cpio archives that a kernel unpacks into its first root file system.
//!
//! Own code because the format is one page, and because archives must be concatenated: the kernel reads
//! one after the other, so the slow part (modules, tools) is written once and only a small part per run.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

const DIRECTORY: u32 = 0o040_755;
const SYMLINK: u32 = 0o120_777;
const REGULAR: u32 = 0o100_000;
/// Every part ends on such a boundary, so that the next one starts where the kernel looks for it.
const BLOCK: usize = 512;

enum Entry {
    Directory,
    Symlink(PathBuf),
    Bytes {
        data: Vec<u8>,
        mode: u32,
    },
    File {
        source: PathBuf,
        mode: u32,
        size: u32,
        mtime: (i64, i64),
    },
}

/// A tree of files to be written. The order is that of the paths, so a directory precedes its content.
#[derive(Default)]
pub(crate) struct Archive {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Archive {
    /// Adds a directory and its parents.
    pub(crate) fn directory(&mut self, path: impl AsRef<Path>) {
        self.insert(path.as_ref(), Entry::Directory);
    }

    /// Adds a symbolic link.
    pub(crate) fn symlink(&mut self, path: impl AsRef<Path>, target: impl Into<PathBuf>) {
        self.insert(path.as_ref(), Entry::Symlink(target.into()));
    }

    /// Adds a file with this content.
    pub(crate) fn bytes(&mut self, path: impl AsRef<Path>, data: impl Into<Vec<u8>>, mode: u32) {
        self.insert(
            path.as_ref(),
            Entry::Bytes {
                data: data.into(),
                mode: REGULAR | mode,
            },
        );
    }

    /// Adds a copy of a file of this machine.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, source: &Path) -> Result<()> {
        let about = fs::metadata(source).with_context(|| format!("failed to read: {}", source.display()))?;
        let Ok(size) = u32::try_from(about.len()) else {
            bail!(
                "failed to add to image: {}: larger than a cpio archive can hold",
                source.display()
            );
        };
        let mode = REGULAR | (about.permissions().mode() & 0o777);
        let mtime = (about.mtime(), about.mtime_nsec());
        self.insert(
            path.as_ref(),
            Entry::File {
                source: source.to_owned(),
                mode,
                size,
                mtime,
            },
        );
        Ok(())
    }

    /// Adds all files below a directory of this machine.
    pub(crate) fn tree(&mut self, path: &Path, source: &Path) -> Result<()> {
        let failed = || format!("failed to read: {}", source.display());
        for entry in fs::read_dir(source).with_context(failed)? {
            let entry = entry.with_context(failed)?;
            let (inside, outside) = (path.join(entry.file_name()), entry.path());
            let kind = entry.file_type().with_context(failed)?;
            if kind.is_dir() {
                self.tree(&inside, &outside)?;
            } else if kind.is_symlink() {
                let target = fs::read_link(&outside).with_context(failed)?;
                self.symlink(inside, target);
            } else {
                self.file(inside, &outside)?;
            }
        }
        Ok(())
    }

    /// Whether there is something of this path.
    pub(crate) fn has(&self, path: impl AsRef<Path>) -> bool {
        self.entries.contains_key(&inside(path.as_ref()))
    }

    /// A figure that changes when any input of the archive changed (path, size or time of change).
    pub(crate) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        for (path, entry) in &self.entries {
            path.hash(&mut hasher);
            match entry {
                Entry::Directory => 0_u8.hash(&mut hasher),
                Entry::Symlink(target) => target.hash(&mut hasher),
                Entry::Bytes { data, mode } => (data, mode).hash(&mut hasher),
                Entry::File {
                    source,
                    mode,
                    size,
                    mtime,
                } => (source, mode, size, mtime).hash(&mut hasher),
            }
        }
        hasher.finish()
    }

    /// Writes the archive, padded so that another can follow.
    pub(crate) fn write(&self, out: &mut impl Write) -> Result<()> {
        let mut out = Counted { out, written: 0 };
        for (inode, (path, entry)) in (1_u32..).zip(&self.entries) {
            let name = path.as_os_str().as_bytes();
            match entry {
                Entry::Directory => member(&mut out, inode, name, DIRECTORY, 0, io::empty()),
                Entry::Symlink(target) => {
                    let target = target.as_os_str().as_bytes();
                    member(&mut out, inode, name, SYMLINK, length(target)?, target)
                }
                Entry::Bytes { data, mode } => {
                    member(&mut out, inode, name, *mode, length(data)?, data.as_slice())
                }
                Entry::File {
                    source, mode, size, ..
                } => File::open(source).and_then(|file| member(&mut out, inode, name, *mode, *size, file)),
            }
            .with_context(|| format!("failed to write to image: {}", path.display()))?;
        }
        member(&mut out, 0, b"TRAILER!!!", 0, 0, io::empty())
            .and_then(|()| out.pad(BLOCK))
            .context("failed to write image")
    }

    fn insert(&mut self, path: &Path, entry: Entry) {
        let path = inside(path);
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Directory);
        }
        self.entries.insert(path, entry);
    }
}

/// The place of a host path in the image: relative, and below `usr` where the image has `/lib -> usr/lib`.
fn inside(path: &Path) -> PathBuf {
    let path = path.strip_prefix("/").unwrap_or(path);
    let below_merged = path.components().count() > 1
        && ["bin", "sbin", "lib", "lib64"]
            .iter()
            .any(|merged| path.starts_with(merged));
    if below_merged {
        Path::new("usr").join(path)
    } else {
        path.to_owned()
    }
}

fn length(data: &[u8]) -> Result<u32> {
    u32::try_from(data.len()).context("failed to write image: content too large")
}

fn member(
    out: &mut Counted<impl Write>,
    inode: u32,
    name: &[u8],
    mode: u32,
    size: u32,
    content: impl io::Read,
) -> io::Result<()> {
    let name_size = name.len() + 1;
    // magic, inode, mode, uid, gid, links, mtime, size, device x2, device number x2, name size, checksum
    write!(
        out,
        "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{size:08x}\
         {0:08x}{0:08x}{0:08x}{0:08x}{name_size:08x}{0:08x}",
        0, 1
    )?;
    out.write_all(name)?;
    out.write_all(&[0])?;
    out.pad(4)?;
    let copied = io::copy(&mut content.take(size.into()), out)?;
    if copied != u64::from(size) {
        return Err(io::Error::other("file shrank while it was read"));
    }
    out.pad(4)
}

struct Counted<W> {
    out: W,
    written: usize,
}

impl<W: Write> Counted<W> {
    fn pad(&mut self, boundary: usize) -> io::Result<()> {
        let missing = self.written.next_multiple_of(boundary) - self.written;
        self.write_all(&[0; BLOCK][..missing])
    }
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let written = self.out.write(data)?;
        self.written += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_aligned_and_parents_come_first() {
        let mut archive = Archive::default();
        archive.bytes("/lib/a/b", *b"hello", 0o644);
        archive.symlink("/lib", "usr/lib");
        let mut out = Vec::new();
        archive.write(&mut out).unwrap();
        assert_eq!(out.len() % BLOCK, 0);
        let text = String::from_utf8_lossy(&out);
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("lib\0") < at("usr\0") && at("usr/lib/a\0") < at("usr/lib/a/b\0"));
        assert!(at("usr/lib/a/b\0") < at("hello\0\0\x00070701"));
    }

    #[test]
    fn fingerprint_follows_content() {
        let of = |data: &[u8]| {
            let mut archive = Archive::default();
            archive.bytes("job", data, 0o644);
            archive.fingerprint()
        };
        assert_eq!(of(b"one"), of(b"one"));
        assert_ne!(of(b"one"), of(b"two"));
    }
}
