//! Building for powerpc64le Linux, and running what was built under qemu-user.
//!
//! rustc and the C compiler are the toolbox’s. Everything is linked statically: the emulated host
//! has no libraries, and qemu-user then needs no library path.

use std::path::PathBuf;

use anyhow::Result;
use duct::Expression;

use crate::cargo::cargo;
use crate::command;
use crate::toolbox::cross::Cross;
use crate::toolbox::table::{LIBRARIES_PPC64EL, QEMU_USER};
use crate::xtask::Xtask;

const TARGET: &str = "powerpc64le-unknown-linux-gnu";

/// Links the C library into the program.
const STATIC: &str = "-Ctarget-feature=+crt-static";

/// A toolchain that builds for powerpc64le Linux.
pub struct Toolchain {
    cross: Cross,
    /// Not the usual one: with one folder for two compilers, each run would build all anew.
    target_folder: PathBuf,
}

impl Toolchain {
    /// Sets up what is missing.
    pub fn set_up(xtask: &Xtask) -> Result<Self> {
        let cross = xtask.toolbox.cross(&LIBRARIES_PPC64EL, TARGET)?;
        Ok(Self { cross, target_folder: xtask.target("ppc64le") })
    }

    /// Builds the release form of a program of `examples/`, and says where it stands.
    pub fn build_example(&self, xtask: &Xtask, program: &str) -> Result<PathBuf> {
        let arguments = ["--release", "--package", program, "--bin", program];
        command::stream("cross build", &self.cargo(xtask, "build", &arguments, STATIC))?;
        Ok(self.target_folder.join(TARGET).join("release").join(program))
    }

    /// Runs the tests of `packages` under user-mode emulation, with the page size of POWER hosts,
    /// 64 K. A warning is an error: code that is for POWER only is compiled nowhere else.
    ///
    /// Documentation tests are left out: Debian’s rustdoc is too old for this cargo to hand it a
    /// runner.
    pub fn test(&self, xtask: &Xtask, packages: &[&str]) -> Result<()> {
        let qemu = xtask.toolbox.program(&QEMU_USER, "qemu-ppc64le")?;
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        let arguments: Vec<_> = ["--tests", "--all-features"].into_iter().chain(packages).collect();
        let test = self.cargo(xtask, "test", &arguments, &format!("{STATIC} -Dwarnings")).env(
            "CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUNNER",
            format!("{} -p 65536", qemu.display()),
        );
        command::stream("cargo test for POWER", &test)
    }

    /// `cargo` where tests find a compiler that has the kernel’s headers for POWER, and must ask
    /// it.
    pub fn with_headers(&self, cargo: &Expression) -> Expression {
        cargo.env("POWERPC64LE_CC", &self.cross.cc).env("REQUIRE_KVM_HEADERS", "1")
    }

    /// `cargo VERB --target powerpc64le-… ARGUMENTS…` in the workspace.
    fn cargo(&self, xtask: &Xtask, verb: &str, arguments: &[&str], flags: &str) -> Expression {
        let target = [verb, "--target", TARGET];
        self.with_headers(&cargo(xtask, target.iter().chain(arguments).copied()))
            .env("RUSTC", &self.cross.rustc)
            .env("CARGO_TARGET_DIR", &self.target_folder)
            .env("CC_powerpc64le_unknown_linux_gnu", &self.cross.cc)
            .env("AR_powerpc64le_unknown_linux_gnu", &self.cross.ar)
            .env("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_LINKER", &self.cross.cc)
            .env("CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU_RUSTFLAGS", flags)
            // These would take the place of the flags above.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
    }
}
