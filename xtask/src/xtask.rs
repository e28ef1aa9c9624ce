//! What every command works with: where the workspace stands, and the sources of what it needs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};
use duct::cmd;

use crate::command;
use crate::toolbox::{self, Toolbox};

/// The packages that an embedder links, none of which needs `std`.
pub const LIBRARIES: [&str; 6] =
    ["pgtable", "frag-alloc", "pgtable-ppc64", "pgtable-x86", "pgtable-aarch64", "pgtable-riscv64"];
/// The package with the tests that formats of other crates run.
pub const CONFORMANCE: &str = "pgtable-conformance";
/// The packages whose tests depend on the processor: atomics, inline assembly, the page size, the
/// KVM ABI.
pub const POWER_TESTED: [&str; 7] =
    ["pgtable", "frag-alloc", "pgtable-ppc64", "guest-init", "kvm-ppc", "probe-guest", "pseries"];
/// Of their tests, those of portable logic: large programs, which take minutes to compile.
pub const PORTABLE_TESTS: [&str; 2] = ["entries", "model"];
/// The other packages that build for POWER.
pub const POWER_BUILT: [&str; 9] = [
    "pgtable-x86",
    "pgtable-aarch64",
    "pgtable-riscv64",
    "pgtable-conformance",
    "memory-image",
    "microvm",
    "probe",
    "ptdump",
    "table-dump",
];

/// The folder of the workspace that this program was built in.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
}

/// The files of the repository at `root` whose names end so, as git knows them: paths from there.
/// Those that nobody has added yet are among them, and those that are ignored are not.
pub fn files(root: &Path, ending: &str) -> Result<Vec<String>> {
    let files = cmd!("git", "ls-files", "--cached", "--others", "--exclude-standard").dir(root);
    let files = command::quiet("git ls-files", &files)?;
    // git also names files that were deleted, until that is committed.
    let is_there = |file: &&str| file.ends_with(ending) && root.join(file).exists();
    Ok(files.lines().filter(is_there).map(str::to_owned).collect())
}

/// The workspace as cargo sees it, and the tools that are not cargo’s.
pub struct Xtask {
    /// Members and their targets; dependencies are not resolved, so that reading it needs no
    /// network.
    pub metadata: Metadata,
    /// Emulators, kernels, compilers.
    pub toolbox: Toolbox,
    shelf: PathBuf,
}

impl Xtask {
    /// Asks cargo about the workspace that this program was built in.
    pub fn load(options: &toolbox::Options) -> Result<Self> {
        let metadata = MetadataCommand::new()
            .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .no_deps()
            .exec()
            .context("cargo metadata")?;
        let shelf = match &options.cache {
            Some(cache) => std::path::absolute(cache)?,
            None => metadata.target_directory.join("xtask").into(),
        };
        Ok(Self { metadata, toolbox: Toolbox::new(shelf.clone(), options), shelf })
    }

    /// The folder that holds the workspace’s `Cargo.toml`.
    pub fn root(&self) -> &Path {
        self.metadata.workspace_root.as_std_path()
    }

    /// The `Cargo.toml` of every workspace of the repository: the root, and those that it excludes.
    pub fn workspaces(&self) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for file in files(self.root(), "Cargo.toml")? {
            let file = self.root().join(file);
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            if text.lines().any(|line| line == "[workspace]") {
                all.push(file);
            }
        }
        Ok(all)
    }

    /// A folder below the target folder.
    pub fn target(&self, name: &str) -> PathBuf {
        self.metadata.target_directory.join(name).into()
    }

    /// The folder of kept artifacts (see [`crate::artifact`]).
    pub fn kept(&self) -> PathBuf {
        self.shelf.clone()
    }
}
