//! What kinds of machine can be emulated: x86-64 with SVM, AArch64 with EL2 and RISC-V with H
//! here, POWER's in [`super::power`].

use anyhow::{Result, bail};

use crate::qemu::Qemu;
use crate::toolbox::table::{
    QEMU_ARM, QEMU_RISCV, QEMU_X86, SYSTEM_AMD64, SYSTEM_ARM64, SYSTEM_ARM64_16K, SYSTEM_I386,
    SYSTEM_I386_PAE, SYSTEM_RISCV64, Tool,
};
use crate::xtask::Xtask;

/// A kind of machine, and the software that it boots.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// As a person calls it.
    pub name: &'static str,
    /// The emulator’s program.
    pub qemu: &'static str,
    /// The emulator, with the firmware that it starts the machine with.
    pub emulator: &'static Tool,
    /// The oldest release of the emulator that has the machine: major and minor number.
    pub oldest_qemu: [u32; 2],
    /// What makes the machine: nothing that the firmware doesn’t need.
    pub machine: &'static str,
    /// The device of the kernel’s console.
    pub console: &'static str,
    /// The kernel, as a person calls it.
    pub kernel: &'static str,
    /// Debian’s kernel and busybox.
    pub system: &'static Tool,
    /// How the kernel image’s file name begins.
    pub image: &'static str,
    /// The kernel’s modules that are KVM.
    pub modules: &'static [&'static str],
}

/// QEMU’s q35 with a CPU that has everything that QEMU can do in software: SVM and nested paging,
/// which KVM needs, and 1-GiB pages, LA57, SMEP, SMAP and protection keys, which guests then have
/// too.
pub const X86_64: Platform = Platform {
    name: "x86-64",
    qemu: "qemu-system-x86_64",
    emulator: &QEMU_X86,
    oldest_qemu: [7, 2],
    machine: "-machine q35 -accel tcg -cpu max,vendor=AuthenticAMD",
    console: "ttyS0",
    kernel: "Linux 6.1",
    system: &SYSTEM_AMD64,
    image: "vmlinuz-",
    modules: &["kvm", "kvm-amd"],
};

/// A PC whose kernel has 32-bit paging.
pub const X86_32: Platform = Platform {
    name: "32-bit x86",
    machine: "-machine pc -accel tcg -cpu max",
    system: &SYSTEM_I386,
    modules: &[],
    ..X86_64
};

/// The same with PAE paging.
pub const X86_PAE: Platform =
    Platform { name: "32-bit x86 with PAE", system: &SYSTEM_I386_PAE, ..X86_32 };

/// QEMU’s `virt` with EL2, and a CPU that has everything that QEMU can do. Its kernel has KVM built
/// in.
pub const AARCH64: Platform = Platform {
    name: "AArch64",
    qemu: "qemu-system-aarch64",
    emulator: &QEMU_ARM,
    oldest_qemu: [7, 2],
    machine: "-machine virt,virtualization=on,gic-version=3 -accel tcg -cpu max",
    console: "ttyAMA0",
    kernel: "Linux 6.12",
    system: &SYSTEM_ARM64,
    image: "vmlinuz-",
    modules: &[],
};

/// The same with a kernel whose pages have 16 KiB.
pub const AARCH64_16K: Platform =
    Platform { kernel: "Linux 6.12, 16-KiB pages", system: &SYSTEM_ARM64_16K, ..AARCH64 };

/// QEMU’s `virt` with the hypervisor extension, and what translation has besides.
pub const RISCV64: Platform = Platform {
    name: "RISC-V",
    qemu: "qemu-system-riscv64",
    emulator: &QEMU_RISCV,
    oldest_qemu: [7, 2],
    machine: "-machine virt -accel tcg -cpu rv64,h=true,svnapot=true,svpbmt=true,svadu=true",
    console: "ttyS0",
    kernel: "Linux 6.12",
    system: &SYSTEM_RISCV64,
    image: "vmlinux-",
    modules: &["kvm"],
};

impl Platform {
    /// The emulator, asked for its version; fetches what is missing.
    ///
    /// # Errors
    /// Its release lacks the machine.
    pub fn qemu(&self, xtask: &Xtask) -> Result<Qemu> {
        let qemu = Qemu::ask(xtask.toolbox.program(self.emulator, self.qemu)?)?;
        let [major, minor] = self.oldest_qemu;
        if qemu.release() < self.oldest_qemu {
            let (name, version) = (self.name, &qemu.version);
            bail!("QEMU {version} has no {name}: QEMU {major}.{minor} or later has");
        }
        Ok(qemu)
    }
}
