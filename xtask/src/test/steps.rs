//! The steps of `cargo xtask test`, cheap ones first.

use anyhow::{Result, bail};

use super::{claims, examples, loom, no_std, package, verbs, width};
use crate::arch::Arch;
use crate::cargo::cargo;
use crate::emulated_host::PowerHost;
use crate::microvm::{LinuxOptions, Mmu};
use crate::ppc64le::Toolchain;
use crate::toolbox::table::{
    BOCHS, COMPILERS, GDB, LIBRARIES_ARM64, LIBRARIES_PPC64EL, LIBRARIES_RISCV64, MAKE, QEMU_ARM,
    QEMU_PPC, QEMU_RISCV, QEMU_USER, QEMU_X86, RUST_TRIXIE, SPIKE, SYSTEM_ARM64, SYSTEM_PPC64EL,
    SYSTEM_PPC64EL_6_12, SYSTEM_RISCV64, Tool, VALGRIND,
};
use crate::xtask::{POWER_BUILT, POWER_TESTED, Xtask};
use crate::{api, bench, command, fuzz, gdb, microvm, probe, report, x86_host};

/// What programs for POWER are built with.
const POWER_LIBRARIES: &[&Tool] = &[&COMPILERS, &LIBRARIES_PPC64EL];
/// The same, and what they are tested with.
const POWER_TESTS: &[&Tool] = &[&COMPILERS, &LIBRARIES_PPC64EL, &QEMU_USER];
/// What an emulated POWER host is made of, and programs for it.
const POWER_HOST: &[&Tool] = &[&COMPILERS, &LIBRARIES_PPC64EL, &QEMU_PPC, &SYSTEM_PPC64EL];
/// The same, and what a logical partition boots.
const POWER_HOSTS: &[&Tool] =
    &[&COMPILERS, &LIBRARIES_PPC64EL, &QEMU_PPC, &SYSTEM_PPC64EL, &SYSTEM_PPC64EL_6_12];
/// What emulated POWER hosts are made of, and what second stages of x86 are tried on.
const PROBE: &[&Tool] = &[
    &COMPILERS,
    &LIBRARIES_PPC64EL,
    &QEMU_PPC,
    &SYSTEM_PPC64EL,
    &SYSTEM_PPC64EL_6_12,
    &QEMU_X86,
    &BOCHS,
];

/// What RISC-V trees are tried on, what an emulated RISC-V host is made of, and programs for it.
const RISCV64: &[&Tool] =
    &[&COMPILERS, &QEMU_RISCV, &SPIKE, &RUST_TRIXIE, &LIBRARIES_RISCV64, &SYSTEM_RISCV64];

/// What AArch64 trees are tried on, what an emulated AArch64 host is made of, and programs for it.
const AARCH64: &[&Tool] = &[&COMPILERS, &LIBRARIES_ARM64, &QEMU_ARM, &SYSTEM_ARM64];

/// One thing that must hold.
#[derive(Clone, Copy)]
pub struct Step {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it shows, in a line.
    pub about: &'static str,
    /// Whether it runs on an emulated processor: slower, and more to set up.
    pub emulated: bool,
    /// The CPU time that it takes from nothing but fetched tools and crates: it fails at its
    /// double.
    pub cpu_seconds: u64,
    /// What it takes from the toolbox.
    pub tools: &'static [&'static Tool],
    /// Does it.
    pub run: fn(&Xtask) -> Result<()>,
}

