//! Where this machine gets Debian from: its own configured mirror and release.

use std::fs;

use anyhow::{Context, Result};
use duct::cmd;

use crate::command;

/// One line of apt’s own answer to where it gets packages from.
const FORMAT: &str = "$(RELEASE) $(COMPONENT) $(REPO_URI)";

/// The address of the mirror and the release’s code name.
#[derive(Debug, PartialEq, Eq)]
pub struct Mirror {
    pub uri: String,
    pub suite: String,
}

/// Asks apt, which has read its configuration in whichever form it stands (`.sources` or
/// `.list`), for the mirror of this machine’s release.
pub fn configured() -> Result<Mirror> {
    let os_release = fs::read_to_string("/etc/os-release").context("/etc/os-release")?;
    let suite = code_name(&os_release).context("/etc/os-release names no VERSION_CODENAME")?;
    let find = || -> Result<Option<Mirror>> {
        let targets = cmd!("apt-get", "indextargets", "--format", FORMAT, "Created-By: Packages");
        Ok(main_mirror(&command::quiet("apt-get indextargets", &targets)?, &suite))
    };
    if let Some(mirror) = find()? {
        return Ok(mirror);
    }
    // apt answers only for indexes that it has: a fresh machine may have none yet.
    let update = cmd!("apt-get", "update", "-q", "-o", "Acquire::Retries=3");
    command::quiet_with_retries("apt-get update", &update)?;
    find()?.with_context(|| format!("apt has no source for {suite}/main"))
}

fn code_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned())
}

fn main_mirror(targets: &str, suite: &str) -> Option<Mirror> {
    let uri = targets.lines().find_map(|line| match *line.splitn(3, ' ').collect::<Vec<_>>() {
        [release, "main", uri] if release == suite => Some(uri),
        _ => None,
    })?;
    Some(Mirror { uri: uri.to_owned(), suite: suite.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_itself_is_chosen() {
        let targets = "bookworm-security main http://mirror.example/security/\n\
                       bookworm contrib http://mirror.example/contrib/\n\
                       bookworm main http://mirror.example/debian/\n";
        let mirror = main_mirror(targets, "bookworm");
        let uri = "http://mirror.example/debian/".to_owned();
        assert_eq!(mirror, Some(Mirror { uri, suite: "bookworm".to_owned() }));
        assert_eq!(main_mirror(targets, "trixie"), None);
    }

    #[test]
    fn code_name_with_and_without_quotes() {
        assert_eq!(
            code_name("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(),
            Some("bookworm")
        );
        assert_eq!(code_name("VERSION_CODENAME=\"trixie\"").as_deref(), Some("trixie"));
        assert_eq!(code_name("ID=debian"), None);
    }
}
