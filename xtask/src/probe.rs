//! `cargo xtask probe`: an MMU, and what the software walker says of it, on thousands of page
//! tables.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use clap::{Args, value_parser};

use crate::arch::Arch;
use crate::bare_riscv::Simulator;
use crate::emulated_host::{Files, HostKernel, Machine, PowerHost};
use crate::microvm::{Mmu, no_hash};
use crate::xtask::Xtask;
use crate::{bare_arm, bare_power, bare_riscv, bare_x86};

/// What may be asked for on the command line.
#[derive(Args, Default)]
pub struct Options {
    /// Whose MMU is asked
    #[arg(long, value_enum, default_value_t)]
    arch: Arch,
    /// Which of its translations, on ppc64
    #[arg(long, value_enum)]
    mmu: Option<Mmu>,
    /// How many cases
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..))]
    cases: Option<u64>,
    /// What random cases begin from; each run without one takes another and prints it
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Second stages (`Gpa → Hpa`), on bare emulated machines: a POWER9 for partition-scoped trees,
    /// x86-64 with SVM and VMX for nested paging and EPT
    #[arg(long)]
    stage2: bool,
    /// 32-bit and PAE paging of x86, on bare emulated machines
    #[arg(long, conflicts_with = "stage2")]
    legacy: bool,
    /// The simulator of riscv64, if not both: it has one and two stages, on bare machines
    #[arg(long, value_enum)]
    sim: Option<Simulator>,
    #[command(flatten)]
    machine: Machine,
    /// Have the guest go on on this POWER host in the end, with its hashed page table
    #[arg(long, value_name = "HOST", value_enum)]
    to_host: Option<PowerHost>,
    /// The kernel of that host, if not the usual one
    #[arg(long, value_name = "VERSION", value_enum, requires = "to_host")]
    to_host_kernel: Option<HostKernel>,
    /// Further arguments of the program
    #[arg(last = true)]
    arguments: Vec<String>,
}

impl Options {
    /// What is wrong with the options together.
    pub fn wrong(&self) -> Option<String> {
        let Self { arch, mmu, stage2, legacy, sim, machine, arguments, .. } = self;
        if let Some(wrong) = machine.wrong(*arch == Arch::Ppc64) {
            return Some(wrong);
        }
        let host = machine.host.unwrap_or_default();
        if *mmu == Some(Mmu::Hash) && !host.has_hashed_guests() {
            return Some(no_hash(host));
        }
        if let Some(second) = self.second_machine() {
            if *mmu != Some(Mmu::Hash) || *stage2 {
                return Some("--to-host is for guests with --mmu hash".to_owned());
            }
            let host = second.host.unwrap_or_default();
            if let Some(wrong) = second.wrong(true) {
                return Some(format!("--to-host: {wrong}"));
            }
            if !host.has_hashed_guests() {
                return Some(format!("--to-host: {}", no_hash(host)));
            }
        }
        let why = match (arch, mmu) {
            (Arch::X86 | Arch::Riscv64 | Arch::Aarch64, Some(_)) => "--mmu is for ppc64",
            (Arch::X86 | Arch::Ppc64 | Arch::Aarch64, _) if sim.is_some() => "--sim is for riscv64",
            (Arch::Ppc64 | Arch::Riscv64 | Arch::Aarch64, _) if *legacy => "--legacy is for x86",
            (Arch::Riscv64, _) if *stage2 => "riscv64 has both stages without --stage2",
            (Arch::Riscv64, _) if !arguments.is_empty() => "riscv64 takes no further arguments",
            (Arch::Aarch64, _) if !arguments.is_empty() => "aarch64 takes no further arguments",
            (Arch::Ppc64, _) if *stage2 && machine.must_be_emulated() => {
                "--stage2 has a bare POWER9 machine, and no host"
            }
            (Arch::Ppc64, Some(Mmu::Hash)) if *stage2 => "--stage2 is for radix trees",
            _ if (*stage2 || *legacy) && !arguments.is_empty() => {
                "--stage2 and --legacy take no further arguments"
            }
            _ => return None,
        };
        Some(why.to_owned())
    }

    /// The machine on which the guest goes on, if it does.
    fn second_machine(&self) -> Option<Machine> {
        Some(self.machine.with_host(self.to_host?, self.to_host_kernel))
    }

    /// As many cases as the program thinks are a quick run, always the same, for each translation
    /// that the architecture has.
    pub fn quick(arch: Arch) -> Vec<Self> {
        let options = |mmu| Self { arch, mmu, seed: Some(1), ..Self::default() };
        match arch {
            Arch::Ppc64 => {
                vec![options(Some(Mmu::Radix)), options(Some(Mmu::Hash)), Self::second_stages(arch)]
            }
            Arch::X86 | Arch::Riscv64 => vec![options(None)],
            Arch::Aarch64 => vec![options(None), Self::second_stages(arch)],
        }
    }

