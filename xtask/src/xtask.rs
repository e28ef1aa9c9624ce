//! What every command works with: where the workspace stands, and the sources of what it needs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::toolbox::{self, Toolbox};

/// The packages that an embedder links, none of which needs `std`.
pub const LIBRARIES: [&str; 5] =
    ["pgtable", "frag-alloc", "arch-ppc64", "arch-x86", "arch-aarch64"];
/// The packages in `examples/` that have code for POWER.
pub const POWER_EXAMPLES: [&str; 9] = [
    "guest-init",
    "kvm-ppc",
    "memory-image",
    "microvm",
    "probe",
    "probe-guest",
    "pseries",
    "ptdump",
    "table-dump",
];

/// The folder of the workspace that this program was built in.
pub fn workspace() -> &'static Path {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here)
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

    /// A folder below the target folder.
    pub fn target(&self, name: &str) -> PathBuf {
        self.metadata.target_directory.join(name).into()
    }

    /// The folder of kept artifacts (see [`crate::artifact`]).
    pub fn kept(&self) -> PathBuf {
        self.shelf.clone()
    }
}
