//! The job that init runs, as `xtask` wrote it to `/job` in the image: NUL-terminated strings, settings
//! first, then `--`, then the arguments.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use anyhow::{Context as _, Result, bail};

/// What is to be run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Job {
    /// The program and its arguments.
    pub argv: Vec<OsString>,
    /// Environment variables, each as `NAME=value`.
    pub env: Vec<(OsString, OsString)>,
    /// Rows and columns of the terminal, for a shell that a person uses.
    pub terminal: Option<(u16, u16)>,
}

impl Job {
    /// Reads the content of `/job`.
    ///
    /// # Errors
    ///
    /// When a setting is not known, or there is no program.
    pub fn decode(data: &[u8]) -> Result<Self> {
        let mut job = Self::default();
        let mut fields = data.strip_suffix(&[0]).unwrap_or(data).split(|byte| *byte == 0);
        for field in fields.by_ref() {
            let failed = || format!("failed to read job: {}", String::from_utf8_lossy(field));
            if field == b"--" {
                break;
            } else if let Some(size) = field.strip_prefix(b"terminal=") {
                job.terminal = Some(size_of(size).with_context(failed)?);
            } else if let Some(variable) = field.strip_prefix(b"env=") {
                let end = variable
                    .iter()
                    .position(|byte| *byte == b'=')
                    .with_context(failed)?;
                job.env
                    .push((owned(&variable[..end]), owned(&variable[end + 1..])));
            } else {
                bail!(failed());
            }
        }
        job.argv = fields.map(owned).collect();
        if job.argv.is_empty() {
            bail!("failed to read job: no program");
        }
        Ok(job)
    }
}

fn owned(field: &[u8]) -> OsString {
    OsString::from_vec(field.to_vec())
}

fn size_of(text: &[u8]) -> Option<(u16, u16)> {
    let (rows, columns) = std::str::from_utf8(text).ok()?.split_once('x')?;
    Some((rows.parse().ok()?, columns.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_settings_and_arguments() {
        let job = Job::decode(b"terminal=24x80\0env=A=b=c\0--\0echo\0\0--\0").unwrap();
        assert_eq!(job.terminal, Some((24, 80)));
        assert_eq!(job.env, [("A".into(), "b=c".into())]);
        assert_eq!(job.argv, ["echo", "", "--"]);
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        assert!(Job::decode(b"color=red\0--\0echo\0").is_err());
        assert!(Job::decode(b"--\0").is_err());
    }
}
