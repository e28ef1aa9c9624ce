//! Which segments and page sizes this host’s hashed MMU takes: `KVM_PPC_GET_SMMU_INFO`.

use super::ioctl::Request;

/// Request number of [`PpcMmu::get_smmu_info`](super::PpcMmu::get_smmu_info).
pub const KVM_PPC_GET_SMMU_INFO: Request = Request::read::<kvm_ppc_smmu_info>(0xa6);

/// Length of the two page-size arrays.
pub const KVM_PPC_PAGE_SIZES_MAX_SZ: usize = 8;

/// Flag: the guest’s page sizes must not exceed those that back its memory.
pub const KVM_PPC_PAGE_SIZES_REAL: u64 = 1;
/// Flag: 1T segments are supported.
pub const KVM_PPC_1T_SEGMENTS: u64 = 2;
/// Flag: the host cannot run a guest that uses a hashed page table.
pub const KVM_PPC_NO_HASH: u64 = 4;

/// One actual page size in a segment.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_ppc_one_page_size {
    /// Log2 of the page size; 0: the element is not used.
    pub page_shift: u32,
    /// The LP encoding in the HPTE, already shifted right by 12.
    pub pte_enc: u32,
}

/// One base page size of a segment, and the actual page sizes that may be mixed into it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_ppc_one_seg_page_size {
    /// Log2 of the base page size; 0: the element is not used.
    pub page_shift: u32,
    /// L and LP as the SLB’s VSID word takes them.
    pub slb_enc: u32,
    /// The actual page sizes.
    pub enc: [kvm_ppc_one_page_size; KVM_PPC_PAGE_SIZES_MAX_SZ],
}

/// What `KVM_PPC_GET_SMMU_INFO` writes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_ppc_smmu_info {
    /// [`KVM_PPC_PAGE_SIZES_REAL`], [`KVM_PPC_1T_SEGMENTS`] and [`KVM_PPC_NO_HASH`].
    pub flags: u64,
    /// Entries in the SLB.
    pub slb_size: u32,
    /// Storage keys for data accesses.
    pub data_keys: u16,
    /// Storage keys for instruction fetches.
    pub instr_keys: u16,
    /// The segments’ base page sizes.
    pub sps: [kvm_ppc_one_seg_page_size; KVM_PPC_PAGE_SIZES_MAX_SZ],
}
