//! Building the libraries where no standard library is.
//!
//! `#![no_std]` says only that a crate itself doesn’t name `std`; a dependency may still pull it
//! in. So the libraries are built against a sysroot that has `core` and `alloc` and nothing else,
//! for this machine’s own target: the compiler’s own libraries, linked into a folder. Code that
//! runs on the build machine (build scripts, procedural macros) keeps the whole sysroot; cargo
//! passes `--target` only for the code that is not of that kind, and the wrapper goes by that.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result, bail};
use duct::cmd;

use crate::cargo::{cargo, compiler, host};
use crate::xtask::{LIBRARIES, Xtask};
use crate::{artifact, command};

/// The crates of the sysroot.
const CRATES: [&str; 3] = ["core", "alloc", "compiler_builtins"];

/// cargo calls it with the compiler and the compiler’s arguments.
const WRAPPER: &str = r#"#!/bin/sh
case " $* " in
*' --target '*) exec "$@" --sysroot "$(dirname "$0")" ;;
*) exec "$@" ;;
esac
"#;

/// Builds the libraries without default features.
pub fn run(xtask: &Xtask) -> Result<()> {
    let host = &host(xtask)?;
    let recipe = format!("{CRATES:?} of {}{WRAPPER}", compiler(xtask)?);
    let sysroot = artifact::keep(&xtask.kept(), "no-std-sysroot", &recipe, |folder| {
        let libraries = cmd!("rustc", "--print", "target-libdir").dir(xtask.root());
        let libraries = command::quiet("rustc", &libraries)?;
        let target = folder.join("lib/rustlib").join(host).join("lib");
        link(Path::new(libraries.trim()), &target)?;
        let wrapper = folder.join("rustc-wrapper");
        fs::write(&wrapper, WRAPPER)?;
        Ok(fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?)
    })?;
    let packages = LIBRARIES.iter().flat_map(|library| ["--package", library]);
    let build = ["build", "--no-default-features", "--target", host].into_iter().chain(packages);
    let build = cargo(xtask, build)
        .env("RUSTC_WRAPPER", sysroot.join("rustc-wrapper"))
        .env("RUSTFLAGS", "-D warnings")
        .env("CARGO_TARGET_DIR", xtask.target("no-std"));
    command::stream("cargo build without std", &build)
}

/// Links the crates’ libraries from one folder into another.
fn link(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let mut linked = 0;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        if is_library_of(&name.to_string_lossy(), &CRATES) {
            symlink(entry.path(), to.join(name))?;
            linked += 1;
        }
    }
    if linked < CRATES.len() {
        bail!("{} does not hold {CRATES:?}", from.display());
    }
    Ok(())
}

/// Whether a file is named `libCRATE-HASH.rlib` or `.rmeta`, for one of the crates.
fn is_library_of(file: &str, crates: &[&str]) -> bool {
    let name = file.strip_prefix("lib").and_then(|rest| rest.split_once('-'));
    name.is_some_and(|(name, rest)| crates.contains(&name) && !rest.contains('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_told_by_their_names() {
        let rows = [
            ("libcore-0123abcd.rlib", true),
            ("libcompiler_builtins-0123abcd.rlib", true),
            ("liballoc-0123abcd.rmeta", true),
            ("libstd-0123abcd.rlib", false),
            ("libcore_arch-0123abcd.rlib", false),
            ("librustc_std_workspace_alloc-0123abcd.rlib", false),
            ("core-0123abcd.rlib", false),
        ];
        for (file, expected) in rows {
            assert_eq!(is_library_of(file, &CRATES), expected, "{file}");
        }
    }
}
