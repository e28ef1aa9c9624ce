//! `cargo xtask mutants`: does a test notice if the code says something else? cargo-mutants over
//! the libraries.
//!
//! Sets itself up: cargo-mutants is installed under the target folder; it works on a copy of the
//! workspace. What it leaves out stands in `.cargo/mutants.toml`. A mutant that no test kills is
//! either named in `MUTANTS.md`, with the reason, or makes this fail.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use duct::cmd;
use serde_json::Value;

use crate::cargo::installed;
use crate::report;
use crate::xtask::{LIBRARIES, Xtask};

/// The version of cargo-mutants.
const CARGO_MUTANTS: &str = "27.1.0";
/// The model tests, and whose they are.
const MODEL: &str = "model";
const MODEL_OF: &str = "pgtable";
/// The mutants that survive, and why.
const SURVIVORS: &str = "MUTANTS.md";
/// The tests that a package's mutants have to pass: all that take seconds, and no model checks,
/// which take hours so. What the formats of an architecture say is what `pgtable`'s model tests ask
/// them.
const TESTS: [(&str, &[&str]); 6] = [
    (MODEL_OF, &[MODEL, "second_stage"]),
    (
        "frag-alloc",
        &[
            "sequences",
            "tables",
            "quarantine",
            "linux",
            "deferred",
            "bounds",
            "region",
            "guest_memory",
        ],
    ),
    (
        "pgtable-ppc64",
        &[
            "radix_invalidation",
            "radix_reference",
            "radix_roundtrip",
            "radix_tables",
            "second_stage",
            "hash_books",
            "hash_hcall",
            "hash_space",
            "hash_stream",
            "hash_translate",
            "shadow",
            "vectors",
            MODEL,
        ],
    ),
    (
        "pgtable-x86",
        &[
            "boot",
            "invalidate",
            "second_stage",
            "stage1",
            "stage2",
            "boundaries",
            "registers",
            MODEL,
        ],
    ),
    (
        "pgtable-aarch64",
        &["boot", "conformance", "invalidate", "model", "registers", "second_stage"],
    ),
    (
        "pgtable-riscv64",
        &["conformance", "invalidate", "iommu", "model", "napot", "registers", "second_stage"],
    ),
];

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// Only this package
    #[arg(long, value_parser = PossibleValuesParser::new(LIBRARIES))]
    package: Option<String>,
    /// Only the files that this glob matches, as `**/entry.rs`; may be given several times
    #[arg(long, value_name = "GLOB")]
    file: Vec<String>,
    /// Every nth mutant, from the kth on (from 0): k/n
    #[arg(long, value_name = "K/N", value_parser = shard)]
    shard: Option<String>,
}

/// A shard as cargo-mutants takes it.
fn shard(text: &str) -> Result<String, String> {
    let numbers = |(k, n): (&str, &str)| Some((k.parse::<u32>().ok()?, n.parse::<u32>().ok()?));
    match text.split_once('/').and_then(numbers) {
        Some((k, n)) if k < n => Ok(format!("{k}/{n}")),
        _ => Err("K/N with K from 0 to N - 1".to_owned()),
    }
}

/// Tries the mutants; fails if one survives that is not known to.
pub fn run(xtask: &Xtask, options: &Options) -> Result<()> {
    let tool = installed(xtask, "cargo-mutants", CARGO_MUTANTS)?;
    let known = fs::read_to_string(xtask.root().join(SURVIVORS)).context(SURVIVORS)?;
    let mut unknown = Vec::new();
    for (package, tests) in
        TESTS.iter().filter(|(name, _)| options.package.as_ref().is_none_or(|it| it == name))
    {
        let output = xtask.target("mutants").join(package);
        fs::create_dir_all(&output)?;
        try_all(xtask, &tool, package, tests, options, &output)?;
        let output = output.join("mutants.out");
        report::note(&summary(package, &fs::read_to_string(output.join("outcomes.json"))?)?);
        let missed = fs::read_to_string(output.join("missed.txt"))?;
        unknown.extend(missed.lines().map(place_less).filter(|mutant| !is_listed(&known, mutant)));
    }
    if !unknown.is_empty() {
        unknown.iter().for_each(|mutant| report::note(&format!("survives: {mutant}")));
        bail!("{} mutants survive that {SURVIVORS} does not name", unknown.len());
    }
    Ok(())
}

