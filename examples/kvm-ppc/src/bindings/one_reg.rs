//! A vCPU’s registers one by one: `KVM_GET_ONE_REG`, `KVM_SET_ONE_REG`.

/// The architecture of a POWER register’s id.
pub const KVM_REG_PPC: u64 = 0x1000_0000_0000_0000;
/// Where an id holds log2 of the register’s size in bytes.
pub const KVM_REG_SIZE_SHIFT: u32 = 52;
/// The bits of that field.
pub const KVM_REG_SIZE_MASK: u64 = 0x00f0_0000_0000_0000;
/// The size of a 32-bit register.
pub const KVM_REG_SIZE_U32: u64 = 0x0020_0000_0000_0000;
/// The size of a 64-bit register.
pub const KVM_REG_SIZE_U64: u64 = 0x0030_0000_0000_0000;

/// Data address register.
pub const KVM_REG_PPC_DAR: u64 = KVM_REG_PPC | KVM_REG_SIZE_U64 | 0x0c;
/// Data storage interrupt status register.
pub const KVM_REG_PPC_DSISR: u64 = KVM_REG_PPC | KVM_REG_SIZE_U32 | 0x0d;
/// Authority mask register.
pub const KVM_REG_PPC_AMR: u64 = KVM_REG_PPC | KVM_REG_SIZE_U64 | 0x0e;
/// Instruction authority mask register.
pub const KVM_REG_PPC_IAMR: u64 = KVM_REG_PPC | KVM_REG_SIZE_U64 | 0x9f;
/// Process id register.
pub const KVM_REG_PPC_PID: u64 = KVM_REG_PPC | KVM_REG_SIZE_U64 | 0xb2;
/// Logical partitioning control register; a VMM can change DPFD, ILE, TC, AIL and LD.
pub const KVM_REG_PPC_LPCR_64: u64 = KVM_REG_PPC | KVM_REG_SIZE_U64 | 0xb5;
/// The logical processor version that a guest is told; it may be an older processor’s.
pub const KVM_REG_PPC_ARCH_COMPAT: u64 = KVM_REG_PPC | KVM_REG_SIZE_U32 | 0xb7;

/// The argument of both calls.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_one_reg {
    /// The register, with its size.
    pub id: u64,
    /// Where this process holds the value.
    pub addr: u64,
}
