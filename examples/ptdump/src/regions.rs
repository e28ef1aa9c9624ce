//! What kernels call the parts of their address space.
//!
//! Sources: Linux `Documentation/arch/x86/x86_64/mm.rst`;
//! `arch/powerpc/include/asm/book3s/64/radix.h` and `hash.h`.

use table_dump::{Arch, Located};

/// First addresses and names, in order.
type Names = &'static [(u64, &'static str)];

/// Four levels. The direct map, vmalloc and vmemmap move with KASLR.
const X86_64: Names = &[
    (0, "lower half"),
    (0xffff_8000_0000_0000, "hypervisor's hole"),
    (0xffff_8800_0000_0000, "LDT of page-table isolation"),
    (0xffff_8880_0000_0000, "direct map"),
    (0xffff_c900_0000_0000, "vmalloc"),
    (0xffff_ea00_0000_0000, "vmemmap"),
    (0xffff_ec00_0000_0000, "KASAN's shadow"),
    (0xffff_fe00_0000_0000, "CPU entry areas"),
    (0xffff_ff00_0000_0000, "espfix stacks"),
    (0xffff_ffef_0000_0000, "EFI runtime services"),
    (0xffff_ffff_8000_0000, "kernel image"),
    (0xffff_ffff_c000_0000, "modules"),
    (0xffff_ffff_ff00_0000, "fixmap"),
    (0xffff_ffff_ff60_0000, "vsyscall"),
];
const X86_64_RANDOM: Names = &[
    (0, "lower half"),
    (0xffff_8000_0000_0000, "hypervisor's hole"),
    (0xffff_8800_0000_0000, "direct map, vmalloc, vmemmap (KASLR)"),
    X86_64[7],
    X86_64[8],
    X86_64[9],
    X86_64[10],
    X86_64[11],
    X86_64[12],
    X86_64[13],
];
/// Five levels.
const X86_64_LA57: Names = &[
    (0, "lower half"),
    (0xff00_0000_0000_0000, "hypervisor's hole"),
    (0xff10_0000_0000_0000, "LDT of page-table isolation"),
    (0xff11_0000_0000_0000, "direct map"),
    (0xffa0_0000_0000_0000, "vmalloc"),
    (0xffd4_0000_0000_0000, "vmemmap"),
    (0xffdf_0000_0000_0000, "KASAN's shadow"),
    X86_64[7],
    X86_64[8],
    X86_64[9],
    X86_64[10],
    X86_64[11],
    X86_64[12],
    X86_64[13],
];
const X86_64_LA57_RANDOM: Names = &[
    (0, "lower half"),
    (0xff00_0000_0000_0000, "hypervisor's hole"),
    (0xff10_0000_0000_0000, "direct map, vmalloc, vmemmap (KASLR)"),
    X86_64[7],
    X86_64[8],
    X86_64[9],
    X86_64[10],
    X86_64[11],
    X86_64[12],
    X86_64[13],
];
/// 32-bit x86 with the usual split of 3 GiB for processes
/// (`arch/x86/include/asm/pgtable_32_areas.h` says where the direct map ends: 128 MiB below the
/// end, or where memory does).
const X86_32: Names = &[
    (0, "process"),
    (0xc000_0000, "direct map, with the kernel's image"),
    (0xf800_0000, "vmalloc, modules, kmap, CPU entry areas"),
    (0xffc0_0000, "fixmap"),
];
const HALVES: Names = &[(0, "lower half"), (1 << 63, "upper half")];
const RADIX: Names = &[
    (0, "process"),
    (0xc000_0000_0000_0000, "linear map"),
    (0xc008_0000_0000_0000, "vmalloc"),
    (0xc00a_0000_0000_0000, "I/O"),
    (0xc00c_0000_0000_0000, "vmemmap"),
];

/// Linux on AArch64 with addresses of 48 or 52 bits, since 5.11 (`Documentation/arch/arm64/`
/// `memory.rst`).
const ARM: Names = &[
    (0, "lower range"),
    (0xfff0_0000_0000_0000, "linear map"),
    (0xffff_8000_0000_0000, "modules, kernel image, vmalloc"),
    (0xffff_fdff_0000_0000, "vmemmap, PCI I/O, fixmap"),
];

/// Linux on RISC-V puts the other regions where its notes say (`Documentation/arch/riscv/`
/// `vm-layout.rst`); the kernel's image is in the last 2 GiB in every mode.
const RISCV: Names = &[
    (0, "lower half"),
    (1 << 63, "fixmap, vmemmap, vmalloc, direct map"),
    (0xffff_ffff_0000_0000, "modules, BPF"),
    (0xffff_ffff_8000_0000, "kernel image"),
];

/// The names of the parts of an address space.
#[derive(Clone, Copy)]
pub struct Regions(Names);

impl Regions {
    /// Those of the kernel whose tables these are; of the two halves if it is not known to be
    /// Linux. What else has parts of its own says so by itself.
    pub fn of(located: &Located) -> Option<Self> {
        // A kernel that was moved by KASLR has moved these regions too, as a rule.
        let moved = located.linux.as_ref().is_some_and(|it| {
            it.get("KERNELOFFSET").is_some_and(|it| !it.trim_matches('0').is_empty())
        });
        let bits = located.linux.as_ref().and_then(|it| it.number("VA_BITS"));
        let wide = bits.is_some_and(|bits| bits >= 48);
        Some(Self(match (located.arch, located.linux.is_some(), moved) {
            (Arch::X86_64 | Arch::X86_64La57, false, _) => HALVES,
            (Arch::X86_64, true, false) => X86_64,
            (Arch::X86_64, true, true) => X86_64_RANDOM,
            (Arch::X86_64La57, true, false) => X86_64_LA57,
            (Arch::X86_64La57, true, true) => X86_64_LA57_RANDOM,
            (Arch::X86_32 | Arch::X86Pae, true, _) if located.kernel_start() == X86_32[1].0 => {
                X86_32
            }
            (Arch::X86_32 | Arch::X86Pae, ..) => return None,
            (Arch::Ppc64Radix, ..) => RADIX,
            (Arch::Aarch64 | Arch::Aarch64Upper, true, _) if wide => ARM,
            (Arch::Aarch64 | Arch::Aarch64Upper, ..) => HALVES,
            (Arch::Riscv64, false, _) => HALVES,
            (Arch::Riscv64, true, _) => RISCV,
            (Arch::Ppc64Hash | Arch::Ept | Arch::Aarch64Stage2 | Arch::Riscv64Guest, ..) => {
                return None;
            }
        }))
    }

    /// The name of the part in which `va` lies.
    pub fn name(self, va: u64) -> &'static str {
        let after = self.0.partition_point(|(start, _)| *start <= va);
        self.0[after.max(1) - 1].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_in_order() {
        for names in [
            X86_64,
            X86_64_RANDOM,
            X86_64_LA57,
            X86_64_LA57_RANDOM,
            X86_32,
            HALVES,
            RADIX,
            ARM,
            RISCV,
        ] {
            assert!(names[0].0 == 0 && names.windows(2).all(|two| two[0].0 < two[1].0));
        }
        let linux = Regions(X86_64);
        for (va, name) in [
            (0x40_0000, "lower half"),
            (0xffff_8880_0000_1000, "direct map"),
            (0xffff_ffff_8100_0000, "kernel image"),
            (0xffff_ffff_c012_3000, "modules"),
            (u64::MAX, "vsyscall"),
        ] {
            assert_eq!(linux.name(va), name, "{va:#x}");
        }
    }
}
