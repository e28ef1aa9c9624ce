//! AArch64 on an MMU that we did not write: QEMU's, as bare `virt` machines of several processors
//! have it.
//!
//! The library builds trees of both stages in an image of memory, reads the registers back as a
//! debugger would, and says of each access at EL0, EL1 or EL2 where it goes, or which abort is
//! taken where, with ESR_ELx, FAR_ELx and HPFAR_EL2; what PAR_EL1 holds after the translation
//! instruction for it; and what the descriptors on the way hold afterwards. In half of the cases
//! one descriptor is changed to something odd. A tiny hypervisor (`hypervisor.S`) makes these
//! accesses at the image; what it leaves behind is compared. The program runs on any machine;
//! `cargo xtask probe --arch aarch64 [--stage2]` runs it, then the machine, then it again.

mod bench;
mod judge;
mod memory;
mod records;
mod scene;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use fastrand::Rng;
use pgtable_aarch64::Processor;

use crate::Asked;
use crate::report::{Ended, Report};
use bench::{Case, Outcome};
use memory::Memory;
use scene::Machine;

/// What may be asked for.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Write a memory image for a bare AArch64 machine, to try trees on; needs no AArch64 machine
    #[arg(long, value_name = "FILE", conflicts_with = "arm_seen")]
    arm_image: Option<PathBuf>,
    /// Judge what the bare machine made of that image; same cases and seed
    #[arg(long, value_name = "FILE")]
    arm_seen: Option<PathBuf>,
    /// Which processor that machine has
    #[arg(long, value_enum, default_value_t)]
    arm_cpu: Cpu,
    /// Second stages, alone and behind first ones
    #[arg(long)]
    arm_stage2: bool,
}

/// QEMU's processors.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Cpu {
    /// All that QEMU has
    #[default]
    Max,
    /// The same without LPA2
    MaxLpa2Off,
    NeoverseN1,
    CortexA53,
}

impl Cpu {
    fn machine(self) -> Machine {
        let max = Processor { tbid: true, ..Processor::MAX };
        let n1 = Processor {
            physical_bits: 48,
            lva: false,
            lpa2: [false; 2],
            lpa2_stage2: [false; 2],
            small_tables: false,
            epan: false,
            e0pd: false,
            fwb: false,
            tbid: false,
            ..max
        };
        let a53 = Processor {
            physical_bits: 40,
            access_flag: false,
            dirty_state: false,
            hierarchical_disable: false,
            xnx: false,
            ..n1
        };
        let processor = match self {
            Self::Max => max,
            Self::MaxLpa2Off => Processor { lpa2: [false; 2], lpa2_stage2: [false; 2], ..max },
            Self::NeoverseN1 => n1,
            Self::CortexA53 => a53,
        };
        let old = matches!(self, Self::CortexA53);
        Machine { processor, k16: !old, vhe: !old, pan: !old }
    }
}

impl Options {
    /// Writes the image for a bare machine, if that is asked for: whatever machine this is.
    pub fn write_image(&self, asked: &Asked) -> Option<Result<(), Box<dyn Error>>> {
        Some(self.write(self.arm_image.as_deref()?, asked))
    }

    /// Judges the image that a bare machine left behind, if that is asked for.
    pub fn judge_image(
        &self,
        asked: &Asked,
        report: &mut Report,
    ) -> Option<Result<(), Box<dyn Error>>> {
        Some(self.judge(self.arm_seen.as_deref()?, asked, report))
    }

    fn write(&self, path: &Path, asked: &Asked) -> Result<(), Box<dyn Error>> {
        let (memory, cases) = self.cases(asked)?;
        let orders: Vec<_> = cases.iter().map(|case| case.order).collect();
        Ok(fs::write(path, records::write(&orders, &memory.used()))?)
    }

    fn judge(&self, path: &Path, asked: &Asked, report: &mut Report) -> Result<(), Box<dyn Error>> {
        let (_, cases) = self.cases(asked)?;
        report.fact("processor", format!("{:?}", self.arm_cpu));
        let (id, answers) = records::read(&fs::read(path)?, cases.len())?;
        let [mmfr0, mmfr1, mmfr2, isar1, isar2] = id;
        let read = Processor::from_id([mmfr0, mmfr1, mmfr2], [isar1, isar2]);
        if read != self.arm_cpu.machine().processor {
            return Err(format!("the ID registers {id:x?} say {read:?}").into());
        }
        for (number, (case, answer)) in cases.iter().zip(answers).enumerate() {
            if asked.only.is_some_and(|only| only != number) {
                continue;
            }
            let differences = case.differences(&answer);
            let mismatch = (!differences.is_empty()).then(|| {
                let list = differences.join("\n            ");
                let what = case.describe();
                format!("{what}\n  case      {number}\n  seen      {answer:x?}\n  differs   {list}")
            });
            let ended = match case.outcome {
                Outcome::Done(_) => Ended::Done,
                Outcome::Nowhere(_) => Ended::NoMemory,
                Outcome::First(_) | Outcome::Second(..) => Ended::Refused,
            };
            report.case(case.kind, ended, mismatch.as_deref());
        }
        Ok(())
    }

    /// Builds the trees and makes the cases, the same for the same seed.
    fn cases(&self, asked: &Asked) -> Result<(Memory, Vec<Case>), Box<dyn Error>> {
        let memory = Memory::new();
        let mut rng = Rng::with_seed(asked.seed);
        let machine = self.arm_cpu.machine();
        let scenes = scene::scenes(&machine, self.arm_stage2, &memory, &mut rng)?;
        let mut cases = Vec::new();
        let count = asked.cases.min(records::room());
        let mut tries = 0;
        while cases.len() < count {
            let scene = &scenes[rng.usize(..scenes.len())];
            cases.extend(bench::case(scene, &memory, &mut rng));
            tries += 1;
            if tries > 100 * count {
                return Err("no cases".into());
            }
        }
        Ok((memory, cases))
    }
}
