//! Giving a running guest a hashed page table of another size: `KVM_PPC_RESIZE_HPT_PREPARE` and
//! `KVM_PPC_RESIZE_HPT_COMMIT`.

use super::ioctl::Request;
use std::time::Duration;

/// Request number of [`PpcMmu::resize_hpt_prepare`](super::PpcMmu::resize_hpt_prepare).
///
/// The kernel reads the argument although the number says `_IOR`, here and in the commit; that is
/// the kernel’s own slip and part of the ABI.
pub const KVM_PPC_RESIZE_HPT_PREPARE: Request = Request::read::<kvm_ppc_resize_hpt>(0xad);
/// Request number of [`PpcMmu::resize_hpt_commit`](super::PpcMmu::resize_hpt_commit).
pub const KVM_PPC_RESIZE_HPT_COMMIT: Request = Request::read::<kvm_ppc_resize_hpt>(0xae);

/// The argument of both calls.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_ppc_resize_hpt {
    /// Must be zero.
    pub flags: u64,
    /// Log2 of the new table’s size in bytes, 18..=46; 0 cancels a prepared resize.
    pub shift: u32,
    /// Must be zero.
    pub pad: u32,
}

/// How far a prepared resize is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizePrepare {
    /// The new table is allocated: commit.
    Ready,
    /// The kernel is still at it: ask again with the same shift after about this time.
    Busy(Duration),
}
