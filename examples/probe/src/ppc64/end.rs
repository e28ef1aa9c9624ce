//! What came of an access: as predicted, or as seen; and how the two differ.

use std::error::Error;
use std::fmt;

use pgtable::Gpa;
use probe_guest::ppc64::{Interrupt, Outcome};

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

/// How often the guest may hang until it is not worth while to go on.
const HANGS: usize = 5;

/// How often the guest has hung.
#[derive(Debug, Default)]
pub struct Hangs(usize);

impl Hangs {
    /// What came of an access by its `outcome`: done, if there is memory for it, which is at `at`,
    /// and if it saw, and `stored` there, what was `wanted`.
    ///
    /// # Errors
    /// The guest has hung too often.
    pub fn end_of(
        &mut self,
        outcome: &Outcome,
        at: Option<Gpa>,
        wanted: u64,
        stored: u64,
    ) -> Result<End, Box<dyn Error>> {
        Ok(match (outcome, at) {
            (&Outcome::Completed { value: seen }, Some(at))
                if (seen, stored) == (wanted, wanted) =>
            {
                End::Done(at)
            }
            (&Outcome::NoMemory { address }, _) => End::NoMemory(address),
            (&Outcome::Interrupted(interrupt), _) => End::Took(interrupt),
            (Outcome::Completed { .. }, _) => End::Odd(format!("{outcome}, somewhere else")),
            (Outcome::Hung { .. }, _) => {
                self.0 += 1;
                if self.0 == HANGS {
                    return Err(format!("the guest has hung {HANGS} times").into());
                }
                End::Odd(outcome.to_string())
            }
        })
    }
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
