//! Asks an MMU itself whether the software walker is right, on thousands of page tables.
//!
//! The guest of [`examples::guest`] makes one access after the other, each behind tables of its own. What came of it (and
//! what the tables hold afterwards) must be what the walker said, field by field. Which tables, and what there is to compare, is
//! each architecture's own affair: [`ppc64`], `x86`.

mod ppc64;
mod report;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::process::ExitCode;

use clap::Parser;

use report::Report;

/// Compares the software walker with the MMU of the machine that this runs on, on thousands of page tables.
#[derive(Parser)]
struct Options {
    /// Which of the machine's translations
    #[arg(long, value_enum, default_value_t)]
    mmu: ppc64::Mmu,
    /// How many cases
    #[arg(long, value_name = "N", default_value_t = 6000)]
    cases: usize,
    /// What random cases begin from
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    let mut report = Report::default();
    report.fact("seed", seed);
    let result = match std::env::consts::ARCH {
        "powerpc64" => ppc64::run(options.mmu, options.cases, seed, &mut report),
        #[cfg(target_arch = "x86_64")]
        "x86_64" => x86::run(options.cases, seed, &mut report),
        arch => Err(format!("there is no guest for {arch}").into()),
    };
    if report.finish(result) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
