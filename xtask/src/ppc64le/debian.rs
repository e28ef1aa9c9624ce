//! Debian’s rustc, extended by the ppc64el standard library of the very same version.
//!
//! `rustc-web` is the newest rustc that the release has (Debian keeps it current for browsers). Its
//! version is also our minimum supported one on Debian 12, so building with it checks that promise.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::TARGET;
use crate::artifact;
use crate::debian::{ensure_installed, version};
use crate::xtask::Xtask;

const COMPILER: &str = "rustc-web";
const LIBRARY: &str = "libstd-rust-web-dev";
/// Where Debian’s rustc keeps its own machine’s standard library.
const SYSTEM_LIBRARIES: &str = "/usr/lib/rustlib";

/// Debian’s rustc and rustdoc, which know the host’s and the foreign standard library.
pub struct Compiler {
    pub rustc: PathBuf,
    pub rustdoc: PathBuf,
    pub version: String,
}

impl Compiler {
    /// Installs the compiler and fetches the library, as far as they are missing.
    pub fn set_up(xtask: &Xtask) -> Result<Self> {
        ensure_installed(&[COMPILER])?;
        let version = version(COMPILER)?;
        let recipe = format!("2\n{COMPILER} and {LIBRARY} {version}\n");
        let sysroot = artifact::keep(&xtask.kept(), "rust-ppc64le", &recipe, |folder| {
            xtask
                .archive
                .unpack(&format!("{LIBRARY}={version}"), &folder.join("unpacked"))?;
            lay_out(folder)
        })?;
        let bin = sysroot.join("bin");
        Ok(Self {
            rustc: bin.join("rustc"),
            rustdoc: bin.join("rustdoc"),
            version,
        })
    }
}

/// Makes `sysroot` a folder that rustc takes for its own: the machine’s libraries beside the
/// unpacked ones, and wrappers that point the compiler there.
fn lay_out(sysroot: &Path) -> Result<()> {
    let libraries = sysroot.join("lib/rustlib");
    fs::create_dir_all(&libraries)?;
    for library in fs::read_dir(SYSTEM_LIBRARIES).context(SYSTEM_LIBRARIES)? {
        let library = library?;
        symlink(library.path(), libraries.join(library.file_name()))?;
    }
    let foreign = format!("usr/lib/rustlib/{TARGET}");
    fs::metadata(sysroot.join("unpacked").join(&foreign)).context("the unpacked library")?;
    symlink(
        Path::new("../../unpacked").join(&foreign),
        libraries.join(TARGET),
    )?;

    fs::create_dir(sysroot.join("bin"))?;
    for tool in ["rustc", "rustdoc"] {
        let wrapper = sysroot.join("bin").join(tool);
        fs::write(&wrapper, wrapper_script(tool))?;
        fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755))?;
    }
    Ok(())
}

/// A script that runs Debian’s `tool` with the folder above its own as sysroot, unless the caller
/// chose one.
fn wrapper_script(tool: &str) -> String {
    format!(
        "#!/bin/sh\n\
         case \" $* \" in\n\
         *' --sysroot '*|*' --sysroot='*) exec /usr/bin/{tool} \"$@\" ;;\n\
         esac\n\
         exec /usr/bin/{tool} --sysroot \"$(dirname \"$0\")/..\" \"$@\"\n"
    )
}
