//! Cross-building for powerpc64le Linux, and running what was built under qemu-user.
//!
//! C compiler and libc are Debian’s cross packages, rustc and its library are Debian’s too (see
//! [`rust`]). Everything is linked statically: the emulated host has no libraries, and qemu-user
//! then needs no library path.

mod rust;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;
use duct::Expression;

use crate::cargo::cargo;
use crate::command;
use crate::debian::ensure_installed;
use crate::xtask::Xtask;

const TARGET: &str = "powerpc64le-unknown-linux-gnu";

const C_COMPILER: [&str; 3] = ["gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross", "linux-libc-dev-ppc64el-cross"];

/// Installs the C cross compiler, the C library and the kernel’s headers, unless they are there.
pub fn install_c_compiler() -> Result<()> {
    ensure_installed(&C_COMPILER)
}

/// A toolchain that builds for powerpc64le Linux; everything that it needs is on this machine.
pub struct Toolchain {
    environment: Vec<(&'static str, OsString)>,
    target_folder: PathBuf,
}

impl Toolchain {
    /// Sets up what is missing.
    pub fn set_up(xtask: &Xtask) -> Result<Self> {
        install_c_compiler()?;
        let compiler = rust::Compiler::set_up(xtask)?;
        let environment = vec![
            ("RUSTC", compiler.rustc.into()),
            ("RUSTDOC", compiler.rustdoc.into()),
            ("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_LINKER", "powerpc64le-linux-gnu-gcc".into()),
            ("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-Ctarget-feature=+crt-static".into()),
            ("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUNNER", "qemu-ppc64le-static".into()),
        ];
        // A folder of its own: with one folder for two compilers, each run would rebuild all.
        Ok(Self { environment, target_folder: xtask.target("ppc64le") })
    }

    /// Builds the release form of a program of the package `examples`, and says where it stands.
    pub fn build_example(&self, xtask: &Xtask, program: &str) -> Result<PathBuf> {
        let arguments = ["--release", "--package", "examples", "--bin", program];
        command::stream("cross build", &self.cargo(xtask, "build", &arguments))?;
        Ok(self.target_folder.join(TARGET).join("release").join(program))
    }

    /// Runs the tests of `packages` under user-mode emulation. Documentation tests are left out: this
    /// rustdoc is older than cargo’s way of handing it a runner.
    pub fn test(&self, xtask: &Xtask, packages: &[&str]) -> Result<()> {
        ensure_installed(&["qemu-user-static"])?;
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        let arguments: Vec<_> = ["--lib", "--tests", "--all-features"].into_iter().chain(packages).collect();
        command::stream("cargo test for POWER", &self.cargo(xtask, "test", &arguments))
    }

    /// `cargo VERB --target powerpc64le-… ARGUMENTS…` in the workspace.
    fn cargo(&self, xtask: &Xtask, verb: &str, arguments: &[&str]) -> Expression {
        let target = [verb, "--target", TARGET];
        let plain = cargo(xtask, target.iter().chain(arguments).copied());
        let plain = plain.env("CARGO_TARGET_DIR", &self.target_folder);
        self.environment.iter().fold(plain, |cargo, (name, value)| cargo.env(name, value))
    }
}
