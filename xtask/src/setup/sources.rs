//! Where the machine's apt gets Debian from, and how to ask the same archive for another suite.
//!
//! No archive is named in this project: whichever the machine trusts is used, with the machine's own keys.

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::host;
use crate::error::hinted;

/// Names another archive than the machine's, for machines whose apt knows no Debian.
pub(super) const URI_VARIABLE: &str = "TRACER_DEBIAN_URI";

/// The keys of Debian's archive, where the package debian-archive-keyring puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// One source of binary packages, in whichever format it was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Source {
    uris: String,
    suites: Vec<String>,
    components: Vec<String>,
    /// The fields that say whether to trust it, name and value as in the deb822 format.
    trust: Vec<(String, String)>,
}

impl Source {
    /// Whether this is Debian's own archive rather than someone's packages for Debian, as far as its
    /// shape tells: component main, and a path that says debian.
    fn is_debian(&self) -> bool {
        let mut segments = self.uris.split(['/', ' ', '\n']);
        self.components.iter().any(|component| component == "main")
            && segments.any(|segment| {
                segment.starts_with("debian") && !segment.contains('.') || segment == "debian.list"
            })
    }

    /// The security archive has a place and suites of its own.
    fn is_security(&self) -> bool {
        self.suites
            .iter()
            .any(|suite| suite.ends_with("-security") || suite.ends_with("/updates"))
    }

    /// The same archive, another suite, as a stanza of a `.sources` file.
    fn stanza(&self, suite: &str) -> String {
        let mut text = format!(
            "Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nArchitectures: amd64\n",
            self.uris
        );
        for (name, value) in &self.trust {
            text += &format!("{name}: {value}\n");
        }
        // Only the package index: no translations, icons or contents.
        text + "Targets: Packages\nLanguages: none\n\n"
    }
}

/// The stanzas for these suites, derived from the machine's apt configuration under `etc` (`/etc/apt`).
///
/// A suite of an archive that the machine does not use (security, mostly) is left out.
pub(super) fn debian(etc: &Path, suites: &[&str]) -> Result<String> {
    let text = match std::env::var(URI_VARIABLE) {
        Ok(uri) if !uri.trim().is_empty() => {
            let archive = named(uri.trim())?;
            let suites = suites.iter().filter(|suite| !suite.ends_with("-security"));
            suites.map(|suite| archive.stanza(suite)).collect()
        }
        _ => derive(&system(etc)?, suites),
    };
    if text.is_empty() {
        return Err(hinted(
            "failed to find a Debian archive: this machine's apt is not configured for one",
            format!("{URI_VARIABLE}=<archive uri> cargo xtask setup"),
        ));
    }
    Ok(text)
}

fn derive(sources: &[Source], suites: &[&str]) -> String {
    let archive = |suite: &str| {
        let security = suite.ends_with("-security");
        sources
            .iter()
            .find(|source| source.is_debian() && source.is_security() == security)
    };
    suites
        .iter()
        .filter_map(|suite| Some(archive(suite)?.stanza(suite)))
        .collect()
}

/// The archive that the user named. It must be signed by Debian all the same.
fn named(uri: &str) -> Result<Source> {
    if !Path::new(KEYRING).exists() {
        let install = host::install_command(&[host::DEBIAN_KEYRING]);
        return Err(hinted(
            format!("failed to find Debian's archive keys: {KEYRING}: no such file"),
            install,
        ));
    }
    Ok(Source {
        uris: uri.to_owned(),
        trust: vec![("Signed-By".into(), KEYRING.into())],
        ..Source::default()
    })
}

/// Everything that apt is configured for.
fn system(etc: &Path) -> Result<Vec<Source>> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(parts) = fs::read_dir(etc.join("sources.list.d")) {
        let mut parts: Vec<_> = parts.flatten().map(|entry| entry.path()).collect();
        parts.sort();
        files.extend(parts);
    }
    let mut sources = Vec::new();
    for file in files {
        let parse = match file.extension().and_then(OsStr::to_str) {
            Some("list") => parse_list,
            Some("sources") => parse_deb822,
            _ => continue,
        };
        if file.exists() {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("failed to read the apt configuration: {}", file.display()))?;
            sources.extend(parse(&text));
        }
    }
    Ok(sources)
}

/// The one-line format: `deb [option=value …] uri suite component …`.
fn parse_list(text: &str) -> Vec<Source> {
    text.lines().filter_map(parse_list_line).collect()
}

fn parse_list_line(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?;
    let rest = rest.strip_prefix(char::is_whitespace)?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let mut words = rest.split_whitespace().map(str::to_owned);
    let trust = options
        .split_whitespace()
        .filter_map(|option| option.split_once('='))
        .filter_map(|(name, value)| Some((trust_field(name)?.to_owned(), value.to_owned())))
        .collect();
    Some(Source {
        uris: words.next()?,
        suites: vec![words.next()?],
        components: words.collect(),
        trust,
    })
}

