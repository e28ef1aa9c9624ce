//! Packages that are unpacked and not installed, of this machine’s and of one other architecture.
//!
//! They are fetched through a [`PrivateRoot`].

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use duct::cmd;

use super::private_root::PrivateRoot;
use crate::{command, report};

/// The release’s packages for two architectures. The private root is made at first use and lives
/// as long as this value, so several packages share one index.
pub struct Archive {
    foreign: &'static str,
    /// Where the private root’s temporary folder is made.
    shelf: PathBuf,
    root: OnceCell<PrivateRoot>,
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
        let root = self.root()?;
        let _busy = report::busy(&format!("fetching {names}"));
        let downloads = root.scratch()?;
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

/// The first name in the `Depends` field of a package’s record, without its version.
fn first_dependency(record: &str) -> Option<String> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    let name = depends.split([' ', ',', '|']).next()?;
    Some(name.to_owned())
}

/// The packages in apt’s list of dependencies: the lines that neither are indented nor stand in
/// `<>`, as names do that several packages provide.
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
}
