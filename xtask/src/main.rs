//! The project’s own commands: `cargo xtask …`.
//!
//! This is the only place for set-up, cross builds, emulated hosts and running benches. Every
//! command sets up what it needs by itself, says what it fetches, and keeps it under the target
//! folder, so that a second run needs no network. Nothing is installed.

mod arch;
mod artifact;
mod assemble;
mod bare_bochs;
mod bare_power;
mod bare_qemu;
mod bare_x86;
mod bench;
mod cargo;
mod command;
mod debian;
mod emulated_host;
mod fuzz;
mod host;
mod microvm;
mod mutants;
mod power_host;
mod ppc64le;
mod probe;
mod ptdump_proof;
mod qemu;
mod report;
mod test;
mod toolbox;
mod x86_host;
mod xtask;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use xtask::Xtask;

/// The project’s own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(flatten)]
    tools: toolbox::Options,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build and run the microVM on a host with KVM: this machine if it is one, else an emulated
    /// one
    Microvm(microvm::Options),
    /// Ask the MMU itself whether the software walker is right, on thousands of page tables
    Probe(probe::Options),
    /// Run a statically linked powerpc64le program on an emulated POWER9 host with KVM
    Host(host::Options),
    /// Ask QEMU whether ptdump translates as its own MMU does, on memory dumps of Debian’s kernels
    PtdumpProof(ptdump_proof::Options),
    /// Run everything that must hold before a change goes in
    Test(test::Options),
    /// Run a bench, or list them
    Bench(bench::Options),
    /// Run the fuzz targets, or one
    Fuzz(fuzz::Options),
    /// Change the libraries' code in many small ways, and see whether a test notices
    Mutants(mutants::Options),
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            report::failure(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let xtask = Xtask::load(&cli.tools)?;
    match cli.command {
        Command::Microvm(options) => microvm::run(&xtask, options).map(ExitCode::from),
        Command::Probe(options) => probe::run(&xtask, options).map(ExitCode::from),
        Command::Host(options) => host::run(&xtask, options).map(ExitCode::from),
        Command::PtdumpProof(options) => {
            ptdump_proof::run(&xtask, &options).map(|()| ExitCode::SUCCESS)
        }
        Command::Test(options) => test::run(&xtask, &options),
        Command::Bench(options) => bench::run(&xtask, &options).map(|()| ExitCode::SUCCESS),
        Command::Fuzz(options) => fuzz::run(&xtask, &options).map(|()| ExitCode::SUCCESS),
        Command::Mutants(options) => mutants::run(&xtask, &options).map(|()| ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_of_one_piece() {
        super::Cli::command().debug_assert();
    }
}
