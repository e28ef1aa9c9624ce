//! The architectures that have guests, and where a program that runs one is run.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;

use crate::emulated_host::Machine;
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
    /// Builds and runs a program of the package `examples`; its exit status is ours. Machine and files are for the emulated host.
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