    /// The same for the architecture's second stages, which need no host.
    pub fn second_stages(arch: Arch) -> Self {
        Self { arch, stage2: true, seed: Some(1), ..Self::default() }
    }

    /// The walker of radix trees against a logical partition.
    pub fn in_a_partition() -> Self {
        let (mmu, machine) = (Some(Mmu::Radix), Machine::of(PowerHost::Power10Lpar));
        Self { mmu, machine, cases: Some(1000), seed: Some(1), ..Self::default() }
    }

    /// A guest with a hashed page table that goes from one POWER host to another.
    pub fn between_hosts() -> Self {
        let (mmu, to_host) = (Some(Mmu::Hash), Some(PowerHost::Power10));
        Self { mmu, to_host, cases: Some(600), seed: Some(1), ..Self::default() }
    }

    /// Quick runs for the modes of x86 that have no 64-bit entries in four levels.
    pub fn legacy() -> Self {
        Self { arch: Arch::X86, legacy: true, seed: Some(1), ..Self::default() }
    }
}

/// Builds and runs; the probe’s exit status is ours.
pub fn run(xtask: &Xtask, mut options: Options) -> Result<u8> {
    let Options { arch, mmu, cases, seed, stage2, legacy, sim, .. } = options;
    let bare_seed = seed.unwrap_or_else(seed_of_now);
    match arch {
        Arch::Ppc64 if stage2 => return bare_power::probe(xtask, cases, bare_seed),
        Arch::X86 if stage2 => return bare_x86::probe(xtask, &bare_x86::NESTED, cases, bare_seed),
        Arch::X86 if legacy => return bare_x86::probe(xtask, &bare_x86::LEGACY, cases, bare_seed),
        Arch::Riscv64 => return bare_riscv::probe(xtask, sim, cases, bare_seed),
        Arch::Aarch64 => return bare_arm::probe(xtask, stage2, cases, bare_seed),
        Arch::Ppc64 | Arch::X86 => {}
    }
    // An emulated host carries out dozens of cases a second, if it has a processor for itself.
    let timeout = &mut options.machine.timeout;
    *timeout = (*timeout).max(60 + cases.unwrap_or(0) / CASES_PER_SECOND);
    let second = options.second_machine();
    let mut arguments = Vec::new();
    let given = [
        ("--mmu", mmu.map(|mmu| mmu.word().to_owned())),
        ("--cases", cases.map(|n| n.to_string())),
        ("--seed", seed.map(|n| n.to_string())),
    ];
    for (name, value) in given {
        arguments.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
    }
    arguments.extend(options.arguments);
    let mut machine = options.machine;
    let Some(second) = second else {
        return arch.run_example(xtask, "probe", arguments, machine, Files::default());
    };
    machine.emulated = true;
    let folder = tempfile::tempdir()?;
    let guest = folder.path().join("guest");
    let with = |option: &str| {
        let more = [option, "guest"].map(str::to_owned);
        arguments.iter().cloned().chain(more).collect()
    };
    let files = Files { fetched: Some(guest.clone()), ..Files::default() };
    let status = arch.run_example(xtask, "probe", with("--leave"), machine, files)?;
    if status != 0 {
        return Ok(status);
    }
    arch.run_example(xtask, "probe", with("--arrive"), second, vec![guest].into())
}

/// So many at least, on a machine that does other things too.
const CASES_PER_SECOND: u64 = 20;

/// Another one each time.
fn seed_of_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_go_to_hosts_that_have_such_guests() {
        use PowerHost::{Power10, Power10Lpar};
        for (mmu, to_host, to_host_kernel, wrong) in [
            (Some(Mmu::Hash), Power10, None, None),
            (Some(Mmu::Hash), Power10, Some(HostKernel::V6_12With4K), None),
            (Some(Mmu::Radix), Power10, None, Some("--mmu hash")),
            (None, Power10, None, Some("--mmu hash")),
            (Some(Mmu::Hash), Power10Lpar, None, Some("radix trees only")),
            (Some(Mmu::Hash), Power10Lpar, Some(HostKernel::V6_1), Some("nested API v2")),
        ] {
            let to_host = Some(to_host);
            let seen = Options { mmu, to_host, to_host_kernel, ..Options::default() }.wrong();
            let is_named = |text: &String| wrong.is_some_and(|words| text.contains(words));
            assert!(seen.as_ref().map_or(wrong.is_none(), is_named), "{to_host:?}: {seen:?}");
        }
        for options in [Options::between_hosts(), Options::in_a_partition()] {
            assert_eq!(options.wrong(), None);
        }
    }
}