/// The deb822 format: stanzas of `Name: value`, continued on indented lines.
fn parse_deb822(text: &str) -> Vec<Source> {
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines
        .split(|line| line.trim().is_empty())
        .filter_map(parse_stanza)
        .collect()
}

fn parse_stanza(lines: &[&str]) -> Option<Source> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut()?;
            // Kept as written: a key inside Signed-By depends on its line breaks.
            *value = format!("{value}\n{line}");
        } else {
            let (name, value) = line.split_once(':')?;
            fields.push((name.trim(), value.trim().to_owned()));
        }
    }
    let field = |name: &str| fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
    let words = |name: &str| -> Vec<String> {
        field(name)
            .map(|(_, value)| value.split_whitespace().map(str::to_owned).collect())
            .unwrap_or_default()
    };
    let disabled = field("Enabled").is_some_and(|(_, value)| value.eq_ignore_ascii_case("no"));
    if disabled || !words("Types").iter().any(|kind| kind == "deb") {
        return None;
    }
    let trust = fields
        .iter()
        .filter_map(|(name, value)| Some((trust_field(name)?.to_owned(), value.clone())))
        .collect();
    Some(Source {
        uris: words("URIs").join(" "),
        suites: words("Suites"),
        components: words("Components"),
        trust,
    })
}

/// The deb822 name of a field or option that decides about trust; None for all others.
fn trust_field(name: &str) -> Option<&'static str> {
    ["Signed-By", "Trusted", "Check-Valid-Until"]
        .into_iter()
        .find(|field| field.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb deb-src
# a comment inside
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/a.gpg

Types: deb
URIs: http://mirror.example/debian-security/
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Enabled: no
Types: deb
URIs: http://other.example/debian
Suites: sid
Components: main

Types: deb-src
URIs: http://other.example/debian
Suites: sid
Components: main
";

    #[test]
    fn deb822() {
        let sources = parse_deb822(DEB822);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert!(sources[0].is_debian() && !sources[0].is_security());
        assert!(sources[1].is_debian() && sources[1].is_security());
        assert_eq!(
            sources[1].trust[0].1,
            "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc"
        );
    }

    #[test]
    fn one_line() {
        let sources = parse_list(
            "# deb http://no.example/debian bookworm main\n\
             deb-src http://mirror.example/debian bookworm main\n\
             deb [ arch=amd64 signed-by=/k.gpg ] https://mirror.example/debian bookworm main contrib # here\n\
             deb cdrom:[Debian] bookworm main\n\
             deb\thttp://mirror.example/debian-security bookworm-security main\n",
        );
        assert_eq!(sources[0].uris, "https://mirror.example/debian");
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[0].trust, [("Signed-By".to_owned(), "/k.gpg".to_owned())]);
        assert!(sources.iter().any(Source::is_security));
        assert!(!sources[1].is_debian(), "{:?}", sources[1]);
    }

    #[test]
    fn other_peoples_packages_are_not_debian() {
        let sources = parse_list(
            "deb https://download.example/linux/debian bookworm stable\n\
             deb https://apt.example/ stable main\n\
             deb http://archive.example/ubuntu noble main\n\
             deb http://debian.example/packages bookworm main\n",
        );
        assert_eq!(
            sources.iter().filter(|source| source.is_debian()).count(),
            0,
            "{sources:?}"
        );
        assert_eq!(derive(&sources, &["trixie"]), "");
    }

    #[test]
    fn derived_suites_keep_archive_and_keys() {
        let text = derive(&parse_deb822(DEB822), &["trixie", "trixie-security"]);
        let stanzas = parse_deb822(&text);
        assert_eq!(stanzas[0].uris, "http://mirror.example/debian");
        assert_eq!(stanzas[0].suites, ["trixie"]);
        assert_eq!(
            stanzas[0].trust,
            [("Signed-By".to_owned(), "/usr/share/keyrings/a.gpg".to_owned())]
        );
        assert_eq!(stanzas[1].uris, "http://mirror.example/debian-security/");
        assert!(stanzas[1].trust[0].1.contains("abc"));
    }

    #[test]
    fn a_machine_without_a_security_archive() {
        let sources = parse_list("deb http://mirror.example/debian bookworm main");
        let text = derive(&sources, &["bullseye", "bullseye-security"]);
        assert_eq!(parse_deb822(&text).len(), 1);
    }

    #[test]
    fn all_files_are_read_and_others_are_not() {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("sources.list.d");
        fs::create_dir(&parts).unwrap();
        fs::write(parts.join("debian.sources"), DEB822).unwrap();
        fs::write(
            parts.join("off.list.disabled"),
            "deb http://mirror.example/debian sid main",
        )
        .unwrap();
        assert_eq!(system(etc.path()).unwrap().len(), 2);
    }
}
