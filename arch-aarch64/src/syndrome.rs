//! Faults as the processor reports them: ESR_ELx, HPFAR_EL2, PAR_EL1.
//!
//! FAR_ELx is the input address of the walk, as the access used it (tag included): a stage-1
//! [`pgtable::Fault`] carries it, and [`pgtable::two_stage::TwoStageFault`] does for stage 2.

use core::fmt;

use bitfield_struct::bitfield;
use pgtable::{Access, AccessKind, Cause, Gpa, Position, low_bits};

use crate::shape::{LAST_LEVEL, arm_level};

/// What went wrong, without the level.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FaultKind {
    /// An address has bits beyond the output address size.
    AddressSize,
    /// Nothing is mapped, or the input address is out of range.
    Translation,
    /// AF is 0, and hardware does not set it.
    AccessFlag,
    /// The access is not allowed.
    Permission,
    /// A table could not be read: a synchronous external abort on a walk.
    WalkAbort,
}

/// DFSC and IFSC: the kind and the level of a fault (DDI 0487, "ESR_EL1", ISS encodings of data and
/// instruction aborts).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FaultStatus {
    kind: FaultKind,
    level: i8,
}

impl FaultStatus {
    /// The fault of `kind` at `level` in Arm's numbering. `None` if no status says it: a level
    /// outside −1 to 3; an access flag or permission fault at level −1, where no leaf stands.
    ///
    /// ```
    /// use pgtable_aarch64::{FaultKind, FaultStatus};
    ///
    /// let status = FaultStatus::new(FaultKind::Translation, -1).map(FaultStatus::into_bits);
    /// assert_eq!(status, Some(0b10_1011));
    /// assert_eq!(FaultStatus::new(FaultKind::Permission, -1), None);
    /// ```
    #[must_use]
    pub const fn new(kind: FaultKind, level: i8) -> Option<Self> {
        let first = match kind {
            FaultKind::AccessFlag | FaultKind::Permission => 0,
            FaultKind::AddressSize | FaultKind::Translation | FaultKind::WalkAbort => -1,
        };
        if first <= level && level <= LAST_LEVEL { Some(Self { kind, level }) } else { None }
    }

    /// The fault of a walk that ended at `at`: at level 0 if the walk did not begin, wherever it
    /// would start. A leaf's fault at a level without leaves counts as one at level 0.
    pub(crate) const fn at(kind: FaultKind, at: Option<Position>) -> Self {
        let level = match at {
            Some(at) => arm_level(at.level),
            None => 0,
        };
        match Self::new(kind, level) {
            Some(status) => status,
            None => Self { kind, level: 0 },
        }
    }

    /// The kind.
    #[must_use]
    pub const fn kind(self) -> FaultKind {
        self.kind
    }

    /// The level in Arm's numbering: −1 to 3.
    #[must_use]
    pub const fn level(self) -> i8 {
        self.level
    }

    /// The six bits.
    #[must_use]
    pub const fn into_bits(self) -> u8 {
        use FaultKind::{AccessFlag, AddressSize, Permission, Translation, WalkAbort};
        match (self.kind, self.level as u8 & 3, self.level < 0) {
            (AddressSize, _, true) => 0b10_1001,
            (Translation, _, true) => 0b10_1011,
            (WalkAbort, _, true) => 0b01_0011,
            (AddressSize, level, false) => level,
            (Translation, level, false) => 0b00_0100 | level,
            (AccessFlag, level, _) => 0b00_1000 | level,
            (Permission, level, _) => 0b00_1100 | level,
            (WalkAbort, level, false) => 0b01_0100 | level,
        }
    }

    /// The fault with these six bits; `None` if it is another kind of fault.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        use FaultKind::{AccessFlag, AddressSize, Permission, Translation, WalkAbort};
        let level = (bits & 3) as i8;
        let (kind, level) = match bits {
            0b10_1001 => (AddressSize, -1),
            0b10_1011 => (Translation, -1),
            0b01_0011 => (WalkAbort, -1),
            0..4 => (AddressSize, level),
            4..8 => (Translation, level),
            8..12 => (AccessFlag, level),
            12..16 => (Permission, level),
            20..24 => (WalkAbort, level),
            _ => return None,
        };
        Self::new(kind, level)
    }
}

/// The exception classes of aborts.
pub(crate) const INSTRUCTION_ABORT_LOWER: u8 = 0x20;
const INSTRUCTION_ABORT_SAME: u8 = 0x21;
pub(crate) const DATA_ABORT_LOWER: u8 = 0x24;
const DATA_ABORT_SAME: u8 = 0x25;

