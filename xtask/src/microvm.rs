//! `cargo xtask microvm`: the microVM example on a POWER9 host.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::emulated_host::Machine;
use crate::power_host;
use crate::xtask::Xtask;

/// What may be asked for on the command line.
#[derive(Args, Default)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// A file to put into the microVM’s working folder on the emulated host; may be repeated
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Arguments of the microVM
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds and runs; the microVM’s exit status is ours.
pub fn run(xtask: &Xtask, options: Options) -> Result<u8> {
    let Options { machine, files, arguments } = options;
    power_host::run_example(xtask, "microvm", arguments, machine, files)
}
