//! Every seed, and every input that once found something, through its target, once each: by
//! `cargo test` without libFuzzer, on any compiler; by `cargo xtask test fuzz` instrumented.

use std::path::Path;
use std::{env, fs};

// Instrumented code calls libFuzzer.
#[cfg(fuzzing)]
use libfuzzer_sys as _;
use pgtable_fuzz::TARGETS;

/// The inputs of a target, with their names.
fn inputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut inputs: Vec<_> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a directory entry").path())
        .map(|path| (path.display().to_string(), fs::read(path).expect("a readable file")))
        .collect();
    inputs.sort();
    inputs
}

#[test]
fn every_corpus_replays() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("seeds");
    for (name, target) in TARGETS {
        let inputs = inputs(&seeds.join(name));
        assert!(!inputs.is_empty(), "{name} has no seed");
        for (file, input) in inputs {
            println!("{file}");
            target(&input);
            // What is cut short is a case as well.
            for length in (0..input.len()).step_by(7) {
                target(&input[..length]);
            }
        }
    }
}

/// Each target has its program and its seeds, and nothing else is there.
#[test]
fn names_agree() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    names.sort();
    for (folder, suffix) in [("fuzz_targets", ".rs"), ("seeds", "")] {
        let entries = fs::read_dir(here.join(folder)).expect("a folder");
        let mut found: Vec<_> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .trim_end_matches(suffix)
                    .to_owned()
            })
            .collect();
        found.sort();
        assert_eq!(found, names, "{folder}");
    }
}

/// The words of a dictionary: `name="value"`, `\\xAB` for a byte.
fn words(text: &str) -> Vec<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let word = |line: &str| {
        let (name, value) = line.split_once('=').unwrap_or_else(|| panic!("{line} has no value"));
        assert!(
            name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'),
            "{line}"
        );
        let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        let mut rest = value.unwrap_or_else(|| panic!("{line} is not quoted")).as_bytes();
        let mut word = Vec::new();
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            word.push(match first {
                b'\\' => {
                    let (digits, after) = rest.split_at(3);
                    assert_eq!(digits[0], b'x', "{line}");
                    rest = after;
                    let digits = std::str::from_utf8(&digits[1..]).expect("hexadecimal digits");
                    u8::from_str_radix(digits, 16).expect("hexadecimal digits")
                }
                _ => first,
            });
        }
        assert!(
            !word.is_empty() && word.len() <= 64,
            "{line}: libFuzzer takes words of up to 64 bytes"
        );
        word
    };
    lines.map(word).collect()
}

/// Each dictionary is one, somebody uses it, and it has the numbers that there are.
#[test]
fn dictionaries_are_used_and_right() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dictionaries");
    let table = fs::read_to_string(folder.join("TARGETS")).expect("the table of targets");
    let mut used = std::collections::BTreeSet::new();
    for line in table.lines().filter(|line| !line.starts_with('#')) {
        let (target, names) = line.split_once(' ').expect("a target and its dictionaries");
        assert!(TARGETS.iter().any(|(name, _)| *name == target), "{target} is none");
        used.extend(names.split(' ').map(|name| format!("{name}.dict")));
    }
    used.insert("TARGETS".to_owned());
    let there =
        fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").file_name());
    let there: std::collections::BTreeSet<_> =
        there.map(|name| name.to_string_lossy().into_owned()).collect();
    assert_eq!(there, used);
    let read = |name: &str| words(&fs::read_to_string(folder.join(name)).expect("a dictionary"));
    assert!(used.iter().filter(|name| *name != "TARGETS").all(|name| read(name).len() > 5));
    let papr = read("papr.dict");
    for call in pgtable_ppc64::hash::Hcall::ALL {
        assert!(papr.contains(&call.number().to_le_bytes().to_vec()), "{call:?}");
    }
}
