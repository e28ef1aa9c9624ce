//! The MMU part of KVM on POWER, over any VM file descriptor.
//!
//! `kvm-bindings` and `kvm-ioctls` (0.14 and 0.25) do not compile for POWER, and nothing else in
//! the Rust world has these calls. Structures and constants carry the names of `<linux/kvm.h>`,
//! methods the names that they would have on `kvm_ioctls::VmFd`, so that a VMM which has a VM file
//! descriptor from anywhere uses them through the trait [`PpcMmu`]. That it is one of KVM’s is for
//! the VMM to vouch for: [`VmFd::new`] is unsafe.
//!
//! What each structure looks like is checked against the kernel’s own headers by
//! `tests/kvm_abi.rs`. Everything compiles on every Linux host; only KVM on POWER accepts the
//! calls, anywhere else they return the OS’s error.
//!
//! | file | call |
//! | --- | --- |
//! | `mmuv3` | `KVM_PPC_CONFIGURE_V3_MMU` |
//! | `rmmu` | `KVM_PPC_GET_RMMU_INFO` |
//! | `smmu` | `KVM_PPC_GET_SMMU_INFO` |
//! | `htab` | `KVM_PPC_ALLOCATE_HTAB`, `KVM_PPC_GET_HTAB_FD` |
//! | `dirty_log` | `KVM_GET_DIRTY_LOG`, and the way to and from harvests |
//! | `resize` | `KVM_PPC_RESIZE_HPT_PREPARE`, `KVM_PPC_RESIZE_HPT_COMMIT` |

mod dirty_log;
mod htab;
pub mod ioctl;
mod mmuv3;
mod radix;
mod resize;
mod rmmu;
mod smmu;
mod vm;

pub use dirty_log::{DirtyLog, KVM_GET_DIRTY_LOG, kvm_dirty_log};
pub use htab::{
    KVM_GET_HTAB_BOLTED_ONLY, KVM_GET_HTAB_WRITE, KVM_PPC_ALLOCATE_HTAB, KVM_PPC_GET_HTAB_FD,
    kvm_get_htab_fd, kvm_get_htab_header,
};
pub use mmuv3::{
    KVM_PPC_CONFIGURE_V3_MMU, KVM_PPC_MMUV3_GTSE, KVM_PPC_MMUV3_RADIX, kvm_ppc_mmuv3_cfg,
};
pub use resize::{
    KVM_PPC_RESIZE_HPT_COMMIT, KVM_PPC_RESIZE_HPT_PREPARE, ResizePrepare, kvm_ppc_resize_hpt,
};
pub use rmmu::{
    ApEncoding, KVM_PPC_GET_RMMU_INFO, RadixGeometry, kvm_ppc_radix_geom, kvm_ppc_rmmu_info,
};
pub use smmu::{
    KVM_PPC_1T_SEGMENTS, KVM_PPC_GET_SMMU_INFO, KVM_PPC_NO_HASH, KVM_PPC_PAGE_SIZES_MAX_SZ,
    KVM_PPC_PAGE_SIZES_REAL, kvm_ppc_one_page_size, kvm_ppc_one_seg_page_size, kvm_ppc_smmu_info,
};
pub use vm::{PpcMmu, VmFd};
