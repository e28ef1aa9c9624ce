//! A vCPU’s general registers: `KVM_GET_REGS`, `KVM_SET_REGS`.

/// The registers, named as in Power ISA.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_regs {
    /// The next instruction’s address.
    pub pc: u64,
    /// Condition register.
    pub cr: u64,
    /// Count register.
    pub ctr: u64,
    /// Link register.
    pub lr: u64,
    /// Fixed-point exception register.
    pub xer: u64,
    /// Machine state register.
    pub msr: u64,
    /// Save/restore register 0.
    pub srr0: u64,
    /// Save/restore register 1.
    pub srr1: u64,
    /// Process id. KVM-HV reports it here, but sets it only through
    /// [`KVM_REG_PPC_PID`](super::KVM_REG_PPC_PID).
    pub pid: u64,
    /// SPRG0.
    pub sprg0: u64,
    /// SPRG1.
    pub sprg1: u64,
    /// SPRG2.
    pub sprg2: u64,
    /// SPRG3.
    pub sprg3: u64,
    /// SPRG4 (Book E).
    pub sprg4: u64,
    /// SPRG5 (Book E).
    pub sprg5: u64,
    /// SPRG6 (Book E).
    pub sprg6: u64,
    /// SPRG7 (Book E).
    pub sprg7: u64,
    /// General-purpose registers.
    pub gpr: [u64; 32],
}
