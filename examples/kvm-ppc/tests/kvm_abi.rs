//! Every number of `kvm_ppc` against the kernel’s own headers.
#![cfg(target_os = "linux")]

#[path = "../../../arch-ppc64/tests/kvm_abi/headers.rs"]
mod headers;

use headers::{Row, assert_agrees, assert_differs};
use kvm_ppc::Cap;
use kvm_ppc::bindings::*;
use kvm_ppc::requests::*;

#[test]
fn requests() {
    assert_agrees(&requests![
        KVM_GET_API_VERSION,
        KVM_CREATE_VM,
        KVM_CHECK_EXTENSION,
        KVM_GET_VCPU_MMAP_SIZE,
        KVM_CREATE_VCPU,
        KVM_SET_USER_MEMORY_REGION,
        KVM_RUN,
        KVM_INTERRUPT,
        KVM_GET_REGS,
        KVM_SET_REGS,
        KVM_GET_SREGS,
        KVM_SET_SREGS,
        KVM_ENABLE_CAP,
        KVM_GET_ONE_REG,
        KVM_SET_ONE_REG,
    ]);
}

#[test]
fn constants() {
    assert_agrees(&constants![
        KVM_API_VERSION,
        KVM_INTERRUPT_SET_LEVEL,
        KVM_INTERRUPT_UNSET,
        KVM_EXIT_UNKNOWN,
        KVM_EXIT_MMIO,
        KVM_EXIT_FAIL_ENTRY,
        KVM_EXIT_INTR,
        KVM_EXIT_INTERNAL_ERROR,
        KVM_EXIT_PAPR_HCALL,
        KVM_EXIT_SYSTEM_EVENT,
        KVM_VM_PPC_HV,
        KVM_VM_PPC_PR,
        KVM_MEM_LOG_DIRTY_PAGES,
        KVM_CAP_PPC_PAPR,
        KVM_CAP_ONE_REG,
        KVM_CAP_PPC_HTAB_FD,
        KVM_CAP_PPC_ENABLE_HCALL,
        KVM_CAP_PPC_MMU_RADIX,
        KVM_CAP_PPC_MMU_HASH_V3,
        KVM_CAP_IMMEDIATE_EXIT,
        KVM_CAP_PPC_NESTED_HV,
        KVM_CAP_PPC_RPT_INVALIDATE,
        KVM_REG_PPC,
        KVM_REG_SIZE_SHIFT,
        KVM_REG_SIZE_MASK,
        KVM_REG_SIZE_U32,
        KVM_REG_SIZE_U64,
        KVM_REG_PPC_DAR,
        KVM_REG_PPC_DSISR,
        KVM_REG_PPC_AMR,
        KVM_REG_PPC_IAMR,
        KVM_REG_PPC_PID,
        KVM_REG_PPC_LPCR_64,
        KVM_REG_PPC_ARCH_COMPAT,
    ]);
}

/// Each capability of the enum has the number of its constant.
#[test]
fn capabilities() {
    assert_eq!(Cap::PpcPapr as u32, KVM_CAP_PPC_PAPR);
    assert_eq!(Cap::OneReg as u32, KVM_CAP_ONE_REG);
    assert_eq!(Cap::PpcHtabFd as u32, KVM_CAP_PPC_HTAB_FD);
    assert_eq!(Cap::PpcEnableHcall as u32, KVM_CAP_PPC_ENABLE_HCALL);
    assert_eq!(Cap::PpcMmuRadix as u32, KVM_CAP_PPC_MMU_RADIX);
    assert_eq!(Cap::PpcMmuHashV3 as u32, KVM_CAP_PPC_MMU_HASH_V3);
    assert_eq!(Cap::ImmediateExit as u32, KVM_CAP_IMMEDIATE_EXIT);
    assert_eq!(Cap::PpcNestedHv as u32, KVM_CAP_PPC_NESTED_HV);
    assert_eq!(Cap::PpcRptInvalidate as u32, KVM_CAP_PPC_RPT_INVALIDATE);
}

#[test]
fn structures() {
    assert_agrees(&layout!(kvm_enable_cap { cap, flags, args, pad }));
    assert_agrees(&layout!(kvm_userspace_memory_region {
        slot,
        flags,
        guest_phys_addr,
        memory_size,
        userspace_addr
    }));
    assert_agrees(&layout!(kvm_interrupt { irq }));
    assert_agrees(&layout!(kvm_regs {
        pc,
        cr,
        ctr,
        lr,
        xer,
        msr,
        srr0,
        srr1,
        pid,
        sprg0,
        sprg1,
        sprg2,
        sprg3,
        sprg4,
        sprg5,
        sprg6,
        sprg7,
        gpr
    }));
    assert_agrees(&layout!(kvm_one_reg { id, addr }));
}

