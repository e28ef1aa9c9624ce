//! Building for powerpc64le, aarch64 and riscv64 Linux, and running what was built for POWER under
//! qemu-user.
//!
//! rustc and the C compiler are the toolbox’s. Everything is linked statically: the emulated host
//! has no libraries, and qemu-user then needs no library path.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use cargo_metadata::{Package, TargetKind};
use duct::Expression;

use crate::cargo::cargo;
use crate::command;
use crate::toolbox::cross::Cross;
use crate::toolbox::table::{
    COMPILERS, LIBRARIES_ARM64, LIBRARIES_PPC64EL, LIBRARIES_RISCV64, QEMU_USER, RUST_TRIXIE, Tool,
};
use crate::xtask::{PORTABLE_TESTS, Xtask};

/// What is built for.
pub struct Target {
    /// rustc’s name for it, and as cargo and build scripts spell it in variables.
    pub name: &'static str,
    cargo: &'static str,
    scripts: &'static str,
    /// rustc, and libraries of the same release.
    pub rust: &'static Tool,
    pub libraries: &'static Tool,
    /// Not the usual target folder: with one folder for two compilers, each run would build all
    /// anew.
    folder: &'static str,
}

pub const POWER: Target = Target {
    name: "powerpc64le-unknown-linux-gnu",
    cargo: "CARGO_TARGET_POWERPC64LE_UNKNOWN_LINUX_GNU",
    scripts: "powerpc64le_unknown_linux_gnu",
    rust: &COMPILERS,
    libraries: &LIBRARIES_PPC64EL,
    folder: "ppc64le",
};

pub const AARCH64: Target = Target {
    name: "aarch64-unknown-linux-gnu",
    cargo: "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU",
    scripts: "aarch64_unknown_linux_gnu",
    rust: &COMPILERS,
    libraries: &LIBRARIES_ARM64,
    folder: "aarch64",
};

pub const RISCV64: Target = Target {
    name: "riscv64gc-unknown-linux-gnu",
    cargo: "CARGO_TARGET_RISCV64GC_UNKNOWN_LINUX_GNU",
    scripts: "riscv64gc_unknown_linux_gnu",
    rust: &RUST_TRIXIE,
    libraries: &LIBRARIES_RISCV64,
    folder: "riscv64",
};

/// Links the C library into the program.
const STATIC: &str = "-Ctarget-feature=+crt-static";
const STRICT: &str = "-Ctarget-feature=+crt-static -Dwarnings";

/// A toolchain that builds for a target.
pub struct Toolchain {
    target: &'static Target,
    cross: Cross,
    target_folder: PathBuf,
}

impl Toolchain {
    /// That for POWER; sets up what is missing.
    pub fn set_up(xtask: &Xtask) -> Result<Self> {
        Self::of(xtask, &POWER)
    }

    /// That for `target`; sets up what is missing.
    pub fn of(xtask: &Xtask, target: &'static Target) -> Result<Self> {
        let cross = xtask.toolbox.cross(target.rust, target.libraries, target.name)?;
        Ok(Self { target, cross, target_folder: xtask.target(target.folder) })
    }

    /// Builds the release form of a program of `examples/`, and says where it stands.
    pub fn build_example(&self, xtask: &Xtask, program: &str) -> Result<PathBuf> {
        let arguments = ["--release", "--package", program, "--bin", program];
        command::stream("cross build", &self.cargo(xtask, "build", &arguments, STATIC))?;
        Ok(self.target_folder.join(self.target.name).join("release").join(program))
    }

    /// Compiles `packages` as far as errors and warnings are known. A warning is an error.
    pub fn check(&self, xtask: &Xtask, packages: &[&str]) -> Result<()> {
        let packages = packages.iter().flat_map(|package| ["--package", package]);
        let arguments: Vec<_> = ["--all-features"].into_iter().chain(packages).collect();
        let check = self.cargo(xtask, "check", &arguments, STRICT);
        command::stream("cargo check for POWER", &check)
    }

    /// Runs the tests of `packages` but those of [`PORTABLE_TESTS`], with `cases` percent of their
    /// random cases, under user-mode emulation, with the page size of POWER hosts, 64 K. A warning
    /// is an error: code that is for POWER only is compiled nowhere else.
    ///
    /// Documentation tests are left out: Debian’s rustdoc is too old for this cargo to hand it a
    /// runner.
    pub fn test(&self, xtask: &Xtask, packages: &[&str], cases: u32) -> Result<()> {
        let qemu = xtask.toolbox.program(&QEMU_USER, "qemu-ppc64le")?;
        let is_chosen = |package: &&Package| packages.contains(&package.name.as_str());
        let targets = xtask.metadata.packages.iter().filter(is_chosen).flat_map(|it| &it.targets);
        let tests = targets.filter(|target| target.kind.contains(&TargetKind::Test));
        let tests = tests.map(|target| target.name.as_str());
        let tests: BTreeSet<_> = tests.filter(|name| !PORTABLE_TESTS.contains(name)).collect();
        let mut arguments = vec!["--lib", "--bins", "--all-features"];
        arguments.extend(packages.iter().flat_map(|package| ["--package", package]));
        arguments.extend(tests.iter().flat_map(|test| ["--test", test]));
        let test = self
            .cargo(xtask, "test", &arguments, STRICT)
            .env("PGTABLE_CASES", cases.to_string())
            .env(format!("{}_RUNNER", self.target.cargo), format!("{} -p 65536", qemu.display()));
        command::stream("cargo test for POWER", &test)
    }

    /// `cargo` where tests find a compiler that has the kernel’s headers for POWER, and must ask
    /// it.
    pub fn with_headers(&self, cargo: &Expression) -> Expression {
        cargo.env("POWERPC64LE_CC", &self.cross.cc).env("REQUIRE_KVM_HEADERS", "1")
    }

    /// `cargo VERB --target powerpc64le-… ARGUMENTS…` in the workspace.
    fn cargo(&self, xtask: &Xtask, verb: &str, arguments: &[&str], flags: &str) -> Expression {
        let Target { name, cargo: variables, scripts, .. } = self.target;
        let target = [verb, "--target", name];
        self.with_headers(&cargo(xtask, target.iter().chain(arguments).copied()))
            .env("RUSTC", &self.cross.rustc)
            .env("CARGO_TARGET_DIR", &self.target_folder)
            .env(format!("CC_{scripts}"), &self.cross.cc)
            .env(format!("AR_{scripts}"), &self.cross.ar)
            .env(format!("{variables}_LINKER"), &self.cross.cc)
            .env(format!("{variables}_RUSTFLAGS"), flags)
            // These would take the place of the flags above.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
    }
}
