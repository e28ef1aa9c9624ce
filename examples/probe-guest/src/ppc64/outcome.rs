//! What came of an access, in Power ISA’s words.

use super::msr;
use pgtable::{Gpa, Privilege};
use std::fmt;

/// Interrupt vectors (Power ISA v3.0B, book III, 6.4).
pub mod vector {
    /// Data storage interrupt.
    pub const DATA_STORAGE: u64 = 0x300;
    /// Data segment interrupt.
    pub const DATA_SEGMENT: u64 = 0x380;
    /// Instruction storage interrupt.
    pub const INSTRUCTION_STORAGE: u64 = 0x400;
    /// Instruction segment interrupt.
    pub const INSTRUCTION_SEGMENT: u64 = 0x480;
    /// Program interrupt.
    pub const PROGRAM: u64 = 0x700;
    /// System call interrupt.
    pub const SYSTEM_CALL: u64 = 0xc00;
}

/// What came of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Completed {
        /// What was loaded or computed; what was stored.
        value: u64,
    },
    /// It was translated, to where the guest has no memory.
    NoMemory {
        /// Where.
        address: Gpa,
    },
    /// It took an interrupt.
    Interrupted(Interrupt),
    /// The guest never came back.
    Hung {
        /// Where it was last.
        pc: u64,
    },
}

/// An interrupt that the guest took, and the registers that say why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupt {
    /// Which.
    pub vector: u64,
    /// The instruction that took it.
    pub srr0: u64,
    /// The MSR at that instruction, and for an instruction storage interrupt the reason.
    pub srr1: u64,
    /// The reason of a data storage interrupt; else 0.
    pub dsisr: u32,
    /// The address of a data storage or data segment interrupt; else 0.
    pub dar: u64,
}

impl Interrupt {
    /// The bits of SRR1 that say why an instruction storage interrupt came.
    pub const SRR1_REASON: u64 = 0x783f_0000;

    /// Why a storage interrupt came: the DSISR, or the bits of SRR1 that stand for it.
    #[must_use]
    pub fn reason(&self) -> Option<u32> {
        match self.vector {
            vector::DATA_STORAGE => Some(self.dsisr),
            vector::INSTRUCTION_STORAGE => Some((self.srr1 & Self::SRR1_REASON) as u32),
            _ => None,
        }
    }

    /// Who was interrupted.
    #[must_use]
    pub const fn privilege(&self) -> Privilege {
        if self.srr1 & msr::PR == 0 { Privilege::Supervisor } else { Privilege::User }
    }

    /// The effective address that a storage or segment interrupt is about.
    #[must_use]
    pub fn address(&self) -> Option<u64> {
        match self.vector {
            vector::DATA_STORAGE | vector::DATA_SEGMENT => Some(self.dar),
            vector::INSTRUCTION_STORAGE | vector::INSTRUCTION_SEGMENT => Some(self.srr0),
            _ => None,
        }
    }
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, srr0, srr1, dsisr, dar } = self;
        write!(
            f,
            "interrupt {vector:#x} srr0={srr0:#x} srr1={srr1:#x} dsisr={dsisr:#x} dar={dar:#x}"
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Completed { value } => write!(f, "done, value {value:#x}"),
            Self::NoMemory { address } => write!(f, "no memory at {address}"),
            Self::Interrupted(interrupt) => interrupt.fmt(f),
            Self::Hung { pc } => write!(f, "hung at {pc:#x}"),
        }
    }
}
