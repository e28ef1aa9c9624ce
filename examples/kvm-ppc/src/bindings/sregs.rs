//! A vCPU’s special registers: `KVM_GET_SREGS`, `KVM_SET_SREGS`.
//!
//! Of the kernel’s union only the Book3S arm is here, padded to the union’s size: the arm that
//! KVM-HV and KVM-PR use.

/// The special registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvm_sregs {
    /// Processor version; KVM-HV accepts the host’s only.
    pub pvr: u32,
    /// The Book3S registers, in the kernel’s union `u`.
    pub s: kvm_sregs_s,
}

/// The Book3S registers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvm_sregs_s {
    /// Storage description register 1; KVM-HV ignores it.
    pub sdr1: u64,
    /// 64-bit: the SLB.
    pub ppc64: kvm_sregs_ppc64,
    /// 32-bit: segment and block-address-translation registers.
    pub ppc32: kvm_sregs_ppc32,
}

/// The SLB.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct kvm_sregs_ppc64 {
    /// The entries in use, then zeros.
    pub slb: [kvm_sregs_slb; 64],
}

/// One SLB entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_sregs_slb {
    /// The operand RB of `slbmte`: ESID, V and the entry’s index.
    pub slbe: u64,
    /// The operand RS of `slbmte`: VSID and attributes.
    pub slbv: u64,
}

/// Registers of 32-bit Book3S CPUs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_sregs_ppc32 {
    /// Segment registers.
    pub sr: [u32; 16],
    /// Instruction BATs.
    pub ibat: [u64; 8],
    /// Data BATs.
    pub dbat: [u64; 8],
}

impl Default for kvm_sregs {
    fn default() -> Self {
        let ppc64 = kvm_sregs_ppc64 { slb: [kvm_sregs_slb::default(); 64] };
        Self { pvr: 0, s: kvm_sregs_s { sdr1: 0, ppc64, ppc32: kvm_sregs_ppc32::default() } }
    }
}
