//! A program of `examples/` on a host with KVM of an architecture that it is cross-built for.
//!
//! On a machine of that architecture it runs right here; elsewhere on an emulated host.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cargo::{build_static, run_example as run_here};
use crate::emulated_host::{self, EmulatedHost, Machine, Platform, System};
use crate::ppc64le::{self, Target, Toolchain};
use crate::toolbox::table::COMPILERS;
use crate::xtask::Xtask;

/// An architecture’s hosts.
pub struct Hosts {
    /// Rust’s name of the architecture.
    arch: &'static str,
    /// The emulated one,
    platform: &'static Platform,
    /// and what programs for it are built with.
    target: &'static Target,
    /// KVM’s module.
    module: &'static str,
}

pub const POWER: Hosts = Hosts {
    arch: "powerpc64",
    platform: &emulated_host::POWER9,
    target: &ppc64le::POWER,
    module: "kvm_hv",
};

pub const RISCV64: Hosts = Hosts {
    arch: "riscv64",
    platform: &emulated_host::RISCV64,
    target: &ppc64le::RISCV64,
    module: "kvm",
};

impl Hosts {
    /// Whether this machine is one.
    pub fn are_here(&self) -> bool {
        env::consts::ARCH == self.arch
    }

    /// Debian’s kernel and busybox for it.
    pub fn system(&self, xtask: &Xtask) -> Result<System> {
        emulated_host::system(xtask, self.platform)
    }

    /// Builds and runs; the program’s exit status is ours. Machine and files are for the emulated
    /// host.
    pub fn run_example(
        &self,
        xtask: &Xtask,
        program: &str,
        arguments: Vec<String>,
        machine: Machine,
        files: Vec<PathBuf>,
    ) -> Result<u8> {
        if self.are_here() {
            if !Path::new("/dev/kvm").exists() {
                bail!("this machine has no /dev/kvm: as root, `modprobe {}`", self.module);
            }
            return run_here(xtask, program, &arguments);
        }
        // All at once, so that what is to be fetched is told of as a whole.
        let Platform { emulator, system, .. } = self.platform;
        let Target { rust, libraries, .. } = self.target;
        xtask.toolbox.set_up(&[&COMPILERS, rust, libraries, emulator, system])?;
        let program = self.build(xtask, program)?;
        EmulatedHost::new(self.platform, machine, program)
            .arguments(arguments)
            .files(files)
            .run(xtask)
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
