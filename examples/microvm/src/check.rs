//! One check: the table's row, the software walker and the guest must give the same answer.
//!
//! Three answers, since any two could be wrong together: the walker decodes with the code that the
//! tables were encoded with, so a wrong bit there is wrong in both, and the guest's hardware obeys
//! it. The row was written by hand.

use std::fmt;

use arch_ppc64::{Interrupt, Status, Vector};
use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};
use probe_guest::Probe;
use probe_guest::ppc64::{self, Outcome};
use vm_memory::{Bytes, GuestAddress};

use crate::machine::Machine;
use crate::report::{Failure, Report};

/// What comes of an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It reaches memory there.
    Reaches(Gpa),
    /// It takes this interrupt, at its own address.
    Takes(Interrupt),
    /// Anything else, in words.
    Odd(String),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reaches(address) => address.fmt(f),
            Self::Takes(interrupt) => interrupt.fmt(f),
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
}

/// Asks the guest and the walker.
pub struct Checker<'a> {
    machine: Machine<'a>,
    running: Option<u32>,
    asked: u64,
}

impl<'a> Checker<'a> {
    pub fn new(machine: Machine<'a>) -> Self {
        Self { machine, running: None, asked: 0 }
    }

    /// Carries a check out, and says so.
    ///
    /// # Errors
    /// [`Failure::Check`] if the three answers are not one; the OS error.
    pub fn run(&mut self, check: &Check, report: &mut Report) -> Result<(), Failure> {
        let walker = self.ask_walker(check);
        self.run_process(check.pid)?;
        let (guest, seen) = self.ask_guest(check)?;
        let Check { name, pid, address, access, expected } = check;
        let question = format!("{:<16} {address:#018x} pid {pid}", access.to_string());
        if walker == *expected && guest == *expected {
            report.check(name, &question, expected, &seen);
            if report.verbose() {
                self.trace(check);
            }
            return Ok(());
        }
        self.trace(check);
        Err(Failure::Check {
            name: (*name).into(),
            question,
            expected: expected.to_string(),
            walker: Some(walker.to_string()),
            seen: format!("{guest} ({seen})"),
        })
    }

    /// Lets the guest run another process.
    pub fn run_process(&mut self, pid: u32) -> Result<(), Failure> {
        if self.running != Some(pid) {
            self.machine.guest.borrow().set_pid(pid)?;
            self.running = Some(pid);
        }
        Ok(())
    }

    /// Has the guest load from there, whatever comes of it: the processor may cache the translation
    /// from now on.
    pub fn touch(&mut self, pid: u32, address: u64) -> Result<(), Failure> {
        self.run_process(pid)?;
        self.machine.guest.borrow_mut().probe(&Probe {
            address: Gva::new(address),
            access: Access::READ,
            value: 0,
        })?;
        Ok(())
    }

    fn ask_walker(&self, check: &Check) -> Answer {
        match self.machine.mmu(check.pid).translate_ea(
            self.machine.tables,
            check.address,
            check.access,
        ) {
            Ok(translation) => Answer::Reaches(translation.output),
            Err(fault) if fault.address == check.address => Answer::Takes(fault.interrupt),
            Err(fault) => Answer::Odd(fault.to_string()),
        }
    }

    /// The guest's answer, and what was seen of it.
    fn ask_guest(&mut self, check: &Check) -> Result<(Answer, String), Failure> {
        self.asked += 1;
        let there = match check.expected {
            Answer::Reaches(gpa) => Some(gpa),
            Answer::Takes(_) | Answer::Odd(_) => None,
        };
        // No two checks have the same value, and neither value stands anywhere in memory.
        let value = self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // A function call adds to the value; each copy of the function adds another number.
        let addend = (self.asked & 0x3fff) as i16 + 1;
        let address = there.map(|gpa| GuestAddress(gpa.get()));
        if let Some(address) = address {
            match check.access.kind {
                AccessKind::Read => self.machine.memory.write_obj(value.to_le(), address)?,
                AccessKind::Write => self.machine.memory.write_obj(!value, address)?,
                AccessKind::Fetch => {
                    self.machine
                        .memory
                        .write_slice(&self.machine.guest.borrow().target(addend), address)?;
                }
            }
        }
        let given = if check.access.kind == AccessKind::Read { 0 } else { value };
        let probe = Probe { address: check.address, access: check.access, value: given };
        let outcome = self.machine.guest.borrow_mut().probe(&probe)?;
        let answer = match (outcome, there, address) {
            (Outcome::Interrupted(interrupt), ..) => {
                taken(&interrupt, check.address, check.access.privilege)
            }
            (Outcome::Completed { value: seen }, Some(gpa), Some(address)) => {
                let wanted = match check.access.kind {
                    AccessKind::Read | AccessKind::Write => value,
                    AccessKind::Fetch => value.wrapping_add(addend as u64),
                };
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

    /// Shows the walk, entry by entry.
    fn trace(&self, check: &Check) {
        let mmu = self.machine.mmu(check.pid);
        let Some(pid) = mmu.process(check.address) else { return };
        match mmu.walker(self.machine.tables, pid) {
            Ok(walker) => {
                for entry in walker.trace(check.address) {
                    println!(
                        "        {}: {:#x} holds {:#018x}",
                        entry.at.level, entry.address, entry.word
                    );
                }
            }
            Err(cause) => println!("        process {pid} {cause}"),
        }
    }
}

/// The interrupt in the library's words, if it is about `address` and came in that state.
pub fn taken(interrupt: &ppc64::Interrupt, address: Gva, privilege: Privilege) -> Answer {
    let vectors = [
        Vector::DataStorage,
        Vector::DataSegment,
        Vector::InstructionStorage,
        Vector::InstructionSegment,
    ];
    let vector = vectors.into_iter().find(|vector| u64::from(vector.offset()) == interrupt.vector);
    match vector {
        Some(vector)
            if interrupt.address() == Some(address.get()) && interrupt.privilege() == privilege =>
        {
            Answer::Takes(Interrupt {
                vector,
                status: Status::from_bits(interrupt.reason().unwrap_or(0)),
            })
        }
        _ => Answer::Odd("an interrupt that is not this access's".into()),
    }
}
