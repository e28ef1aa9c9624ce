//! A vCPU's registers, by KVM's numbers for them (Linux, `Documentation/virt/kvm/api.rst`,
//! KVM_SET_ONE_REG).

use std::io;

use kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64};
use kvm_ioctls::VcpuFd;
use pgtable_aarch64::{Hcr, Processor, Registers};

/// A register of 64 bits of the core: x0 to x30, SP_EL0, PC, PSTATE.
#[must_use]
pub const fn core(number: u64) -> u64 {
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | number * 2
}
/// The program counter.
pub const PC: u64 = core(32);
/// PSTATE.
pub const PSTATE: u64 = core(33);
/// PSTATE.M: the exception level.
pub const LEVEL: u64 = 0xc;
/// PSTATE.PAN.
const PAN: u64 = 1 << 22;

/// A system register: op0, op1, CRn, CRm, op2.
const fn system([op0, op1, crn, crm, op2]: [u64; 5]) -> u64 {
    let number = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2;
    KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | number
}
/// SCTLR_EL1.
pub const SCTLR: u64 = system([3, 0, 1, 0, 0]);
/// TTBR0_EL1.
pub const TTBR0: u64 = system([3, 0, 2, 0, 0]);
/// TTBR1_EL1.
pub const TTBR1: u64 = system([3, 0, 2, 0, 1]);
/// TCR_EL1.
pub const TCR: u64 = system([3, 0, 2, 0, 2]);
const TCR2: u64 = system([3, 0, 2, 0, 3]);
/// MAIR_EL1.
pub const MAIR: u64 = system([3, 0, 10, 2, 0]);
/// VBAR_EL1.
pub const VBAR: u64 = system([3, 0, 12, 0, 0]);
const MMFR: [u64; 4] = [
    system([3, 0, 0, 7, 0]),
    system([3, 0, 0, 7, 1]),
    system([3, 0, 0, 7, 2]),
    system([3, 0, 0, 7, 3]),
];
const ISAR: [u64; 3] = [system([3, 0, 0, 6, 0]), system([3, 0, 0, 6, 1]), system([3, 0, 0, 6, 2])];

/// Writes one.
///
/// # Errors
/// The OS error.
pub fn set(vcpu: &VcpuFd, register: u64, value: u64) -> io::Result<()> {
    vcpu.set_one_reg(register, &value.to_le_bytes())?;
    Ok(())
}

/// Reads one.
///
/// # Errors
/// The OS error.
pub fn get(vcpu: &VcpuFd, register: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    vcpu.get_one_reg(register, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// What a vCPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// What translation depends on.
    pub processor: Processor,
    /// FEAT_TLBIRANGE.
    pub tlbi_ranges: bool,
    /// FEAT_TTL.
    pub ttl: bool,
    /// FEAT_TCR2.
    tcr2: bool,
}

impl Features {
    /// By the ID registers.
    ///
    /// # Errors
    /// The OS error.
    pub fn of(vcpu: &VcpuFd) -> io::Result<Self> {
        let [mmfr0, mmfr1, mmfr2, mmfr3] = MMFR.map(|register| get(vcpu, register));
        let (mmfr, mmfr3) = ([mmfr0?, mmfr1?, mmfr2?], mmfr3?);
        let [isar0, isar1, isar2] = ISAR.map(|register| get(vcpu, register));
        Ok(Self {
            processor: Processor::from_id(mmfr, [isar1?, isar2?]),
            tlbi_ranges: isar0? >> 56 & 15 >= 2,
            ttl: mmfr[2] >> 48 & 15 >= 1,
            tcr2: mmfr3 & 15 >= 1,
        })
    }

    /// What EL1&0 of a vCPU that has these translates with. HCR_EL2 is the host's.
    ///
    /// # Errors
    /// The OS error.
    pub fn registers(&self, vcpu: &VcpuFd) -> io::Result<Registers> {
        Ok(Registers {
            tcr: get(vcpu, TCR)?,
            tcr2: if self.tcr2 { get(vcpu, TCR2)? } else { 0 },
            ttbr0: get(vcpu, TTBR0)?,
            ttbr1: get(vcpu, TTBR1)?,
            sctlr: get(vcpu, SCTLR)?,
            hcr: Hcr::new().with_rw(true).into_bits(),
            pan: get(vcpu, PSTATE)? & PAN != 0,
        })
    }
}
