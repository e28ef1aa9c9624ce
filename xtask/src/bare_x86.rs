//! Bare x86-64 machines, emulated: no firmware, no kernel, only what a program wrote for them. They try second stages that the library built (nested paging, EPT)
//! on MMUs that the library's authors did not write.
//!
//! The program `probe` writes an image of memory; a hypervisor, assembled here, works through it with SVM or VMX; the program judges what the machine left
//! behind.

use std::path::Path;

use anyhow::{Result, bail};
use duct::cmd;

use crate::cargo::run_example;
use crate::debian::ensure_installed;
use crate::emulated_host::X86_64;
use crate::xtask::Xtask;
use crate::{bare_bochs, bare_qemu, command, report};

const HYPERVISOR: &str = "examples/src/probe/x86_nested/hypervisor.S";
/// Where the image stands: agreed with the program.
const IMAGE: u64 = 0x200_0000;
const MACHINE: &str = "-machine pc -accel tcg -cpu max,vendor=AuthenticAMD -m 512M";
/// The assembler’s package; its program has the same name everywhere.
const ASSEMBLER: &str = if cfg!(target_arch = "x86_64") { "gcc" } else { "gcc-x86-64-linux-gnu" };

/// The machines, by the names that the program knows; those of Bochs with its names for their processors.
const MACHINES: [(&str, Option<&str>); 3] =
    [("qemu", None), ("bochs-svm", Some("ryzen")), ("bochs-vmx", Some("corei7_skylake_x"))];

/// Builds, runs, judges, on each machine. The probe’s exit status is ours.
pub fn probe(xtask: &Xtask, cases: Option<u64>, seed: u64) -> Result<u8> {
    ensure_installed(&[&[ASSEMBLER][..], X86_64.packages, &bare_bochs::PACKAGES].concat())?;
    let folder = tempfile::tempdir()?;
    let firmware = assemble(xtask, folder.path())?;
    for (name, processor) in MACHINES {
        let file = |part: &str| folder.path().join(format!("{name}-{part}")).display().to_string();
        let (image, seen) = (file("image"), file("seen"));
        let part = |option: &str, path: &str| {
            let arguments = [option, path, "--nested-machine", name, "--seed", &seed.to_string()];
            let mut arguments = arguments.map(str::to_owned).to_vec();
            arguments.extend(cases.into_iter().flat_map(|cases| ["--cases".to_owned(), cases.to_string()]));
            run_example(xtask, "probe", &arguments)
        };
        if part("--nested-image", &image)? != 0 {
            bail!("the probe wrote no image");
        }
        let (firmware, image) = (firmware.as_str(), image.as_str());
        match processor {
            None => {
                report::note("starting a bare x86-64 machine of QEMU’s");
                let machine = MACHINE;
                bare_qemu::Bare { qemu: X86_64.qemu, machine, firmware, image, address: IMAGE }.run(&seen)?;
            }
            Some(processor) => {
                report::note(&format!("starting a bare x86-64 machine of Bochs’: {processor}"));
                bare_bochs::Bare { processor, firmware, image, address: IMAGE }.run(folder.path(), &seen)?;
            }
        }
        let status = part("--nested-seen", &seen)?;
        if status != 0 {
            return Ok(status);
        }
    }
    Ok(0)
}

/// The hypervisor as bytes.
fn assemble(xtask: &Xtask, folder: &Path) -> Result<String> {
    let (source, object, firmware) = (xtask.root().join(HYPERVISOR), folder.join("object"), folder.join("firmware"));
    command::quiet("assembling", &cmd!("x86_64-linux-gnu-gcc", "-c", &source, "-o", &object))?;
    let copy = cmd!("x86_64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", &object, &firmware);
    command::quiet("objcopy", &copy)?;
    Ok(firmware.display().to_string())
}
