//! Bare RISC-V harts, emulated: no firmware, no kernel, only what a program wrote for them. They
//! try trees of one and of two stages that the library built on the MMUs of two simulators that
//! share no code.
//!
//! The program `probe` writes an image of memory; a hypervisor, assembled here, works through it;
//! the program judges what the machine left behind.

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;

use crate::assemble::assemble;
use crate::bare_qemu;
use crate::bare_spike;
use crate::cargo::run_example;
use crate::emulated_host;
use crate::report;
use crate::toolbox::table::SPIKE;
use crate::xtask::Xtask;

const HYPERVISOR: &str = "examples/probe/src/riscv64/hypervisor.S";
/// Where the hypervisor begins, the word that ends Spike, and where the image stands: agreed with
/// the hypervisor and the program.
const RESET: u64 = 0x8000_0000;
const END: u64 = RESET + 0x1_0000;
const IMAGE: u64 = 0x8200_0000;
/// What the assembler is told of the hart.
const CPU: [&str; 3] = ["--target=riscv64-elf", "-march=rv64gch", "-mno-relax"];

/// With one hart QEMU makes a load and a store of an AMO, each judged by itself.
const QEMU: &str = "-machine virt -accel tcg,thread=multi -smp 2 -m 256M -cpu rv64,h=true,\
                    svnapot=true,svpbmt=true,smnpm=true,ssnpm=true,smmpm=true";
const SPIKE_MACHINE: &str = "-m256 --isa=rv64gch_svnapot_svpbmt_smnpm_ssnpm_smmpm_zicclsm";

/// A machine: bits of addresses that its first and its second stage translate, and who sets A and
/// D.
type Hart = (&'static str, &'static str, Updates);

/// Each format with its like, then the extremes; then a hart whose ADUE cannot be set. (QEMU's hart
/// without both extensions sets A and D but in a guest's own stage: no hart of the manual's.)
const HARTS: [Hart; 6] = [
    ("39", "39", Updates::Adue),
    ("48", "48", Updates::Adue),
    ("57", "57", Updates::Adue),
    ("39", "57", Updates::Adue),
    ("57", "39", Updates::Adue),
    ("39", "39", Updates::Never),
];

/// Who sets A and D: what ADUE says (Svade and Svadu), or software alone (Svade).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Updates {
    Adue,
    Never,
}

impl Updates {
    fn word(self) -> &'static str {
        match self {
            Self::Adue => "adue",
            Self::Never => "never",
        }
    }

    /// The machine that has it so.
    fn machine(self, simulator: Simulator) -> String {
        match (simulator, self) {
            (Simulator::Qemu, Self::Adue) => format!("{QEMU},svadu=true,svade=true"),
            (Simulator::Qemu, Self::Never) => format!("{QEMU},svadu=false,svade=true"),
            (Simulator::Spike, Self::Adue) => format!("{SPIKE_MACHINE}_svade_svadu"),
            (Simulator::Spike, Self::Never) => format!("{SPIKE_MACHINE}_svade"),
        }
    }
}

/// Who simulates the hart.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Simulator {
    Qemu,
    Spike,
}

impl Simulator {
    const ALL: [Self; 2] = [Self::Qemu, Self::Spike];

    fn word(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Spike => "spike",
        }
    }
}

/// Builds, runs, judges, on one simulator or on both. The probe’s exit status is ours.
pub fn probe(xtask: &Xtask, only: Option<Simulator>, cases: Option<u64>, seed: u64) -> Result<u8> {
    let folder = tempfile::tempdir()?;
    let firmware = folder.path().join("firmware").display().to_string();
    assemble(xtask, HYPERVISOR, &CPU, &firmware)?;
    for simulator in Simulator::ALL {
        if only.is_some_and(|only| only != simulator) {
            continue;
        }
        let simulator_name = simulator.word();
        for (first, second, updates) in HARTS {
            let machine = updates.machine(simulator);
            let updates = updates.word();
            let name = format!("{simulator_name}-{first}-{second}-{updates}");
            let file =
                |part: &str| folder.path().join(format!("{name}-{part}")).display().to_string();
            let (image, seen) = (file("image"), file("seen"));
            let part = |option: &str, path: &str| {
                let seed = seed.to_string();
                let mut arguments = vec![option, path, "--riscv-machine", simulator_name];
                arguments.extend(["--riscv-stages", first, second, "--seed", &seed]);
                arguments.extend(["--riscv-updates", updates]);
                let mut arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
                let cases = cases.into_iter();
                arguments.extend(cases.flat_map(|cases| ["--cases".to_owned(), cases.to_string()]));
                run_example(xtask, "probe", &arguments)
            };
            if part("--riscv-image", &image)? != 0 {
                bail!("the probe wrote no image");
            }
            run(xtask, simulator, &machine, &firmware, &image, &seen)?;
            let status = part("--riscv-seen", &seen)?;
            if status != 0 {
                return Ok(status);
            }
            for file in [image, seen] {
                std::fs::remove_file(file)?;
            }
        }
    }
    Ok(0)
}

/// Runs the machine on the image, and saves what it left behind in the file `seen`.
fn run(
    xtask: &Xtask,
    simulator: Simulator,
    machine: &str,
    firmware: &str,
    image: &str,
    seen: &str,
) -> Result<()> {
    match simulator {
        Simulator::Qemu => {
            let qemu = emulated_host::RISCV64.qemu(xtask)?;
            report::note(&format!("starting a bare RISC-V hart (QEMU {})", qemu.version));
            bare_qemu::Bare { qemu: &qemu.program, machine, firmware, image, address: IMAGE }
                .run(seen)
        }
        Simulator::Spike => {
            ensure!(cfg!(target_arch = "x86_64"), "Spike is to be had for x86-64 machines only");
            let spike = xtask.toolbox.program(&SPIKE, "spike")?;
            report::note("starting a bare RISC-V hart (Spike)");
            bare_spike::Bare {
                spike: &spike,
                machine,
                firmware,
                reset: RESET,
                end: END,
                image,
                address: IMAGE,
            }
            .run(xtask, seen)
        }
    }
}
