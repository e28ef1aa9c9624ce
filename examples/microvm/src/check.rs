//! One check: the table's row, the software walker and the guest must give the same answer.
//!
//! Three answers, since any two could be wrong together: the walker decodes with the code that the
//! tables were encoded with, so a wrong bit there is wrong in both, and the guest's hardware obeys
//! it. The row was written by hand.

use std::fmt;
use std::marker::PhantomData;

use pgtable::{Access, AccessKind, Gpa, Gva};
use probe_guest::Probe;
use vm_memory::{Bytes, GuestAddress};

use crate::report::{Failure, Report};
use crate::vm::{Ended, Parts, Vm};

/// What comes of an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<F> {
    /// It reaches memory there.
    Reaches(Gpa),
    /// It takes this fault, at its own address.
    Takes(F),
    /// Anything else, in words.
    Odd(String),
}

impl<F: fmt::Display> fmt::Display for Answer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reaches(address) => address.fmt(f),
            Self::Takes(fault) => fault.fmt(f),
            Self::Odd(text) => f.write_str(text),
        }
    }
}

/// One access, and what is to come of it.
#[derive(Clone, Debug)]
pub struct Check<F> {
    pub name: &'static str,
    /// The process that runs.
    pub pid: u32,
    pub address: Gva,
    pub access: Access,
    pub expected: Answer<F>,
    /// Where the address leads whatever the access, or that it leads nowhere; `None`: it is no
    /// address.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub leads: Option<Option<Gpa>>,
}

/// Asks the guest and the walker.
pub struct Checker<'a, V> {
    machine: V,
    asked: u64,
    _memory: PhantomData<&'a ()>,
}

impl<'a, V: Vm<'a>> Checker<'a, V> {
    pub fn new(machine: V) -> Self {
        Self { machine, asked: 0, _memory: PhantomData }
    }

    /// Carries a check out, and says so.
    ///
    /// # Errors
    /// [`Failure::Check`] if the answers are not one; the OS error.
    pub fn run(&mut self, check: &Check<V::Fault>, report: &mut Report) -> Result<(), Failure> {
        let Check { name, pid, address, access, expected, .. } = check;
        let walker = self.machine.translate(*pid, *address, *access)?;
        self.machine.run_process(*pid)?;
        let (guest, seen) = self.ask_guest(check)?;
        let other = self.machine.third_opinion(check)?;
        let question = format!("{:<16} {address:#018x} pid {pid}", access.to_string());
        if walker == *expected && guest == *expected && other.is_none() {
            report.check(name, &question, expected, &seen);
            if report.verbose() {
                self.trace(check)?;
            }
            return Ok(());
        }
        self.trace(check)?;
        Err(Failure::Check {
            name: (*name).into(),
            question,
            expected: expected.to_string(),
            walker: Some(walker.to_string()),
            seen: format!("{guest} ({seen}){}", other.unwrap_or_default()),
        })
    }

    /// Has the guest load from there, whatever comes of it: the processor may cache the translation
    /// from now on.
    pub fn touch(&mut self, pid: u32, address: u64) -> Result<(), Failure> {
        self.machine.run_process(pid)?;
        for &access in V::TOUCHES {
            self.machine.probe(&Probe { address: Gva::new(address), access, value: 0 })?;
        }
        Ok(())
    }

    /// The guest's answer, and what was seen of it.
    fn ask_guest(
        &mut self,
        check: &Check<V::Fault>,
    ) -> Result<(Answer<V::Fault>, String), Failure> {
        self.asked += 1;
        let Parts { memory, .. } = self.machine.parts();
        let kind = check.access.kind;
        let there = match check.expected {
            Answer::Reaches(gpa) => Some(gpa),
            Answer::Takes(_) | Answer::Odd(_) => None,
        };
        // No two checks have the same value, and neither value stands anywhere in memory.
        let value = self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (code, returned) = self.machine.function(self.asked, value);
        let address = there.map(|gpa| GuestAddress(gpa.get()));
        if let Some(address) = address {
            match kind {
                AccessKind::Read => memory.write_obj(value.to_le(), address)?,
                AccessKind::Write => memory.write_obj(!value, address)?,
                AccessKind::Fetch => memory.write_slice(&code, address)?,
            }
        }
        let given = if kind == AccessKind::Read { 0 } else { value };
        let probe = Probe { address: check.address, access: check.access, value: given };
        let (ended, text) = self.machine.probe(&probe)?;
        let answer = match (ended, there, address) {
            (Ended::Faulted(fault), ..) => Answer::Takes(fault),
            (Ended::Odd(odd), ..) => Answer::Odd(odd),
            (Ended::Done(seen), Some(gpa), Some(address)) => {
                let wanted = if kind == AccessKind::Fetch { returned } else { value };
                let stored = match kind {
                    AccessKind::Write => u64::from_le(memory.read_obj(address)?),
                    AccessKind::Read | AccessKind::Fetch => wanted,
                };
                if (seen, stored) == (wanted, wanted) {
                    Answer::Reaches(gpa)
                } else {
                    Answer::Odd(format!(
                        "done, but not at {gpa}: value {seen:#x}, there {stored:#x}, expected {wanted:#x}"
                    ))
                }
            }
            (Ended::Done(_), ..) => Answer::Odd(text.clone()),
        };
        Ok((answer, text))
    }

    /// Shows the walk, entry by entry.
    fn trace(&self, check: &Check<V::Fault>) -> Result<(), Failure> {
        for (level, address, word) in self.machine.trace(check.pid, check.address)? {
            println!("        level {level}: {address:#x} holds {word:#018x}");
        }
        Ok(())
    }
}
