//! A bare POWER9 machine, emulated: no firmware, no kernel, only what a program wrote for it. It
//! tries partition-scoped trees that the library built on an MMU that the library's authors did not
//! write.
//!
//! The program `probe` writes an image of memory; a hypervisor of a hundred instructions, assembled
//! here, works through it on the machine's MMU; the program judges what the machine left behind.

use anyhow::{Result, bail};

use crate::assemble::assemble;
use crate::bare_qemu::Bare;
use crate::cargo::run_example;
use crate::emulated_host::PowerHost;
use crate::report;
use crate::xtask::Xtask;

const HYPERVISOR: &str = "examples/probe/src/ppc64/stage2/hypervisor.S";
/// Where the image stands: agreed with the program.
const IMAGE: u64 = 0x200_0000;
/// What the assembler is told of it.
const CPU: [&str; 2] = ["--target=powerpc64-linux-gnu", "-mcpu=pwr9"];
/// Without the IPMI controller QEMU warns that the machine cannot be switched off.
const MACHINE: &str = "-M powernv9 -cpu POWER9 -m 1G -device ipmi-bmc-sim,id=bmc0 -device isa-ipmi-bt,bmc=bmc0,irq=10";

/// Builds, runs, judges; with small pages, then with large ones; trees of guests, then shadows of a
/// guest’s guests. The probe’s exit status is ours.
pub fn probe(xtask: &Xtask, cases: Option<u64>, seed: u64) -> Result<u8> {
    let qemu = PowerHost::Power9.usual().qemu(xtask)?;
    let folder = tempfile::tempdir()?;
    let firmware = folder.path().join("firmware").display().to_string();
    assemble(xtask, HYPERVISOR, &CPU, &firmware)?;
    let (small, large) = (seed & !1, seed | 1);
    for (seed, nested) in [(small, false), (large, false), (small, true), (large, true)] {
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (image, seen) = (file("image"), file("seen"));
        let part = |option: &str, path: &str| {
            let mut arguments =
                [option, path, "--qemu", &qemu.version, "--seed", &seed.to_string()]
                    .map(str::to_owned)
                    .to_vec();
            arguments.extend(nested.then(|| "--nested".to_owned()));
            arguments.extend(
                cases.into_iter().flat_map(|cases| ["--cases".to_owned(), cases.to_string()]),
            );
            run_example(xtask, "probe", &arguments)
        };
        if part("--stage2-image", &image)? != 0 {
            bail!("the probe wrote no image");
        }
        report::note(&format!("starting a bare POWER9 machine (QEMU {})", qemu.version));
        Bare {
            qemu: &qemu.program,
            machine: MACHINE,
            firmware: &firmware,
            image: &image,
            address: IMAGE,
        }
        .run(&seen)?;
        let status = part("--stage2-seen", &seen)?;
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}
