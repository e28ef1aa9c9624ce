//! VMs and vCPUs of KVM on POWER.
//!
//! The part of `kvm-ioctls` and `kvm-bindings` that an example on POWER needs and that those crates
//! lack for it. Names and shapes follow them (and, below that, `<linux/kvm.h>`). Request numbers
//! come from [`arch_ppc64::kvm::ioctl`]; the MMU’s own calls are in [`arch_ppc64::kvm::PpcMmu`],
//! which [`Vm`] has because it is `AsRawFd`. `tests/kvm_abi.rs` checks every number against the
//! kernel’s headers.
//!
//! All of it compiles on every Linux host, and returns the OS’s error where KVM isn’t POWER’s.
#![cfg(target_os = "linux")]

mod cap;
mod exit;
pub mod host;
mod keep_vectors;
mod one_reg;
mod regs;
mod run;
mod slots;
mod sregs;
mod system;
mod vcpu;
mod vm;

pub use cap::{Cap, KVM_CHECK_EXTENSION, KVM_ENABLE_CAP, kvm_enable_cap};
pub use exit::{
    KVM_EXIT_FAIL_ENTRY, KVM_EXIT_INTERNAL_ERROR, KVM_EXIT_INTR, KVM_EXIT_MMIO,
    KVM_EXIT_PAPR_HCALL, KVM_EXIT_SYSTEM_EVENT, KVM_EXIT_UNKNOWN, VcpuExit,
};
pub use one_reg::{KVM_GET_ONE_REG, KVM_SET_ONE_REG, OneReg, kvm_one_reg};
pub use regs::{KVM_GET_REGS, KVM_SET_REGS, kvm_regs};
pub use run::{
    kvm_run, kvm_run_exit, kvm_run_fail_entry, kvm_run_hw, kvm_run_internal, kvm_run_mmio,
    kvm_run_papr_hcall, kvm_run_system_event,
};
pub use slots::Slots;
pub use sregs::{
    KVM_GET_SREGS, KVM_SET_SREGS, kvm_sregs, kvm_sregs_ppc32, kvm_sregs_ppc64, kvm_sregs_s,
    kvm_sregs_slb,
};
pub use system::{
    KVM_API_VERSION, KVM_CREATE_VM, KVM_GET_API_VERSION, KVM_GET_VCPU_MMAP_SIZE, Kvm, VmType,
};
pub use vcpu::{
    KVM_INTERRUPT, KVM_INTERRUPT_SET_LEVEL, KVM_INTERRUPT_UNSET, KVM_RUN, Vcpu, VcpuControl,
    kvm_interrupt,
};
pub use vm::{KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION, Vm, kvm_userspace_memory_region};
