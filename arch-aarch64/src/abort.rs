//! A fault of stage 2 as the handler at EL2 reads it: ESR_EL2, FAR_EL2, HPFAR_EL2.

use core::fmt;

use pgtable::{Access, AccessKind, Gpa, Gva, Privilege, low_bits};

use crate::syndrome::{
    DATA_ABORT_LOWER, Esr, FaultKind, FaultStatus, INSTRUCTION_ABORT_LOWER, address_of_hpfar,
};

/// The low bits of a guest-physical address, which FAR_EL2 has and HPFAR_EL2 has not.
const IN_PAGE: u64 = low_bits(12);
/// PA in PAR_EL1.
const PAR_ADDRESS: u64 = low_bits(52) & !IN_PAGE;

/// An exception that is no fault of stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NotStage2 {
    /// The exception class is not that of an instruction abort or a data abort from a lower
    /// exception level (0x20, 0x24).
    #[error("exception class {class:#x} is not an abort from a lower exception level")]
    Class {
        /// EC.
        class: u8,
    },
    /// It is an abort that no change of stage 2's pages resolves: what its tables do not cause, and
    /// the external abort of a walk that met a table outside memory, which a
    /// [`VmsaStage2`](crate::VmsaStage2) reports too.
    #[error("no page of stage 2 resolves fault status {status:#x}: {}", name(*status))]
    Status {
        /// DFSC or IFSC.
        status: u8,
    },
}

/// What a fault status is that no table of stage 2 causes (DDI 0487, "ESR_EL2", DFSC).
const fn name(status: u8) -> &'static str {
    match status {
        0b01_0000 => "external abort",
        0b01_0001 => "tag check fault",
        0b01_0010..=0b01_0111 => "external abort on a table walk",
        0b01_1000 => "parity or ECC error",
        0b01_1011..=0b01_1111 => "parity or ECC error on a table walk",
        0b10_0001 => "alignment fault",
        0b10_0010..=0b10_0111 => "granule protection fault on a table walk",
        0b10_1000 => "granule protection fault",
        0b11_0000 => "TLB conflict abort",
        0b11_0001 => "unsupported atomic hardware update",
        0b11_0100 => "IMPLEMENTATION DEFINED fault (lockdown)",
        0b11_0101 => "unsupported exclusive or atomic access",
        0b10_1010 | 0b10_1100 => "fault at level -2 of 128-bit descriptors",
        _ => "reserved",
    }
}

/// A fault of stage 2 that EL2 takes from a guest: what to fault in, or to emulate.
///
/// ```
/// use pgtable_aarch64::{Abort, FaultKind, NotStage2};
/// use pgtable::{AccessKind, Gpa};
///
/// // A store of EL1 to an address that stage 2 does not map. In the handler, these come from
/// // ESR_EL2, FAR_EL2 and HPFAR_EL2:
/// let abort = Abort::from_registers(0x9200_0046, 0xffff_0000_0900_0018, 0x0009_0000)?;
/// assert_eq!(abort.ipa(), Some(Gpa::new(0x900_0018)));
/// assert_eq!(abort.access().kind, AccessKind::Write);
/// assert_eq!(abort.fault().kind(), FaultKind::Translation);
/// // `stage.fault_in(ticket, ipa, abort.access().kind, &slot, page, …)`
///
/// let hvc = Abort::from_registers(0x5a00_0000, 0, 0);
/// assert_eq!(hvc, Err(NotStage2::Class { class: 0x16 }));
/// # Ok::<(), NotStage2>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Abort {
    esr: Esr,
    fault: FaultStatus,
    far: u64,
    hpfar: u64,
}

impl Abort {
    /// The fault in ESR_EL2, FAR_EL2 and HPFAR_EL2, read before the guest runs again.
    ///
    /// HCR_EL2.TGE must be 0. Then aborts that EL2 takes from a lower exception level with a status
    /// of a translation are stage 2's: EL1 takes those of stage 1.
    ///
    /// # Errors
    /// [`NotStage2`]: another exception, or an abort of another cause.
    pub const fn from_registers(esr: u64, far: u64, hpfar: u64) -> Result<Self, NotStage2> {
        let esr = Esr::from_bits(esr);
        if !matches!(esr.class(), INSTRUCTION_ABORT_LOWER | DATA_ABORT_LOWER) {
            return Err(NotStage2::Class { class: esr.class() });
        }
        match esr.fault() {
            Some(fault) if !matches!(fault.kind(), FaultKind::WalkAbort) => {
                Ok(Self { esr, fault, far, hpfar })
            }
            _ => Err(NotStage2::Status { status: esr.status() }),
        }
    }

