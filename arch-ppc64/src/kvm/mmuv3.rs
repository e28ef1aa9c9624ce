//! Which MMU the guest uses, and where its process table is: `KVM_PPC_CONFIGURE_V3_MMU`.

use super::ioctl::Request;

/// Request number of [`PpcMmu::configure_v3_mmu`](super::PpcMmu::configure_v3_mmu).
pub const KVM_PPC_CONFIGURE_V3_MMU: Request = Request::write::<kvm_ppc_mmuv3_cfg>(0xaf);

/// Flag: the guest uses radix translation.
pub const KVM_PPC_MMUV3_RADIX: u64 = 1;
/// Flag: the guest may use `tlbie` itself (guest translation shootdown enable, LPCR\[GTSE\]).
pub const KVM_PPC_MMUV3_GTSE: u64 = 2;

/// The argument of `KVM_PPC_CONFIGURE_V3_MMU`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_ppc_mmuv3_cfg {
    /// [`KVM_PPC_MMUV3_RADIX`] and [`KVM_PPC_MMUV3_GTSE`].
    pub flags: u64,
    /// The second doubleword of the guest’s partition-table entry: GR (bit 0, which must agree with
    /// [`KVM_PPC_MMUV3_RADIX`]), the guest real address of the process table, and PRTS.
    pub process_table: u64,
}
