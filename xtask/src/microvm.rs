//! `cargo xtask microvm`: the microVM example on a POWER9 host.
//!
//! On a POWER machine with KVM it runs right here; elsewhere it is cross-built and runs on an
//! emulated host.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::cargo::cargo;
use crate::debian::ensure_installed;
use crate::emulated_host::{self, EmulatedHost, Machine};
use crate::ppc64le::{self, Toolchain};
use crate::xtask::Xtask;

const PROGRAM: &str = "microvm";

/// What may be asked for on the command line.
#[derive(Args, Default)]
pub struct Options {
    #[command(flatten)]
    machine: Machine,
    /// A file to put into the microVM’s working folder on the emulated host; may be repeated
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Arguments of the microVM
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Builds and runs; the microVM’s exit status is ours.
pub fn run(xtask: &Xtask, options: Options) -> Result<u8> {
    let Options { machine, files, arguments } = options;
    if cfg!(target_arch = "powerpc64") {
        return natively(xtask, &arguments);
    }
    // All at once, so that whoever must install them by hand hears of all.
    ensure_installed(&[&ppc64le::C_COMPILER[..], &emulated_host::PACKAGES].concat())?;
    let program = Toolchain::set_up(xtask)?.build_example(xtask, PROGRAM)?;
    EmulatedHost::new(machine, program).arguments(arguments).files(files).run(xtask)
}

fn natively(xtask: &Xtask, arguments: &[String]) -> Result<u8> {
    if !Path::new("/dev/kvm").exists() {
        bail!("this POWER machine has no /dev/kvm: as root, `modprobe kvm_hv`");
    }
    let fixed = ["run", "--release", "--package", "examples", "--bin", PROGRAM, "--"];
    let arguments = fixed.into_iter().chain(arguments.iter().map(String::as_str));
    let output = cargo(xtask, arguments).unchecked().run().context("cargo run")?;
    // A program that a signal ended has no status of its own.
    let status = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Ok(status)
}
