//! Packages that are unpacked and not installed, of this machine’s and of one other architecture.
//!
//! They are fetched through a private apt root: an apt that sees the release itself on this
//! machine’s mirror (no updates, so all of it is of one piece) and none of this machine’s packages.
//! Adding the architecture to the machine would change the machine, and make every later
//! `apt-get update` depend on it.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use duct::{Expression, cmd};
use tempfile::TempDir;

use super::mirror::{self, Mirror};
use crate::{command, report};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The release’s packages for two architectures. The private root is made at first use and lives
/// as long as this value, so several packages share one index.
pub struct Archive {
    foreign: &'static str,
    /// Where the private root’s temporary folder is made.
    shelf: PathBuf,
    root: OnceCell<PrivateRoot>,
}

struct PrivateRoot {
    folder: TempDir,
    options: Vec<String>,
}

impl Archive {
    /// Names the other architecture; touches nothing yet.
    pub fn new(foreign: &'static str, shelf: PathBuf) -> Self {
        Self { foreign, shelf, root: OnceCell::new() }
    }

    /// Downloads `packages` and unpacks them into the folder `into`. A package of the other
    /// architecture is named `package:architecture`.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let names = packages.join(" ");
        let root = self.root().with_context(|| format!("needed and not there yet: {names}"))?;
        let _busy = report::busy(&format!("fetching {names}"));
        let downloads = tempfile::tempdir_in(root.folder.path())?;
        let download = root.apt("apt-get", ["download", "-q"], packages).dir(downloads.path());
        command::quiet_with_retries("apt-get download", &download)?;
        fs::create_dir_all(into)?;
        for deb in fs::read_dir(downloads.path())? {
            let unpack = cmd!("dpkg", "-x", deb?.path(), into);
            command::quiet("dpkg -x", &unpack)?;
        }
        Ok(())
    }

    /// The first package that `package` depends on: for packages that only stand for another.
    pub fn stands_for(&self, package: &str) -> Result<String> {
        let show = self.root()?.apt("apt-cache", ["show", "--no-all-versions"], [package]);
        let record = command::quiet("apt-cache show", &show)?;
        first_dependency(&record).with_context(|| format!("{package} depends on nothing"))
    }

    /// `package` and all that it needs, and that needs, and so on.
    pub fn with_dependencies(&self, package: &str) -> Result<Vec<String>> {
        let depends = ["depends", "--recurse", "--important", "--no-conflicts"];
        let depends = self.root()?.apt("apt-cache", depends, [package]);
        Ok(package_lines(&command::quiet("apt-cache depends", &depends)?))
    }

    fn root(&self) -> Result<&PrivateRoot> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = PrivateRoot::new(self.foreign, &self.shelf)?;
        Ok(self.root.get_or_init(|| root))
    }
}

impl PrivateRoot {
    fn new(foreign: &str, shelf: &Path) -> Result<Self> {
        let native = command::quiet("dpkg", &cmd!("dpkg", "--print-architecture"))?;
        let architectures = [native.trim(), foreign];
        let _busy = report::busy(&format!("reading Debian’s index of {}", architectures.join(", ")));
        fs::create_dir_all(shelf)?;
        let folder = tempfile::Builder::new().prefix(".apt-").tempdir_in(shelf)?;
        let path = folder.path();
        for part in ["lists/partial", "archives/partial", "sources", "empty"] {
            fs::create_dir_all(path.join(part))?;
        }
        fs::write(path.join("status"), "")?;
        fs::write(path.join("sources/mirror.sources"), source(&mirror::configured()?, architectures))?;
        let root = Self { options: options(path, architectures), folder };
        let update = root.apt("apt-get", ["update", "-q"], [] as [&str; 0]);
        command::quiet_with_retries("apt-get update of the private apt root", &update)?;
        Ok(root)
    }

    /// `PROGRAM VERB… PACKAGES…`, looking at the private root.
    fn apt<'a>(
        &'a self,
        program: &str,
        verb: impl IntoIterator<Item = &'a str>,
        packages: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Expression {
        let options = self.options.iter().flat_map(|option| ["-o", option]);
        let packages = packages.into_iter().map(|package| package.as_ref().to_owned());
        let arguments = options.chain(verb).map(str::to_owned).chain(packages);
        cmd(program, arguments).env("LC_ALL", "C")
    }
}

/// The private root’s only source, in deb822 form.
fn source(mirror: &Mirror, architectures: [&str; 2]) -> String {
    let architectures = architectures.join(" ");
    let Mirror { uri, suite } = mirror;
    let mut source =
        format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nArchitectures: {architectures}\n");
    if Path::new(KEYRING).exists() {
        source.push_str("Signed-By: ");
        source.push_str(KEYRING);
        source.push('\n');
    }
    source
}

/// What makes apt work in the private root, and leave the machine’s own state alone.
fn options(root: &Path, [native, foreign]: [&str; 2]) -> Vec<String> {
    let root = root.display();
    vec![
        "Dir::Etc::SourceList=/dev/null".to_owned(),
        format!("Dir::Etc::SourceParts={root}/sources"),
        format!("Dir::Etc::PreferencesParts={root}/empty"),
        format!("Dir::State::Lists={root}/lists"),
        format!("Dir::State::Status={root}/status"),
        format!("Dir::Cache::Archives={root}/archives"),
        "Dir::Cache::pkgcache=".to_owned(),
        "Dir::Cache::srcpkgcache=".to_owned(),
        format!("APT::Architecture={native}"),
        format!("APT::Architectures::={native}"),
        format!("APT::Architectures::={foreign}"),
        // The folder may stand where apt’s own user may not go.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ]
}

/// The first name in the `Depends` field of a package’s record, without its version.
fn first_dependency(record: &str) -> Option<String> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let name = depends.split([' ', ',', '|']).next()?;
    Some(name.to_owned())
}

/// The packages in apt’s list of dependencies: the lines that neither are indented nor name a
/// package that exists only as others’ by-name (`<name>`).
fn package_lines(depends: &str) -> Vec<String> {
    let packages = depends.lines().filter(|line| !line.starts_with([' ', '|', '<']));
    packages.map(str::to_owned).collect()
}

/// `packages` without the C library: two different ones can’t serve one program, and the machine’s
/// own is loaded first.
pub fn without_libc(mut packages: Vec<String>) -> Vec<String> {
    packages.retain(|package| package != "libc6");
    packages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_package_names_the_versioned_one() {
        let record = "Package: linux-image-powerpc64le\nPre-Depends: other\n\
                      Depends: linux-image-6.1.0-50-powerpc64le (= 6.1.176-1), more\n";
        assert_eq!(first_dependency(record).as_deref(), Some("linux-image-6.1.0-50-powerpc64le"));
        assert_eq!(first_dependency("Package: x\nDepends: y\n").as_deref(), Some("y"));
        assert_eq!(first_dependency("Package: x\n"), None);
    }

    #[test]
    fn dependencies_are_the_lines_in_front() {
        let depends = "a\n  Depends: b\n |Depends: c\n    d\nb\n  Depends: <v>\n    c\n<v>\nc\n";
        assert_eq!(package_lines(depends), ["a", "b", "c"]);
    }

    #[test]
    fn the_source_names_one_architecture_of_one_release() {
        let uri = "http://mirror.example/debian/".to_owned();
        let source = source(&Mirror { uri, suite: "bookworm".to_owned() }, ["amd64", "ppc64el"]);
        let expected = "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n\
                        Components: main\nArchitectures: amd64 ppc64el\n";
        assert!(source.starts_with(expected), "{source}");
    }
}
