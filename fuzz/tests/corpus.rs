//! Every seed, and every input that once found something, through its target: without libFuzzer, on any compiler.

use std::path::Path;
use std::{env, fs};

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
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().trim_end_matches(suffix).to_owned())
            .collect();
        found.sort();
        assert_eq!(found, names, "{folder}");
    }
}
