//! Compilers for another architecture: scripts that run the toolbox’s own with that architecture’s
//! libraries.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use duct::cmd;

use super::table::{COMPILERS, Tool};
use super::{Toolbox, system, triple, wrapper};
use crate::debian::native_architecture;
use crate::{artifact, command};

/// Compilers that build for one architecture.
pub struct Cross {
    /// rustc 1.85, with its library for this machine and for the other architecture.
    pub rustc: PathBuf,
    /// A C compiler, which also links and assembles.
    pub cc: PathBuf,
    /// What makes archives of objects.
    pub ar: PathBuf,
}

impl Cross {
    /// rustc with a library for `target`, and binutils and a C compiler for it, in PATH.
    fn of_this_machine(triple: &str, target: &str) -> Result<Self> {
        let rustc = system::program("rustc")?;
        let library = cmd!(&rustc, "--print", "target-libdir", "--target", target);
        let library = command::quiet("rustc --print target-libdir", &library)?;
        if !Path::new(library.trim()).exists() {
            bail!("--system-tools: {} has no library for {target}", rustc.display());
        }
        let [cc, ar] = ["gcc", "ar"].map(|name| system::program(&format!("{triple}-{name}")));
        Ok(Self { rustc, cc: cc?, ar: ar? })
    }
}

impl Toolbox {
    /// The compilers for the architecture of `libraries`, which rustc calls `target`; fetches what
    /// is missing.
    pub fn cross(&self, libraries: &Tool, target: &str) -> Result<Cross> {
        let architecture = libraries.architecture.context("libraries are for one architecture")?;
        let native = native_architecture()?;
        if self.options.system_tools {
            return Cross::of_this_machine(triple(architecture), target);
        }
        self.set_up(&[&COMPILERS, libraries])?;
        let [compilers, libraries] = [&COMPILERS, libraries].map(|tool| self.name(tool));
        let recipe = format!("compilers for {target}\n{compilers}\n{libraries}\n{RUSTC}{CC}");
        let name = format!("cross-{architecture}-{}", &compilers[compilers.len() - 8..]);
        let folder = artifact::keep(&self.shelf, &name, &recipe, |folder| {
            // All stand beside each other on the shelf.
            let fill = |text: &str| {
                text.replace("{compilers}", &format!("$here/../../{compilers}"))
                    .replace("{libraries}", &format!("$here/../../{libraries}"))
                    .replace("{native}", triple(native))
                    .replace("{triple}", triple(architecture))
            };
            wrapper::write(&folder.join("bin/rustc"), &fill(RUSTC))?;
            wrapper::write(&folder.join("bin").join(cc(architecture)), &fill(CC))?;
            let rustlib = folder.join("sysroot/lib/rustlib");
            fs::create_dir_all(&rustlib)?;
            for from in [&compilers, &libraries] {
                let from = Path::new("../../../..").join(from).join("root/usr/lib/rustlib");
                let entries = fs::read_dir(rustlib.join(&from))
                    .with_context(|| format!("{} holds no Rust library", from.display()))?;
                for entry in entries {
                    let name = entry?.file_name();
                    if name.to_string_lossy().contains("-linux-gnu") {
                        symlink(from.join(&name), rustlib.join(&name))?;
                    }
                }
            }
            fs::metadata(rustlib.join(target)).with_context(|| format!("no std for {target}"))?;
            Ok(())
        })?;
        let bin = folder.join("bin");
        let ar = self.program(&COMPILERS, "llvm-ar")?;
        Ok(Cross { rustc: bin.join("rustc"), cc: bin.join(cc(architecture)), ar })
    }
}

/// rustc tells by the ending what kind of linker it is.
fn cc(architecture: &str) -> String {
    format!("{}-clang", triple(architecture))
}

/// rustc goes with this machine’s C library, as it loads what this machine’s linker made: macros.
const RUSTC: &str = r#"#!/bin/sh
here=${0%/*}
root={compilers}/root
export LD_LIBRARY_PATH="$root/lib/{native}:$root/usr/lib/{native}"
case " $* " in
*' --sysroot'[\ =]*) exec "$root/usr/bin/rustc" "$@" ;;
*) exec "$root/usr/bin/rustc" --sysroot "$here/../sysroot" "$@" ;;
esac
"#;

const CC: &str = r#"#!/bin/sh
here=${0%/*}
# Not what rustc is run with.
unset LD_LIBRARY_PATH
exec "{compilers}/bin/clang" --target={triple} --sysroot="{libraries}/root" --ld-path="{compilers}/bin/ld.lld" -Wno-unused-command-line-argument "$@"
"#;
