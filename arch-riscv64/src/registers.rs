//! The registers that refer to trees: satp and vsatp, hgatp.

use bitfield_struct::bitfield;
use pgtable::{Gpa, Hpa, low_bits};

use crate::controls::Extensions;
use crate::format::{PAGE_SHIFT, Sv, SvX4};

/// satp or vsatp ("Supervisor Address Translation and Protection Register").
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Satp {
    /// Bits 55:12 of the root table's address.
    #[bits(44)]
    pub ppn: u64,
    /// Address-space identifier. A hart may implement fewer than 16 bits.
    pub asid: u16,
    /// [`Mode::code`](crate::Mode::code), or 0: Bare. Then all other fields are 0.
    #[bits(4)]
    pub mode: u8,
}

impl Satp {
    /// The address of the root table.
    #[must_use]
    pub const fn root(self) -> Gpa {
        Gpa::new(self.ppn() << PAGE_SHIFT)
    }
}

impl Sv {
    /// satp (or vsatp) for the tree whose root table stands at `root`, with this ASID. Bits of
    /// `root` beyond 55:12 do not count.
    #[must_use]
    pub const fn satp(&self, root: Gpa, asid: u16) -> Satp {
        let ppn = root.get() >> PAGE_SHIFT & low_bits(44);
        Satp::new().with_ppn(ppn).with_asid(asid).with_mode(self.mode().code())
    }
}

/// hgatp ("Hypervisor Guest Address Translation and Protection Register").
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Hgatp {
    /// Bits 55:12 of the root table's address, of which bits 13:12 are zero.
    #[bits(44)]
    pub ppn: u64,
    /// Virtual-machine identifier. A hart may implement fewer than 14 bits.
    #[bits(14)]
    pub vmid: u16,
    #[bits(2)]
    __: u8,
    /// [`Mode::code`](crate::Mode::code) of the stage with the wide root, or 0: Bare. Then all
    /// other fields are 0.
    #[bits(4)]
    pub mode: u8,
}

impl Hgatp {
    /// The address of the root table.
    #[must_use]
    pub const fn root(self) -> Hpa {
        Hpa::new((self.ppn() & !3) << PAGE_SHIFT)
    }
}

impl SvX4 {
    /// hgatp for the tree whose root table of 16 KiB stands at `root`, with this VMID. Bits of
    /// `root` beyond 55:14, and of `vmid` beyond 13:0, do not count.
    #[must_use]
    pub const fn hgatp(&self, root: Hpa, vmid: u16) -> Hgatp {
        let ppn = root.get() >> PAGE_SHIFT & low_bits(44) & !3;
        let vmid = vmid & low_bits(14) as u16;
        Hgatp::new().with_ppn(ppn).with_vmid(vmid).with_mode(self.mode().code())
    }
}

/// The bits of sstatus and vsstatus that concern translation ("Supervisor Status Register").
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Status {
    #[bits(18)]
    __: u32,
    pub(crate) sum: bool,
    pub(crate) mxr: bool,
    #[bits(44)]
    __: u64,
}

/// The bits of menvcfg, henvcfg and senvcfg that concern translation (the sections "… Environment
/// Configuration Register").
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub(crate) struct Envcfg {
    #[bits(3)]
    __: u8,
    pub(crate) sse: bool,
    #[bits(28)]
    __: u32,
    #[bits(2)]
    pub(crate) pmm: u8,
    #[bits(27)]
    __: u32,
    pub(crate) adue: bool,
    pub(crate) pbmte: bool,
    __: bool,
}

impl Envcfg {
    /// What entries may say, on a hart that can do what `hart` says.
    pub(crate) const fn extensions(self, hart: Extensions) -> Extensions {
        let (adue, pbmte) = (hart.adue || self.adue(), hart.pbmte || self.pbmte());
        Extensions { adue, pbmte, ..hart }
    }
}
