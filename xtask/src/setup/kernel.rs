//! The kernels of the test machines, taken out of Debian's packages.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Apt};
use super::{Kernel, Series, host, remove, sources};
use crate::error::hinted;
use crate::process;
use crate::progress::Step;
use crate::workspace::Workspace;

/// The flavour with few drivers: small, and still with every netfilter module.
const FLAVOUR: &str = "-cloud-amd64";

impl Series {
    /// Where the newest kernel of the series is.
    fn suites(self) -> &'static [&'static str] {
        match self {
            Self::V5_10 => &["bullseye", "bullseye-security"],
            Self::V6_1 => &["bookworm", "bookworm-security"],
            Self::V6_12 => &["trixie", "trixie-security"],
            Self::V7 => &["trixie-backports"],
        }
    }

    /// The packages of one kernel, without the release at the end of their names. In the 7 series
    /// linux-image is empty, and linux-base holds the list of what is built in.
    fn packages(self) -> &'static [&'static str] {
        match self {
            Self::V5_10 | Self::V6_1 | Self::V6_12 => &["linux-image-"],
            Self::V7 => &["linux-binary-", "linux-modules-", "linux-base-"],
        }
    }
}

/// The kernel, if it is complete.
pub(super) fn installed(ws: &Workspace, series: Series) -> Option<Kernel> {
    let dir = directory(ws, series);
    let release = fs::read_to_string(dir.join("release")).ok()?.trim().to_owned();
    let kernel = Kernel {
        series,
        vmlinuz: dir.join("vmlinuz"),
        modules: dir.join("modules").join(&release),
        release,
    };
    (kernel.vmlinuz.is_file() && kernel.modules.join("modules.dep").is_file()).then_some(kernel)
}

/// Gets the newest kernel of the series.
pub(super) fn install(ws: &Workspace, series: Series) -> Result<Kernel> {
    let step = Step::begin(format!("kernel {series}"));
    let download = ws.vm().join(format!("download-{series}"));
    let given = newest(series, &file_names(&apt::debs(&ws.vm().join("debs"))?));
    let release = match given {
        Some((release, files)) => {
            let files: Vec<PathBuf> = files.iter().map(|name| ws.vm().join("debs").join(name)).collect();
            unpack(ws, series, &release, &files, &step)?;
            release
        }
        None => {
            let (release, files) = fetch(series, &download, &step)?;
            unpack(ws, series, &release, &files, &step)?;
            release
        }
    };
    remove(&download)?;
    step.done(&release);
    installed(ws, series).with_context(|| format!("failed to install: kernel {series}: it is incomplete"))
}

fn directory(ws: &Workspace, series: Series) -> PathBuf {
    ws.vm().join("kernels").join(series.to_string())
}

/// Downloads the packages and returns the release and the files.
fn fetch(series: Series, dir: &Path, step: &Step) -> Result<(String, Vec<PathBuf>)> {
    if process::find("apt-get").is_none() {
        let error = host::missing("apt-get", &host::APT);
        return Err(error.context(format!("failed to download: kernel {series}")));
    }
    step.now("fetching the package index");
    let stanzas =
        sources::debian("/etc/apt".as_ref(), series.suites()).map_err(|error| no_archive(series, &error))?;
    let pattern = format!(
        "^linux-(image|binary|modules|base)-{}\\..*{FLAVOUR}$",
        series.to_string().replace('.', "\\.")
    );
    let (apt, names) = Apt::open(&dir.join("apt"), &stanzas)?
        .names(&pattern)
        .with_context(|| format!("failed to find: kernel {series}: {}", series.suites().join(", ")))?;
    let Some((release, packages)) = newest(series, &names) else {
        bail!(
            "failed to find: kernel {series}: the archive has none in {}",
            series.suites().join(", ")
        );
    };
    let files = apt.download(&packages, &dir.join(&release), step)?;
    Ok((release, files))
}

fn no_archive(series: Series, error: &anyhow::Error) -> anyhow::Error {
    let packages: Vec<_> = series
        .packages()
        .iter()
        .map(|name| format!("{name}{series}.*{FLAVOUR}_*.deb"))
        .collect();
    hinted(
        format!("failed to download: kernel {series}: {error}"),
        format!(
            "{}=<archive uri> cargo xtask setup\nor put Debian's {} from {} into target/vm/debs/",
            sources::URI_VARIABLE,
            packages.join(", "),
            series.suites()[0]
        ),
    )
}

