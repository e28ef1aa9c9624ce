//! `cargo xtask bench`: the benches of every room, by name.
//!
//! A room’s benches are a package of their own in `<room>/benches/`, outside the workspace, so that
//! what only a comparison needs never enters an embedder’s lock file. A bench is a program of such
//! a package: a `[[bin]]` or a `[[bench]]` without a test harness.

mod goals;
mod packages;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::cargo::cargo;
use crate::debian::ensure_installed;
use crate::xtask::Xtask;
use crate::{command, report};
use goals::Goals;
use packages::Bench;

/// What the build scripts of those that we compare with need: some are written in C and C++.
const BUILD_TOOLS: [&str; 3] = ["g++", "make", "cmake"];

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// The bench; without one, all are listed
    name: Option<String>,
    /// Arguments of the bench
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the bench and counts the goals that it reached; missing one is no failure.
pub fn run(xtask: &Xtask, options: &Options) -> Result<()> {
    let benches = packages::benches(xtask)?;
    let Some(name) = &options.name else {
        for bench in benches {
            println!("{:<16}{}", bench.name, bench.manifest.display());
        }
        return Ok(());
    };
    let bench = benches.iter().find(|bench| bench.name == *name);
    let bench = bench
        .with_context(|| format!("no bench is named {name}; `cargo xtask bench` lists them"))?;
    let goals = follow(xtask, bench, &options.arguments)?;
    report::note(&format!("{name}: {goals}"));
    Ok(())
}

/// Runs the bench, showing its output while it is read for goals.
fn follow(xtask: &Xtask, bench: &Bench, arguments: &[String]) -> Result<Goals> {
    ensure_installed(&BUILD_TOOLS)?;
    let manifest = bench.manifest.to_string_lossy();
    let program = bench.cargo_arguments().into_iter().chain(["--manifest-path", &manifest, "--"]);
    let arguments = program.chain(arguments.iter().map(String::as_str));
    let run = cargo(xtask, arguments).env("CARGO_TARGET_DIR", target_folder(xtask));
    let output = run.reader().context("cargo")?;
    let mut goals = Goals::default();
    for line in BufReader::new(output).lines() {
        let line = line.with_context(|| format!("the bench {}", bench.name))?;
        println!("{line}");
        goals.count(&line);
    }
    Ok(goals)
}

/// Looks at the format of every bench package and lints it, which also shows that it builds.
pub fn check(xtask: &Xtask) -> Result<()> {
    let manifests = packages::manifests(xtask)?;
    if !manifests.is_empty() {
        ensure_installed(&BUILD_TOOLS)?;
    }
    for manifest in manifests {
        report::note(&manifest.display().to_string());
        let manifest = manifest.to_string_lossy();
        command::stream(
            "cargo fmt",
            &cargo(xtask, ["fmt", "--all", "--check", "--manifest-path", &manifest]),
        )?;
        let arguments =
            ["clippy", "--all-targets", "--manifest-path", &manifest, "--", "-D", "warnings"];
        let clippy = cargo(xtask, arguments).env("CARGO_TARGET_DIR", target_folder(xtask));
        command::stream("cargo clippy", &clippy)?;
    }
    Ok(())
}

/// One folder for all bench packages: they share what they compare with.
fn target_folder(xtask: &Xtask) -> PathBuf {
    xtask.target("benches")
}
