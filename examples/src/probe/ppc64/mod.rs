//! POWER: a guest of KVM-HV.

mod end;
mod hash;
mod radix;

use std::error::Error;

use arch_ppc64::radix::Strictness;
use clap::{Args, ValueEnum};

use crate::Asked;
use crate::report::Report;

/// What may be asked for on POWER.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Which of the processor's translations
    #[arg(long, value_enum, default_value_t)]
    mmu: Mmu,
    /// What the walker is to make of radix tables that break the manual's rules
    #[arg(long, value_enum, default_value_t)]
    strictness: OddTables,
}

/// Which translation.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Mmu {
    /// Radix trees
    #[default]
    Radix,
    /// Hashed page tables: hypercalls, translation, migration, resizing
    Hash,
}

/// A [`Strictness`], on the command line.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum OddTables {
    /// What QEMU's MMU makes of them
    #[default]
    Qemu,
    /// What KVM's software walker makes of them
    Kvm,
    /// What the manual makes of them
    Strict,
}

/// Probes.
pub fn run(options: Options, asked: &Asked, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let strictness = match options.strictness {
        OddTables::Qemu => Strictness::Qemu,
        OddTables::Kvm => Strictness::Kvm,
        OddTables::Strict => Strictness::Strict,
    };
    match options.mmu {
        Mmu::Radix => radix::run(strictness, asked, report),
        Mmu::Hash => hash::run(asked, report),
    }
}
