//! Bare AArch64 machines, emulated: no firmware, no kernel, only what a program wrote for them.
//! They try trees of both stages that the library built, on an MMU that the library's authors did
//! not write.
//!
//! The program `probe` writes an image of memory; a hypervisor, assembled here, works through it at
//! EL2; the program judges what the machine left behind.

use anyhow::{Result, bail};

use crate::assemble::assemble;
use crate::bare_qemu::Bare;
use crate::cargo::run_example;
use crate::qemu::Qemu;
use crate::report;
use crate::toolbox::table::QEMU_ARM;
use crate::xtask::Xtask;

const HYPERVISOR: &str = "examples/probe/src/aarch64/hypervisor.S";
/// Where the image stands: agreed with the program.
const IMAGE: u64 = 0x5000_0000;
const TARGET: &str = "--target=aarch64-linux-gnu";
/// The processors, by the program's names and by QEMU's.
const PROCESSORS: [(&str, &str); 4] = [
    ("max", "max"),
    ("max-lpa2-off", "max,lpa2=off"),
    ("neoverse-n1", "neoverse-n1"),
    ("cortex-a53", "cortex-a53"),
];

/// Builds, runs, judges, on each processor. The probe’s exit status is ours.
pub fn probe(xtask: &Xtask, stage2: bool, cases: Option<u64>, seed: u64) -> Result<u8> {
    let qemu = Qemu::ask(xtask.toolbox.program(&QEMU_ARM, "qemu-system-aarch64")?)?;
    let folder = tempfile::tempdir()?;
    let firmware = folder.path().join("firmware").display().to_string();
    assemble(xtask, HYPERVISOR, &[TARGET], &firmware)?;
    for (name, processor) in PROCESSORS {
        let file = |part: &str| folder.path().join(format!("{name}-{part}")).display().to_string();
        let (image, seen) = (file("image"), file("seen"));
        let part = |option: &str, path: &str| {
            let seed = seed.to_string();
            let mut arguments = vec![option, path, "--arm-cpu", name, "--seed", &seed];
            arguments.extend(stage2.then_some("--arm-stage2"));
            let mut arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
            let cases = cases.into_iter();
            arguments.extend(cases.flat_map(|cases| ["--cases".to_owned(), cases.to_string()]));
            run_example(xtask, "probe", &arguments)
        };
        if part("--arm-image", &image)? != 0 {
            bail!("the probe wrote no image");
        }
        report::note(&format!("starting a bare AArch64 machine: {name} (QEMU {})", qemu.version));
        let machine = &format!(
            "-machine virt,virtualization=on,gic-version=3 -accel tcg -cpu {processor} -m 1G"
        );
        let (firmware, image) = (firmware.as_str(), image.as_str());
        Bare { qemu: &qemu.program, machine, firmware, image, address: IMAGE }.run(&seen)?;
        let status = part("--arm-seen", &seen)?;
        if status != 0 {
            return Ok(status);
        }
        for file in [image, &seen] {
            std::fs::remove_file(file)?;
        }
    }
    Ok(0)
}
