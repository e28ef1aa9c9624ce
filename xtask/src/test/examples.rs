//! The short programs in the libraries' `examples/` folders, each run to its end.

use anyhow::{Result, ensure};
use cargo_metadata::{Package, TargetKind};

use crate::cargo::cargo;
use crate::command;
use crate::xtask::{LIBRARIES, Xtask};

/// The most lines that a program has that people copy from.
const LINES: usize = 80;

/// Runs them all; each library has some.
pub fn run(xtask: &Xtask) -> Result<()> {
    for library in LIBRARIES {
        let package = xtask.metadata.packages.iter().find(|package| *package.name == library);
        let examples: Vec<_> = package.into_iter().flat_map(examples).collect();
        ensure!(!examples.is_empty(), "{library} has no example");
        for (name, lines) in examples {
            ensure!(lines <= LINES, "the example {name} of {library} has {lines} lines");
            let run = ["run", "--package", library, "--all-features", "--example", &name];
            command::stream(&format!("example {name}"), &cargo(xtask, run))?;
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
