//! An apt of our own: it sees the release itself on this machine’s mirror (no updates, so all of it
//! is of one piece) and none of this machine’s packages.
//!
//! It reads the index of this machine’s architecture and of one other. Adding the other to the
//! machine would change the machine, and make every later `apt-get update` depend on it.

use std::fs;
use std::path::Path;

use anyhow::Result;
use duct::{Expression, cmd};
use tempfile::TempDir;

use super::mirror::{self, Mirror};
use crate::{command, report};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A folder with what apt keeps, as long as this value lives.
pub struct PrivateRoot {
    folder: TempDir,
    options: Vec<String>,
}

impl PrivateRoot {
    /// Makes the folder on `shelf` and reads the index.
    pub fn new(foreign: &str, shelf: &Path) -> Result<Self> {
        let native = command::quiet("dpkg", &cmd!("dpkg", "--print-architecture"))?;
        let architectures = [native.trim(), foreign];
        let _busy =
            report::busy(&format!("reading Debian’s index of {}", architectures.join(", ")));
        fs::create_dir_all(shelf)?;
        let folder = tempfile::Builder::new().prefix(".apt-").tempdir_in(shelf)?;
        let path = folder.path();
        for part in ["lists/partial", "archives/partial", "sources", "empty"] {
            fs::create_dir_all(path.join(part))?;
        }
        fs::write(path.join("status"), "")?;
        fs::write(
            path.join("sources/mirror.sources"),
            source(&mirror::configured()?, architectures),
        )?;
        let root = Self { options: options(path, architectures), folder };
        let update = root.apt("apt-get", ["update", "-q"], [] as [&str; 0]);
        command::quiet_with_retries("apt-get update of the private apt root", &update)?;
        Ok(root)
    }

    /// A new folder that goes away with the private root at the latest.
    pub fn scratch(&self) -> Result<TempDir> {
        Ok(tempfile::tempdir_in(self.folder.path())?)
    }

    /// `PROGRAM VERB… PACKAGES…`, looking at the private root.
    pub fn apt<'a>(
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
    let mut source = format!(
        "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nArchitectures: {architectures}\n"
    );
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
        // An index that can’t be fetched is an error, not a warning.
        "APT::Update::Error-Mode=any".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::Retries=3".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_names_one_architecture_of_one_release() {
        let uri = "http://mirror.example/debian/".to_owned();
        let source = source(&Mirror { uri, suite: "bookworm".to_owned() }, ["amd64", "ppc64el"]);
        let expected = "Types: deb\nURIs: http://mirror.example/debian/\nSuites: bookworm\n\
                        Components: main\nArchitectures: amd64 ppc64el\n";
        assert!(source.starts_with(expected), "{source}");
    }
}
