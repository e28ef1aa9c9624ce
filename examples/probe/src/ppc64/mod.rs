//! POWER: a guest of KVM-HV.

mod end;
mod hash;
mod otherwise;
mod radix;
mod stage2;

use std::error::Error;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use kvm_ppc::Kvm;
use kvm_ppc::host::{Host, Translation};
use pgtable_ppc64::radix::{RcPolicy, Strictness};

use crate::Asked;
use crate::report::Report;
use hash::Journey;
use otherwise::Otherwise;
use stage2::Guests;

/// What may be asked for on POWER.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Which of the processor's translations
    #[arg(long, value_enum, default_value_t)]
    mmu: Mmu,
    /// What the walker is to make of radix tables that break the manual's rules
    #[arg(long, value_enum, default_value_t)]
    strictness: OddTables,
    #[command(flatten)]
    journey: Journey,
    /// Write a memory image for a bare machine, to try partition-scoped trees on; needs no POWER
    /// machine
    #[arg(long, value_name = "FILE", conflicts_with = "stage2_seen")]
    stage2_image: Option<PathBuf>,
    /// Judge what the bare machine made of that image; same cases and seed
    #[arg(long, value_name = "FILE")]
    stage2_seen: Option<PathBuf>,
    /// Of a guest's guests: their shadow trees
    #[arg(long)]
    nested: bool,
    /// The version of the QEMU that is the bare machine: it says who sets R and C
    #[arg(long, value_name = "VERSION", default_value = "10.0", value_parser = rc_of_qemu)]
    qemu: RcPolicy,
}

/// Who sets R and C under the QEMU of a version like `7.2` or `10.0.13`.
fn rc_of_qemu(version: &str) -> Result<RcPolicy, String> {
    let mut parts = version.split('.').map(str::parse);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok(RcPolicy::of_qemu(major, minor)),
        _ => Err("a version is two numbers or more, as in 10.0".to_owned()),
    }
}

impl Options {
    fn guests(&self) -> Guests {
        if self.nested { Guests::Nested } else { Guests::Own }
    }

    /// Writes the image for a bare machine, if that is asked for: whatever machine this is.
    pub fn write_image(&self, asked: &Asked) -> Option<Result<(), Box<dyn Error>>> {
        Some(stage2::write(self.stage2_image.as_deref()?, self.guests(), self.qemu, asked))
    }

    /// Judges the image that a bare machine left behind, if that is asked for.
    pub fn judge_image(
        &self,
        asked: &Asked,
        report: &mut Report,
    ) -> Option<Result<(), Box<dyn Error>>> {
        Some(stage2::judge(self.stage2_seen.as_deref()?, self.guests(), self.qemu, asked, report))
    }
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
pub fn run(options: &Options, asked: &Asked, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let strictness = match options.strictness {
        OddTables::Qemu => Strictness::Qemu,
        OddTables::Kvm => Strictness::Kvm,
        OddTables::Strict => Strictness::Strict,
    };
    let host = Host::ask(&Kvm::new()?)?;
    for (name, value) in host.facts() {
        report.fact(name, value);
    }
    Otherwise::describe(&host, report);
    let translation = match options.mmu {
        Mmu::Radix => Translation::Radix,
        Mmu::Hash => Translation::Hash,
    };
    if let Some(refused) = host.refuses(translation) {
        return Err(refused.into());
    }
    match options.mmu {
        Mmu::Radix if !options.journey.is_none() => {
            Err("--leave and --arrive are for guests with hashed page tables".into())
        }
        Mmu::Radix => radix::run(Otherwise::of(&host), strictness, asked, report),
        Mmu::Hash => hash::run(&host, &options.journey, asked, report),
    }
}
