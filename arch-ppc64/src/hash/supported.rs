//! Which segments and page sizes a host takes: `KVM_PPC_GET_SMMU_INFO` in this module's types.

use arrayvec::ArrayVec;

use super::page_size::{PageSize, PageSizes};
use super::segment::SlbVsid;
use crate::kvm::{
    KVM_PPC_1T_SEGMENTS, KVM_PPC_NO_HASH, KVM_PPC_PAGE_SIZES_REAL, kvm_ppc_smmu_info,
};

/// What a host's hashed MMU takes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Supported {
    /// Pairs of base and actual page sizes. Those that this crate does not know, or that the host
    /// encodes otherwise, are left out.
    pub sizes: ArrayVec<PageSizes, { PageSizes::ALL.len() }>,
    /// Segments of 1T.
    pub terabyte_segments: bool,
    /// A guest's pages must not be larger than those that back its memory.
    pub limited_by_backing: bool,
    /// Entries of the SLB.
    pub slb_size: u32,
    /// Storage keys that hold for data accesses.
    pub data_keys: u16,
    /// Storage keys that hold for fetches.
    pub instruction_keys: u16,
}

impl Supported {
    /// What `info` says; `None` if the host cannot run guests with a hashed page table.
    #[must_use]
    pub fn of_kvm(info: &kvm_ppc_smmu_info) -> Option<Self> {
        if info.flags & KVM_PPC_NO_HASH != 0 {
            return None;
        }
        let mut sizes = ArrayVec::new();
        for segment in &info.sps {
            for page in &segment.enc {
                let pair = size(segment.page_shift).zip(size(page.page_shift));
                let Some(pair) = pair.and_then(|(base, actual)| PageSizes::new(base, actual))
                else {
                    continue;
                };
                let llp = SlbVsid::from_bits(segment.slb_enc.into());
                let same = PageSize::of_llp(llp.l(), llp.lp()) == Some(pair.base())
                    && page.pte_enc == pair.lp().map_or(0, u32::from);
                if same && !sizes.contains(&pair) {
                    // No more pairs than there are.
                    let _ = sizes.try_push(pair);
                }
            }
        }
        Some(Self {
            sizes,
            terabyte_segments: info.flags & KVM_PPC_1T_SEGMENTS != 0,
            limited_by_backing: info.flags & KVM_PPC_PAGE_SIZES_REAL != 0,
            slb_size: info.slb_size,
            data_keys: info.data_keys,
            instruction_keys: info.instr_keys,
        })
    }
}

fn size(shift: u32) -> Option<PageSize> {
    u8::try_from(shift).ok().and_then(PageSize::of_shift)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kvm::{kvm_ppc_one_page_size, kvm_ppc_one_seg_page_size};

    /// What KVM-HV says on POWER9.
    #[test]
    fn power9() {
        let enc = |sizes: &[(u32, u32)]| {
            let mut all = [kvm_ppc_one_page_size::default(); 8];
            for (place, &(page_shift, pte_enc)) in all.iter_mut().zip(sizes) {
                *place = kvm_ppc_one_page_size { page_shift, pte_enc };
            }
            all
        };
        let mut info = kvm_ppc_smmu_info {
            flags: 3,
            slb_size: 32,
            data_keys: 32,
            ..kvm_ppc_smmu_info::default()
        };
        for (place, (page_shift, slb_enc, sizes)) in info.sps.iter_mut().zip([
            (12, 0, enc(&[(12, 0), (16, 7), (24, 0x38)])),
            (16, 0x110, enc(&[(16, 1), (24, 8)])),
            (24, 0x100, enc(&[(24, 0)])),
            (20, 0x130, enc(&[(20, 2)])),
        ]) {
            *place = kvm_ppc_one_seg_page_size { page_shift, slb_enc, enc: sizes };
        }
        let supported = Supported::of_kvm(&info).unwrap();
        assert_eq!(supported.sizes[..], PageSizes::ALL[..6]);
        assert!(supported.terabyte_segments && supported.limited_by_backing);
        assert_eq!(
            (supported.slb_size, supported.data_keys, supported.instruction_keys),
            (32, 32, 0)
        );
        for (flags, seen) in [(0, (false, false)), (1, (false, true)), (2, (true, false))] {
            let supported = Supported::of_kvm(&kvm_ppc_smmu_info { flags, ..info }).unwrap();
            assert_eq!((supported.terabyte_segments, supported.limited_by_backing), seen);
        }
        info.sps[0].enc[1].pte_enc = 9;
        assert_eq!(
            Supported::of_kvm(&info).unwrap().sizes.len(),
            5,
            "an encoding that is not ours"
        );
        info.flags = KVM_PPC_NO_HASH;
        assert_eq!(Supported::of_kvm(&info), None);
    }
}
