//! The project’s own commands: `cargo xtask …`.
//!
//! This is the only place for set-up, cross builds, emulated hosts and running benches. Every
//! command sets up what it needs by itself, says what it fetches, and keeps it under the target
//! folder, so that a second run needs no network. Nothing is installed.

mod api;
mod arch;
mod artifact;
mod assemble;
mod bare_arm;
mod bare_bochs;
mod bare_power;
mod bare_qemu;
mod bare_riscv;
mod bare_spike;
mod bare_x86;
mod bench;
mod cargo;
mod command;
mod cross_host;
mod debian;
mod emulated_host;
mod fuzz;
mod gdb;
mod host;
mod hosts;
mod microvm;
mod mutants;
mod ppc64le;
mod probe;
mod ptdump_pictures;
mod ptdump_proof;
mod qemu;
mod report;
mod test;
mod toolbox;
mod x86_host;
mod xtask;

use std::process::ExitCode;

use anyhow::Result;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

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
    /// Run a statically linked powerpc64le program on an emulated POWER host with KVM
    Host(host::Options),
    /// Run everything on every POWER host, with every kernel and emulator: the README's table
    Hosts(hosts::Options),
    /// Ask QEMU whether ptdump translates as its own MMU does, on memory dumps of Debian’s kernels
    PtdumpProof(ptdump_proof::Options),
    /// Have a real gdb debug an x86-64 guest, and compare what it sees
    Gdb,
    /// Open ptdump's pages in a browser, and see whether they show what they must
    PtdumpPictures(ptdump_pictures::Options),
    /// Run everything that must hold before a change goes in
    Test(test::Options),
    /// Write down what the libraries make public, or compare it with what is written
    Api(api::Options),
    /// Run a bench, or list them
    Bench(bench::Options),
    /// Run the fuzz targets, or one
    Fuzz(fuzz::Options),
    /// Change the libraries' code in many small ways, and see whether a test notices
    Mutants(mutants::Options),
}

impl Command {
    /// What is wrong with the options together; clap has judged each by itself.
    fn wrong(&self) -> Option<String> {
        match self {
            Self::Microvm(options) => options.wrong(),
            Self::Probe(options) => options.wrong(),
            Self::Host(options) => options.wrong(),
            Self::Test(options) => options.wrong(),
            Self::Fuzz(options) => options.wrong(),
            Self::Bench(options) => options.wrong(),
            Self::PtdumpProof(_)
            | Self::PtdumpPictures(_)
            | Self::Mutants(_)
            | Self::Api(_)
            | Self::Hosts(_)
            | Self::Gdb => None,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Before anything is built or fetched.
    if let Some(wrong) = cli.command.wrong() {
        Cli::command().error(ErrorKind::ValueValidation, wrong).exit();
    }
    match run(cli) {
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
        Command::Hosts(options) => hosts::run(&xtask, &options).map(|()| ExitCode::SUCCESS),
        Command::PtdumpProof(options) => {
            ptdump_proof::run(&xtask, &options).map(|()| ExitCode::SUCCESS)
        }
        Command::Gdb => gdb::run(&xtask).map(|()| ExitCode::SUCCESS),
        Command::PtdumpPictures(options) => {
            ptdump_pictures::run(&xtask, &options).map(|()| ExitCode::SUCCESS)
        }
        Command::Api(options) => api::run(&xtask, options).map(|()| ExitCode::SUCCESS),
        Command::Test(options) => test::run(&xtask, &options),
        Command::Bench(options) => bench::run(&xtask, &options).map(|()| ExitCode::SUCCESS),
        Command::Fuzz(options) => fuzz::run(&xtask, &options).map(|()| ExitCode::SUCCESS),
        Command::Mutants(options) => mutants::run(&xtask, &options).map(|()| ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What cargo would be told to do, and whether it is right.
    #[test]
    fn arguments_are_judged_before_anything_else() {
        let rows = [
            ("probe --mmu radix --stage2", true),
            ("probe --mmu foo", false),
            ("probe --mmu hash --stage2", false),
            ("probe --arch x86 --mmu radix", false),
            ("probe --stage2 -- --only 3", false),
            ("probe --cases 0", false),
            ("probe --arch riscv64 --sim spike", true),
            ("probe --arch riscv64 --stage2", false),
            ("probe --sim qemu", false),
            ("probe --release sid", false),
            ("mutants --shard 2/3", true),
            ("mutants --shard 9/3", false),
            ("mutants --shard 3", false),
            ("mutants --package examples", false),
            ("microvm --cpus 2 --linux", true),
            ("microvm --cpus 0 --linux", false),
            ("microvm --cpus 2", false),
            ("microvm --memory 64 --linux", false),
            ("microvm --limit 0 --linux", false),
            ("microvm --linux --arch x86 --cpus 2", false),
            ("microvm --linux --arch x86 --mmu hash", false),
            ("microvm --arch riscv64", true),
            ("microvm --linux --arch riscv64", false),
            ("microvm --linux --arch aarch64 --cpus 2", true),
            ("microvm --linux --arch aarch64 --mmu hash", false),
            ("microvm --smp 0", false),
            ("microvm --host-memory 512", false),
            ("microvm --timeout 0", false),
            ("microvm --file /nowhere", false),
            ("microvm --host power10-lpar", true),
            ("microvm --host power10-lpar --host-kernel 6.12-4k", true),
            ("microvm --host power10-lpar --host-kernel 6.1", false),
            ("microvm --host power10-lpar-v1 --host-kernel 6.1", true),
            ("microvm --host power10-lpar --hash", false),
            ("microvm --linux --host power10-lpar --mmu hash", false),
            ("microvm --linux --host power10 --mmu hash", true),
            ("microvm --arch x86 --host power10", false),
            ("microvm --host power8", false),
            ("probe --mmu hash --host power10", true),
            ("probe --mmu hash --host power11-lpar", false),
            ("probe --stage2 --host power10", false),
            ("host /nowhere", false),
            ("hosts --host power9 --host power10-lpar --only radix --record", true),
            ("hosts --only nothing", false),
            ("test --quick fmt", true),
            ("test --quick microvm", false),
            ("test fuzzz", false),
            ("fuzz radix_walk --seconds 1 --seed 7", true),
            ("fuzz no_such_target", false),
            ("fuzz --seconds 0", false),
            ("fuzz --seed 0", false),
            ("bench pgtable", true),
            ("bench no-such-bench", false),
            ("ptdump-proof --addresses 0", false),
        ];
        for (line, expected) in rows {
            let words = ["xtask"].into_iter().chain(line.split(' '));
            let parsed = Cli::try_parse_from(words);
            let right = parsed.is_ok_and(|cli| cli.command.wrong().is_none());
            assert_eq!(right, expected, "{line}");
        }
    }

    #[test]
    fn the_command_line_is_of_one_piece() {
        Cli::command().debug_assert();
    }
}
