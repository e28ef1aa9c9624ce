//! Packages of another architecture, unpacked and not installed.
//!
//! They are fetched through a private apt root: an apt that sees only the other architecture’s
//! index of this machine’s mirror, and none of this machine’s packages. Adding the architecture to
//! the machine itself would change the machine, and make every later `apt-get update` depend on it.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use duct::{Expression, cmd};
use tempfile::TempDir;

use super::mirror::{self, Mirror};
use crate::{command, report};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages of one architecture. The private root is made at first use and lives as long as
/// this value, so several packages share one index.
pub struct Archive {
    architecture: &'static str,
    /// Where the private root’s temporary folder is made.
    shelf: PathBuf,
    root: OnceCell<PrivateRoot>,
}

struct PrivateRoot {
    folder: TempDir,
    options: Vec<String>,
}

impl Archive {
    /// Names the architecture; touches nothing yet.
    pub fn new(architecture: &'static str, shelf: PathBuf) -> Self {
        Self {
            architecture,
            shelf,
            root: OnceCell::new(),
        }
    }

    /// Downloads `package` (a name, or `name=version`) and unpacks it into the folder `into`.
    pub fn unpack(&self, package: &str, into: &Path) -> Result<()> {
        let root = self
            .root()
            .with_context(|| format!("{package} is needed but not there yet"))?;
        let _busy = report::busy(&format!("fetching {package} ({})", self.architecture));
        let downloads = tempfile::tempdir_in(root.folder.path())?;
        let download = root
            .apt("apt-get", &["download", "-q", package])
            .dir(downloads.path());
        command::quiet_with_retries(&format!("apt-get download {package}"), &download)?;
        for deb in fs::read_dir(downloads.path())? {
            let unpack = cmd!("dpkg", "-x", deb?.path(), into);
            command::quiet(&format!("dpkg -x {package}"), &unpack)?;
        }
        Ok(())
    }

    /// The first package that `package` depends on: for packages that only stand for another.
    pub fn stands_for(&self, package: &str) -> Result<String> {
        let show = self
            .root()?
            .apt("apt-cache", &["show", "--no-all-versions", package]);
        let record = command::quiet(&format!("apt-cache show {package}"), &show)?;
        let name = first_dependency(&record);
        name.with_context(|| format!("{package} depends on nothing"))
    }

    fn root(&self) -> Result<&PrivateRoot> {
        if let Some(root) = self.root.get() {
            return Ok(root);
        }
        let root = PrivateRoot::new(self.architecture, &self.shelf)?;
        Ok(self.root.get_or_init(|| root))
    }
}

impl PrivateRoot {
    fn new(architecture: &str, shelf: &Path) -> Result<Self> {
        let _busy = report::busy(&format!("reading Debian’s {architecture} package index"));
        fs::create_dir_all(shelf)?;
        let folder = tempfile::Builder::new().prefix(".apt-").tempdir_in(shelf)?;
        let path = folder.path();
        for part in ["lists/partial", "archives/partial", "sources", "empty"] {
            fs::create_dir_all(path.join(part))?;
        }
        fs::write(path.join("status"), "")?;
        fs::write(
            path.join("sources/mirror.sources"),
            source(&mirror::configured()?, architecture),
        )?;
        let root = Self {
            options: options(path, architecture),
            folder,
        };
        let update = root.apt("apt-get", &["update", "-q"]);
        command::quiet_with_retries("apt-get update of the private apt root", &update)?;
        Ok(root)
    }

    fn apt(&self, program: &str, arguments: &[&str]) -> Expression {
        let options = self.options.iter().flat_map(|option| ["-o", option]);
        cmd(program, options.chain(arguments.iter().copied())).env("LC_ALL", "C")
    }
}

/// The private root’s only source, in deb822 form.
fn source(mirror: &Mirror, architecture: &str) -> String {
    let Mirror { uri, suite } = mirror;
    let mut source = format!(
        "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nArchitectures: {architecture}\n"
    );
    if Path::new(KEYRING).exists() {
        source.push_str("Signed-By: ");
        source.push_str(KEYRING);
        source.push('\n');
    }
    source
}

/// What makes apt work in the private root, and leave the machine’s own state alone.
fn options(root: &Path, architecture: &str) -> Vec<String> {
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
        format!("APT::Architecture={architecture}"),
        format!("APT::Architectures::={architecture}"),
        // The folder may stand where apt’s own user may not go.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ]
}

/// The first name in the `Depends` field of a package’s record, without its version.
fn first_dependency(record: &str) -> Option<String> {
    let depends = record
        .lines()
        .find_map(|line| line.strip_prefix("Depends: "))?;
    let name = depends.split([' ', ',', '|']).next()?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_package_names_the_versioned_one() {
        let record = "Package: linux-image-powerpc64le\nPre-Depends: other\n\
                      Depends: linux-image-6.1.0-50-powerpc64le (= 6.1.176-1), more\n";
        assert_eq!(
            first_dependency(record).as_deref(),
            Some("linux-image-6.1.0-50-powerpc64le")
        );
        assert_eq!(
            first_dependency("Package: x\nDepends: y\n").as_deref(),
            Some("y")
        );
        assert_eq!(first_dependency("Package: x\n"), None);
    }

    #[test]
    fn the_source_names_one_architecture_of_one_release() {
        let uri = "http://mirror.example/debian/".to_owned();
        let source = source(
            &Mirror {
                uri,
                suite: "bookworm".to_owned(),
            },
            "ppc64el",
        );
        let expected = "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n\
                        Components: main\nArchitectures: ppc64el\n";
        assert!(source.starts_with(expected), "{source}");
    }
}
