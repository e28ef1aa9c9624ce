//! `cargo xtask microvm`: the microVM example on a host with KVM.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::arch::Arch;
use crate::emulated_host::Machine;
use crate::xtask::Xtask;

/// What may be asked for on the command line.
#[derive(Args, Default)]
pub struct Options {
    /// Whose guest is run
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    #[command(flatten)]
    machine: Machine,
    /// A file to put into the microVM’s working folder on the emulated host; may be repeated
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Arguments of the microVM
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// The microVM as it is, without arguments.
    pub fn of(arch: Arch) -> Self {
        Self { arch, ..Self::default() }
    }
}

/// Builds and runs; the microVM’s exit status is ours.
pub fn run(xtask: &Xtask, options: Options) -> Result<u8> {
    let Options { arch, machine, files, arguments } = options;
    arch.run_example(xtask, "microvm", arguments, machine, files)
}
