//! An apt of our own: it sees one release of one architecture (no updates, so all of it is of one
//! piece), none of this machine’s packages, and none of this machine’s state.

use std::fs;
use std::path::Path;

use anyhow::{Result, bail};
use clap::ValueEnum;
use duct::{Expression, cmd};
use tempfile::TempDir;

use super::mirror;
use crate::{command, report};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// What the machine’s own configuration may say of fetching: proxies, timeouts, limits.
const ADOPTED: [&str; 4] = ["Acquire::http", "Acquire::https", "Acquire::ftp", "Acquire::Check-"];

/// The releases that packages are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Release {
    /// Debian 12
    Bookworm,
    /// Debian 13
    Trixie,
}

impl Release {
    /// Its directory below `dists/`.
    pub fn suite(self) -> &'static str {
        match self {
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
        }
    }
}

/// Debian’s name for this machine’s architecture.
pub fn native_architecture() -> Result<&'static str> {
    Ok(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "powerpc64" => "ppc64el",
        "aarch64" => "arm64",
        "riscv64" => "riscv64",
        other => bail!("Debian’s name for {other} is not known here"),
    })
}

/// The index of a release for an architecture, in a folder that goes away with this value.
pub struct Index {
    folder: TempDir,
}

impl Index {
    /// Fetches the index from the mirror that was `given`, else from the first of this machine’s
    /// that has the release, signed by Debian.
    pub fn read(release: Release, architecture: &str, given: Option<&str>) -> Result<Self> {
        let _busy = report::busy(&format!(
            "reading the index of Debian’s release {} for {architecture}",
            release.suite()
        ));
        if !Path::new(KEYRING).exists() {
            bail!(
                "{KEYRING}, by which packages are checked, is not there (debian-archive-keyring)"
            );
        }
        let mut refused = Vec::new();
        for mirror in mirror::candidates(given)? {
            let index = Self::lay_out(release, architecture, &mirror)?;
            let update = index.apt("apt-get", ["update", "-q"]);
            match command::quiet_with_retries("apt-get update of the private apt root", &update) {
                Ok(_) => return Ok(index),
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
        bail!("no mirror has the release {}:\n{}", release.suite(), refused.join("\n"))
    }

    fn lay_out(release: Release, architecture: &str, mirror: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("xtask-apt-").tempdir()?;
        let path = folder.path();
        for part in ["lists/partial", "archives/partial", "sources", "empty", "log"] {
            fs::create_dir_all(path.join(part))?;
        }
        fs::write(path.join("status"), "")?;
        fs::write(path.join("sources/mirror.sources"), source(release, architecture, mirror))?;
        let machine = cmd!("apt-config", "dump").env("LC_ALL", "C");
        let machine = command::quiet("apt-config dump", &machine)?;
        let configuration = configuration(path, architecture, &adopted(&machine));
        fs::write(path.join("apt.conf"), configuration)?;
        Ok(Self { folder })
    }

    /// The folder, whose `status` says that nothing is installed.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// `PROGRAM ARGUMENTS…`, one of apt’s, looking at this index alone.
    pub fn apt<'a>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Expression {
        cmd(program, arguments)
            .env("APT_CONFIG", self.folder.path().join("apt.conf"))
            .env("LC_ALL", "C")
    }

    /// The packages that `pattern` stands for, the newest first: itself, or with `*` those that
    /// have a version in its place.
    pub fn standing_for(&self, pattern: &str) -> Result<Vec<String>> {
        let Some((before, after)) = pattern.split_once('*') else {
            return Ok(vec![pattern.to_owned()]);
        };
        let names = self.apt("apt-cache", ["pkgnames", before]);
        let names = command::quiet("apt-cache pkgnames", &names)?;
        let found = versioned(&names, before, after);
        if found.is_empty() {
            bail!("no package is named {pattern}");
        }
        Ok(found)
    }
}

/// The names `before…after` with a version between, the newest first.
fn versioned(names: &str, before: &str, after: &str) -> Vec<String> {
    let version = |name: &str| {
        let middle = name.strip_prefix(before)?.strip_suffix(after)?;
        let (numbers, _) = middle.split_once('+').unwrap_or((middle, ""));
        numbers.split(['.', '-']).map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()
    };
    let mut found: Vec<_> =
        names.lines().filter_map(|name| Some((version(name)?, name.to_owned()))).collect();
    found.sort();
    found.into_iter().rev().map(|(_, name)| name).collect()
}

/// The only source, in deb822 form.
fn source(release: Release, architecture: &str, mirror: &str) -> String {
    let suite = release.suite();
    format!(
        "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n\
         Architectures: {architecture}\nSigned-By: {KEYRING}\n"
    )
}

/// Of the machine’s configuration, as `apt-config dump` prints it, what is adopted.
fn adopted(dump: &str) -> String {
    let wanted = |line: &&str| ADOPTED.iter().any(|name| line.starts_with(name));
    let lines = dump.lines().filter(wanted).filter(|line| !line.ends_with(" \"\";"));
    lines.map(|line| format!("{line}\n")).collect()
}

/// What makes apt work in the folder `root`, without privileges, and leave the machine’s own state
/// and hooks alone.
fn configuration(root: &Path, architecture: &str, adopted: &str) -> String {
    let root = root.display();
    format!(
        r#"{adopted}
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "{root}/sources";
Dir::Etc::PreferencesParts "{root}/empty";
Dir::Etc::Parts "{root}/empty";
Dir::Etc::Main "/dev/null";
Dir::State "{root}";
Dir::State::Lists "{root}/lists";
Dir::State::Status "{root}/status";
Dir::Cache "{root}";
Dir::Cache::Archives "{root}/archives";
Dir::Log "{root}/log";
Debug::NoLocking "true";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
// The folder may stand where apt’s own user may not go.
APT::Sandbox::User "";
// An index that can’t be fetched is an error, not a warning.
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::GzipIndexes "true";
Acquire::Retries "3";
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_names_one_architecture_of_one_release() {
        let source = source(Release::Bookworm, "ppc64el", "http://mirror.example/debian/");
        let expected = "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n\
                        Components: main\nArchitectures: ppc64el\nSigned-By: /";
        assert!(source.starts_with(expected), "{source}");
    }

    #[test]
    fn kernels_are_told_from_their_symbols_and_ordered_by_version() {
        let names = "linux-image-6.1.0-9-amd64\nlinux-image-6.1.0-50-amd64\n\
                     linux-image-6.1.0-50-amd64-dbg\nlinux-image-6.1.0-51-cloud-amd64\n\
                     linux-image-amd64\nlinux-image-6.12.117+deb13-amd64\n";
        let expected = [
            "linux-image-6.12.117+deb13-amd64",
            "linux-image-6.1.0-50-amd64",
            "linux-image-6.1.0-9-amd64",
        ];
        assert_eq!(versioned(names, "linux-image-", "-amd64"), expected);
    }

    #[test]
    fn proxies_are_adopted_and_hooks_are_not() {
        let dump = "Acquire::http::Proxy \"http://proxy.example/\";\nAcquire::http \"\";\n\
                    APT::Update::Post-Invoke:: \"rm x\";\nAcquire::Languages:: \"de\";\n";
        assert_eq!(adopted(dump), "Acquire::http::Proxy \"http://proxy.example/\";\n");
    }
}
