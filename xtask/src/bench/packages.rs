//! Finding the benches: programs of the packages in `<room>/benches/`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{MetadataCommand, TargetKind};

/// A program that measures something.
pub struct Bench {
    pub name: String,
    /// The package's name.
    pub package: String,
    /// The `Cargo.toml` of its package.
    pub manifest: PathBuf,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Bin,
    Bench,
}

impl Bench {
    /// What cargo is told to build and run it.
    pub fn cargo_arguments(&self) -> [&str; 6] {
        match self.kind {
            Kind::Bin => ["run", "--profile=bench", "-p", &self.package, "--bin", &self.name],
            Kind::Bench => ["bench", "--profile=bench", "-p", &self.package, "--bench", &self.name],
        }
    }
}

/// The `Cargo.toml` of every bench package, in the order of their rooms’ names.
pub fn manifests(workspace: &Path) -> Result<Vec<PathBuf>> {
    let mut manifests = Vec::new();
    for room in fs::read_dir(workspace)? {
        let manifest = room?.path().join("benches/Cargo.toml");
        if manifest.exists() {
            manifests.push(manifest);
        }
    }
    manifests.sort();
    Ok(manifests)
}

/// All benches.
pub fn benches(workspace: &Path) -> Result<Vec<Bench>> {
    let mut benches = Vec::new();
    for manifest in manifests(workspace)? {
        let metadata = MetadataCommand::new().manifest_path(&manifest).no_deps().exec();
        let metadata = metadata.with_context(|| manifest.display().to_string())?;
        let packages = metadata.packages.iter();
        let targets =
            packages.flat_map(|package| package.targets.iter().map(move |it| (package, it)));
        for (package, target) in targets {
            let kind = match target.kind.first() {
                Some(TargetKind::Bin) => Kind::Bin,
                Some(TargetKind::Bench) => Kind::Bench,
                _ => continue,
            };
            benches.push(Bench {
                name: target.name.clone(),
                package: package.name.to_string(),
                manifest: manifest.clone(),
                kind,
            });
        }
    }
    Ok(benches)
}
