//! What KVM lets a guest's processor have, of what concerns paging: CPUID.

use std::fmt;
use std::io;

use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use pgtable_x86::{Controls, Levels};

/// The features that a guest of this host can use.
///
/// SDM vol. 2, CPUID; APM vol. 3, appendix E. KVM answers for the processor that its guests see,
/// which may be less than the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Execute disable: EFER.NXE (80000001H:EDX.20).
    pub nx: bool,
    /// 1-GiB pages (80000001H:EDX.26).
    pub gib_pages: bool,
    /// 5-level paging: CR4.LA57 (07H:ECX.16).
    pub la57: bool,
    /// CR4.SMEP (07H:EBX.7).
    pub smep: bool,
    /// CR4.SMAP (07H:EBX.20).
    pub smap: bool,
    /// Protection keys for user-mode addresses: CR4.PKE (07H:ECX.3).
    pub pku: bool,
    /// Protection keys for supervisor-mode addresses: CR4.PKS (07H:ECX.31).
    pub pks: bool,
    /// MAXPHYADDR (80000008H:EAX, bits 7:0).
    pub maxphyaddr: u8,
    /// The vendor is AMD, or Hygon, who builds AMD's.
    pub amd: bool,
}

impl Features {
    /// Asks KVM; also returns the leaves, for the vCPU.
    ///
    /// # Errors
    /// The OS error.
    pub fn supported(kvm: &Kvm) -> io::Result<(Self, CpuId)> {
        let cpuid = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        Ok((Self::of(cpuid.as_slice()), cpuid))
    }

    fn of(leaves: &[kvm_cpuid_entry2]) -> Self {
        let leaf = |function| {
            leaves
                .iter()
                .find(|it| it.function == function && it.index == 0)
                .copied()
                .unwrap_or_default()
        };
        let bit = |word: u32, bit: u32| word >> bit & 1 != 0;
        let (vendor, structured) = (leaf(0), leaf(7));
        let (extended, sizes) = (leaf(0x8000_0001), leaf(0x8000_0008));
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        Self {
            nx: bit(extended.edx, 20),
            gib_pages: bit(extended.edx, 26),
            la57: bit(structured.ecx, 16),
            smep: bit(structured.ebx, 7),
            smap: bit(structured.ebx, 20),
            pku: bit(structured.ecx, 3),
            pks: bit(structured.ecx, 31),
            maxphyaddr: (sizes.eax & 0xff) as u8,
            amd: matches!(name.as_flattened(), b"AuthenticAMD" | b"HygonGenuine"),
        }
    }

    /// The controls that a vCPU has with nothing switched on that can be left off: WP and NXE only.
    #[must_use]
    pub fn controls(&self) -> Controls {
        Controls {
            nxe: self.nx,
            gib_pages: self.gib_pages,
            maxphyaddr: self.maxphyaddr,
            amd: self.amd,
            ..Controls::new()
        }
    }

    /// The trees that the processor walks.
    #[must_use]
    pub fn levels(&self) -> &'static [Levels] {
        if self.la57 { &[Levels::Four, Levels::Five] } else { &[Levels::Four] }
    }

    /// Each feature by name, and whether it is there.
    #[must_use]
    pub fn named(&self) -> [(&'static str, bool); 7] {
        [
            ("NX", self.nx),
            ("1G pages", self.gib_pages),
            ("LA57", self.la57),
            ("SMEP", self.smep),
            ("SMAP", self.smap),
            ("PKU", self.pku),
            ("PKS", self.pks),
        ]
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rules, {} physical address bits",
            if self.amd { "AMD" } else { "Intel" },
            self.maxphyaddr
        )?;
        for (name, there) in self.named() {
            write!(f, ", {}{name}", if there { "" } else { "no " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_where_the_manual_has_them() {
        let leaf = |function, ebx, ecx, edx| kvm_cpuid_entry2 {
            function,
            ebx,
            ecx,
            edx,
            ..Default::default()
        };
        let vendor = leaf(0, 0x6874_7541, 0x444d_4163, 0x6974_6e65);
        let sizes = kvm_cpuid_entry2 { function: 0x8000_0008, eax: 0x3030, ..Default::default() };
        let all = [vendor, leaf(7, 1 << 7 | 1 << 20, 1 << 3 | 1 << 16 | 1 << 31, 0), sizes];
        let with = [&all[..], &[leaf(0x8000_0001, 0, 0, 1 << 20 | 1 << 26)]].concat();
        let features = Features::of(&with);
        assert!(features.named().iter().all(|(_, there)| *there), "{features}");
        assert!(features.amd && features.maxphyaddr == 48);
        assert!(Features::of(&[]).named().iter().all(|(_, there)| !there));
    }
}
