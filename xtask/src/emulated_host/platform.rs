//! What kinds of machine can be emulated: POWER9, x86-64 with SVM, and RISC-V with H.

use anyhow::Result;

use crate::qemu::Qemu;
use crate::toolbox::table::{
    QEMU_PPC, QEMU_RISCV, QEMU_X86, SYSTEM_AMD64, SYSTEM_PPC64EL, SYSTEM_RISCV64, Tool,
};
use crate::xtask::Xtask;

/// A kind of machine, and the software that it boots.
#[derive(Debug)]
pub struct Platform {
    /// As a person calls it.
    pub name: &'static str,
    /// The emulator’s program.
    pub qemu: &'static str,
    /// The emulator, with the firmware that it starts the machine with.
    pub emulator: &'static Tool,
    /// What makes the machine: nothing that the firmware doesn’t need.
    pub machine: &'static str,
    /// The device of the kernel’s console.
    pub console: &'static str,
    /// Debian’s kernel and busybox.
    pub system: &'static Tool,
    /// How the kernel image’s file name begins.
    pub image: &'static str,
    /// The kernel’s modules that are KVM.
    pub modules: &'static [&'static str],
}

/// QEMU’s `powernv9`, which emulates the hypervisor mode that KVM needs.
pub const POWER9: Platform = Platform {
    name: "POWER9",
    qemu: "qemu-system-ppc64",
    emulator: &QEMU_PPC,
    // Without the IPMI controller the machine can’t power itself off: the firmware asks that.
    machine: "-machine powernv9 -cpu POWER9 -device ipmi-bmc-sim,id=bmc0 -device isa-ipmi-bt,bmc=bmc0,irq=10",
    console: "hvc0",
    system: &SYSTEM_PPC64EL,
    image: "vmlinux-",
    modules: &["kvm", "kvm-hv"],
};

/// QEMU’s q35 with a CPU that has everything that QEMU can do in software: SVM and nested paging,
/// which KVM needs, and 1-GiB pages, LA57, SMEP, SMAP and protection keys, which guests then have
/// too.
pub const X86_64: Platform = Platform {
    name: "x86-64",
    qemu: "qemu-system-x86_64",
    emulator: &QEMU_X86,
    machine: "-machine q35 -accel tcg -cpu max,vendor=AuthenticAMD",
    console: "ttyS0",
    system: &SYSTEM_AMD64,
    image: "vmlinuz-",
    modules: &["kvm", "kvm-amd"],
};

/// QEMU’s `virt` with the hypervisor extension, and what translation has besides.
pub const RISCV64: Platform = Platform {
    name: "RISC-V",
    qemu: "qemu-system-riscv64",
    emulator: &QEMU_RISCV,
    machine: "-machine virt -accel tcg -cpu rv64,h=true,svnapot=true,svpbmt=true,svadu=true",
    console: "ttyS0",
    system: &SYSTEM_RISCV64,
    image: "vmlinux-",
    modules: &["kvm"],
};

impl Platform {
    /// The emulator, asked for its version; fetches what is missing.
    pub fn qemu(&self, xtask: &Xtask) -> Result<Qemu> {
        Qemu::ask(xtask.toolbox.program(self.emulator, self.qemu)?)
    }
}