/// ESR_ELx of a data or instruction abort (DDI 0487, "ESR_EL1").
///
/// A walk fills in EC, IL, xFSC, WnR and S1PTW. What only the processor knows (the instruction
/// syndrome, cache maintenance, FnV) is left 0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct Esr {
    /// DFSC or IFSC: [`FaultStatus`].
    #[bits(6)]
    pub status: u8,
    /// WnR: the instruction writes.
    pub write: bool,
    /// S1PTW: a stage-2 fault on a stage-1 walk.
    pub s1ptw: bool,
    /// CM: cache maintenance or address translation.
    pub cm: bool,
    /// EA: the external abort's type.
    pub ea: bool,
    /// FnV: FAR is not valid.
    pub fnv: bool,
    /// SET and LST.
    #[bits(2)]
    pub set: u8,
    /// VNCR.
    pub vncr: bool,
    /// AR, or PFV.
    pub ar: bool,
    /// SF.
    pub sf: bool,
    /// SRT.
    #[bits(5)]
    pub srt: u8,
    /// SSE.
    pub sse: bool,
    /// SAS.
    #[bits(2)]
    pub sas: u8,
    /// ISV: SAS to AR are valid.
    pub isv: bool,
    /// IL: the instruction has 32 bits.
    pub il: bool,
    /// EC: the exception class.
    #[bits(6)]
    pub class: u8,
    /// ISS2.
    #[bits(24)]
    pub iss2: u32,
    __: u8,
}

impl Esr {
    /// The abort of `access` with `status`. `lower`: the access was made at a lower exception level
    /// than the one that takes the abort.
    #[must_use]
    pub const fn abort(status: FaultStatus, access: Access, lower: bool) -> Self {
        Self::of_access(access, lower).with_status(status.into_bits())
    }

    /// An abort of `access` whose status is still to be set: EC, IL and WnR.
    #[must_use]
    pub const fn of_access(access: Access, lower: bool) -> Self {
        let class = match (access.kind, lower) {
            (AccessKind::Fetch, true) => INSTRUCTION_ABORT_LOWER,
            (AccessKind::Fetch, false) => INSTRUCTION_ABORT_SAME,
            (_, true) => DATA_ABORT_LOWER,
            (_, false) => DATA_ABORT_SAME,
        };
        Self::new()
            .with_write(matches!(access.kind, AccessKind::Write))
            .with_il(true)
            .with_class(class)
    }

    /// The same stage-2 fault, met by the stage-1 walk for `access`: EC and WnR are those of the
    /// instruction, whether or not the walk wanted to write.
    #[must_use]
    pub const fn of_stage1_walk(self, access: Access) -> Self {
        Self::of_access(access, true).with_status(self.status()).with_s1ptw(true)
    }

    /// The kind and the level; `None` if it is no fault of a translation.
    #[must_use]
    pub const fn fault(self) -> Option<FaultStatus> {
        FaultStatus::from_bits(self.status())
    }

    /// Whether it is an instruction abort.
    #[must_use]
    pub const fn is_fetch(self) -> bool {
        matches!(self.class(), INSTRUCTION_ABORT_LOWER | INSTRUCTION_ABORT_SAME)
    }
}

impl fmt::Display for Esr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match (self.is_fetch(), self.write()) {
            (true, _) => "fetch",
            (false, true) => "write",
            (false, false) => "read",
        };
        write!(f, "ESR {:#x}: {access}, ", self.into_bits())?;
        match self.fault() {
            Some(FaultStatus { kind, level }) => {
                let kind = match kind {
                    FaultKind::AddressSize => "address size fault",
                    FaultKind::Translation => "translation fault",
                    FaultKind::AccessFlag => "access flag fault",
                    FaultKind::Permission => "permission fault",
                    FaultKind::WalkAbort => "external abort on a table walk",
                };
                write!(f, "{kind}, level {level}")?;
            }
            None => write!(f, "status {:#x}", self.status())?,
        }
        f.write_str(if self.s1ptw() { ", on a stage 1 table walk" } else { "" })
    }
}

/// The kind of fault of a walk that ended for `cause`. A malformed descriptor is one whose address
/// has bits beyond the output address size.
pub(crate) const fn kind_of(cause: Cause) -> FaultKind {
    match cause {
        Cause::Address | Cause::NotPresent | Cause::Contended => FaultKind::Translation,
        Cause::Malformed => FaultKind::AddressSize,
        Cause::TableAccess => FaultKind::WalkAbort,
        Cause::Denied => FaultKind::Permission,
    }
}

/// HPFAR_EL2 for a stage-2 fault at `ipa` ("HPFAR_EL2"): address bits 55:12 in bits 47:4.
#[must_use]
pub const fn hpfar(ipa: Gpa) -> u64 {
    (ipa.get() & low_bits(56)) >> 12 << 4
}

/// The page whose address HPFAR_EL2 has: the inverse of [`hpfar`].
pub(crate) const fn address_of_hpfar(hpfar: u64) -> Gpa {
    Gpa::new((hpfar >> 4 & low_bits(44)) << 12)
}

/// PAR_EL1 after an AT instruction that failed ("PAR_EL1", F = 1).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct FailedPar {
    /// F: the translation failed.
    pub f: bool,
    /// FST: [`FaultStatus`].
    #[bits(6)]
    pub status: u8,
    __: bool,
    /// PTW: a stage-2 fault on a stage-1 walk.
    pub ptw: bool,
    /// S: a stage-2 fault.
    pub s: bool,
    __: bool,
    /// RES1.
    pub res1: bool,
    #[bits(52)]
    __: u64,
}

impl FailedPar {
    /// What an AT instruction leaves that meets the abort `esr`, of stage 2 or not.
    #[must_use]
    pub const fn of(esr: Esr, stage2: bool) -> Self {
        Self::new()
            .with_f(true)
            .with_status(esr.status())
            .with_ptw(esr.s1ptw())
            .with_s(stage2)
            .with_res1(true)
    }
}
