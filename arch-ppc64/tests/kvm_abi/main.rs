//! Every number of `pgtable_ppc64::kvm` against the kernel’s own headers.
#![cfg(target_os = "linux")]

mod headers;

use headers::{Row, assert_agrees, assert_differs};
use pgtable_ppc64::kvm::*;

#[test]
fn requests() {
    assert_agrees(&requests![
        KVM_PPC_CONFIGURE_V3_MMU,
        KVM_PPC_GET_RMMU_INFO,
        KVM_PPC_GET_SMMU_INFO,
        KVM_PPC_ALLOCATE_HTAB,
        KVM_PPC_GET_HTAB_FD,
        KVM_PPC_RESIZE_HPT_PREPARE,
        KVM_PPC_RESIZE_HPT_COMMIT,
        KVM_GET_DIRTY_LOG,
    ]);
}

#[test]
fn constants() {
    assert_agrees(&constants![
        KVM_PPC_MMUV3_RADIX,
        KVM_PPC_MMUV3_GTSE,
        KVM_PPC_PAGE_SIZES_MAX_SZ,
        KVM_PPC_PAGE_SIZES_REAL,
        KVM_PPC_1T_SEGMENTS,
        KVM_PPC_NO_HASH,
        KVM_GET_HTAB_BOLTED_ONLY,
        KVM_GET_HTAB_WRITE,
    ]);
}

#[test]
fn structures() {
    assert_agrees(&layout!(kvm_ppc_mmuv3_cfg { flags, process_table }));
    assert_agrees(&layout!(kvm_ppc_radix_geom { page_shift, level_bits, pad }));
    assert_agrees(&layout!(kvm_ppc_rmmu_info { geometries, ap_encodings }));
    assert_agrees(&layout!(kvm_ppc_one_page_size { page_shift, pte_enc }));
    assert_agrees(&layout!(kvm_ppc_one_seg_page_size { page_shift, slb_enc, enc }));
    assert_agrees(&layout!(kvm_ppc_smmu_info { flags, slb_size, data_keys, instr_keys, sps }));
    assert_agrees(&layout!(kvm_get_htab_fd { flags, start_index, reserved }));
    assert_agrees(&layout!(kvm_get_htab_header { index, n_valid, n_invalid }));
    assert_agrees(&layout!(kvm_dirty_log { slot, padding1, dirty_bitmap }));
    assert_agrees(&layout!(kvm_ppc_resize_hpt { flags, shift, pad }));
}

#[test]
fn a_wrong_number_would_be_found() {
    let right = u64::from(KVM_PPC_CONFIGURE_V3_MMU.number());
    assert_differs(Row { c: "KVM_PPC_CONFIGURE_V3_MMU".into(), rust: right ^ 0x2000_0000 });
    assert_differs(Row { c: "offsetof(struct kvm_ppc_mmuv3_cfg, process_table)".into(), rust: 0 });
}

/// A descriptor on which ioctls fail gets an OS error (`ENOTTY` from Linux, `ENOSYS` from QEMU’s
/// user mode, which knows no ioctl of KVM), and is still the holder’s.
#[test]
fn case_a8_not_a_vm() {
    let file = std::fs::File::open("/dev/null").expect("/dev/null");
    // SAFETY: the null device answers no ioctl.
    let file = unsafe { VmFd::new(file) };
    assert!(file.get_htab_fd(&kvm_get_htab_fd::default()).is_err());
    assert!(file.get_rmmu_info().expect_err("no VM").raw_os_error().is_some());
    assert!(file.configure_v3_mmu(&kvm_ppc_mmuv3_cfg::default()).is_err());
}
