//! What came of an access, in the SDM's words.

use std::fmt;

use pgtable::{Gpa, Privilege};

/// Exception vectors (SDM table 6-1).
pub mod vector {
    /// #GP.
    pub const GENERAL_PROTECTION: u64 = 13;
    /// #PF.
    pub const PAGE_FAULT: u64 = 14;
}

/// What came of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Completed {
        /// What was loaded or said; what was stored.
        value: u64,
    },
    /// It was translated, to where the guest has no memory.
    NoMemory {
        /// Where.
        address: Gpa,
    },
    /// It took an exception.
    Trapped(Trap),
    /// The guest could not even take an exception: a triple fault.
    Shutdown,
    /// The guest ran into something else, and stopped there.
    Astray {
        /// Where.
        rip: u64,
    },
    /// The guest never came back.
    Hung {
        /// Where it was last.
        rip: u64,
    },
}

/// An exception that the guest took, as the guest's handler saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Which.
    pub vector: u64,
    /// The error code; 0 if the exception has none.
    pub code: u64,
    /// CR2, which is about this exception if it is #PF.
    pub cr2: u64,
    /// The instruction that took it.
    pub rip: u64,
    /// The code segment of that instruction.
    pub cs: u64,
}

impl Trap {
    /// Who took it.
    #[must_use]
    pub const fn privilege(&self) -> Privilege {
        if self.cs & 3 == 3 { Privilege::User } else { Privilege::Supervisor }
    }
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, code, cr2, rip, cs } = self;
        match *vector {
            vector::PAGE_FAULT => write!(f, "#PF error {code:#x} cr2={cr2:#x}")?,
            vector::GENERAL_PROTECTION => write!(f, "#GP error {code:#x}")?,
            vector => write!(f, "exception {vector} error {code:#x}")?,
        }
        write!(f, " rip={rip:#x} CPL {}", cs & 3)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed { value } => write!(f, "done, value {value:#x}"),
            Self::NoMemory { address } => write!(f, "no memory at {address}"),
            Self::Trapped(trap) => trap.fmt(f),
            Self::Shutdown => f.write_str("triple fault"),
            Self::Astray { rip } => write!(f, "astray, stopped at {rip:#x}"),
            Self::Hung { rip } => write!(f, "hung at {rip:#x}"),
        }
    }
}
