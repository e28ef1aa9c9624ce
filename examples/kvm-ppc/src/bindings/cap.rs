//! Capabilities, by their numbers in `<linux/kvm.h>`.

/// A vCPU in PAPR mode: hypercalls are a PAPR guest’s. Enabled before the vCPU runs.
pub const KVM_CAP_PPC_PAPR: u32 = 68;
/// Registers are read and written one by one.
pub const KVM_CAP_ONE_REG: u32 = 70;
/// The guest’s hashed page table is read and written through a file descriptor.
pub const KVM_CAP_PPC_HTAB_FD: u32 = 84;
/// Which hypercalls the kernel carries out itself.
pub const KVM_CAP_PPC_ENABLE_HCALL: u32 = 104;
/// Radix guests.
pub const KVM_CAP_PPC_MMU_RADIX: u32 = 134;
/// Hashed guests with ISA v3.0 process tables.
pub const KVM_CAP_PPC_MMU_HASH_V3: u32 = 135;
/// `kvm_run.immediate_exit` is honoured.
pub const KVM_CAP_IMMEDIATE_EXIT: u32 = 136;
/// Guests that run guests of their own.
pub const KVM_CAP_PPC_NESTED_HV: u32 = 160;
/// `H_RPT_INVALIDATE` in the kernel.
pub const KVM_CAP_PPC_RPT_INVALIDATE: u32 = 202;
