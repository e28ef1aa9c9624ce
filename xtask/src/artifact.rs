//! Folders that are made once and kept: what was downloaded, unpacked or generated.
//!
//! An artifact is a folder beside the text of the recipe that made it. It is complete or absent:
//! it is made under a temporary name and renamed when it is whole, so a half-finished download
//! never counts. A changed recipe makes it anew.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::report;

const RECIPE: &str = "recipe.txt";

/// The folder `shelf/name`, made by `make` unless the same `recipe` made it before.
///
/// The recipe’s first line says what it is made from; an error shows it. `make` gets an empty
/// folder that is renamed afterwards: what it writes there must not hold that folder’s own path.
pub fn keep(
    shelf: &Path,
    name: &str,
    recipe: &str,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let place = shelf.join(name);
    if is_made_by(&place, recipe) {
        return Ok(place);
    }
    fs::create_dir_all(shelf).with_context(|| format!("creating {}", shelf.display()))?;
    let _alone = alone(shelf, name)?;
    // Another run may have made it meanwhile.
    if is_made_by(&place, recipe) {
        return Ok(place);
    }
    // A run that was killed leaves its half-made folder; nobody else works there now.
    let half = shelf.join(format!(".half-{name}"));
    remove(&half)?;
    fs::create_dir(&half).with_context(|| format!("creating {}", half.display()))?;
    let what = recipe.lines().next().unwrap_or_default();
    let made = make(&half)
        .with_context(|| format!("{name} is not there yet and can’t be made from {what}"))
        .and_then(|()| Ok(fs::write(half.join(RECIPE), recipe)?));
    if let Err(error) = made {
        remove(&half)?;
        return Err(error);
    }
    remove(&place)?;
    fs::rename(&half, &place).with_context(|| format!("placing {}", place.display()))?;
    Ok(place)
}

/// Removes a folder if it is there.
fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

/// Whether the artifact stands at `place`, made by this recipe.
pub fn is_made_by(place: &Path, recipe: &str) -> bool {
    fs::read_to_string(place.join(RECIPE)).is_ok_and(|made_by| made_by == recipe)
}

/// Waits until no other run makes the artifact `name`; none does until the file is closed.
fn alone(shelf: &Path, name: &str) -> Result<File> {
    let lock = shelf.join(format!(".lock-{name}"));
    let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
    if flock(&lock, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK) {
        report::note(&format!("{name}: another run is making it"));
        flock(&lock, FlockOperation::LockExclusive)?;
    }
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    #[test]
    fn made_once_per_recipe_and_never_half() -> Result<()> {
        let shelf = tempfile::tempdir()?;
        let make =
            |text: &'static str| move |folder: &Path| Ok(fs::write(folder.join("content"), text)?);
        let content = |place: &Path| fs::read_to_string(place.join("content"));

        let place = keep(shelf.path(), "thing", "recipe 1", make("first"))?;
        assert_eq!(content(&place)?, "first");
        keep(shelf.path(), "thing", "recipe 1", make("second"))?;
        assert_eq!(content(&place)?, "first", "the same recipe is not made twice");

        let left = shelf.path().join(".half-thing");
        fs::create_dir_all(left.join("by a run that was killed"))?;
        let broken = keep(shelf.path(), "thing", "recipe 2", |folder| {
            fs::write(folder.join("content"), "half")?;
            bail!("the network went away")
        });
        assert!(broken.is_err());
        assert_eq!(content(&place)?, "first", "a failure leaves what was there");

        keep(shelf.path(), "thing", "recipe 2", make("third"))?;
        assert_eq!(content(&place)?, "third", "a changed recipe is made anew");
        let names = fs::read_dir(shelf.path())?.map(|entry| Ok(entry?.file_name()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort();
        assert_eq!(names, [".lock-thing", "thing"], "nothing half-made stays behind");
        Ok(())
    }
}
