//! Fetching packages: what they are and how large is said before, how far it has come meanwhile,
//! and what came before a break is not fetched again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::index::Index;
use crate::{command, report};

/// How many times the size of the packages they take when they are unpacked; 5 is seen.
const UNPACKED: u64 = 6;
/// How often the progress is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// Packages of one index.
pub struct Download<'a> {
    pub index: &'a Index,
    /// Fetched with all that they depend on.
    pub packages: &'a [&'a str],
    /// Fetched without; `*` stands for the newest version that the mirror still has.
    pub alone: &'a [&'a str],
}

/// A package’s file, as apt names it, and its size in bytes.
#[derive(Debug, PartialEq, Eq)]
struct File {
    name: String,
    bytes: u64,
}

/// Fetches what is missing into `archives`, which is kept until all is there, and returns the files.
/// `what` names it in messages.
pub fn fetch(what: &str, download: &Download<'_>, archives: &Path) -> Result<Vec<PathBuf>> {
    let partial = archives.join("partial");
    fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
    let Download { index, packages, alone } = download;
    let mut found = Vec::new();
    if !packages.is_empty() {
        let mut install = vec!["install", "-y", "-q", "--download-only"];
        install.extend(*packages);
        found.extend(get(what, index, &install, archives)?);
    }
    for pattern in *alone {
        let mut refused = Vec::new();
        let names = index.standing_for(pattern)?;
        let files = names.iter().find_map(|name| {
            get(what, index, &["download", "-q", name], archives)
                .map_err(|error| refused.push(format!("{error:#}")))
                .ok()
        });
        found.extend(files.with_context(|| refused.join("\n"))?);
    }
    Ok(found.into_iter().map(|file| archives.join(file.name)).collect())
}

/// One call of apt-get: the files that it names, which stand in `archives` now.
fn get(what: &str, index: &Index, verb: &[&str], archives: &Path) -> Result<Vec<File>> {
    let files = planned(index, verb)?;
    let missing: Vec<_> = files.iter().filter(|file| !is_there(archives, file)).collect();
    if missing.is_empty() {
        return Ok(files);
    }
    let bytes = missing.iter().map(|file| file.bytes).sum();
    report::note(&format!("{what}: fetching {}, {:.1} MB", named(&missing), bytes as f64 / 1e6));
    room(archives, bytes)?;
    let place = format!("Dir::Cache::Archives={}", archives.display());
    let fetch = index.apt("apt-get", verb.iter().copied().chain(["-o", &place])).dir(archives);
    let whole = files.iter().map(|file| file.bytes).sum();
    progress(&files, archives, whole, || command::quiet_with_retries("apt-get", &fetch))?;
    Ok(files)
}

/// What a call of apt-get would fetch, if nothing were there.
fn planned(index: &Index, verb: &[&str]) -> Result<Vec<File>> {
    let empty = tempfile::tempdir()?;
    fs::create_dir(empty.path().join("partial"))?;
    let place = format!("Dir::Cache::Archives={}", empty.path().display());
    let plan = index.apt("apt-get", verb.iter().copied().chain(["--print-uris", "-o", &place]));
    let plan = command::quiet("apt-get --print-uris", &plan.dir(empty.path()))?;
    let files = files(&plan);
    if files.is_empty() {
        bail!("apt-get names no files:\n{plan}");
    }
    Ok(files)
}

fn named(files: &[&File]) -> String {
    match files {
        [one] => one.name.split('_').next().unwrap_or(&one.name).to_owned(),
        all => format!("{} packages", all.len()),
    }
}

fn is_there(archives: &Path, file: &File) -> bool {
    fs::metadata(archives.join(&file.name)).is_ok_and(|it| it.len() == file.bytes)
}

/// Fails if the disk is too full for `bytes` of packages.
fn room(archives: &Path, bytes: u64) -> Result<()> {
    let disk = rustix::fs::statvfs(archives).context("the disk’s free space")?;
    let (free, needed) = (disk.f_bavail * disk.f_frsize, bytes * (1 + UNPACKED));
    if free < needed {
        bail!(
            "{}: {} MB are free, {} MB are needed; XTASK_CACHE names another folder",
            archives.display(),
            free / 1_000_000,
            needed / 1_000_000
        );
    }
    Ok(())
}

/// Shows how much of `files` there is in `archives` while `work` runs; on a terminal only.
fn progress<T>(files: &[File], archives: &Path, whole: u64, work: impl FnOnce() -> T) -> T {
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
    let bar = ProgressBar::new(whole);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bar.set_position(files.iter().map(|file| so_far(archives, file)).sum());
                thread::sleep(PAUSE);
            }
            bar.finish_and_clear();
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// How many bytes of a file there are.
fn so_far(archives: &Path, file: &File) -> u64 {
    let places = [archives.join(&file.name), archives.join("partial").join(&file.name)];
    places.iter().find_map(|place| Some(fs::metadata(place).ok()?.len())).unwrap_or(0)
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
        assert_eq!(files(plan), [file("a_1%3a2_amd64.deb", 135_616), file("b_1_all.deb", 7)]);
    }

    #[test]
    fn a_full_disk_is_noticed_before() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(room(folder.path(), 1).is_ok());
        let error = room(folder.path(), 1 << 54).expect_err("no disk has that");
        assert!(error.to_string().contains("are needed"), "{error}");
    }
}
