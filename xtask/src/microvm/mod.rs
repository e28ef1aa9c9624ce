//! `cargo xtask microvm`: the microVM example on a host with KVM, with a guest of its own or with
//! Linux.

mod linux;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::arch::Arch;
use crate::emulated_host::{Machine, PowerHost, not_there};
use crate::xtask::Xtask;
pub use linux::{Mmu, Options as LinuxOptions, no_hash};

/// What may be asked for on the command line.
#[derive(Args, Default)]
pub struct Options {
    /// Whose guest is run
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Have the guest go on in another VM, while it runs (POWER)
    #[arg(long, conflicts_with = "linux-guest")]
    migrate: bool,
    #[command(flatten)]
    linux: LinuxOptions,
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
    /// What is wrong with the options together.
    pub fn wrong(&self) -> Option<String> {
        let machine = self.machine.wrong(self.arch == Arch::Ppc64);
        let linux = || self.linux.wrong(self.arch, &self.machine);
        let migrates = !self.migrate || self.arch == Arch::Ppc64;
        let migrate = || (!migrates).then(|| "--migrate is POWER's".to_owned());
        machine.or_else(linux).or_else(migrate).or_else(|| not_there(&self.files))
    }

    /// The microVM as it is, without arguments.
    pub fn of(arch: Arch) -> Self {
        Self { arch, ..Self::default() }
    }

    /// The microVM as it is, on this emulated host.
    pub fn on(host: PowerHost) -> Self {
        Self { machine: Machine::of(host), ..Self::of(Arch::Ppc64) }
    }

    /// The POWER microVM, moved to another VM.
    pub fn migrated() -> Self {
        Self { migrate: true, ..Self::of(Arch::Ppc64) }
    }

    /// Linux as its guest.
    pub fn linux(arch: Arch, linux: LinuxOptions) -> Self {
        Self { linux, ..Self::of(arch) }
    }
}

/// Builds and runs; the microVM’s exit status is ours.
pub fn run(xtask: &Xtask, options: Options) -> Result<u8> {
    let Options { arch, migrate, linux, mut machine, mut files, mut arguments } = options;
    if migrate {
        arguments.push("--migrate".to_owned());
    }
    machine.emulated |= linux.needs_emulation(arch);
    if linux.wanted() {
        // The guest's own limit ends it first, with more to say.
        machine.timeout = machine.timeout.max(linux.limit(arch) + 60);
    }
    // Lives as long as the run: it holds the guest's root file system.
    let guest = linux.set_up(xtask, arch, &machine)?;
    if let Some(guest) = &guest {
        let here = arch.runs_here(&machine);
        arguments.splice(0..0, guest.arguments(here));
        files.extend(guest.files());
    }
    arch.run_example(xtask, "microvm", arguments, machine, files.into())
}
