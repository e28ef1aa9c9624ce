//! The targets' programs, built with the counters that lead libFuzzer. The stable compiler has
//! them; only a sanitizer takes a flag that is unstable.

use std::path::{Path, PathBuf};

use anyhow::Result;
use duct::Expression;

use crate::cargo::{cargo, host};
use crate::command;
use crate::xtask::Xtask;

/// Counters of edges with a table of their places, the operands of comparisons, and the depth of
/// the stack: what libFuzzer reads. One unit for each crate, since instrumented functions are not
/// inlined across units. An overflow and a failed `debug_assert!` are findings.
const FLAGS: &str = "--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Cllvm-args=-sanitizer-coverage-stack-depth -Cllvm-args=-simplifycfg-branch-fold-threshold=0";

/// Builds the programs of the targets `chosen` in `folder`; returns the folder in which they are.
pub fn build(xtask: &Xtask, folder: &Path, chosen: &[String], sanitizer: &str) -> Result<PathBuf> {
    let host = host(xtask)?;
    let names = chosen.iter().flat_map(|name| ["--bin", name]);
    let build = in_folder(xtask, folder, &host, ["build"].into_iter().chain(names), sanitizer);
    command::stream("building the fuzz targets", &build)?;
    Ok(folder.join(host).join("release"))
}

/// Replays the seeds of all targets, cut short in many ways too, by the code that the programs are
/// made of.
pub fn replay(xtask: &Xtask, folder: &Path) -> Result<()> {
    let test = in_folder(xtask, folder, &host(xtask)?, ["test", "--test", "corpus"], "none");
    command::stream("replaying the corpora", &test)
}

/// `cargo ARGUMENTS…`, instrumented.
fn in_folder<'a>(
    xtask: &Xtask,
    folder: &Path,
    host: &'a str,
    arguments: impl IntoIterator<Item = &'a str>,
    sanitizer: &str,
) -> Expression {
    let manifest = xtask.root().join("fuzz/Cargo.toml").display().to_string();
    // The target is named, so that build scripts and macros are not instrumented.
    let mut all: Vec<&str> = arguments.into_iter().collect();
    all.extend(["--release", "--manifest-path", &manifest, "--target", host]);
    let cargo = cargo(xtask, all).env("CARGO_TARGET_DIR", folder);
    match sanitizer {
        "none" => cargo.env("RUSTFLAGS", FLAGS),
        _ => cargo
            .env("RUSTFLAGS", format!("{FLAGS} -Zsanitizer={sanitizer}"))
            .env("RUSTC_BOOTSTRAP", "1"),
    }
}
