//! A program of `examples/` on a POWER9 host with KVM.
//!
//! On a POWER machine it runs right here; elsewhere it is cross-built and runs on an emulated host.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::cargo::{build_static, run_example as run_here};
use crate::emulated_host::{EmulatedHost, Machine, POWER9, Platform};
use crate::ppc64le::Toolchain;
use crate::toolbox::table::{COMPILERS, LIBRARIES_PPC64EL};
use crate::xtask::Xtask;

/// Builds and runs; the program’s exit status is ours. Machine and files are for the emulated host.
pub fn run_example(
    xtask: &Xtask,
    program: &str,
    arguments: Vec<String>,
    machine: Machine,
    files: Vec<PathBuf>,
) -> Result<u8> {
    if cfg!(target_arch = "powerpc64") {
        return natively(xtask, program, &arguments);
    }
    // All at once, so that what is to be fetched is told of as a whole.
    let Platform { emulator, system, .. } = POWER9;
    xtask.toolbox.set_up(&[&COMPILERS, &LIBRARIES_PPC64EL, emulator, system])?;
    let program = build(xtask, program)?;
    EmulatedHost::new(&POWER9, machine, program).arguments(arguments).files(files).run(xtask)
}

/// Builds the release form, linked statically: neither the emulated host nor a guest has libraries.
pub fn build(xtask: &Xtask, program: &str) -> Result<PathBuf> {
    if cfg!(target_arch = "powerpc64") {
        return build_static(xtask, program);
    }
    Toolchain::set_up(xtask)?.build_example(xtask, program)
}

fn natively(xtask: &Xtask, program: &str, arguments: &[String]) -> Result<u8> {
    if !Path::new("/dev/kvm").exists() {
        bail!("this POWER machine has no /dev/kvm: as root, `modprobe kvm_hv`");
    }
    run_here(xtask, program, arguments)
}
