//! The architectures that have guests, and where a program that runs one is run.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::emulated_host::{self, Machine, POWER9, System, X86_64};
use crate::xtask::Xtask;
use crate::{power_host, x86_host};

/// Whose guest, and whose MMU.
#[derive(Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// POWER9: this machine if it is one, else an emulated one
    #[default]
    Ppc64,
    /// x86-64: this machine if /dev/kvm can be used, else an emulated one
    X86,
}

impl Arch {
    /// Whether a program that runs guests runs on this machine, and not on an emulated host.
    pub fn runs_here(self, machine: &Machine) -> bool {
        match self {
            Self::Ppc64 => cfg!(target_arch = "powerpc64"),
            Self::X86 => x86_host::usable().is_ok() && !machine.emulated,
        }
    }

    /// Debian’s kernel and busybox for it.
    pub fn system(self, xtask: &Xtask) -> Result<System> {
        emulated_host::system(xtask, if self == Self::Ppc64 { &POWER9 } else { &X86_64 })
    }

    /// Builds a program of `examples/` that runs inside a guest: statically linked.
    pub fn build_guest(self, xtask: &Xtask, program: &str) -> Result<PathBuf> {
        match self {
            Self::Ppc64 => power_host::build(xtask, program),
            Self::X86 => x86_host::build(xtask, program),
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
        files: Vec<PathBuf>,
    ) -> Result<u8> {
        match self {
            Self::Ppc64 => power_host::run_example(xtask, program, arguments, machine, files),
            Self::X86 => x86_host::run_example(xtask, program, arguments, machine, files),
        }
    }
}
