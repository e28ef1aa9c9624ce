//! The architectures that have guests, and where a program that runs one is run.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::cross_host::{AARCH64, Hosts, POWER, RISCV64};
use crate::emulated_host::{self, Files, Machine, System, X86_64};
use crate::x86_host;
use crate::xtask::Xtask;

/// Whose guest, and whose MMU.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// POWER: this machine if it is one, else an emulated one
    #[default]
    Ppc64,
    /// x86-64: this machine if /dev/kvm can be used, else an emulated one
    X86,
    /// RISC-V with the hypervisor extension: this machine if it is one, else an emulated one
    Riscv64,
    /// AArch64 with EL2: this machine if it is one, else an emulated one
    Aarch64,
}

impl Arch {
    /// The hosts that programs are cross-built for, if they are.
    fn hosts(self) -> Option<&'static Hosts> {
        match self {
            Self::Ppc64 => Some(&POWER),
            Self::Aarch64 => Some(&AARCH64),
            Self::Riscv64 => Some(&RISCV64),
            Self::X86 => None,
        }
    }

    /// Whether a program that runs guests runs on this machine, and not on an emulated host.
    pub fn runs_here(self, machine: &Machine) -> bool {
        match self.hosts() {
            Some(hosts) => hosts.run_here(machine),
            None => x86_host::usable().is_ok() && !machine.must_be_emulated(),
        }
    }

    /// Debian’s kernel and busybox for it.
    pub fn system(self, xtask: &Xtask, machine: &Machine) -> Result<System> {
        match self.hosts() {
            Some(hosts) => hosts.system(xtask, machine),
            None => emulated_host::system(xtask, &X86_64),
        }
    }

    /// Builds a program of `examples/` that runs inside a guest: statically linked.
    pub fn build_guest(self, xtask: &Xtask, program: &str) -> Result<PathBuf> {
        match self.hosts() {
            Some(hosts) => hosts.build(xtask, program),
            None => x86_host::build(xtask, program),
        }
    }

    /// Builds and runs a program of `examples/`; its exit status is ours. Machine and
    /// files are for the emulated host.
    pub fn run_example(
        self,
        xtask: &Xtask,
        program: &str,
        arguments: Vec<String>,
        machine: Machine,
        files: Files,
    ) -> Result<u8> {
        match self.hosts() {
            Some(hosts) => hosts.run_example(xtask, program, arguments, machine, files),
            None => x86_host::run_example(xtask, program, arguments, machine, files),
        }
    }
}
