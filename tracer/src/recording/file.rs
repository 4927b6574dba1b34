//! The file that a recording is written to.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd as _, unix::fs::OpenOptionsExt as _},
    path::Path,
};

/// Records have the beginnings of packets: nobody else's business.
const MODE: u32 = 0o600;

/// Why there is no file to write to.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one already. It is kept, for it may be the only one of its trace.
    #[error("file exists")]
    Exists,
    /// Anything else.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A file that is written frame by frame. A frame that could not be written whole is taken back, so that what is in
/// the file can be read to its end.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    /// Bytes of the frames that are whole; `None` for what is no file (a pipe, a terminal).
    whole_len: Option<u64>,
}

impl File {
    /// Creates a file that only its owner can read. What exists and is no regular file (a pipe, `/dev/stdout`) is
    /// written to as it is.
    ///
    /// # Errors
    /// A file of that name exists, or cannot be made.
    pub fn create(path: &Path) -> Result<Self, CreateError> {
        let new = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(MODE)
            .open(path);
        match new {
            Ok(file) => Ok(Self {
                file,
                whole_len: Some(0),
            }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::metadata(path)?.is_file() {
                    return Err(CreateError::Exists);
                }
                Ok(Self {
                    file: OpenOptions::new().write(true).open(path)?,
                    whole_len: None,
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Standard output.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn stdout() -> io::Result<Self> {
        Ok(Self {
            file: fs::File::from(io::stdout().as_fd().try_clone_to_owned()?),
            whole_len: None,
        })
    }

    /// Waits until everything is on the disk: some file systems tell only then that they had no room.
    ///
    /// # Errors
    /// What the file system says.
    pub fn sync(&self) -> io::Result<()> {
        match self.whole_len {
            Some(_) => self.file.sync_data(),
            None => Ok(()),
        }
    }
}

impl Write for File {
    /// Writes the whole buffer, or nothing of it.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write_all(buf);
        match (&mut self.whole_len, &written) {
            (Some(whole_len), Ok(())) => *whole_len += buf.len() as u64,
            (Some(whole_len), Err(_)) => {
                // If that fails too, the reader finds the cut by itself.
                let _ = self.file.set_len(*whole_len);
                let _ = io::Seek::seek(&mut self.file, io::SeekFrom::Start(*whole_len));
            }
            (None, _) => {}
        }
        written.map(|()| buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
