//! A vCPU’s registers one by one: `KVM_GET_ONE_REG`, `KVM_SET_ONE_REG`.

use arch_ppc64::kvm::ioctl::Request;

/// Request number of [`VcpuControl::get_one_reg`](super::VcpuControl::get_one_reg).
///
/// The kernel writes through the address inside the argument, not to the argument itself: `_IOW` is
/// right.
pub const KVM_GET_ONE_REG: Request = Request::write::<kvm_one_reg>(0xab);
/// Request number of [`VcpuControl::set_one_reg`](super::VcpuControl::set_one_reg).
pub const KVM_SET_ONE_REG: Request = Request::write::<kvm_one_reg>(0xac);

/// `KVM_REG_PPC | KVM_REG_SIZE_U32`.
const U32: u64 = 0x1020_0000_0000_0000;
/// `KVM_REG_PPC | KVM_REG_SIZE_U64`.
const U64: u64 = 0x1030_0000_0000_0000;

/// The argument of both calls.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_one_reg {
    /// The register, with its size.
    pub id: u64,
    /// Where this process holds the value.
    pub addr: u64,
}

/// A register, by its `KVM_REG_PPC_*` id.
#[repr(u64)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OneReg {
    /// Data address register.
    Dar = U64 | 0x0c,
    /// Data storage interrupt status register.
    Dsisr = U32 | 0x0d,
    /// Authority mask register.
    Amr = U64 | 0x0e,
    /// Instruction authority mask register.
    Iamr = U64 | 0x9f,
    /// Process id register.
    Pid = U64 | 0xb2,
    /// The logical processor version that a guest is told: it may be an older processor's.
    ArchCompat = U32 | 0xb7,
    /// Logical partitioning control register: of it a VMM can change DPFD, ILE, TC, AIL and LD.
    Lpcr = U64 | 0xb5,
}

impl OneReg {
    /// The id as the kernel takes it.
    #[must_use]
    pub fn id(self) -> u64 {
        self as u64
    }

    /// How many bytes of a `u64` the register fills: 4 or 8.
    pub(super) fn size(self) -> usize {
        if self.id() & 0x00f0_0000_0000_0000 == U32 & 0x00f0_0000_0000_0000 { 4 } else { 8 }
    }
}
