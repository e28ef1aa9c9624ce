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

/// What is called as rustc: it finds the unpacked shared libraries first.
const WRAPPER: &str = r#"#!/bin/sh
root=$(dirname "$0")/unpacked
for libraries in "$root"/lib/*-linux-gnu "$root"/usr/lib/*-linux-gnu; do
    LD_LIBRARY_PATH=$libraries:$LD_LIBRARY_PATH
done
export LD_LIBRARY_PATH
exec "$root/usr/bin/rustc" "$@"
"#;

/// Debian’s rustc, for this machine and for powerpc64le; fetches what is missing.
pub fn set_up(xtask: &Xtask) -> Result<PathBuf> {
    let recipe = format!("the Debian packages {COMPILER}, {LIBRARY}, {FOREIGN_LIBRARY}\n{WRAPPER}");
    let folder = artifact::keep(&xtask.kept(), "rust-ppc64le", &recipe, |folder| {
        unpack(&xtask.archive, &folder.join("unpacked"))?;
        let wrapper = folder.join("rustc");
        fs::write(&wrapper, WRAPPER)?;
        Ok(fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?)
    })?;
    Ok(folder.join("rustc"))
}

fn unpack(archive: &Archive, folder: &Path) -> Result<()> {
    // rustc’s own dependencies are a C compiler and the library; the library’s are what it loads.
    let mut packages = without_libc(archive.with_dependencies(LIBRARY)?);
    packages.extend([COMPILER.to_owned(), FOREIGN_LIBRARY.to_owned()]);
    archive.unpack(&packages, folder)?;
    fs::metadata(folder.join("usr/lib/rustlib").join(TARGET)).context("the unpacked library")?;
    Ok(())
}
