//! `SECURITY.md` and `MUTANTS.md` name sources, functions and tests: each must exist.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::xtask::files;

/// The documents.
const DOCUMENTS: [&str; 2] = ["SECURITY.md", "MUTANTS.md"];

/// Every Rust source that git knows: path and text.
type Sources = BTreeMap<String, String>;

/// Checks all that the documents name.
pub fn check(root: &Path) -> Result<()> {
    let sources = files(root, ".rs")?
        .into_iter()
        .map(|file| Ok((file.clone(), fs::read_to_string(root.join(file))?)))
        .collect::<Result<Sources>>()?;
    let mut wrong = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).context(document)?;
        let mut seen = 0;
        for word in quoted(&text) {
            match named(word) {
                None => continue,
                Some(name) if !name.is_in(&sources) => wrong.push(format!("{document}: `{word}`")),
                Some(_) => {}
            }
            seen += 1;
        }
        ensure!(seen > 0, "{document} names no source and no function");
    }
    if !wrong.is_empty() {
        bail!("no source has what these name:\n{}", wrong.join("\n"));
    }
    Ok(())
}

/// The texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).flat_map(str::lines).map(str::trim)
}

/// What a document names.
#[derive(Debug, PartialEq, Eq)]
enum Named<'t> {
    /// A file, by its path or the end of it.
    File(&'t str),
    /// A function of any file.
    Function(&'t str),
    /// A mutant of a function of one file.
    Mutant { file: &'t str, function: &'t str },
}

/// What a quoted text names, if it is a source, the name of a function (several words, as tests
/// and fuzz targets have them) or a mutant.
fn named(text: &str) -> Option<Named<'_>> {
    if let Some((file, change)) = text.split_once(": ").filter(|(file, _)| file.ends_with(".rs")) {
        return Some(Named::Mutant { file, function: mutated(change) });
    }
    if text.ends_with(".rs") && !text.contains(' ') {
        return Some(Named::File(text));
    }
    let is_name = text.contains('_')
        && text
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_');
    is_name.then_some(Named::Function(text))
}

/// The function that a mutant changes, as cargo-mutants words it: `replace F -> TYPE with VALUE`,
/// `replace F with ()`, `replace + with - in F`, `delete ! in F`.
fn mutated(change: &str) -> &str {
    let path = match change.rsplit_once(" in ") {
        Some((_, path)) => path,
        None => {
            let whole = change.strip_prefix("replace ").unwrap_or(change);
            let end = [" -> ", " with "].iter().filter_map(|end| whole.find(end)).min();
            &whole[..end.unwrap_or(whole.len())]
        }
    };
    path.rsplit_once("::").map_or(path, |(_, name)| name)
}

impl Named<'_> {
    fn is_in(&self, sources: &Sources) -> bool {
        match *self {
            Self::File(name) => {
                sources.keys().any(|path| path == name || path.ends_with(&format!("/{name}")))
            }
            Self::Function(name) => sources.values().any(|text| declares(text, name)),
            Self::Mutant { file, function } => {
                sources.get(file).is_some_and(|text| declares(text, function))
            }
        }
    }
}

/// Whether a source has the function. A test that is a template for several formats stands in a
/// macro, where it is declared in the same way.
fn declares(source: &str, function: &str) -> bool {
    ["(", "<"].iter().any(|after| source.contains(&format!("fn {function}{after}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_functions_and_mutants_are_told_apart() {
        let mutant = |function| Some(Named::Mutant { file: "a/src/b.rs", function });
        let rows = [
            ("b.rs", Some(Named::File("b.rs"))),
            ("a_test_of_b", Some(Named::Function("a_test_of_b"))),
            ("Cursor::map", None),
            ("cargo test b.rs", None),
            ("a/src/b.rs: replace << with >> in <impl F for R<'_>>::wait", mutant("wait")),
            ("a/src/b.rs: replace || with && in Pool::has_room", mutant("has_room")),
            ("a/src/b.rs: replace Pool::room -> usize with 1", mutant("room")),
            ("a/src/b.rs: replace <impl F for Ept>::asks -> bool with true", mutant("asks")),
            ("a/src/b.rs: replace Walker<F, M>::locate with ()", mutant("locate")),
            (
                "a/src/b.rs: delete field x from struct W expression in T<F, N>::fill",
                mutant("fill"),
            ),
            ("a/src/b.rs: replace match guard a(b) with false in usual", mutant("usual")),
        ];
        for (text, expected) in rows {
            assert_eq!(named(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_gone_is_noticed() {
        let sources = Sources::from([
            ("a/src/b.rs".to_owned(), "pub fn wait<T>(it: T) {}".to_owned()),
            ("a/src/c.rs".to_owned(), "fn a_test_of_c() {}".to_owned()),
        ]);
        let rows = [
            ("b.rs", true),
            ("a/src/b.rs", true),
            ("d.rs", false),
            ("a_test_of_c", true),
            ("a_test_of", false),
            ("a/src/b.rs: replace < with > in R::wait", true),
            ("a/src/c.rs: replace < with > in R::wait", false),
            ("a/src/d.rs: replace < with > in R::wait", false),
        ];
        for (text, expected) in rows {
            assert_eq!(named(text).map(|it| it.is_in(&sources)), Some(expected), "{text}");
        }
    }
}
