//! A bare POWER9 machine, emulated: no firmware, no kernel, only what a program wrote for it. It
//! tries partition-scoped trees that the library built on an MMU that the library's authors did not
//! write.
//!
//! The program `probe` writes an image of memory; a hypervisor of a hundred instructions, assembled
//! here, works through it on the machine's MMU; the program judges what the machine left behind.

use std::path::Path;

use anyhow::{Result, bail};
use duct::cmd;

use crate::bare_qemu::Bare;
use crate::cargo::run_example;
use crate::command;
use crate::debian::ensure_installed;
use crate::emulated_host::POWER9;
use crate::ppc64le::C_COMPILER;
use crate::report;
use crate::xtask::Xtask;

const HYPERVISOR: &str = "examples/src/probe/ppc64/stage2/hypervisor.S";
/// Where the image stands: agreed with the program.
const IMAGE: u64 = 0x200_0000;
/// Without the IPMI controller QEMU warns that the machine cannot be switched off.
const MACHINE: &str = "-M powernv9 -cpu POWER9 -m 1G -device ipmi-bmc-sim,id=bmc0 -device isa-ipmi-bt,bmc=bmc0,irq=10";

/// Builds, runs, judges; with small pages, then with large ones. The probe’s exit status is ours.
pub fn probe(xtask: &Xtask, cases: Option<u64>, seed: u64) -> Result<u8> {
    ensure_installed(&[&C_COMPILER[..], POWER9.packages].concat())?;
    let folder = tempfile::tempdir()?;
    let firmware = assemble(xtask, folder.path())?;
    for seed in [seed & !1, seed | 1] {
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (image, seen) = (file("image"), file("seen"));
        let part = |option: &str, path: &str| {
            let mut arguments =
                [option, path, "--seed", &seed.to_string()].map(str::to_owned).to_vec();
            arguments.extend(
                cases.into_iter().flat_map(|cases| ["--cases".to_owned(), cases.to_string()]),
            );
            run_example(xtask, "probe", &arguments)
        };
        if part("--stage2-image", &image)? != 0 {
            bail!("the probe wrote no image");
        }
        report::note("starting a bare POWER9 machine");
        Bare {
            qemu: POWER9.qemu,
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

/// The hypervisor as bytes.
fn assemble(xtask: &Xtask, folder: &Path) -> Result<String> {
    let (source, object, firmware) =
        (xtask.root().join(HYPERVISOR), folder.join("object"), folder.join("firmware"));
    let compile = cmd!(
        "powerpc64le-linux-gnu-gcc",
        "-mbig-endian",
        "-mcpu=power9",
        "-c",
        &source,
        "-o",
        &object
    );
    command::quiet("assembling", &compile)?;
    let copy =
        cmd!("powerpc64le-linux-gnu-objcopy", "-O", "binary", "-j", ".text", &object, &firmware);
    command::quiet("objcopy", &copy)?;
    Ok(firmware.display().to_string())
}
