//! apt with a state of its own: the machine's archive and keys, other suites, nothing changed outside
//! target/. apt itself checks signatures and hashes.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::host;
use crate::process;
use crate::progress::Step;

/// A private view of the archive.
pub(super) struct Apt {
    options: Vec<OsString>,
    cache: PathBuf,
    /// Why the indexes could not be fetched; tolerated as long as what is wanted is found.
    update: Result<()>,
}

impl Apt {
    /// Fetches the indexes that the stanzas name into `dir`.
    pub(super) fn open(dir: &Path, stanzas: &str) -> Result<Self> {
        let status = dir.join("status");
        create(dir)?;
        write(&status, "")?;
        let mut apt = Self::at(dir, stanzas, Path::new("/dev/null"))?;
        apt.set("Dir::State::status=", &status);
        apt.update();
        Ok(apt)
    }

    /// The machine's own sources and these stanzas besides, to install on the machine.
    pub(super) fn beside_system(dir: &Path, stanzas: &str) -> Result<Self> {
        let mut apt = Self::at(dir, stanzas, Path::new("/etc/apt/sources.list"))?;
        for entry in fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
        {
            fs::copy(entry.path(), dir.join("sources").join(entry.file_name()))
                .with_context(|| format!("failed to copy: {}", entry.path().display()))?;
        }
        apt.update();
        Ok(apt)
    }

    fn at(dir: &Path, stanzas: &str, list: &Path) -> Result<Self> {
        let sources = dir.join("sources");
        let lists = dir.join("lists");
        let cache = dir.join("cache");
        for dir in [&sources, &lists.join("partial"), &cache.join("archives/partial")] {
            create(dir)?;
        }
        write(&sources.join("tracer.sources"), stanzas)?;
        let mut apt = Self {
            options: Vec::new(),
            cache: cache.clone(),
            update: Ok(()),
        };
        apt.set("Dir::Etc::sourcelist=", list);
        apt.set("Dir::Etc::sourceparts=", &sources);
        apt.set("Dir::State::lists=", &lists);
        apt.set("Dir::Cache=", &cache);
        // The test machines are x86-64, whatever builds them.
        apt.set("APT::Architecture=", Path::new("amd64"));
        // apt's unprivileged user cannot write into a clone in somebody's home.
        apt.set("APT::Sandbox::User=", Path::new("root"));
        Ok(apt)
    }

    fn set(&mut self, name: &str, value: &Path) {
        let mut option = OsString::from(name);
        option.push(value);
        self.options.extend(["-o".into(), option]);
    }

    fn update(&mut self) {
        self.update = process::output(self.command("apt-get").args(["-q", "update"])).map(drop);
    }

    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).env("LC_ALL", "C");
        command
    }

    /// The names of the packages that match a regular expression; the failed update if there are none.
    pub(super) fn names(self, pattern: &str) -> Result<(Self, Vec<String>)> {
        let text = process::output(
            self.command("apt-cache")
                .args(["search", "--names-only", pattern]),
        )?;
        let names = package_names(&text);
        match self.update {
            Err(error) if names.is_empty() => Err(error),
            _ => Ok((
                Self {
                    update: Ok(()),
                    ..self
                },
                names,
            )),
        }
    }

    /// All versions of a package that can be had.
    pub(super) fn versions(self, package: &str) -> Result<(Self, Vec<String>)> {
        let text = process::output(self.command("apt-cache").args(["madison", package]))?;
        let versions = madison_versions(&text);
        match self.update {
            Err(error) if versions.is_empty() => Err(error),
            _ => Ok((
                Self {
                    update: Ok(()),
                    ..self
                },
                versions,
            )),
        }
    }

    /// Downloads packages (`name` or `name=version`) and returns the files.
    ///
    /// Files of an interrupted run are taken up again by apt.
    pub(super) fn download(&self, packages: &[String], into: &Path, step: &Step) -> Result<Vec<PathBuf>> {
        create(into)?;
        step.now(&format!("downloading {}", packages.join(", ")));
        let mut apt_get = self.command("apt-get");
        apt_get.current_dir(into).arg("download").args(packages);
        run(&mut apt_get, step)?;
        debs(into)
    }

    /// Downloads packages with all that they depend on, in a view that knows of no installed ones, and returns the files;
    /// the failed update if they cannot be had.
    pub(super) fn download_with_dependencies(self, packages: &[&str], step: &Step) -> Result<Vec<PathBuf>> {
        step.now(&format!("downloading {} and what they need", packages.join(", ")));
        let mut apt_get = self.command("apt-get");
        apt_get
            .args(["install", "--download-only", "--yes", "--no-install-recommends"])
            .args(packages);
        match (run(&mut apt_get, step), self.update) {
            (Ok(()), _) => debs(&self.cache.join("archives")),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(error),
        }
    }
}

/// Runs apt-get and shows how far its download is.
fn run(apt_get: &mut Command, step: &Step) -> Result<()> {
    process::lines(apt_get.args(["-q", "-o", "APT::Status-Fd=1"]), |line| {
        if let Some(percent) = download_percent(line) {
            step.percent("downloading", percent);
        }
    })
}

/// The .deb files in a directory; none where there is no such directory.
pub(super) fn debs(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("failed to read: {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Unpacks a package's files; its scripts are not run.
pub(super) fn extract(deb: &Path, into: &Path) -> Result<()> {
    if process::find("dpkg-deb").is_none() {
        return Err(host::missing("dpkg-deb", &host::DPKG));
    }
    process::output(Command::new("dpkg-deb").arg("-x").args([deb, into]))
        .with_context(|| format!("failed to unpack: {}", deb.display()))?;
    Ok(())
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create: {}", dir.display()))
}

fn write(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("failed to write: {}", file.display()))
}

/// The names in the output of `apt-cache search`: `name - description`.
fn package_names(search: &str) -> Vec<String> {
    search
        .lines()
        .filter_map(|line| Some(line.split_once(" - ")?.0.to_owned()))
        .collect()
}

/// The versions in the output of `apt-cache madison`: `name | version | where`.
fn madison_versions(madison: &str) -> Vec<String> {
    madison
        .lines()
        .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
        .collect()
}

/// The figure in one of apt's status lines: `dlstatus:1:45.3:Retrieving …`.
fn download_percent(line: &str) -> Option<f32> {
    line.strip_prefix("dlstatus:")?.split(':').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_search_output() {
        let text = "linux-image-6.12.9+deb13-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)\nodd line\n";
        assert_eq!(package_names(text), ["linux-image-6.12.9+deb13-cloud-amd64"]);
    }

    #[test]
    fn versions_in_madison_output() {
        let text = " rust-src | 1.95.0+dfsg1-1~bpo13+1 | http://mirror.example/debian x/main amd64 Packages\n \
                    rust-src | 1.85.0+dfsg3-1 | http://mirror.example/debian y/main amd64 Packages\n";
        assert_eq!(
            madison_versions(text),
            ["1.95.0+dfsg1-1~bpo13+1", "1.85.0+dfsg3-1"]
        );
    }

    #[test]
    fn percent_in_status_lines() {
        assert_eq!(
            download_percent("dlstatus:1:45.5:Retrieving file 1 of 3"),
            Some(45.5)
        );
        assert_eq!(
            download_percent("Get:1 http://mirror.example/debian bookworm InRelease"),
            None
        );
    }
}
