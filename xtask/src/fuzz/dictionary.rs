//! What libFuzzer is told of the words that a target's inputs are made of: `fuzz/dictionaries`.
//!
//! `TARGETS` there says which dictionaries help which target; libFuzzer takes one, so they are put
//! together.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Writes the dictionary of `target` below `made`, from those in `fuzz`'s folder; `None` if it has
/// none.
pub fn make(fuzz: &Path, made: &Path, target: &str) -> Result<Option<PathBuf>> {
    let folder = fuzz.join("dictionaries");
    let table = folder.join("TARGETS");
    let table = fs::read_to_string(&table).with_context(|| table.display().to_string())?;
    let Some(names) = names(&table, target) else { return Ok(None) };
    let mut whole = String::new();
    for name in names {
        let part = folder.join(format!("{name}.dict"));
        whole += &fs::read_to_string(&part).with_context(|| part.display().to_string())?;
    }
    fs::create_dir_all(made)?;
    let place = made.join(format!("{target}.dict"));
    fs::write(&place, whole).with_context(|| place.display().to_string())?;
    Ok(Some(place))
}

/// The names behind `target` in its line.
fn names<'t>(table: &'t str, target: &str) -> Option<Vec<&'t str>> {
    let mut lines = table.lines().map(str::split_whitespace);
    lines.find_map(|mut words| (words.next() == Some(target)).then(|| words.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_what_its_line_says() {
        let table = "# for people\nept_walk ept x86\nept none\n";
        assert_eq!(names(table, "ept_walk"), Some(vec!["ept", "x86"]));
        assert_eq!(names(table, "x86"), None);
    }
}
