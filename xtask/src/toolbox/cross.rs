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

    /// The rustdoc of the same release: a script in `folder`, or that of this machine.
    pub fn rustdoc(&self, folder: &Path) -> Result<PathBuf> {
        let script = fs::read(&self.rustc)?;
        let Some(script) = std::str::from_utf8(&script).ok().filter(|text| text.contains(HERE))
        else {
            return Ok(self.rustc.with_file_name("rustdoc"));
        };
        let bin = self.rustc.parent().context("a script stands in a folder")?;
        let here = format!("here='{}'", bin.display());
        let rustdoc = script.replace(HERE, &here).replace("/usr/bin/rustc", "/usr/bin/rustdoc");
        let place = folder.join("rustdoc");
        wrapper::write(&place, &rustdoc)?;
        Ok(place)
    }
}

impl Toolbox {
    /// The compilers for the architecture of `libraries`, which rustc calls `target`; fetches what
    /// is missing. rustc is that of `rust`, whose release is the libraries’.
    pub fn cross(&self, rust: &Tool, libraries: &Tool, target: &str) -> Result<Cross> {
        let architecture = libraries.architecture.context("libraries are for one architecture")?;
        let native = native_architecture()?;
        if self.options.system_tools {
            return Cross::of_this_machine(triple(architecture), target);
        }
        self.set_up(&[&COMPILERS, rust, libraries])?;
        let rustc = self.rustc(rust, triple(native))?;
        let [compilers, rust, libraries] =
            [&COMPILERS, rust, libraries].map(|tool| self.name(tool));
        let recipe = format!("compilers for {target}\n{rust}\n{libraries}\n{rustc}{CC}");
        let name = format!("cross-{architecture}-{}", &rust[rust.len() - 8..]);
        let folder = artifact::keep(&self.shelf, &name, &recipe, |folder| {
            // All stand beside each other on the shelf.
            let fill = |text: &str| {
                text.replace("{compilers}", &format!("$here/../../{compilers}"))
                    .replace("{rust}", &format!("$here/../../{rust}"))
                    .replace("{libraries}", &format!("$here/../../{libraries}"))
                    .replace("{native}", triple(native))
                    .replace("{triple}", triple(architecture))
            };
            wrapper::write(&folder.join("bin/rustc"), &fill(&rustc))?;
            wrapper::write(&folder.join("bin").join(cc(architecture)), &fill(CC))?;
            let rustlib = folder.join("sysroot/lib/rustlib");
            fs::create_dir_all(&rustlib)?;
            for from in [&rust, &libraries] {
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

impl Toolbox {
    /// The script that runs the rustc of `rust`.
    ///
    /// rustc loads what this machine’s linker made: macros. So it goes with this machine’s C
    /// library, unless that is older than rustc needs; then with its own, which is newer.
    fn rustc(&self, rust: &Tool, native: &str) -> Result<String> {
        let place = self.place(rust);
        let program = place.join("root/usr/bin/rustc");
        let libraries = ["lib", "usr/lib"]
            .map(|folder| place.join("root").join(folder).join(native).display().to_string());
        let runs = cmd!(&program, "--version")
            .env("LD_LIBRARY_PATH", libraries.join(":"))
            .stdout_null()
            .stderr_null()
            .unchecked()
            .run()
            .is_ok_and(|output| output.status.success());
        if runs {
            return Ok(RUSTC.replace("{loader}", ""));
        }
        let loader = wrapper::loader(&place.join("libc"))?;
        let loader = loader.strip_prefix(&place)?.display().to_string();
        let libc = "{rust}/libc/lib/{native}:{rust}/libc/usr/lib/{native}";
        let loader = format!("\"{{rust}}/{loader}\" --library-path \"{libc}:$libraries\" ");
        Ok(RUSTC.replace("export LD_LIBRARY_PATH=", "libraries=").replace("{loader}", &loader))
    }
}

/// rustc tells by the ending what kind of linker it is.
fn cc(architecture: &str) -> String {
    format!("{}-clang", triple(architecture))
}

/// How a script says where it stands.
const HERE: &str = "here=${0%/*}";

const RUSTC: &str = r#"#!/bin/sh
here=${0%/*}
root={rust}/root
export LD_LIBRARY_PATH="$root/lib/{native}:$root/usr/lib/{native}"
case " $* " in
*' --sysroot'[\ =]*) exec {loader}"$root/usr/bin/rustc" "$@" ;;
*) exec {loader}"$root/usr/bin/rustc" --sysroot "$here/../sysroot" "$@" ;;
esac
"#;

const CC: &str = r#"#!/bin/sh
here=${0%/*}
# Not what rustc is run with.
unset LD_LIBRARY_PATH
exec "{compilers}/bin/clang" --target={triple} --sysroot="{libraries}/root" --ld-path="{compilers}/bin/ld.lld" -Wno-unused-command-line-argument "$@"
"#;
