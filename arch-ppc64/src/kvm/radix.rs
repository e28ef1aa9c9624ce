//! From what KVM says of the host’s radix MMU to the formats of this crate, and back.

use super::{KVM_PPC_MMUV3_GTSE, KVM_PPC_MMUV3_RADIX, kvm_ppc_mmuv3_cfg, kvm_ppc_rmmu_info};
use crate::radix::{Granule, PageSize, ProcessTableWord};

impl kvm_ppc_rmmu_info {
    /// Whether the host walks trees of `granule`.
    #[must_use]
    pub fn supports(&self, granule: Granule) -> bool {
        let geometry = granule.geometry();
        let levels =
            (0..geometry.levels()).map(|level| u32::from(geometry.width(pgtable::Level(level))));
        let page_shift = u32::from(geometry.page_shift());
        self.supported_geometries()
            .any(|tree| tree.page_shift() == page_shift && tree.level_bits().eq(levels.clone()))
    }

    /// The granule for a tree whose pages are backed by host pages of `2^page_shift` bytes: the
    /// largest that the host walks and that such a page fills.
    #[must_use]
    pub fn granule(&self, page_shift: u8) -> Option<Granule> {
        let fits = |granule: &Granule| {
            granule.geometry().page_shift() <= page_shift && self.supports(*granule)
        };
        [Granule::K64, Granule::K4].into_iter().find(fits)
    }

    /// The page sizes that the host’s `tlbie` takes, by the names that we give it. Sizes that radix
    /// does not have, or that the host calls otherwise, are left out: leaves of them could not be
    /// invalidated.
    pub fn page_sizes(&self) -> impl Iterator<Item = PageSize> + use<> {
        self.supported_ap_encodings().filter_map(|encoding| {
            let size = PageSize::of_shift(u8::try_from(encoding.page_shift).ok()?)?;
            (u32::from(size.ap()) == encoding.ap).then_some(size)
        })
    }
}

impl kvm_ppc_mmuv3_cfg {
    /// A radix guest with that process table, which may use `tlbie` itself if `tlbie` says so.
    #[must_use]
    pub fn radix(process_table: ProcessTableWord, tlbie: bool) -> Self {
        let tlbie = if tlbie { KVM_PPC_MMUV3_GTSE } else { 0 };
        Self {
            flags: KVM_PPC_MMUV3_RADIX | tlbie,
            process_table: process_table.with_gr(true).into_bits(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kvm_ppc_radix_geom;
    use super::*;
    use std::vec::Vec;

    fn host(geometries: &[(u8, [u8; 4])], ap_encodings: &[u32]) -> kvm_ppc_rmmu_info {
        let mut info = kvm_ppc_rmmu_info::default();
        for (to, &(page_shift, level_bits)) in info.geometries.iter_mut().zip(geometries) {
            *to = kvm_ppc_radix_geom { page_shift, level_bits, pad: [0; 3] };
        }
        info.ap_encodings[..ap_encodings.len()].copy_from_slice(ap_encodings);
        info
    }

    #[test]
    fn granules() {
        const K4: (u8, [u8; 4]) = (12, [9, 9, 9, 13]);
        const K64: (u8, [u8; 4]) = (16, [5, 9, 9, 13]);
        for (name, trees, on_4k, on_64k) in [
            ("POWER9", &[K4, K64][..], Some(Granule::K4), Some(Granule::K64)),
            ("4K only", &[K4], Some(Granule::K4), Some(Granule::K4)),
            ("64K only", &[K64], None, Some(Granule::K64)),
            ("another shape", &[(16, [5, 9, 9, 12]), (12, [9, 9, 13, 0])], None, None),
            ("none", &[], None, None),
        ] {
            let info = host(trees, &[]);
            assert_eq!((info.granule(12), info.granule(16)), (on_4k, on_64k), "{name}");
        }
    }

    #[test]
    fn page_sizes() {
        let all = host(&[], &[0xc, 0xa000_0010, 0x2000_0015, 0x4000_001e]);
        assert!(all.page_sizes().eq(PageSize::ALL));
        let odd = host(&[], &[0xc, 0x2000_0010, 0x2000_0015, 0xe000_0022]);
        assert_eq!(odd.page_sizes().collect::<Vec<_>>(), [PageSize::K4, PageSize::M2]);
    }

    #[test]
    fn configured() {
        let table = ProcessTableWord::from_bits(0x13_0004);
        for (tlbie, flags) in [(true, 3), (false, 1)] {
            let cfg = kvm_ppc_mmuv3_cfg::radix(table, tlbie);
            assert_eq!((cfg.flags, cfg.process_table), (flags, 0x8000_0000_0013_0004));
        }
    }
}
