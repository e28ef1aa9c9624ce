//! What came of an access: as predicted, or as seen; and how the two differ.

use std::fmt;

use pgtable::Gpa;
use probe_guest::ppc64::Interrupt;

use crate::report::Ended;

/// What came of an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was done, in memory there.
    Done(Gpa),
    /// It was translated, to where there is no memory.
    NoMemory(Gpa),
    /// It took this interrupt.
    Took(Interrupt),
    /// Anything else, in words.
    Odd(String),
}

impl End {
    /// The fields in which the prediction `self` differs from what was `seen`, by name.
    pub fn differences(&self, seen: &Self) -> Vec<String> {
        let mut all = Vec::new();
        let mut field = |name: &str, expected: u64, seen: u64| {
            if expected != seen {
                all.push(format!("{name}: expected {expected:#x}, seen {seen:#x}"));
            }
        };
        match (self, seen) {
            (Self::Took(expected), Self::Took(seen)) => {
                field("vector", expected.vector, seen.vector);
                field("DSISR", expected.dsisr.into(), seen.dsisr.into());
                field("DAR", expected.dar, seen.dar);
                field("SRR0", expected.srr0, seen.srr0);
                let reason = Interrupt::SRR1_REASON;
                field("SRR1 reason", expected.srr1 & reason, seen.srr1 & reason);
                field("SRR1 state", expected.srr1 & !reason, seen.srr1 & !reason);
            }
            (expected, seen) if expected != seen => {
                all.push(format!("end: expected {expected}, seen {seen}"));
            }
            _ => {}
        }
        all
    }
}

impl From<&End> for Ended {
    fn from(end: &End) -> Self {
        match end {
            End::Done(_) => Self::Done,
            End::NoMemory(_) => Self::NoMemory,
            End::Took(_) | End::Odd(_) => Self::Refused,
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(address) => write!(f, "done at {address}"),
            Self::NoMemory(address) => write!(f, "no memory at {address}"),
            Self::Took(interrupt) => interrupt.fmt(f),
            Self::Odd(text) => f.write_str(text),
        }
    }
}
