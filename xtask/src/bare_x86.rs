//! Bare x86-64 machines, emulated: no firmware, no kernel, only what a program wrote for them. They
//! try second stages that the library built (nested paging, EPT) on MMUs that the library's authors
//! did not write.
//!
//! The program `probe` writes an image of memory; a hypervisor, assembled here, works through it
//! with SVM or VMX; the program judges what the machine left behind.

use anyhow::{Result, bail};

use crate::assemble::assemble;
use crate::cargo::run_example;
use crate::emulated_host::X86_64;
use crate::toolbox::table::BOCHS;
use crate::xtask::Xtask;
use crate::{bare_bochs, bare_qemu, report};

const HYPERVISOR: &str = "examples/probe/src/x86_nested/hypervisor.S";
/// Where the image stands: agreed with the program.
const IMAGE: u64 = 0x200_0000;

/// Who emulates a machine, and its name for the processor.
enum Emulator {
    Qemu(&'static str),
    Bochs(&'static str),
}

/// The machines, by the names that the program knows.
const MACHINES: [(&str, Emulator); 6] = [
    ("qemu", Emulator::Qemu("max,vendor=AuthenticAMD")),
    ("qemu-la57", Emulator::Qemu("max,vendor=AuthenticAMD")),
    ("qemu-small", Emulator::Qemu("max,vendor=AuthenticAMD,-pdpe1gb")),
    ("bochs-svm", Emulator::Bochs("ryzen")),
    ("bochs-vmx", Emulator::Bochs("corei7_skylake_x")),
    ("bochs-vmx-small", Emulator::Bochs("corei7_ivy_bridge_3770k")),
];

/// Builds, runs, judges, on each machine. The probe’s exit status is ours.
pub fn probe(xtask: &Xtask, cases: Option<u64>, seed: u64) -> Result<u8> {
    let qemu = X86_64.qemu(xtask)?;
    let bochs = xtask.toolbox.program(&BOCHS, "bochs")?;
    let folder = tempfile::tempdir()?;
    let firmware = folder.path().join("firmware").display().to_string();
    assemble(xtask, HYPERVISOR, &["--target=x86_64-linux-gnu"], &firmware)?;
    for (name, emulator) in MACHINES {
        let file = |part: &str| folder.path().join(format!("{name}-{part}")).display().to_string();
        let (image, seen) = (file("image"), file("seen"));
        let part = |option: &str, path: &str| {
            let arguments = [option, path, "--nested-machine", name, "--seed", &seed.to_string()];
            let mut arguments = arguments.map(str::to_owned).to_vec();
            arguments.extend(
                cases.into_iter().flat_map(|cases| ["--cases".to_owned(), cases.to_string()]),
            );
            run_example(xtask, "probe", &arguments)
        };
        if part("--nested-image", &image)? != 0 {
            bail!("the probe wrote no image");
        }
        let (firmware, image) = (firmware.as_str(), image.as_str());
        match emulator {
            Emulator::Qemu(processor) => {
                report::note(&format!(
                    "starting a bare machine of QEMU’s: {name} (QEMU {})",
                    qemu.version
                ));
                let machine = &format!("-machine pc -accel tcg -cpu {processor} -m 512M");
                bare_qemu::Bare { qemu: &qemu.program, machine, firmware, image, address: IMAGE }
                    .run(&seen)?;
            }
            Emulator::Bochs(processor) => {
                report::note(&format!("starting a bare machine of Bochs’: {name}"));
                bare_bochs::Bare { bochs: &bochs, processor, firmware, image, address: IMAGE }
                    .run(folder.path(), &seen)?;
            }
        }
        let status = part("--nested-seen", &seen)?;
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}
