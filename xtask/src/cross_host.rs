//! A program of `examples/` on a host with KVM of an architecture that it is cross-built for.
//!
//! On a machine of that architecture it runs right here; elsewhere on an emulated host.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cargo::{build_static, run_example as run_here};
use crate::emulated_host::{self, EmulatedHost, Files, Machine, Platform, System};
use crate::ppc64le::{self, Target, Toolchain};
use crate::toolbox::table::COMPILERS;
use crate::xtask::Xtask;

/// An architecture’s hosts.
pub struct Hosts {
    /// Rust’s name of the architecture.
    arch: &'static str,
    /// The emulated one, if it is always the same: POWER has several;
    platform: Option<&'static Platform>,
    /// and what programs for it are built with.
    target: &'static Target,
    /// KVM’s module.
    module: &'static str,
}

pub const POWER: Hosts =
    Hosts { arch: "powerpc64", platform: None, target: &ppc64le::POWER, module: "kvm_hv" };

pub const AARCH64: Hosts = Hosts {
    arch: "aarch64",
    platform: Some(&emulated_host::AARCH64),
    target: &ppc64le::AARCH64,
    module: "kvm",
};

pub const RISCV64: Hosts = Hosts {
    arch: "riscv64",
    platform: Some(&emulated_host::RISCV64),
    target: &ppc64le::RISCV64,
    module: "kvm",
};

impl Hosts {
    /// Whether this machine is one.
    fn are_here(&self) -> bool {
        env::consts::ARCH == self.arch
    }

    /// Whether a program that runs guests runs on this machine, and not on an emulated host.
    pub fn run_here(&self, machine: &Machine) -> bool {
        self.are_here() && !machine.must_be_emulated()
    }

    fn platform(&self, machine: &Machine) -> Platform {
        self.platform.copied().unwrap_or_else(|| machine.power_platform())
    }

    /// Debian’s kernel and busybox for it.
    pub fn system(&self, xtask: &Xtask, machine: &Machine) -> Result<System> {
        emulated_host::system(xtask, &self.platform(machine))
    }

    /// Builds and runs; the program’s exit status is ours. Machine and files are for the emulated
    /// host.
    pub fn run_example(
        &self,
        xtask: &Xtask,
        program: &str,
        arguments: Vec<String>,
        machine: Machine,
        files: Files,
    ) -> Result<u8> {
        if self.run_here(&machine) {
            if !Path::new("/dev/kvm").exists() {
                bail!("this machine has no /dev/kvm: as root, `modprobe {}`", self.module);
            }
            return run_here(xtask, program, &arguments);
        }
        // All at once, so that what is to be fetched is told of as a whole.
        let platform = self.platform(&machine);
        let Platform { emulator, system, .. } = platform;
        let Target { rust, libraries, .. } = self.target;
        xtask.toolbox.set_up(&[&COMPILERS, rust, libraries, emulator, system])?;
        let program = self.build(xtask, program)?;
        EmulatedHost::new(platform, machine, program).arguments(arguments).files(files).run(xtask)
    }

    /// Builds the release form, linked statically: neither the emulated host nor a guest has
    /// libraries.
    pub fn build(&self, xtask: &Xtask, program: &str) -> Result<PathBuf> {
        if self.are_here() {
            return build_static(xtask, program);
        }
        Toolchain::of(xtask, self.target)?.build_example(xtask, program)
    }
}
