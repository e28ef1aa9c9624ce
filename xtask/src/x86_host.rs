//! A program of `examples/` on an x86-64 host with KVM.
//!
//! On an x86-64 machine whose /dev/kvm can be used it runs right here; on one without, on an
//! emulated host.

use std::fs::File;
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::cargo::{build_static, run_example as run_here};
use crate::emulated_host::{EmulatedHost, Files, Machine, X86_64};
use crate::report;
use crate::xtask::Xtask;

/// Whether this machine runs x86-64 guests.
pub fn usable() -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("this machine is no x86-64");
    }
    match File::options().read(true).write(true).open("/dev/kvm") {
        Ok(_) => Ok(()),
        Err(error) => bail!("/dev/kvm is not usable: {error}"),
    }
}

/// Builds and runs; the program’s exit status is ours. Machine and files are for the emulated host.
pub fn run_example(
    xtask: &Xtask,
    program: &str,
    arguments: Vec<String>,
    machine: Machine,
    files: Files,
) -> Result<u8> {
    match usable() {
        Ok(()) if !machine.must_be_emulated() => return run_here(xtask, program, &arguments),
        Ok(()) => {}
        Err(why) => report::note(&format!("{why:#}")),
    }
    let program = build(xtask, program)?;
    EmulatedHost::new(X86_64, machine, program).arguments(arguments).files(files).run(xtask)
}

/// Builds the release form, linked statically: neither the emulated host nor a guest has libraries.
pub fn build(xtask: &Xtask, program: &str) -> Result<PathBuf> {
    if !cfg!(target_arch = "x86_64") {
        bail!("x86-64 programs are built on x86-64 machines only");
    }
    build_static(xtask, program)
}
