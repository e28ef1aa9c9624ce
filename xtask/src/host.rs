//! `cargo xtask host`: any program on an emulated POWER host, for trying things out.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::emulated_host::{EmulatedHost, Machine, not_there};
use crate::xtask::Xtask;

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// A file to put into the program’s working folder; may be repeated
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The program
    program: PathBuf,
    /// Arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// What is wrong with the options together.
    pub fn wrong(&self) -> Option<String> {
        let files =
            || not_there(std::slice::from_ref(&self.program)).or_else(|| not_there(&self.files));
        self.machine.wrong(true).or_else(files)
    }
}

/// Runs; the program’s exit status is ours.
pub fn run(xtask: &Xtask, options: Options) -> Result<u8> {
    let Options { machine, files, program, arguments } = options;
    EmulatedHost::new(machine.power_platform(), machine, program)
        .arguments(arguments)
        .files(files.into())
        .run(xtask)
}
