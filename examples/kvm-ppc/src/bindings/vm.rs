//! A VM: memory slots, the dirty log, capabilities, kinds of VM.

/// The only version of the API that there has been since Linux 2.6.22.
pub const KVM_API_VERSION: u32 = 12;

/// KVM-HV: the guest runs in the CPU’s own supervisor state.
pub const KVM_VM_PPC_HV: u32 = 1;
/// KVM-PR: the guest runs in problem state and the kernel emulates the rest.
pub const KVM_VM_PPC_PR: u32 = 2;

/// The slot’s pages are logged when they are written.
pub const KVM_MEM_LOG_DIRTY_PAGES: u32 = 1;

/// The external interrupt is pending until it is unset.
pub const KVM_INTERRUPT_SET_LEVEL: u32 = 0u32.wrapping_sub(3);
/// The external interrupt is not pending.
pub const KVM_INTERRUPT_UNSET: u32 = 0u32.wrapping_sub(2);

/// The argument of `KVM_SET_USER_MEMORY_REGION`: guest real addresses, and the memory of this
/// process behind them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_userspace_memory_region {
    /// The slot’s number.
    pub slot: u32,
    /// Flags; KVM on POWER takes [`KVM_MEM_LOG_DIRTY_PAGES`] only.
    pub flags: u32,
    /// First guest real address, aligned to a page of the host.
    pub guest_phys_addr: u64,
    /// Bytes, a multiple of the host’s page size; 0 takes the slot away.
    pub memory_size: u64,
    /// First address in this process, aligned to a page of the host.
    pub userspace_addr: u64,
}

/// The argument of `KVM_ENABLE_CAP`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_enable_cap {
    /// The capability’s number.
    pub cap: u32,
    /// Must be zero unless the capability defines flags.
    pub flags: u32,
    /// What the capability takes.
    pub args: [u64; 4],
    /// Reserved.
    pub pad: [u8; 64],
}

impl Default for kvm_enable_cap {
    fn default() -> Self {
        Self { cap: 0, flags: 0, args: [0; 4], pad: [0; 64] }
    }
}

/// The argument of `KVM_INTERRUPT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_interrupt {
    /// [`KVM_INTERRUPT_SET_LEVEL`] or [`KVM_INTERRUPT_UNSET`].
    pub irq: u32,
}
