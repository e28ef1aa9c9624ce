//! `SECURITY.md` and `MUTANTS.md` name sources and tests: that those are there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Every Rust source below `folder`.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// What stands between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether a quoted word is a function's name: several words, as tests and fuzz targets have them.
fn is_name(word: &str) -> bool {
    word.contains('_')
        && word
            .chars()
            .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
}

#[test]
fn what_is_named_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in [
        "pgtable",
        "frag-alloc",
        "arch-ppc64",
        "arch-x86",
        "arch-aarch64",
        "fuzz",
        "examples",
        "loom",
    ] {
        sources(&root.join(folder), &mut files).expect("readable sources");
    }
    let paths: BTreeSet<String> =
        files.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let all: String =
        files.iter().map(|path| fs::read_to_string(path).expect("readable")).collect();
    let named =
        |word: &str| all.contains(&format!("fn {word}(")) || all.contains(&format!("fn {word}<"));
    let mut seen = 0;
    for document in ["SECURITY.md", "MUTANTS.md"] {
        let text = fs::read_to_string(root.join(document)).expect("a document");
        for word in quoted(&text) {
            // With the formats that it is a template for, a test's name stands in a macro as well.
            let is_there = match word {
                _ if word.ends_with(".rs") && !word.contains(' ') => {
                    paths.iter().any(|path| path.ends_with(&format!("/{word}")))
                }
                _ if is_name(word) => named(word),
                _ => continue,
            };
            assert!(is_there, "{document}: `{word}` is not there");
            seen += 1;
        }
    }
    assert!(seen > 40, "{seen}");
}
