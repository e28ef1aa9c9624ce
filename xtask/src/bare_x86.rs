//! Bare x86 machines, emulated: no firmware, no kernel, only what a program wrote for them. They
//! try trees that the library built (nested paging, EPT; 32-bit and PAE paging) on MMUs that the
//! library's authors did not write.
//!
//! The program `probe` writes an image of memory; another program, assembled here, works through it
//! (a hypervisor with SVM or VMX; in protected mode); `probe` judges what the machine left behind.

use anyhow::{Result, bail};

use crate::assemble::assemble;
use crate::cargo::run_example;
use crate::emulated_host::X86_64;
use crate::toolbox::table::BOCHS;
use crate::xtask::Xtask;
use crate::{bare_bochs, bare_qemu, report};

/// Where the image stands: agreed with the programs.
const IMAGE: u64 = 0x200_0000;

/// Who emulates a machine, and its name for the processor.
enum Emulator {
    Qemu(&'static str),
    Bochs(&'static str),
}

/// What is tried.
pub struct Trial {
    /// What the options of `probe` begin with.
    name: &'static str,
    /// The program on the machine, and the compiler's target for it.
    program: &'static str,
    target: &'static str,
    /// The machines, by the names that `probe` knows.
    machines: &'static [(&'static str, Emulator)],
}

/// Second stages.
pub const NESTED: Trial = Trial {
    name: "nested",
    program: "examples/probe/src/x86_nested/hypervisor.S",
    target: "--target=x86_64-linux-gnu",
    machines: &[
        ("qemu", Emulator::Qemu("max,vendor=AuthenticAMD")),
        ("qemu-la57", Emulator::Qemu("max,vendor=AuthenticAMD")),
        ("qemu-small", Emulator::Qemu("max,vendor=AuthenticAMD,-pdpe1gb")),
        ("bochs-svm", Emulator::Bochs("ryzen")),
        ("bochs-vmx", Emulator::Bochs("corei7_skylake_x")),
        ("bochs-vmx-small", Emulator::Bochs("corei7_ivy_bridge_3770k")),
    ],
};

/// 32-bit and PAE paging.
pub const LEGACY: Trial = Trial {
    name: "legacy",
    program: "examples/probe/src/x86_legacy/program.S",
    target: "--target=i686-linux-gnu",
    machines: &[
        ("qemu", Emulator::Qemu("max,vendor=GenuineIntel")),
        ("bochs", Emulator::Bochs("corei7_skylake_x")),
        ("bochs-small", Emulator::Bochs("corei7_ivy_bridge_3770k")),
    ],
};

/// Builds, runs, judges, on each machine. The probe’s exit status is ours.
pub fn probe(xtask: &Xtask, trial: &Trial, cases: Option<u64>, seed: u64) -> Result<u8> {
    let Trial { name: trial, program, target, machines } = trial;
    let qemu = X86_64.qemu(xtask)?;
    let bochs = xtask.toolbox.program(&BOCHS, "bochs")?;
    let folder = tempfile::tempdir()?;
    let firmware = folder.path().join("firmware").display().to_string();
    assemble(xtask, program, &[target], &firmware)?;
    for (name, emulator) in *machines {
        let file = |part: &str| folder.path().join(format!("{name}-{part}")).display().to_string();
        let (image, seen) = (file("image"), file("seen"));
        let part = |option: &str, path: &str| {
            let mut arguments = vec![format!("--{trial}-{option}"), path.to_owned()];
            arguments.extend([format!("--{trial}-machine"), (*name).to_owned()]);
            arguments.extend(["--seed".to_owned(), seed.to_string()]);
            arguments.extend(
                cases.into_iter().flat_map(|cases| ["--cases".to_owned(), cases.to_string()]),
            );
            run_example(xtask, "probe", &arguments)
        };
        if part("image", &image)? != 0 {
            bail!("the probe wrote no image");
        }
        let (firmware, image) = (firmware.as_str(), image.as_str());
        match emulator {
            Emulator::Qemu(processor) => {
                report::note(&format!(
                    "starting a bare machine of QEMU’s: {trial} {name} (QEMU {})",
                    qemu.version
                ));
                let machine = &format!("-machine pc -accel tcg -cpu {processor} -m 512M");
                bare_qemu::Bare { qemu: &qemu.program, machine, firmware, image, address: IMAGE }
                    .run(&seen)?;
            }
            Emulator::Bochs(processor) => {
                report::note(&format!("starting a bare machine of Bochs’: {trial} {name}"));
                bare_bochs::Bare { bochs: &bochs, processor, firmware, image, address: IMAGE }
                    .run(folder.path(), &seen)?;
            }
        }
        let status = part("seen", &seen)?;
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}