/// Structures whose fields stand in unions, or have no name of their own, in C.
#[test]
fn unions() {
    use std::mem::{offset_of, size_of};
    let row = |c: &str, rust: usize| Row { c: c.into(), rust: rust as u64 };
    let run = |field: &str, rust| row(&format!("offsetof(struct kvm_run, {field})"), rust);
    let exit = offset_of!(kvm_run, exit);
    assert_agrees(&[
        row("sizeof(struct kvm_sregs)", size_of::<kvm_sregs>()),
        row("offsetof(struct kvm_sregs, pvr)", offset_of!(kvm_sregs, pvr)),
        row("offsetof(struct kvm_sregs, u.s.sdr1)", offset_of!(kvm_sregs, s.sdr1)),
        row("offsetof(struct kvm_sregs, u.s.ppc64.slb)", offset_of!(kvm_sregs, s.ppc64.slb)),
        row("sizeof(((struct kvm_sregs *)0)->u.s.ppc64.slb)", size_of::<kvm_sregs_ppc64>()),
        row(
            "offsetof(struct kvm_sregs, u.s.ppc64.slb[0].slbv)",
            offset_of!(kvm_sregs, s.ppc64.slb) + 8,
        ),
        row("offsetof(struct kvm_sregs, u.s.ppc32.sr)", offset_of!(kvm_sregs, s.ppc32.sr)),
        row("offsetof(struct kvm_sregs, u.s.ppc32.ibat)", offset_of!(kvm_sregs, s.ppc32.ibat)),
        row("offsetof(struct kvm_sregs, u.s.ppc32.dbat)", offset_of!(kvm_sregs, s.ppc32.dbat)),
    ]);
    assert_agrees(&[
        row("sizeof(struct kvm_run)", size_of::<kvm_run>()),
        run("request_interrupt_window", offset_of!(kvm_run, request_interrupt_window)),
        run("immediate_exit", offset_of!(kvm_run, immediate_exit)),
        run("exit_reason", offset_of!(kvm_run, exit_reason)),
        run("ready_for_interrupt_injection", offset_of!(kvm_run, ready_for_interrupt_injection)),
        run("if_flag", offset_of!(kvm_run, if_flag)),
        run("flags", offset_of!(kvm_run, flags)),
        run("cr8", offset_of!(kvm_run, cr8)),
        run("apic_base", offset_of!(kvm_run, apic_base)),
        run("padding", exit),
        row("sizeof(((struct kvm_run *)0)->padding)", size_of::<kvm_run_exit>()),
        run("kvm_valid_regs", offset_of!(kvm_run, kvm_valid_regs)),
        run("kvm_dirty_regs", offset_of!(kvm_run, kvm_dirty_regs)),
        run("s", offset_of!(kvm_run, s)),
        row("sizeof(((struct kvm_run *)0)->s)", 2048),
        run("hw.hardware_exit_reason", exit + offset_of!(kvm_run_hw, hardware_exit_reason)),
        run(
            "fail_entry.hardware_entry_failure_reason",
            exit + offset_of!(kvm_run_fail_entry, hardware_entry_failure_reason),
        ),
        run("fail_entry.cpu", exit + offset_of!(kvm_run_fail_entry, cpu)),
        run("mmio.phys_addr", exit + offset_of!(kvm_run_mmio, phys_addr)),
        run("mmio.data", exit + offset_of!(kvm_run_mmio, data)),
        run("mmio.len", exit + offset_of!(kvm_run_mmio, len)),
        run("mmio.is_write", exit + offset_of!(kvm_run_mmio, is_write)),
        run("internal.suberror", exit + offset_of!(kvm_run_internal, suberror)),
        run("internal.ndata", exit + offset_of!(kvm_run_internal, ndata)),
        run("internal.data", exit + offset_of!(kvm_run_internal, data)),
        run("papr_hcall.nr", exit + offset_of!(kvm_run_papr_hcall, nr)),
        run("papr_hcall.ret", exit + offset_of!(kvm_run_papr_hcall, ret)),
        run("papr_hcall.args", exit + offset_of!(kvm_run_papr_hcall, args)),
        row("sizeof(((struct kvm_run *)0)->papr_hcall)", size_of::<kvm_run_papr_hcall>()),
        run("system_event.type", exit + offset_of!(kvm_run_system_event, r#type)),
        run("system_event.ndata", exit + offset_of!(kvm_run_system_event, ndata)),
        run("system_event.data", exit + offset_of!(kvm_run_system_event, data)),
    ]);
}

#[test]
fn a_wrong_number_would_be_found() {
    let right = u64::from(KVM_RUN.number());
    assert_differs(Row { c: "KVM_RUN".into(), rust: right & 0xffff });
    assert_differs(Row { c: "sizeof(struct kvm_regs)".into(), rust: 391 });
}
