//! Asks an MMU itself whether the software walker is right, on thousands of page tables.
//!
//! The guest of [`probe_guest`] makes one access after the other, each behind tables of its
//! own. What came of it (and what the tables hold afterwards) must be what the walker said, field
//! by field. Which tables, and what there is to compare, is each architecture's own affair:
//! [`aarch64`], [`ppc64`], `x86`, [`x86_legacy`], [`x86_nested`], [`riscv64`].

mod aarch64;
mod ppc64;
mod report;
mod riscv64;
#[cfg(target_arch = "x86_64")]
mod x86;
mod x86_legacy;
mod x86_nested;

use std::process::ExitCode;

use clap::Parser;

use report::Report;

/// Compares the software walker with the MMU of the machine that this runs on, on thousands of page
/// tables.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    ppc64: ppc64::Options,
    #[command(flatten)]
    nested: x86_nested::Options,
    #[command(flatten)]
    legacy: x86_legacy::Options,
    #[command(flatten)]
    riscv64: riscv64::Options,
    #[command(flatten)]
    aarch64: aarch64::Options,
    /// How many cases
    #[arg(long, value_name = "N", default_value_t = 6000)]
    cases: usize,
    /// What random cases begin from
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only the case with this number
    #[arg(long, value_name = "NUMBER")]
    only: Option<usize>,
    /// Print each case before it is carried out (POWER): where a host hangs, the last one says why
    #[arg(long)]
    trace: bool,
}

/// Which cases are asked for.
struct Asked {
    /// How many.
    cases: usize,
    /// What random ones begin from.
    seed: u64,
    /// If only one of them is to be carried out, its number.
    only: Option<usize>,
    /// Whether each is printed before it is carried out.
    trace: bool,
}

fn main() -> ExitCode {
    let Options { ppc64, nested, legacy, riscv64, aarch64, cases, seed, only, trace } =
        Options::parse();
    let asked = Asked { cases, seed: seed.unwrap_or_else(|| fastrand::u64(..)), only, trace };
    let mut report = Report::default();
    let written = ppc64
        .write_image(&asked)
        .or_else(|| nested.write_image(&asked))
        .or_else(|| legacy.write_image(&asked))
        .or_else(|| riscv64.write_image(&asked))
        .or_else(|| aarch64.write_image(&asked));
    if let Some(written) = written {
        return match written {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("probe: {error}");
                ExitCode::FAILURE
            }
        };
    }
    report.fact("seed", asked.seed);
    let judged = ppc64
        .judge_image(&asked, &mut report)
        .or_else(|| nested.judge_image(&asked, &mut report))
        .or_else(|| legacy.judge_image(&asked, &mut report))
        .or_else(|| riscv64.judge_image(&asked, &mut report))
        .or_else(|| aarch64.judge_image(&asked, &mut report));
    let result = match (judged, std::env::consts::ARCH) {
        (Some(judged), _) => judged,
        (None, "powerpc64") => ppc64::run(&ppc64, &asked, &mut report),
        #[cfg(target_arch = "x86_64")]
        (None, "x86_64") => x86::run(&asked, &mut report),
        (None, arch) => Err(format!("there is no guest for {arch}").into()),
    };
    if report.finish(result) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// Options that collide are found when the program is built for debugging only.
    #[test]
    fn options_do_not_collide() {
        Options::command().debug_assert();
    }
}