/// All steps, in the order in which they run.
pub const STEPS: &[Step] = &[
    Step {
        name: "fmt",
        about: "the code is formatted, in columns; what documents name exists; verbs have examples",
        emulated: false,
        cpu_seconds: 20,
        tools: &[],
        run: fmt,
    },
    Step {
        name: "clippy",
        about: "no lint fires, in any target of the workspace",
        emulated: false,
        cpu_seconds: 120,
        tools: &[],
        run: clippy,
    },
    Step {
        name: "doc",
        about: "the documentation builds without a warning",
        emulated: false,
        cpu_seconds: 60,
        tools: &[],
        run: doc,
    },
    Step {
        name: "test",
        about: "all tests of the workspace, on this machine",
        emulated: false,
        cpu_seconds: 900,
        tools: POWER_LIBRARIES,
        run: test,
    },
    Step {
        name: "loom",
        about: "model checks: every interleaving of small cases",
        emulated: false,
        cpu_seconds: 130,
        tools: &[],
        run: loom::run,
    },
    Step {
        name: "fuzz",
        about: "the corpora of all fuzz targets replay, and each target runs for a moment",
        emulated: false,
        cpu_seconds: 320,
        tools: &[],
        run: fuzz::check,
    },
    Step {
        name: "no-std",
        about: "the libraries build where no std is",
        emulated: false,
        cpu_seconds: 30,
        tools: &[],
        run: no_std::run,
    },
    Step {
        name: "examples",
        about: "each of the libraries' examples runs to its end",
        emulated: false,
        cpu_seconds: 200,
        tools: &[],
        run: examples::run,
    },
    Step {
        name: "package",
        about: "each library builds from its package, with README and licences; what is under it may be used",
        emulated: false,
        cpu_seconds: 60,
        tools: &[],
        run: package::run,
    },
    Step {
        name: "api",
        about: "what the libraries make public is what public-api/ says",
        emulated: false,
        cpu_seconds: 60,
        tools: POWER_LIBRARIES,
        run: api::check,
    },
    Step {
        name: "benches",
        about: "the bench packages build, and no lint fires",
        emulated: false,
        cpu_seconds: 160,
        tools: &[&MAKE],
        run: benches,
    },
    Step {
        name: "instructions",
        about: "no operation takes more instructions or cache lines than on record",
        emulated: false,
        cpu_seconds: 110,
        tools: &[&VALGRIND],
        run: bench::counts,
    },
    Step {
        name: "x86",
        about: "x86-64 microVM and probe, and a guest that gdb debugs, where /dev/kvm is usable",
        emulated: false,
        cpu_seconds: 130,
        tools: &[&GDB],
        run: x86,
    },
    Step {
        name: "ppc64le",
        about: "all packages by the oldest supported rustc; as POWER code, what depends on it",
        emulated: true,
        cpu_seconds: 550,
        tools: POWER_TESTS,
        run: ppc64le,
    },
    Step {
        name: "microvm",
        about: "the microVM under KVM on a POWER9 host, and in a POWER10 logical partition",
        emulated: true,
        cpu_seconds: 150,
        tools: POWER_HOSTS,
        run: microvm,
    },
    Step {
        name: "linux",
        about: "Linux guests on a POWER9 host, whose tables agree with what they say of them",
        emulated: true,
        cpu_seconds: 400,
        tools: POWER_HOST,
        run: linux,
    },
    Step {
        name: "probe",
        about: "the software walkers and hypercalls against POWER hosts, second stages against bare machines",
        emulated: true,
        cpu_seconds: 360,
        tools: PROBE,
        run: probe,
    },
    Step {
        name: "riscv64",
        about: "RISC-V trees against bare harts of QEMU and of Spike, the microVM on a RISC-V host",
        emulated: true,
        cpu_seconds: 350,
        tools: RISCV64,
        run: riscv64,
    },
    Step {
        name: "aarch64",
        about: "AArch64 trees against bare machines with four processors; the microVM, and Linux in it, on an AArch64 host",
        emulated: true,
        cpu_seconds: 190,
        tools: AARCH64,
        run: aarch64,
    },
];

fn fmt(xtask: &Xtask) -> Result<()> {
    for manifest in xtask.workspaces()? {
        let manifest = manifest.to_string_lossy();
        let format = ["fmt", "--all", "--check", "--manifest-path", &manifest];
        command::stream(&format!("cargo fmt of {manifest}"), &cargo(xtask, format))?;
    }
    width::check(xtask.root())?;
    claims::check(xtask.root())?;
    verbs::check(xtask.root())
}

