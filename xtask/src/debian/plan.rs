//! Which packages make up a tool, as apt resolves it before anything is fetched.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Result, bail};

use super::index::Index;
use crate::command;

/// A package’s file, as apt names it, and its size in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub bytes: u64,
}

impl File {
    fn package(&self) -> &str {
        self.name.split('_').next().unwrap_or(&self.name)
    }
}

/// What is to be fetched: one call of `apt-get install --download-only`, and the files that it
/// fetches if none is there yet.
#[derive(Debug)]
pub struct Plan {
    /// The arguments.
    pub install: Vec<String>,
    pub files: Vec<File>,
}

impl Plan {
    /// The plans for `packages` with all that they depend on, and for those `alone` without: the
    /// best first. There is more than one if `*` stands for a version in a name of `alone`.
    pub fn all(index: &Index, packages: &[&str], alone: &[&str]) -> Result<Vec<Self>> {
        let mut choices = vec![Vec::new()];
        for pattern in alone {
            let names = index.standing_for(pattern)?;
            choices = names
                .iter()
                .flat_map(|name| {
                    choices.iter().map(move |chosen: &Vec<String>| {
                        [&chosen[..], std::slice::from_ref(name)].concat()
                    })
                })
                .collect();
        }
        choices.iter().map(|alone| Self::new(index, packages, alone)).collect()
    }

    /// apt knows no package without those that it depends on. So it is told that they are
    /// installed: those that `packages` does not need.
    fn new(index: &Index, packages: &[&str], alone: &[String]) -> Result<Self> {
        let packages: Vec<_> = packages.iter().map(|&name| name.to_owned()).collect();
        let status = index.path().join("status");
        fs::write(&status, "")?;
        if alone.is_empty() {
            return Self::of(index, packages);
        }
        let whole = Self::of(index, [&packages[..], alone].concat())?;
        let needed =
            if packages.is_empty() { Vec::new() } else { Self::of(index, packages)?.files };
        let wanted: BTreeSet<_> =
            needed.iter().map(File::package).chain(alone.iter().map(String::as_str)).collect();
        let others = whole.files.iter().map(File::package).filter(|name| !wanted.contains(name));
        let others: Vec<_> = others.collect();
        if others.is_empty() {
            return Ok(whole);
        }
        let show = ["show", "--no-all-versions"].into_iter().chain(others);
        let records = command::quiet("apt-cache show", &index.apt("apt-cache", show))?;
        let installed = index.path().join(format!("installed-{}", alone.join("-")));
        fs::write(&installed, as_installed(&records))?;
        let option = format!("Dir::State::Status={}", installed.display());
        Self::of(index, [vec!["-o".to_owned(), option], whole.install].concat())
    }

    fn of(index: &Index, install: Vec<String>) -> Result<Self> {
        let plan = ["install", "-y", "-q", "--print-uris"].into_iter();
        let plan = index.apt("apt-get", plan.chain(install.iter().map(String::as_str)));
        let plan = command::quiet("apt-get install --print-uris", &plan)?;
        let files = files(&plan);
        if files.is_empty() {
            bail!("apt-get names no files:\n{plan}");
        }
        Ok(Self { install, files })
    }

    /// All bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }
}

/// What is left of a record: nothing that could ask for another package.
const KEPT: [&str; 5] = ["Package", "Version", "Architecture", "Multi-Arch", "Provides"];

/// Records of an index as records of installed packages.
fn as_installed(records: &str) -> String {
    let mut installed = String::new();
    for line in records.lines() {
        let field = line.split_once(": ").map(|(field, _)| field);
        if line.is_empty() || field.is_some_and(|field| KEPT.contains(&field)) {
            installed.push_str(line);
            installed.push('\n');
        }
        if field == Some("Package") {
            // Held: without its dependencies, apt would take it for another build of the version.
            installed.push_str("Status: hold ok installed\n");
        }
    }
    installed
}

/// The files that `apt-get --print-uris` names: `'URI' NAME BYTES HASH`.
fn files(plan: &str) -> Vec<File> {
    let lines = plan.lines().filter(|line| line.starts_with('\''));
    let file = |line: &str| {
        let mut words = line.split(' ').skip(1);
        Some(File { name: words.next()?.to_owned(), bytes: words.next()?.parse().ok()? })
    };
    lines.filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sizes_are_read() {
        let plan = "Reading package lists...\nNeed to get 2 MB\n\
                    'http://mirror.example/a_1%3a2_amd64.deb' a_1%3a2_amd64.deb 135616 MD5Sum:85\n\
                    'http://mirror.example/b_1_all.deb' b_1_all.deb 7 SHA256:1\n";
        let file = |name: &str, bytes| File { name: name.to_owned(), bytes };
        let expected = [file("a_1%3a2_amd64.deb", 135_616), file("b_1_all.deb", 7)];
        assert_eq!(files(plan), expected);
        assert_eq!(expected[0].package(), "a");
    }

    #[test]
    fn a_record_becomes_one_of_an_installed_package() {
        let records = "Package: a\nVersion: 1\nDepends: c\n\nPackage: b\nVersion: 2\n";
        let status = "Status: hold ok installed\n";
        let expected =
            format!("Package: a\n{status}Version: 1\n\nPackage: b\n{status}Version: 2\n");
        assert_eq!(as_installed(records), expected);
    }
}
