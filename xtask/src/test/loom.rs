//! Model checks: test targets named `loom…`, built with `--cfg loom`.

use anyhow::Result;
use cargo_metadata::TargetKind;

use crate::cargo::cargo;
use crate::xtask::Xtask;
use crate::{command, report};

/// Runs those that the workspace has. They are built for release, as they explore much, and into a
/// target folder of their own, as `--cfg loom` changes every crate.
pub fn run(xtask: &Xtask) -> Result<()> {
    let mut any = false;
    for package in &xtask.metadata.packages {
        for target in &package.targets {
            if !target.kind.contains(&TargetKind::Test) || !target.name.starts_with("loom") {
                continue;
            }
            any = true;
            let arguments =
                ["test", "--release", "--package", &package.name, "--test", &target.name];
            let test = cargo(xtask, arguments)
                .env("RUSTFLAGS", "--cfg loom")
                .env("CARGO_TARGET_DIR", xtask.target("loom"));
            command::stream(&format!("model check {}/{}", package.name, target.name), &test)?;
        }
    }
    if !any {
        report::note("no package has a test target named loom…");
    }
    Ok(())
}