fn clippy(xtask: &Xtask) -> Result<()> {
    let clippy =
        ["clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    command::stream("cargo clippy", &cargo(xtask, clippy))
}

fn doc(xtask: &Xtask) -> Result<()> {
    let doc = ["doc", "--workspace", "--no-deps", "--all-features"];
    command::stream("cargo doc", &cargo(xtask, doc).env("RUSTDOCFLAGS", "-D warnings"))
}

fn test(xtask: &Xtask) -> Result<()> {
    // Some tests ask the cross compiler whether the kernel’s headers agree with our numbers.
    let test = cargo(xtask, ["test", "--workspace", "--all-features"]);
    command::stream("cargo test", &Toolchain::set_up(xtask)?.with_headers(&test))
}

fn benches(xtask: &Xtask) -> Result<()> {
    bench::check(xtask)
}

/// A part of the random cases, in percent: an emulated processor takes ten times as long.
const CASES: u32 = 10;

/// Shows what differs on POWER: atomics, inline assembly, pages of 64 KiB, the KVM ABI. All other
/// packages are compiled only, two large programs of tests are left out, and fewer random cases are
/// run: what they try is portable, and the step `test` tries it. The byte order is this machine's
/// too (POWER LE); tables in the other order have their own tests.
fn ppc64le(xtask: &Xtask) -> Result<()> {
    let power = Toolchain::set_up(xtask)?;
    power.check(xtask, &POWER_BUILT)?;
    if cfg!(target_arch = "powerpc64") {
        report::note("this is a POWER machine: the step `test` has run the tests");
        return Ok(());
    }
    power.test(xtask, &POWER_TESTED, CASES)
}

fn microvm(xtask: &Xtask) -> Result<()> {
    let usual = microvm::Options::of(Arch::Ppc64);
    let moved = microvm::Options::migrated();
    for options in [usual, moved, microvm::Options::on(PowerHost::Power10Lpar)] {
        succeeds("the microVM", microvm::run(xtask, options)?)?;
    }
    Ok(())
}

/// Radix with two CPUs, a hashed page table; then one that panics and one that hangs, which must be
/// noticed.
fn linux(xtask: &Xtask) -> Result<()> {
    let guests = [
        LinuxOptions::introspect(Mmu::Radix, 2),
        LinuxOptions::introspect(Mmu::Hash, 1),
        LinuxOptions::panic(),
        LinuxOptions::hang(),
    ];
    for guest in guests {
        succeeds("the microVM", microvm::run(xtask, microvm::Options::linux(Arch::Ppc64, guest))?)?;
    }
    Ok(())
}

fn probe(xtask: &Xtask) -> Result<()> {
    probe_all(xtask, Arch::Ppc64)?;
    for options in [probe::Options::in_a_partition(), probe::Options::between_hosts()] {
        succeeds("the probe", probe::run(xtask, options)?)?;
    }
    succeeds("the probe", probe::run(xtask, probe::Options::second_stages(Arch::X86))?)?;
    succeeds("the probe", probe::run(xtask, probe::Options::legacy())?)
}

fn aarch64(xtask: &Xtask) -> Result<()> {
    probe_all(xtask, Arch::Aarch64)?;
    succeeds("the microVM", microvm::run(xtask, microvm::Options::of(Arch::Aarch64))?)?;
    let guest = LinuxOptions::introspect(Mmu::Radix, 1);
    succeeds("the microVM", microvm::run(xtask, microvm::Options::linux(Arch::Aarch64, guest))?)
}

fn riscv64(xtask: &Xtask) -> Result<()> {
    probe_all(xtask, Arch::Riscv64)?;
    succeeds("the microVM", microvm::run(xtask, microvm::Options::of(Arch::Riscv64))?)
}

fn probe_all(xtask: &Xtask, arch: Arch) -> Result<()> {
    let mut all = probe::Options::quick(arch).into_iter();
    all.try_for_each(|options| succeeds("the probe", probe::run(xtask, options)?))
}

/// The x86-64 microVM, the x86-64 probe, and a guest that gdb debugs: a few seconds on a host with
/// KVM. Nothing is emulated here.
fn x86(xtask: &Xtask) -> Result<()> {
    if let Err(why) = x86_host::usable() {
        report::note(&format!("SKIPPED, nothing of x86-64 guests was tested: {why:#}"));
        return Ok(());
    }
    succeeds("the microVM", microvm::run(xtask, microvm::Options::of(Arch::X86))?)?;
    probe_all(xtask, Arch::X86)?;
    gdb::run(xtask)
}

fn succeeds(program: &str, status: u8) -> Result<()> {
    if status != 0 {
        bail!("the exit status of {program} is {status}");
    }
    Ok(())
}
