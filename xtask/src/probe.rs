//! `cargo xtask probe`: an MMU, and what the software walker says of it, on thousands of page tables.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::Args;

use crate::arch::Arch;
use crate::bare_power;
use crate::emulated_host::Machine;
use crate::xtask::Xtask;

/// What may be asked for on the command line.
#[derive(Args, Default)]
pub struct Options {
    /// Whose MMU is asked
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Which of its translations: on ppc64 `radix` or `hash`
    #[arg(long, value_name = "MMU")]
    mmu: Option<String>,
    /// How many cases
    #[arg(long, value_name = "N")]
    cases: Option<u64>,
    /// What random cases begin from; each run without one takes another and prints it
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Partition-scoped trees (`Gpa → Hpa`), on a bare emulated POWER9
    #[arg(long)]
    stage2: bool,
    #[command(flatten)]
    machine: Machine,
    /// Further arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// As many cases as the program thinks are a quick run, always the same, for each translation that the architecture has.
    pub fn quick(arch: Arch) -> Vec<Self> {
        let options = |mmu: Option<&str>| Self { arch, mmu: mmu.map(str::to_owned), seed: Some(1), ..Self::default() };
        match arch {
            Arch::Ppc64 => {
                let stage2 = Self { stage2: true, ..options(None) };
                vec![options(Some("radix")), options(Some("hash")), stage2]
            }
            Arch::X86 => vec![options(None)],
        }
    }
}

/// Builds and runs; the probe’s exit status is ours.
pub fn run(xtask: &Xtask, options: Options) -> Result<u8> {
    let Options { arch, mmu, cases, seed, stage2, mut machine, arguments: last } = options;
    if stage2 {
        if arch != Arch::Ppc64 || mmu.is_some_and(|mmu| mmu != "radix") || !last.is_empty() {
            bail!("`--stage2` is for radix trees on ppc64, without further arguments");
        }
        return bare_power::probe(xtask, cases, seed.unwrap_or_else(seed_of_now));
    }
    // An emulated host carries out dozens of cases a second, if it has a processor for itself.
    machine.timeout = machine.timeout.max(60 + cases.unwrap_or(0) / CASES_PER_SECOND);
    let mut arguments = Vec::new();
    let given = [("--mmu", mmu), ("--cases", cases.map(|n| n.to_string())), ("--seed", seed.map(|n| n.to_string()))];
    for (name, value) in given {
        arguments.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
    }
    arguments.extend(last);
    arch.run_example(xtask, "probe", arguments, machine, Vec::new())
}

/// So many at least, on a machine that does other things too.
const CASES_PER_SECOND: u64 = 20;

/// Another one each time.
fn seed_of_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}
