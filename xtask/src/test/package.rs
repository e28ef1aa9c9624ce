//! What an embedder gets: packages that build by themselves, with README and licences, and nothing
//! under them that they may not use.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use duct::cmd;
use spdx::{Expression, LicenseReq};

use crate::cargo::cargo;
use crate::xtask::{CONFORMANCE, LIBRARIES, Xtask};
use crate::{command, report};

/// What each package holds besides its code.
const PAPERS: [&str; 3] = ["README.md", "LICENSE-APACHE", "LICENSE-MIT"];

/// Licences that whoever links the libraries under Apache-2.0 or MIT can comply with.
const LICENCES: [&str; 7] =
    ["Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "Unicode-3.0", "Unlicense", "Zlib"];

/// The packages that are published.
fn published() -> impl Iterator<Item = &'static str> {
    LIBRARIES.into_iter().chain([CONFORMANCE])
}

/// Packages the libraries, builds each from its package, and checks what they hold and need.
pub fn run(xtask: &Xtask) -> Result<()> {
    let target = xtask.target("package");
    let packages = published().flat_map(|library| ["--package", library]);
    let arguments = ["package", "--allow-dirty", "--no-verify"].into_iter().chain(packages);
    let package = cargo(xtask, arguments).env("CARGO_TARGET_DIR", &target);
    command::stream("cargo package", &package)?;
    build_unpacked(xtask, &target)?;
    for library in published() {
        let list = ["package", "--list", "--allow-dirty", "--package", library];
        let files = command::quiet("cargo package --list", &cargo(xtask, list))?;
        for paper in PAPERS {
            ensure!(
                files.lines().any(|file| file == paper),
                "the package {library} has no {paper}"
            );
        }
    }
    let mut command = MetadataCommand::new();
    command.manifest_path(xtask.root().join("Cargo.toml")).features(CargoOpt::AllFeatures);
    let metadata = command.exec().context("cargo metadata")?;
    let under = packages_under(&metadata)?;
    for package in &under {
        check_licence(package)?;
    }
    report::note(&format!("{} packages stand under the libraries, with all features", under.len()));
    Ok(())
}

/// Builds the libraries as they were packaged, together in a workspace of their own.
///
/// cargo's own verification keeps what it unpacked by name and version: of a version that is not
/// published yet, it would build an older state.
fn build_unpacked(xtask: &Xtask, target: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(target)?;
    let mut members = String::new();
    let mut patches = String::new();
    for library in published() {
        let package = xtask.metadata.packages.iter().find(|package| *package.name == library);
        let name = format!("{library}-{}", package.context("a library")?.version);
        let archive = target.join("package").join(format!("{name}.crate"));
        let unpack = cmd!("tar", "-xzf", archive).dir(folder.path());
        command::quiet("tar", &unpack)?;
        members += &format!("{name:?}, ");
        patches += &format!("{library} = {{ path = {name:?} }}\n");
    }
    let manifest = folder.path().join("Cargo.toml");
    let text = format!(
        "[workspace]\nresolver = \"3\"\nmembers = [{members}]\n[patch.crates-io]\n{patches}"
    );
    fs::write(&manifest, text)?;
    for features in ["--no-default-features", "--all-features"] {
        let manifest = manifest.to_string_lossy();
        let check = ["check", "--workspace", "--lib", features, "--manifest-path", &manifest];
        let check = cargo(xtask, check).env("CARGO_TARGET_DIR", target);
        command::stream("cargo check of the packages", &check)?;
    }
    Ok(())
}

/// The packages that the libraries need to be built, for any target, those of this workspace
/// excepted.
fn packages_under(metadata: &Metadata) -> Result<Vec<&Package>> {
    let resolve = metadata.resolve.as_ref().context("cargo metadata resolves nothing")?;
    let nodes: HashMap<_, _> = resolve.nodes.iter().map(|node| (&node.id, node)).collect();
    let is_library = |id: &PackageId| published().any(|name| metadata[id].name.as_str() == name);
    let mut open: Vec<&PackageId> =
        metadata.workspace_members.iter().filter(|id| is_library(id)).collect();
    let mut seen: BTreeSet<&PackageId> = open.iter().copied().collect();
    while let Some(id) = open.pop() {
        let node = nodes.get(id).context("a package without a node")?;
        for dependency in &node.deps {
            let needed =
                dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development);
            if needed && seen.insert(&dependency.pkg) {
                open.push(&dependency.pkg);
            }
        }
    }
    Ok(seen.into_iter().filter(|id| !is_library(id)).map(|id| &metadata[id]).collect())
}

fn check_licence(package: &Package) -> Result<()> {
    let Package { name, version, license, .. } = package;
    let Some(license) = license else { bail!("{name} {version} names no licence") };
    // Some write a slash for OR.
    let expression = Expression::parse(&license.replace('/', " OR "))
        .map_err(|error| anyhow::anyhow!("{name} {version}: {error}"))?;
    ensure!(expression.evaluate(allowed), "{name} {version} is under {license}");
    Ok(())
}

fn allowed(licence: &LicenseReq) -> bool {
    licence.license.id().is_some_and(|id| LICENCES.contains(&id.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_alternatives_or_all() {
        for (text, ok) in [
            ("MIT", true),
            ("MIT OR GPL-2.0-only", true),
            ("GPL-2.0-only", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(MIT OR Apache-2.0) AND GPL-3.0-only", false),
            ("Apache-2.0 OR BSD-3-Clause", true),
        ] {
            let expression = Expression::parse(text).expect("an expression");
            assert_eq!(expression.evaluate(allowed), ok, "{text}");
        }
    }
}
