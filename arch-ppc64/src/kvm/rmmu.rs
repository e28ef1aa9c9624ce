//! Which radix trees this host’s MMU takes: `KVM_PPC_GET_RMMU_INFO`.

use super::ioctl::Request;

/// Request number of [`PpcMmu::get_rmmu_info`](super::PpcMmu::get_rmmu_info).
///
/// The kernel writes the argument although the number says `_IOW`; that is the kernel’s own slip
/// and part of the ABI.
pub const KVM_PPC_GET_RMMU_INFO: Request = Request::write::<kvm_ppc_rmmu_info>(0xb0);

/// One shape of radix tree, an element of [`kvm_ppc_rmmu_info::geometries`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_ppc_radix_geom {
    /// Log2 of the page size of the last level; 0: the element is not used.
    pub page_shift: u8,
    /// Index bits of each level, the last level (the one that maps pages) first; 0: no such level.
    pub level_bits: [u8; 4],
    /// Reserved.
    pub pad: [u8; 3],
}

/// What `KVM_PPC_GET_RMMU_INFO` writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_ppc_rmmu_info {
    /// The supported trees.
    pub geometries: [kvm_ppc_radix_geom; 8],
    /// `AP << 29 | page_shift` for each page size that `tlbie` takes; 0: the element is not used.
    pub ap_encodings: [u32; 8],
}

/// One supported tree: its page size and its levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RadixGeometry {
    page_shift: u8,
    level_bits: [u8; 4],
}

impl RadixGeometry {
    /// Log2 of the page size of the last level.
    #[must_use]
    pub fn page_shift(&self) -> u32 {
        u32::from(self.page_shift)
    }

    /// Index bits of each level, the last level (the one that maps pages) first.
    pub fn level_bits(&self) -> impl Iterator<Item = u32> + use<> {
        self.level_bits.into_iter().take_while(|&bits| bits != 0).map(u32::from)
    }

    /// How many low bits of an effective address the tree translates.
    #[must_use]
    pub fn address_bits(&self) -> u32 {
        self.page_shift() + self.level_bits().sum::<u32>()
    }
}

/// How `tlbie` names one page size (ISA v3.0B, book III, 5.9.3.3: the AP field of RB).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApEncoding {
    /// Log2 of the page size.
    pub page_shift: u32,
    /// The actual-page-size field.
    pub ap: u32,
}

impl kvm_ppc_rmmu_info {
    /// The trees that the host supports.
    pub fn supported_geometries(&self) -> impl Iterator<Item = RadixGeometry> + use<> {
        self.geometries
            .into_iter()
            .filter(|raw| raw.page_shift != 0)
            .map(|raw| RadixGeometry { page_shift: raw.page_shift, level_bits: raw.level_bits })
    }

    /// The page sizes that the host supports, with the AP of each.
    pub fn supported_ap_encodings(&self) -> impl Iterator<Item = ApEncoding> + use<> {
        self.ap_encodings
            .into_iter()
            .filter(|&raw| raw != 0)
            .map(|raw| ApEncoding { page_shift: raw & 0x1fff_ffff, ap: raw >> 29 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a POWER9 running Linux 6.1 answers.
    fn power9() -> kvm_ppc_rmmu_info {
        let mut info = kvm_ppc_rmmu_info::default();
        info.geometries[0] =
            kvm_ppc_radix_geom { page_shift: 12, level_bits: [9, 9, 9, 13], pad: [0; 3] };
        info.geometries[1] =
            kvm_ppc_radix_geom { page_shift: 16, level_bits: [5, 9, 9, 13], pad: [0; 3] };
        info.ap_encodings[..4].copy_from_slice(&[0xc, 0xa000_0010, 0x2000_0015, 0x4000_001e]);
        info
    }

    #[test]
    fn unused_elements_are_left_out() {
        assert_eq!(kvm_ppc_rmmu_info::default().supported_geometries().count(), 0);
        assert_eq!(kvm_ppc_rmmu_info::default().supported_ap_encodings().count(), 0);
        assert_eq!(power9().supported_geometries().count(), 2);
    }

    #[test]
    fn geometries_cover_52_bits() {
        for (geometry, (page_shift, level_bits)) in
            power9().supported_geometries().zip([(12, [9, 9, 9, 13]), (16, [5, 9, 9, 13])])
        {
            assert_eq!(geometry.page_shift(), page_shift);
            assert!(geometry.level_bits().eq(level_bits), "{geometry:?}");
            assert_eq!(geometry.address_bits(), 52);
        }
    }

    #[test]
    fn ap_is_the_top_three_bits() {
        let sizes = power9().supported_ap_encodings().map(|e| (e.page_shift, e.ap));
        assert!(sizes.eq([(12, 0), (16, 5), (21, 1), (30, 2)]));
    }
}
