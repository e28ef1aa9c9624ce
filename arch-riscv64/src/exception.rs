//! Exceptions of address translation, by their codes in `scause`.

use core::fmt;

use pgtable::AccessKind;

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

/// By kind of fault, and then by access.
const ALL: [Exception; 9] = {
    use Exception::*;
    [
        InstructionAccessFault,
        LoadAccessFault,
        StoreAccessFault,
        InstructionPageFault,
        LoadPageFault,
        StorePageFault,
        InstructionGuestPageFault,
        LoadGuestPageFault,
        StoreGuestPageFault,
    ]
};

impl Exception {
    /// The exception with this code. `None`: an interrupt, or an exception of another kind.
    #[must_use]
    pub fn from_code(code: u64) -> Option<Self> {
        ALL.into_iter().find(|exception| u64::from(exception.code()) == code)
    }

    /// The code in `scause`.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The original access that it reports.
    #[must_use]
    pub const fn kind(self) -> AccessKind {
        match self.code() {
            1 | 12 | 20 => AccessKind::Fetch,
            5 | 13 | 21 => AccessKind::Read,
            _ => AccessKind::Write,
        }
    }

    /// Whether a guest stage raised it.
    #[must_use]
    pub const fn is_guest_page_fault(self) -> bool {
        self.code() >= 20
    }

    /// The same exception for another original access.
    #[must_use]
    pub const fn with_kind(self, kind: AccessKind) -> Self {
        let fault = match self.code() {
            ..8 => 0,
            8..16 => 3,
            16.. => 6,
        };
        ALL[match kind {
            AccessKind::Fetch => fault,
            AccessKind::Read => fault + 1,
            AccessKind::Write => fault + 2,
        }]
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.kind() {
            AccessKind::Fetch => "instruction",
            AccessKind::Read => "load",
            AccessKind::Write => "store/AMO",
        };
        let fault = match self.code() {
            ..8 => "access fault",
            8..16 => "page fault",
            16.. => "guest-page fault",
        };
        write!(f, "{access} {fault} ({})", self.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::{format, string::ToString};

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
            let text = exception.to_string();
            assert!(text.ends_with(&format!("fault ({code})")), "{text}");
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