/// One package's mutants.
fn try_all(
    xtask: &Xtask,
    tool: &Path,
    package: &str,
    tests: &[&str],
    options: &Options,
    output: &Path,
) -> Result<()> {
    let mut arguments: Vec<String> =
        ["mutants", "--all-features", "--package", package, "--jobs=1"].map(Into::into).into();
    arguments.extend([
        "--output".to_owned(),
        output.display().to_string(),
        "--cargo-arg=--lib".to_owned(),
    ]);
    arguments.extend(tests.iter().map(|test| format!("--cargo-arg=--test={test}")));
    let asked = if tests.contains(&MODEL) { &[MODEL_OF, package][..] } else { &[package] };
    arguments.extend(asked.iter().map(|package| format!("--test-package={package}")));
    arguments.extend(options.file.iter().map(|glob| format!("--file={glob}")));
    if let Some(shard) = &options.shard {
        arguments.extend([format!("--shard={shard}"), "--sharding=round-robin".to_owned()]);
    }
    let tried = cmd(tool, arguments)
        .dir(xtask.root())
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .env("CARGO_INCREMENTAL", "0")
        .env_remove("CARGO_TARGET_DIR")
        .unchecked()
        .run()
        .context("cargo mutants")?;
    // Survivors and endless loops are told of by the caller.
    match tried.status.code() {
        Some(0 | 2 | 3) => Ok(()),
        _ => bail!("cargo mutants: {}", tried.status),
    }
}

/// How many mutants came to what end.
fn summary(package: &str, outcomes: &str) -> Result<String> {
    let outcomes: Value = serde_json::from_str(outcomes).context("outcomes.json")?;
    let number = |what: &str| outcomes[what].as_u64().unwrap_or(0);
    let [all, caught, missed] = ["total_mutants", "caught", "missed"].map(number);
    let [timeout, unviable] = ["timeout", "unviable"].map(number);
    Ok(format!(
        "{package}: {all} mutants: {caught} caught, {missed} missed, {timeout} timeouts, {unviable} unviable"
    ))
}

/// A mutant's name without line and column, which other changes move.
fn place_less(mutant: &str) -> String {
    let mut parts = mutant.splitn(4, ':');
    match (parts.next(), parts.nth(2)) {
        (Some(file), Some(what)) => format!("{file}:{what}"),
        _ => mutant.to_owned(),
    }
}

fn is_listed(known: &str, mutant: &str) -> bool {
    known.lines().any(|line| line.contains(&format!("`{mutant}`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_survivor_is_known_wherever_it_stands_in_its_file() {
        let mutant =
            place_less("pgtable/src/map.rs:12:30: replace < with <= in PageTable<F, M, A>::map");
        assert_eq!(mutant, "pgtable/src/map.rs: replace < with <= in PageTable<F, M, A>::map");
        let known =
            "- `pgtable/src/map.rs: replace < with <= in PageTable<F, M, A>::map`: only slower";
        assert!(is_listed(known, &mutant));
        assert!(!is_listed(known, &mutant.replace("map.rs", "cursor.rs")));
    }

    #[test]
    fn the_summary_has_all_ends() -> Result<()> {
        let outcomes =
            r#"{"total_mutants": 9, "caught": 4, "missed": 2, "timeout": 1, "unviable": 2}"#;
        let expected = "pgtable: 9 mutants: 4 caught, 2 missed, 1 timeouts, 2 unviable";
        assert_eq!(summary("pgtable", outcomes)?, expected);
        Ok(())
    }

    #[test]
    fn every_library_is_tried() {
        assert_eq!(TESTS.map(|(package, _)| package), LIBRARIES);
    }
}
