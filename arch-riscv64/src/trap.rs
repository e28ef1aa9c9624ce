//! A trap as HS-mode's registers report it: scause, stval, htval, htinst.

use core::fmt;

use pgtable::two_stage::TwoStageFault;
use pgtable::{Access, AccessKind, Fault, Gpa, Privilege};

use crate::exception::Exception;
use crate::format::{Sv, SvX4};

/// htinst's pseudoinstruction for a load of a guest's 64-bit table entry ("Transformed Instruction
/// or Pseudoinstruction for mtinst or htinst").
pub const PSEUDO_READ: u64 = 0x3000;
/// htinst's pseudoinstruction for a store of A or D to a guest's 64-bit table entry.
pub const PSEUDO_WRITE: u64 = 0x3020;

/// What a hart writes when it traps into HS-mode because of an address.
///
/// It is made from a fault of a walk. A hypervisor's trap handler makes one from its registers
/// ([`from_registers`](Self::from_registers)) and reads [`gpa`](Self::gpa).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Trap {
    /// scause.
    pub exception: Exception,
    /// The virtual address of the access. After pointer masking, if that applied.
    pub stval: u64,
    /// A guest-physical address shifted right by 2, for a guest-page fault; a hart without Shtvala
    /// may write 0.
    pub htval: u64,
    /// 0, [`PSEUDO_READ`] or [`PSEUDO_WRITE`]; or the transformed instruction of an explicit
    /// access, which walks never know and leave 0.
    pub htinst: u64,
}

impl Trap {
    /// The trap that a handler finds in these registers. `None`: not an exception of an address.
    #[must_use]
    pub fn from_registers(scause: u64, stval: u64, htval: u64, htinst: u64) -> Option<Self> {
        Some(Self { exception: Exception::from_code(scause)?, stval, htval, htinst })
    }

    /// The guest's access to its own tables that failed, if it was one.
    #[must_use]
    pub const fn table_access(&self) -> Option<AccessKind> {
        // Bit 12 tells 64-bit entries from 32-bit ones.
        match self.htinst & !0x1000 {
            0x2000 => Some(AccessKind::Read),
            0x2020 => Some(AccessKind::Write),
            _ => None,
        }
    }

    /// The access that the guest stage was asked for, as [`SvX4`] takes it: one to the guest's own
    /// tables, or the guest's own.
    #[must_use]
    pub const fn access(&self) -> Access {
        match self.table_access() {
            Some(kind) => Access { kind, privilege: Privilege::Supervisor },
            None => Access { kind: self.exception.kind(), privilege: Privilege::User },
        }
    }

    /// The guest-physical address that a guest stage refused. `None`: no guest-page fault, or the
    /// hart does not tell, and the handler has to translate stval by the guest's tables.
    ///
    /// `shtvala`: the hart has Shtvala, so htval is always the address (RVA23 demands it; QEMU and
    /// Spike have it, and so do the traps of this crate's walks). Without it htval = 0 is no
    /// answer: it may be the address 0, or a hart that does not tell ("htval" in "Hypervisor and
    /// Virtual Supervisor CSRs").
    ///
    /// ```
    /// use pgtable_riscv64::Trap;
    /// use pgtable::Gpa;
    ///
    /// // A load from guest-physical address 2, by a guest without tables.
    /// let trap = Trap::from_registers(21, 2, 0, 0).expect("a guest-page fault");
    /// assert_eq!(trap.gpa(true), Some(Gpa::new(2)));
    /// assert_eq!(trap.gpa(false), None);
    /// ```
    #[must_use]
    pub const fn gpa(&self, shtvala: bool) -> Option<Gpa> {
        let told = shtvala || self.htval != 0;
        if !(self.exception.is_guest_page_fault() && told) {
            return None;
        }
        // Entries of tables are aligned; of an explicit access stval has the low bits.
        let low = if self.table_access().is_some() { 0 } else { self.stval & 3 };
        Some(Gpa::new(self.htval << 2 | low))
    }

    const fn of(exception: Exception, stval: u64) -> Self {
        Self { exception, stval, htval: 0, htinst: 0 }
    }

    /// Of a guest stage: its fault, for an access to a guest's tables or not.
    fn of_guest_stage(stval: u64, fault: &Fault<SvX4>, table: bool) -> Self {
        let trap = Self::of(fault.arch, stval);
        if !fault.arch.is_guest_page_fault() {
            return trap;
        }
        let htinst = match (table, fault.access.kind) {
            (false, _) => 0,
            (true, AccessKind::Write) => PSEUDO_WRITE,
            (true, _) => PSEUDO_READ,
        };
        Self { htval: fault.address.get() >> 2, htinst, ..trap }
    }
}

impl From<&Fault<Sv>> for Trap {
    fn from(fault: &Fault<Sv>) -> Self {
        Self::of(fault.arch, fault.address.get())
    }
}

/// While vsatp is Bare: the virtual address is the guest-physical one.
impl From<&Fault<SvX4>> for Trap {
    fn from(fault: &Fault<SvX4>) -> Self {
        Self::of_guest_stage(fault.address.get(), fault, false)
    }
}

impl From<&TwoStageFault<Sv, SvX4>> for Trap {
    fn from(fault: &TwoStageFault<Sv, SvX4>) -> Self {
        match fault {
            TwoStageFault::Stage1(fault) => fault.into(),
            TwoStageFault::Stage2 { address, table, fault, .. } => {
                Self::of_guest_stage(address.get(), fault, table.is_some())
            }
        }
    }
}

impl core::error::Error for Trap {}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { exception, stval, htval, htinst } = self;
        write!(f, "{exception}, stval {stval:#x}, htval {htval:#x}, htinst {htinst:#x}")
    }
}
