//! The short programs in the libraries' `examples/` folders, each run to its end.

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Package, TargetKind};
use duct::cmd;

use crate::cargo::cargo;
use crate::command;
use crate::xtask::{LIBRARIES, Xtask};

/// The most lines that a program has that people copy from.
const LINES: usize = 80;

/// Runs them all; each library has some.
///
/// They are built as `cargo test` of the workspace builds them, which has done so if it ran before:
/// with fewer packages, cargo would choose other features and build everything once more.
pub fn run(xtask: &Xtask) -> Result<()> {
    let build = ["build", "--workspace", "--all-features", "--examples"];
    command::stream("building the examples", &cargo(xtask, build))?;
    for library in LIBRARIES {
        let package = xtask.metadata.packages.iter().find(|package| *package.name == library);
        let package = package.context(library)?;
        let folder = package.manifest_path.parent().context("a package has a folder")?;
        let examples: Vec<_> = examples(package).collect();
        ensure!(!examples.is_empty(), "{library} has no example");
        for (name, lines) in examples {
            ensure!(lines <= LINES, "the example {name} of {library} has {lines} lines");
            let program = xtask.target("debug/examples").join(&name);
            command::stream(&format!("example {name}"), &cmd!(program).dir(folder))?;
        }
    }
    Ok(())
}

/// The examples of a package: name, and how many lines.
fn examples(package: &Package) -> impl Iterator<Item = (String, usize)> {
    let is_example = |kinds: &[TargetKind]| kinds.contains(&TargetKind::Example);
    package.targets.iter().filter(move |target| is_example(&target.kind)).map(|target| {
        let text = std::fs::read_to_string(&target.src_path).unwrap_or_default();
        (target.name.clone(), text.lines().count())
    })
}
