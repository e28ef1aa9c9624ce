//! Where Debian is fetched from: the mirror that this machine’s apt is configured for.

use anyhow::{Result, bail};
use duct::cmd;

use crate::command;

/// The addresses that may hold Debian: `given` alone, else those of this machine’s apt, which has
/// read its configuration in whichever form it stands. Nothing is asked of the network.
pub fn candidates(given: Option<&str>) -> Result<Vec<String>> {
    if let Some(given) = given {
        return Ok(vec![format!("{}/", given.trim_end_matches('/'))]);
    }
    let uris = cmd!("apt-get", "update", "--print-uris").env("LC_ALL", "C");
    let found = archives(&command::quiet("apt-get update --print-uris", &uris)?);
    if found.is_empty() {
        bail!("this machine’s apt names no Debian mirror; `--mirror URL` does");
    }
    Ok(found)
}

/// The archives that hold whole releases: those whose suites’ names have no `-updates` or the like.
fn archives(uris: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in uris.lines() {
        let release = line.strip_prefix('\'').and_then(|line| line.split_once("/InRelease'"));
        let Some((archive, suite)) = release.and_then(|(uri, _)| uri.split_once("/dists/")) else {
            continue;
        };
        let archive = format!("{archive}/");
        if !suite.contains(['-', '/']) && !found.contains(&archive) {
            found.push(archive);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_those_of_whole_releases() {
        let uris = "'http://mirror.example/security/dists/bookworm-security/InRelease' a 0 \n\
                    'http://mirror.example/debian/dists/bookworm/InRelease' b 0 \n\
                    'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' c 0\n\
                    'http://other.example/debian/dists/trixie/InRelease' d 0 \n";
        assert_eq!(
            archives(uris),
            ["http://mirror.example/debian/", "http://other.example/debian/"]
        );
        assert!(archives("E: nothing\n").is_empty());
    }

    #[test]
    fn a_given_mirror_is_the_only_one() -> Result<()> {
        for given in ["http://mirror.example/debian", "http://mirror.example/debian/"] {
            assert_eq!(candidates(Some(given))?, ["http://mirror.example/debian/"]);
        }
        Ok(())
    }
}
