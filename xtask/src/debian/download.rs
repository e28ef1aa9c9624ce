//! Fetching packages: how far it has come is shown, and what came before a break is not fetched
//! again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::index::Index;
use super::plan::{File, Plan};
use crate::command;

/// How many times the size of the packages they take when they are unpacked: 3 to 5 is seen.
const UNPACKED: u64 = 6;
/// How often the progress is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// Fetches what is missing of the best of `plans` that the mirror has into `archives`, and returns
/// the files.
pub fn fetch(index: &Index, plans: &[Plan], archives: &Path) -> Result<Vec<PathBuf>> {
    let partial = archives.join("partial");
    fs::create_dir_all(&partial).with_context(|| partial.display().to_string())?;
    distrust(archives, &partial)?;
    let mut refused = Vec::new();
    for plan in plans {
        match get(index, plan, archives) {
            Ok(()) => return Ok(plan.files.iter().map(|it| archives.join(&it.name)).collect()),
            Err(error) => refused.push(format!("{error:#}")),
        }
    }
    bail!("{}", refused.join("\n"))
}

/// Makes unfinished downloads of the packages that an earlier run has left. apt takes a finished
/// one by its size alone; an unfinished one it continues, and checks the whole by the signed
/// hashes.
fn distrust(archives: &Path, partial: &Path) -> Result<()> {
    for entry in fs::read_dir(archives)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let to = partial.join(entry.file_name());
            fs::rename(entry.path(), &to).with_context(|| to.display().to_string())?;
        }
    }
    Ok(())
}

fn get(index: &Index, plan: &Plan, archives: &Path) -> Result<()> {
    let place = format!("Dir::Cache::Archives={}", archives.display());
    let install = ["install", "-y", "-q", "--download-only", "-o", &place].into_iter();
    let install = index.apt("apt-get", install.chain(plan.install.iter().map(String::as_str)));
    let fetch = || command::quiet_with_retries("apt-get install --download-only", &install);
    progress(plan, archives, fetch)?;
    let missing = plan.files.iter().find(|file| so_far(archives, file) != file.bytes);
    match missing {
        Some(file) => bail!("apt-get did not fetch {}", file.name),
        None => Ok(()),
    }
}

/// Fails if the disk of `folder` is too full for `bytes` of packages and what they hold.
pub fn room(folder: &Path, bytes: u64) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let disk = rustix::fs::statvfs(folder).context("the disk’s free space")?;
    let (free, needed) = (disk.f_bavail * disk.f_frsize, bytes * (1 + UNPACKED));
    if free < needed {
        bail!(
            "{}: {} MB are free, {} MB are needed; --cache or XTASK_CACHE names another folder",
            folder.display(),
            free / 1_000_000,
            needed / 1_000_000
        );
    }
    Ok(())
}

/// Shows how much there is in `archives` of what is planned while `work` runs; on a terminal only.
fn progress<T>(plan: &Plan, archives: &Path, work: impl FnOnce() -> T) -> T {
    let style = ProgressStyle::with_template("{bar:40} {bytes} of {total_bytes}, {bytes_per_sec}");
    let bar = ProgressBar::new(plan.bytes());
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                bar.set_position(plan.files.iter().map(|file| so_far(archives, file)).sum());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_run_left_is_checked_again() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let partial = folder.path().join("partial");
        fs::create_dir(&partial)?;
        for (file, bytes) in [("a_1_all.deb", "whole?"), ("partial/b_1_all.deb", "half")] {
            fs::write(folder.path().join(file), bytes)?;
        }
        distrust(folder.path(), &partial)?;
        assert!(!folder.path().join("a_1_all.deb").exists());
        assert_eq!(fs::read_to_string(partial.join("a_1_all.deb"))?, "whole?");
        assert_eq!(fs::read_to_string(partial.join("b_1_all.deb"))?, "half");
        Ok(())
    }

    #[test]
    fn a_full_disk_is_noticed_before() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(room(folder.path(), 1).is_ok());
        let error = room(folder.path(), 1 << 54).expect_err("no disk has that");
        assert!(error.to_string().contains("are needed"), "{error}");
    }
}
