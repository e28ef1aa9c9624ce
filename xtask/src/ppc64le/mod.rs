//! Cross-building for powerpc64le Linux, and running what was built under qemu-user.
//!
//! C compiler and libc are Debian’s cross packages, rustc and its library are Debian’s too (see
//! [`rust`]). Everything is linked statically: the emulated host has no libraries, and qemu-user
//! then needs no library path.

mod rust;

use std::path::PathBuf;

use anyhow::Result;
use duct::Expression;

use crate::cargo::cargo;
use crate::command;
use crate::debian::ensure_installed;
use crate::xtask::Xtask;

const TARGET: &str = "powerpc64le-unknown-linux-gnu";

/// Links the C library into the program.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// The Debian packages of the C compiler, the C library and the kernel’s headers.
pub const C_COMPILER: [&str; 3] =
    ["gcc-powerpc64le-linux-gnu", "libc6-dev-ppc64el-cross", "linux-libc-dev-ppc64el-cross"];

/// A toolchain that builds for powerpc64le Linux; everything that it needs is on this machine.
pub struct Toolchain {
    rustc: PathBuf,
    /// Not the usual one: with one folder for two compilers, each run would build all anew.
    target_folder: PathBuf,
}

impl Toolchain {
    /// Sets up what is missing.
    pub fn set_up(xtask: &Xtask) -> Result<Self> {
        ensure_installed(&C_COMPILER)?;
        Ok(Self { rustc: rust::set_up(xtask)?, target_folder: xtask.target("ppc64le") })
    }

    /// Builds the release form of a program of the package `examples`, and says where it stands.
    pub fn build_example(&self, xtask: &Xtask, program: &str) -> Result<PathBuf> {
        let arguments = ["--release", "--package", "examples", "--bin", program];
        command::stream("cross build", &self.cargo(xtask, "build", &arguments, STATIC))?;
        Ok(self.target_folder.join(TARGET).join("release").join(program))
    }

    /// Runs the tests of `packages` under user-mode emulation, with the page size of POWER hosts,
    /// 64 K. A warning is an error: code that is for POWER only is compiled nowhere else.
    ///
    /// Documentation tests are left out: Debian’s rustdoc is too old for this cargo to hand it a
    /// runner.
    pub fn test(&self, xtask: &Xtask, packages: &[&str]) -> Result<()> {
        ensure_installed(&["qemu-user-static"])?;
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        let arguments: Vec<_> = ["--tests", "--all-features"].into_iter().chain(packages).collect();
        let test = self.cargo(xtask, "test", &arguments, &format!("{STATIC} -Dwarnings")).env(
            "CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUNNER",
            "qemu-ppc64le-static -p 65536",
        );
        command::stream("cargo test for POWER", &test)
    }

    /// `cargo VERB --target powerpc64le-… ARGUMENTS…` in the workspace.
    fn cargo(&self, xtask: &Xtask, verb: &str, arguments: &[&str], flags: &str) -> Expression {
        let target = [verb, "--target", TARGET];
        cargo(xtask, target.iter().chain(arguments).copied())
            .env("RUSTC", &self.rustc)
            .env("CARGO_TARGET_DIR", &self.target_folder)
            .env("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_LINKER", "powerpc64le-linux-gnu-gcc")
            .env("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags)
            // These would take the place of the flags above.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
    }
}
