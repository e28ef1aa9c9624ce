//! POWER: a guest of KVM-HV.

mod radix;

use std::error::Error;

use clap::ValueEnum;

use crate::report::Report;

/// Which translation.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum Mmu {
    /// Radix trees
    #[default]
    Radix,
}

/// Probes.
pub fn run(mmu: Mmu, cases: usize, seed: u64, report: &mut Report) -> Result<(), Box<dyn Error>> {
    match mmu {
        Mmu::Radix => radix::run(cases, seed, report),
    }
}