    /// The kind of fault, and the level of stage 2 at which it was met. The owner of a
    /// [`Stage2Tree`](pgtable::second_stage::Stage2Tree) faults the page in for a translation or a
    /// permission fault, with [`access`](Self::access); records an access flag fault (`record`);
    /// and meets an address size fault only if somebody else wrote the tables. What the host does
    /// not grant (a store to ROM, a fetch from a page that is not executable) is the guest's to be
    /// told.
    #[must_use]
    pub const fn fault(&self) -> FaultStatus {
        self.fault
    }

    /// ESR_EL2: the instruction syndrome (ISV, SAS, SRT) of an access to be emulated.
    #[must_use]
    pub const fn esr(&self) -> Esr {
        self.esr
    }

    /// FAR_EL2: the virtual address that the guest used.
    #[must_use]
    pub const fn gva(&self) -> Gva {
        Gva::new(self.far)
    }

    /// Whether the guest's stage-1 walk met the fault: the address is that of a table (S1PTW).
    #[must_use]
    pub const fn is_stage1_walk(&self) -> bool {
        self.esr.s1ptw()
    }

    /// The guest-physical address that stage 2 refused; of a guest's table its page alone, whose
    /// low 12 bits are 0.
    ///
    /// `None`: HPFAR_EL2 is UNKNOWN, because a final access met a permission fault ("HPFAR_EL2").
    /// Translate [`gva`](Self::gva) by the guest's own tables: with AT S1E1R
    /// ([`ipa_by_par`](Self::ipa_by_par)), or with [`Paging`](crate::Paging).
    #[must_use]
    pub const fn ipa(&self) -> Option<Gpa> {
        if self.is_stage1_walk() {
            return Some(address_of_hpfar(self.hpfar));
        }
        match self.fault.kind() {
            FaultKind::Permission => None,
            _ => Some(Gpa::new(address_of_hpfar(self.hpfar).get() | self.far & IN_PAGE)),
        }
    }

    /// The guest-physical address of a final access by PAR_EL1, which AT S1E1R made of
    /// [`gva`](Self::gva). That instruction serves accesses of EL0 too, whose rights stage 1 has
    /// granted already.
    ///
    /// `None`: the translation failed (PAR_EL1.F), because the guest changed its tables meanwhile.
    /// Let it run: it repeats the access.
    #[must_use]
    pub const fn ipa_by_par(&self, par: u64) -> Option<Gpa> {
        if par & 1 != 0 {
            return None;
        }
        Some(Gpa::new(par & PAR_ADDRESS | self.far & IN_PAGE))
    }

    /// The access that stage 2 must allow. Its privilege is EL1's: ESR_EL2 does not have the
    /// exception level. Where SPSR_EL2.M says EL0, it is `access().by_user()`.
    ///
    /// ESR_EL2 does not say whether a stage-1 walk wanted to write, and WnR is 1 of all cache
    /// maintenance. So both count as reads until they meet a permission fault, and then as writes:
    /// tables and ROM can be mapped read-only, and a walk that sets flags in a table then gets the
    /// page writable (KVM's `kvm_is_write_fault`).
    #[must_use]
    pub const fn access(&self) -> Access {
        let (fetch, denied) =
            (self.esr.is_fetch(), matches!(self.fault.kind(), FaultKind::Permission));
        let write = if self.is_stage1_walk() || !fetch && self.esr.cm() {
            denied
        } else {
            !fetch && self.esr.write()
        };
        let kind = match (write, fetch && !self.is_stage1_walk()) {
            (true, _) => AccessKind::Write,
            (false, true) => AccessKind::Fetch,
            (false, false) => AccessKind::Read,
        };
        Access { kind, privilege: Privilege::Supervisor }
    }
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, at {}", self.esr, self.gva())?;
        match self.ipa() {
            Some(ipa) => write!(f, ", {ipa}"),
            None => f.write_str(", HPFAR unknown"),
        }
    }
}
