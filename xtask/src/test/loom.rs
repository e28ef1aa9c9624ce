//! Model checks: the tests of the workspace in `loom/`.

use anyhow::{Context, Result};
use cargo_metadata::{MetadataCommand, TargetKind};

use crate::cargo::cargo;
use crate::command;
use crate::xtask::Xtask;

/// Runs all of them, one by one. They are built for release, as they explore much, and into a
/// target folder of their own.
pub fn run(xtask: &Xtask) -> Result<()> {
    let manifest = xtask.root().join("loom/Cargo.toml");
    let metadata = MetadataCommand::new()
        .manifest_path(&manifest)
        .no_deps()
        .exec()
        .context("the workspace of the model checks")?;
    for package in &metadata.packages {
        for target in &package.targets {
            if !target.kind.contains(&TargetKind::Test) {
                continue;
            }
            let manifest = manifest.to_string_lossy();
            let arguments = [
                "test",
                "--release",
                "--manifest-path",
                &manifest,
                "--package",
                &package.name,
                "--test",
                &target.name,
            ];
            let test = cargo(xtask, arguments).env("CARGO_TARGET_DIR", xtask.target("loom"));
            command::stream(&format!("model check {}/{}", package.name, target.name), &test)?;
        }
    }
    Ok(())
}
