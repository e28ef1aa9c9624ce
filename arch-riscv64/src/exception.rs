//! Exceptions of address translation, by their codes in `scause`.

use core::fmt;

use pgtable::{AccessKind, Cause};

/// An exception that a memory access raises ("Supervisor Cause Register", "Hypervisor and Virtual
/// Supervisor CSRs": exception codes).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Exception {
    /// A fetch reached memory that cannot be fetched from.
    InstructionAccessFault = 1,
    /// A load reached memory that cannot be read.
    LoadAccessFault = 5,
    /// A store or AMO reached memory that cannot be written.
    StoreAccessFault = 7,
    /// A first stage refused a fetch.
    InstructionPageFault = 12,
    /// A first stage refused a load.
    LoadPageFault = 13,
    /// A first stage refused a store or AMO.
    StorePageFault = 15,
    /// A guest stage refused a fetch, or an access to the guest's tables on its behalf.
    InstructionGuestPageFault = 20,
    /// A guest stage refused a load, or an access to the guest's tables on its behalf.
    LoadGuestPageFault = 21,
    /// A guest stage refused a store or AMO, or an access to the guest's tables on its behalf.
    StoreGuestPageFault = 23,
}

impl Exception {
    const ALL: [Self; 9] = [
        Self::InstructionAccessFault,
        Self::LoadAccessFault,
        Self::StoreAccessFault,
        Self::InstructionPageFault,
        Self::LoadPageFault,
        Self::StorePageFault,
        Self::InstructionGuestPageFault,
        Self::LoadGuestPageFault,
        Self::StoreGuestPageFault,
    ];

    /// The exception with this code. `None`: an interrupt, or an exception of another kind.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|exception| u64::from(exception.code()) == code)
    }

    /// The code in `scause`.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The original access that it reports.
    #[must_use]
    pub const fn kind(self) -> AccessKind {
        match self {
            Self::InstructionAccessFault
            | Self::InstructionPageFault
            | Self::InstructionGuestPageFault => AccessKind::Fetch,
            Self::LoadAccessFault | Self::LoadPageFault | Self::LoadGuestPageFault => {
                AccessKind::Read
            }
            Self::StoreAccessFault | Self::StorePageFault | Self::StoreGuestPageFault => {
                AccessKind::Write
            }
        }
    }

    /// Whether a guest stage raised it.
    #[must_use]
    pub const fn is_guest_page_fault(self) -> bool {
        self as u8 >= Self::InstructionGuestPageFault as u8
    }

    /// The same exception for another original access.
    #[must_use]
    pub const fn with_kind(self, kind: AccessKind) -> Self {
        // The codes of one kind of fault: fetch first, then load and store.
        let row = match self as u8 {
            ..=7 => 0,
            8..=15 => 3,
            _ => 6,
        };
        Self::ALL[match kind {
            AccessKind::Fetch => row,
            AccessKind::Read => row + 1,
            AccessKind::Write => row + 2,
        }]
    }

    /// The exception where a walk ends because of `cause`: `page` is the stage's own.
    pub(crate) const fn of(cause: Cause, kind: AccessKind, page: Self) -> Self {
        match cause {
            Cause::TableAccess => Self::LoadAccessFault.with_kind(kind),
            _ => page.with_kind(kind),
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::InstructionAccessFault => "instruction access fault",
            Self::LoadAccessFault => "load access fault",
            Self::StoreAccessFault => "store/AMO access fault",
            Self::InstructionPageFault => "instruction page fault",
            Self::LoadPageFault => "load page fault",
            Self::StorePageFault => "store/AMO page fault",
            Self::InstructionGuestPageFault => "instruction guest-page fault",
            Self::LoadGuestPageFault => "load guest-page fault",
            Self::StoreGuestPageFault => "store/AMO guest-page fault",
        };
        write!(f, "{name} ({})", self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (code, kind, guest) in [
            (1, AccessKind::Fetch, false),
            (5, AccessKind::Read, false),
            (7, AccessKind::Write, false),
            (12, AccessKind::Fetch, false),
            (13, AccessKind::Read, false),
            (15, AccessKind::Write, false),
            (20, AccessKind::Fetch, true),
            (21, AccessKind::Read, true),
            (23, AccessKind::Write, true),
        ] {
            let Some(exception) = Exception::from_code(code) else { panic!("{code}") };
            assert_eq!(u64::from(exception.code()), code);
            assert_eq!(exception.kind(), kind, "{exception}");
            assert_eq!(exception.is_guest_page_fault(), guest, "{exception}");
            for other in [AccessKind::Fetch, AccessKind::Read, AccessKind::Write] {
                let changed = exception.with_kind(other);
                assert_eq!(changed.kind(), other, "{exception}");
                assert_eq!(changed.with_kind(kind), exception);
            }
        }
        for code in [0, 2, 3, 4, 6, 8, 14, 16, 22, 24, 1 << 63 | 5] {
            assert_eq!(Exception::from_code(code), None, "{code}");
        }
    }
}
