//! Debian’s rustc with the powerpc64le standard library, unpacked into a folder and not installed.
//!
//! A rustc needs a standard library of its very own version, and only Debian has one for POWER
//! everywhere that a Debian mirror is. `rustc-web` is the newest rustc of the release (it is there
//! for browsers). Unpacking it beside the library keeps the two in step whatever the machine has
//! installed, and adds no second rustc to the machine. On Debian 12 it is also our minimum
//! supported version, so what is built with it proves that promise.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::TARGET;
use crate::artifact;
use crate::debian::{Archive, without_libc};
use crate::xtask::Xtask;

const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";
const FOREIGN_LIBRARY: &str = "libstd-rust-web-dev:ppc64el";

/// What stands before each tool: it finds the unpacked shared libraries first.
const WRAPPER: &str = r#"#!/bin/sh
root=$(dirname "$0")/../unpacked
for libraries in "$root"/lib/*-linux-gnu "$root"/usr/lib/*-linux-gnu; do
    LD_LIBRARY_PATH=$libraries:$LD_LIBRARY_PATH
done
export LD_LIBRARY_PATH
exec "$root/usr/bin/$(basename "$0")" "$@"
"#;

/// Debian’s rustc and rustdoc, for this machine and for powerpc64le.
pub struct Compiler {
    pub rustc: PathBuf,
    pub rustdoc: PathBuf,
}

impl Compiler {
    /// Fetches what is missing.
    pub fn set_up(xtask: &Xtask) -> Result<Self> {
        let recipe = format!("the Debian packages {COMPILER}, {LIBRARY}, {FOREIGN_LIBRARY} and\n{WRAPPER}");
        let folder = artifact::keep(&xtask.kept(), "rust-ppc64le", &recipe, |folder| {
            unpack(&xtask.archive, &folder.join("unpacked"))?;
            wrap(&folder.join("bin"))
        })?;
        let bin = folder.join("bin");
        Ok(Self { rustc: bin.join("rustc"), rustdoc: bin.join("rustdoc") })
    }
}

fn unpack(archive: &Archive, folder: &Path) -> Result<()> {
    // rustc’s own dependencies are a C compiler and the library; the library’s are what it loads.
    let mut packages = without_libc(archive.with_dependencies(LIBRARY)?);
    packages.extend([COMPILER.to_owned(), FOREIGN_LIBRARY.to_owned()]);
    archive.unpack(&packages, folder)?;
    fs::metadata(folder.join("usr/lib/rustlib").join(TARGET)).context("the unpacked library")?;
    Ok(())
}

fn wrap(bin: &Path) -> Result<()> {
    fs::create_dir(bin)?;
    for tool in ["rustc", "rustdoc"] {
        let wrapper = bin.join(tool);
        fs::write(&wrapper, WRAPPER)?;
        fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
    }
    Ok(())
}