/// Lays the kernel out beside its place and moves it there in one step.
fn unpack(ws: &Workspace, series: Series, release: &str, debs: &[PathBuf], step: &Step) -> Result<()> {
    let depmod = host::program(&host::DEPMOD)?;
    let work = ws.vm().join(format!("unpack-{series}"));
    remove(&work)?;
    let tree = work.join("tree");
    let kernel = work.join("kernel");
    let modules = kernel.join("modules").join(release);
    create(&kernel.join("modules"))?;
    create(&tree)?;
    for deb in debs {
        step.now(&format!(
            "unpacking {}",
            deb.file_name().unwrap_or_default().display()
        ));
        apt::extract(deb, &tree)?;
    }
    // Since trixie the packages put modules under usr/lib; since 7 the kernel is among them.
    let unpacked = first(&[
        tree.join("usr/lib/modules").join(release),
        tree.join("lib/modules").join(release),
    ])?;
    rename(
        &first(&[
            unpacked.join("vmlinuz"),
            tree.join(format!("boot/vmlinuz-{release}")),
        ])?,
        &kernel.join("vmlinuz"),
    )?;
    for unneeded in ["System.map", "config"].map(|name| unpacked.join(name)) {
        if unneeded.exists() {
            fs::remove_file(&unneeded)
                .with_context(|| format!("failed to remove: {}", unneeded.display()))?;
        }
    }
    rename(&unpacked, &modules)?;

    step.now("depmod");
    // depmod looks for lib/modules under its base.
    create(&work.join("base/lib"))?;
    std::os::unix::fs::symlink(kernel.join("modules"), work.join("base/lib/modules"))
        .with_context(|| format!("failed to link: {}", work.display()))?;
    process::output(Command::new(depmod).arg("-b").arg(work.join("base")).arg(release))?;
    let file = kernel.join("release");
    fs::write(&file, format!("{release}\n"))
        .with_context(|| format!("failed to write: {}", file.display()))?;

    let place = directory(ws, series);
    remove(&place)?;
    create(&ws.vm().join("kernels"))?;
    rename(&kernel, &place)?;
    remove(&work)
}

/// The newest release that all needed packages exist of, and those packages, chosen from names that begin
/// with a package's name: packages themselves, or `name_version_arch.deb`.
fn newest(series: Series, names: &[String]) -> Option<(String, Vec<String>)> {
    let package = |file: &str| file.split('_').next().unwrap_or_default().to_owned();
    let of_release = |release: &str| -> Option<Vec<String>> {
        let wanted = |part: &&str| {
            names
                .iter()
                .find(|name| package(name) == format!("{part}{release}"))
                .cloned()
        };
        series.packages().iter().map(wanted).collect()
    };
    names
        .iter()
        .filter_map(|name| {
            let release = package(name).strip_prefix(series.packages()[0])?.to_owned();
            let series = format!("{series}.");
            (release.starts_with(&series) && release.ends_with(FLAVOUR)).then_some(release)
        })
        .filter_map(|release| Some((of_release(&release)?, release)))
        .max_by_key(|(_, release)| numbers(release))
        .map(|(packages, release)| (release, packages))
}

/// The numbers in a release, which put releases of one series in order: 6.12.115+deb13.1 is 6, 12, 115, 13, 1.
fn numbers(release: &str) -> Vec<u64> {
    let release = release.strip_suffix(FLAVOUR).unwrap_or(release);
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn file_names(files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .filter_map(|file| Some(file.file_name()?.to_str()?.to_owned()))
        .collect()
}

fn first(paths: &[PathBuf]) -> Result<PathBuf> {
    paths.iter().find(|path| path.exists()).cloned().with_context(|| {
        format!(
            "failed to unpack: {}: the package does not hold it",
            paths[0].display()
        )
    })
}

fn create(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("failed to create: {}", dir.display()))
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("failed to move: {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn newest_by_number_not_by_letter() {
        let names = names(&[
            "linux-image-5.10.0-9-cloud-amd64",
            "linux-image-5.10.0-46-cloud-amd64",
            "linux-image-5.10.0-46-cloud-amd64-dbg",
            "linux-image-5.10.0-46-cloud-amd64-unsigned",
            "linux-image-5.10.0-47-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
        ]);
        let (release, packages) = newest(Series::V5_10, &names).unwrap();
        assert_eq!(release, "5.10.0-46-cloud-amd64");
        assert_eq!(packages, ["linux-image-5.10.0-46-cloud-amd64"]);
    }

    #[test]
    fn six_one_is_not_six_twelve() {
        let names = names(&[
            "linux-image-6.12.115+deb13-cloud-amd64",
            "linux-image-6.12.115+deb13.1-cloud-amd64",
            "linux-image-6.12.99+deb13-cloud-amd64",
        ]);
        assert_eq!(newest(Series::V6_1, &names), None);
        assert_eq!(
            newest(Series::V6_12, &names).unwrap().0,
            "6.12.115+deb13.1-cloud-amd64"
        );
    }

    #[test]
    fn seven_needs_all_its_packages() {
        let names = names(&[
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.2.12+deb13-cloud-amd64",
            "linux-modules-7.2.12+deb13-cloud-amd64",
            "linux-base-7.2.12+deb13-cloud-amd64",
            "linux-binary-unsigned-7.9.1+deb13-cloud-amd64",
        ]);
        let (release, packages) = newest(Series::V7, &names).unwrap();
        assert_eq!(release, "7.2.12+deb13-cloud-amd64");
        assert_eq!(packages.len(), 3);
    }

    #[test]
    fn files_that_the_user_brought() {
        let names = names(&["linux-image-6.1.0-56-cloud-amd64_6.1.192-2_amd64.deb"]);
        let (release, files) = newest(Series::V6_1, &names).unwrap();
        assert_eq!(release, "6.1.0-56-cloud-amd64");
        assert_eq!(files, names);
    }
}
