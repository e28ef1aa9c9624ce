//! What kinds of machine can be emulated: POWER9, and x86-64 with SVM.

/// A kind of machine, and the software that it boots.
#[derive(Debug)]
pub struct Platform {
    /// As a person calls it.
    pub name: &'static str,
    /// The emulator’s program.
    pub qemu: &'static str,
    /// The Debian packages of the emulator, and of the firmware that it starts the machine with.
    pub packages: &'static [&'static str],
    /// What makes the machine: nothing that the firmware doesn’t need.
    pub machine: &'static str,
    /// The device of the kernel’s console.
    pub console: &'static str,
    /// Debian’s name for the architecture.
    pub architecture: &'static str,
    /// The package that stands for whichever kernel the release has now.
    pub kernel: &'static str,
    /// How the kernel image’s file name begins.
    pub image: &'static str,
    /// The kernel’s modules that are KVM.
    pub modules: &'static [&'static str],
    /// The name under which the unpacked software is kept.
    pub kept: &'static str,
}

/// QEMU’s `powernv9`, which emulates the hypervisor mode that KVM needs.
pub const POWER9: Platform = Platform {
    name: "POWER9",
    qemu: "qemu-system-ppc64",
    packages: &["qemu-system-ppc", "qemu-system-data"],
    // Without the IPMI controller the machine can’t power itself off: the firmware asks that.
    machine: "-machine powernv9 -cpu POWER9 -device ipmi-bmc-sim,id=bmc0 -device isa-ipmi-bt,bmc=bmc0,irq=10",
    console: "hvc0",
    architecture: "ppc64el",
    kernel: "linux-image-powerpc64le",
    image: "vmlinux-",
    modules: &["kvm", "kvm-hv"],
    kept: "host-system",
};

/// QEMU’s q35 with a CPU that has everything that QEMU can do in software: SVM and nested paging,
/// which KVM needs, and 1-GiB pages, LA57, SMEP, SMAP and protection keys, which guests then have
/// too.
pub const X86_64: Platform = Platform {
    name: "x86-64",
    qemu: "qemu-system-x86_64",
    packages: &["qemu-system-x86"],
    machine: "-machine q35 -accel tcg -cpu max,vendor=AuthenticAMD",
    console: "ttyS0",
    architecture: "amd64",
    kernel: "linux-image-amd64",
    image: "vmlinuz-",
    modules: &["kvm", "kvm-amd"],
    kept: "host-system-x86-64",
};
