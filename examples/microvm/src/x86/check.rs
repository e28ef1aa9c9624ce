//! One check: the table's row, the software walker, the kernel's walker and the guest must give the
//! same answer.
//!
//! The walker decodes with the code that the tables were encoded with, so a wrong bit there is
//! wrong in both, and the guest's processor obeys it. The row was written by hand.

use std::fmt;

use arch_x86::LongModeFault;
use pgtable::{Access, AccessKind, Gpa, Gva};
use probe_guest::Probe;
use probe_guest::x86::{Outcome, Trap, vector};
use vm_memory::{Bytes, GuestAddress};

use super::machine::Machine;
use crate::report::{Failure, Report};

/// What comes of an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It reaches memory there.
    Reaches(Gpa),
    /// #PF with this error code, and CR2 its own address.
    PageFault(u64),
    /// #GP with this error code.
    GeneralProtection(u64),
    /// Anything else, in words.
    Odd(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reaches(address) => address.fmt(f),
            Self::PageFault(code) => write!(f, "#PF error {code:#x}"),
            Self::GeneralProtection(code) => write!(f, "#GP error {code:#x}"),
            Self::Odd(text) => f.write_str(text),
        }
    }
}

/// One access, and what is to come of it.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    /// The process that runs.
    pub pid: u32,
    pub address: Gva,
    pub access: Access,
    pub expected: Answer,
    /// What KVM_TRANSLATE is to say of the address: where it leads, or that it leads nowhere.
    /// `None`: it is not asked.
    pub kernel: Option<Option<Gpa>>,
}

/// Asks the guest, the walker and the kernel.
pub struct Checker<'a> {
    machine: Machine<'a>,
    asked: u64,
}

impl<'a> Checker<'a> {
    pub fn new(machine: Machine<'a>) -> Self {
        Self { machine, asked: 0 }
    }

    /// Carries a check out, and says so.
    ///
    /// # Errors
    /// [`Failure::Check`] if the answers are not one; the OS error.
    pub fn run(&mut self, check: &Check, report: &mut Report) -> Result<(), Failure> {
        let walker = self.ask_walker(check)?;
        self.machine.run_process(check.pid)?;
        let (guest, seen) = self.ask_guest(check)?;
        let kernel = self.ask_kernel(check)?;
        let Check { name, pid, address, access, expected, .. } = check;
        let question = format!("{:<16} {address:#018x} pid {pid}", access.to_string());
        if walker == *expected && guest == *expected && kernel.is_none() {
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
            seen: format!("{guest} ({seen}){}", kernel.unwrap_or_default()),
        })
    }

    /// Has the guest load from there in both modes, whatever comes of it: the processor may cache
    /// the translation from now on.
    pub fn touch(&mut self, pid: u32, address: u64) -> Result<(), Failure> {
        self.machine.run_process(pid)?;
        for access in [Access::READ, Access::READ.by_user()] {
            self.machine.guest.borrow_mut().probe(&Probe {
                address: Gva::new(address),
                access,
                value: 0,
            })?;
        }
        Ok(())
    }

    fn ask_walker(&self, check: &Check) -> Result<Answer, Failure> {
        Ok(match self.machine.walker(check.pid)?.translate(check.address, check.access) {
            Ok(translation) => Answer::Reaches(translation.output),
            Err(fault) => match fault.arch {
                LongModeFault::PageFault(code) => Answer::PageFault(code.into_bits().into()),
                LongModeFault::GeneralProtection => Answer::GeneralProtection(0),
            },
        })
    }

    /// What KVM_TRANSLATE says, if that is not as it should be.
    fn ask_kernel(&mut self, check: &Check) -> Result<Option<String>, Failure> {
        let Some(wanted) = check.kernel else { return Ok(None) };
        let seen = self.machine.guest.borrow_mut().translate(check.address)?.output;
        let words = |output: Option<Gpa>| output.map_or("nowhere".into(), |gpa| gpa.to_string());
        Ok((seen != wanted)
            .then(|| format!("; KVM_TRANSLATE: {}, expected {}", words(seen), words(wanted))))
    }

    /// The guest's answer, and what was seen of it.
    fn ask_guest(&mut self, check: &Check) -> Result<(Answer, String), Failure> {
        self.asked += 1;
        let there = match check.expected {
            Answer::Reaches(gpa) => Some(gpa),
            _ => None,
        };
        // No two checks have the same value, and neither value stands anywhere in memory.
        let value = self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let number = value as u32;
        let address = there.map(|gpa| GuestAddress(gpa.get()));
        if let Some(address) = address {
            match check.access.kind {
                AccessKind::Read => self.machine.memory.write_obj(value.to_le(), address)?,
                AccessKind::Write => self.machine.memory.write_obj(!value, address)?,
                AccessKind::Fetch => {
                    self.machine
                        .memory
                        .write_slice(&self.machine.guest.borrow().target(number), address)?;
                }
            }
        }
        let given = if check.access.kind == AccessKind::Write { value } else { 0 };
        let probe = Probe { address: check.address, access: check.access, value: given };
        let outcome = self.machine.guest.borrow_mut().probe(&probe)?;
        let answer = match (outcome, there, address) {
            (Outcome::Trapped(trap), ..) => self.trapped(&trap, check),
            (Outcome::Completed { value: seen }, Some(gpa), Some(address)) => {
                let wanted =
                    if check.access.kind == AccessKind::Fetch { u64::from(number) } else { value };
                let stored = match check.access.kind {
                    AccessKind::Write => u64::from_le(self.machine.memory.read_obj(address)?),
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
            (outcome, ..) => Answer::Odd(outcome.to_string()),
        };
        Ok((answer, outcome.to_string()))
    }

    /// The exception, if it is this access's own.
    fn trapped(&self, trap: &Trap, check: &Check) -> Answer {
        let own = self.machine.guest.borrow().is_of(trap, check.address, check.access);
        match trap.vector {
            vector::PAGE_FAULT if own && trap.cr2 == check.address.get() => {
                Answer::PageFault(trap.code)
            }
            vector::GENERAL_PROTECTION if own => Answer::GeneralProtection(trap.code),
            _ => Answer::Odd("an exception that is not this access's".into()),
        }
    }

    /// Shows the walk, entry by entry.
    fn trace(&self, check: &Check) -> Result<(), Failure> {
        for entry in self.machine.walker(check.pid)?.trace(check.address) {
            println!("        {}: {:#x} holds {:#018x}", entry.at.level, entry.address, entry.word);
        }
        Ok(())
    }
}
