//! The machine: the guest, its processes, and how its exceptions read.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;

use pgtable::memory::GuestTables;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};
use pgtable_x86::{LongMode, LongModeFault};
use probe_guest::Probe;
use probe_guest::x86::{self, Outcome, ProbeGuest, Trap, vector};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use super::layout::{LINEAR, OTHER, PROCESS};
use super::shootdown::Shootdown;
use crate::allows::Allows;
use crate::check::{Answer, Check, Checker};
use crate::look::{Finds, look};
use crate::report::{Failure, Report};
use crate::vm::{self, Edit, EditedPage, Ended, Parts, Vm};

/// An exception that an access takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exception {
    /// #PF with this error code, and CR2 its own address.
    PageFault(u64),
    /// #GP with this error code.
    GeneralProtection(u64),
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageFault(code) => write!(f, "#PF error {code:#x}"),
            Self::GeneralProtection(code) => write!(f, "#GP error {code:#x}"),
        }
    }
}

/// Which tree each process has, and which one runs.
pub struct Processes {
    format: LongMode,
    roots: Vec<(u32, Gpa)>,
    running: Cell<Option<u32>>,
}

impl Processes {
    pub fn new(format: LongMode, roots: impl Iterator<Item = (u32, Gpa)>) -> Self {
        Self { format, roots: roots.collect(), running: Cell::new(None) }
    }

    pub fn all(&self) -> impl Iterator<Item = (u32, Gpa)> {
        self.roots.iter().copied()
    }

    fn root(&self, pid: u32) -> Result<Gpa, Failure> {
        let found = self.roots.iter().find(|(it, _)| *it == pid);
        Ok(found.ok_or_else(|| format!("there is no process {pid}"))?.1)
    }
}

/// The microVM.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    pub guest: &'a RefCell<ProbeGuest>,
    pub parts: Parts<'a>,
    pub processes: &'a Processes,
    pub shootdown: &'a Shootdown<'a>,
}

impl<'a> Machine<'a> {
    /// A reader of a process's tree, as the guest's processor is one.
    pub fn walker(&self, pid: u32) -> Result<Walker<LongMode, &'a GuestTables<'a, Gpa>>, Failure> {
        Ok(Walker::new(self.processes.format, self.parts.tables, self.processes.root(pid)?))
    }

    /// Whether there is memory.
    pub fn is_memory(&self, gpa: u64) -> bool {
        self.parts.memory.address_in_range(GuestAddress(gpa))
    }

    /// The exception, if it is this access's own.
    fn trapped(&self, trap: &Trap, address: Gva, access: Access) -> Ended<Exception> {
        let own = self.guest.borrow().is_of(trap, address, access);
        match trap.vector {
            vector::PAGE_FAULT if own && trap.cr2 == address.get() => {
                Ended::Faulted(Exception::PageFault(trap.code))
            }
            vector::GENERAL_PROTECTION if own => {
                Ended::Faulted(Exception::GeneralProtection(trap.code))
            }
            _ => Ended::Odd("an exception that is not this access's".into()),
        }
    }
}

impl<'a> Vm<'a> for Machine<'a> {
    type Fault = Exception;
    type Format = LongMode;
    type Shootdown = Shootdown<'a>;

    const INSTRUCTIONS: &'static str = "instructions";
    const TOUCHES: &'static [Access] = &[Access::READ, Access::READ.by_user()];
    const EDITED: EditedPage = EditedPage {
        pid: PROCESS,
        at: 0x005f_9000,
        places: [(0x0061_1000, 0x0123_4567_89ab_cdef), (0x0063_0000, 0xfedc_ba98_7654_3210)],
        linear: LINEAR,
        allows: Allows::both("rwx"),
    };

    fn parts(&self) -> Parts<'a> {
        self.parts
    }

    fn sent(&self) -> usize {
        self.shootdown.sent()
    }

    /// The error code's bits as the SDM (§4.7) has them, EFER.NXE being on.
    fn refusal(finds: Finds, access: Access) -> Exception {
        let present = match finds {
            Finds::NoAddress => return Exception::GeneralProtection(0),
            Finds::Page(..) => 0x1,
            Finds::Unmapped | Finds::NoTree => 0x0,
        };
        let kind = match access.kind {
            AccessKind::Read => 0x0,
            AccessKind::Write => 0x2,
            AccessKind::Fetch => 0x10,
        };
        let who = match access.privilege {
            Privilege::Supervisor => 0x0,
            Privilege::User => 0x4,
        };
        Exception::PageFault(present | kind | who)
    }

    /// Loads its CR3, at which the processor forgets the last one's translations.
    fn run_process(&self, pid: u32) -> Result<(), Failure> {
        if self.processes.running.replace(Some(pid)) != Some(pid) {
            let registers = self.processes.format.registers(self.processes.root(pid)?);
            self.guest.borrow_mut().set_registers(registers);
        }
        Ok(())
    }

    fn probe(&self, probe: &Probe) -> io::Result<(Ended<Exception>, String)> {
        let outcome = self.guest.borrow_mut().probe(probe)?;
        let ended = match outcome {
            Outcome::Completed { value } => Ended::Done(value),
            Outcome::Trapped(trap) => self.trapped(&trap, probe.address, probe.access),
            outcome => Ended::Odd(outcome.to_string()),
        };
        Ok((ended, outcome.to_string()))
    }

    /// Each says its own number.
    fn function(&self, _: u64, value: u64) -> (Vec<u8>, u64) {
        let number = value as u32;
        (self.guest.borrow().target(number).to_vec(), number.into())
    }

    fn translate(
        &self,
        pid: u32,
        address: Gva,
        access: Access,
    ) -> Result<Answer<Exception>, Failure> {
        Ok(match self.walker(pid)?.translate(address, access) {
            Ok(translation) => Answer::Reaches(translation.output),
            Err(fault) => Answer::Takes(match fault.arch {
                LongModeFault::PageFault(code) => Exception::PageFault(code.into_bits().into()),
                LongModeFault::GeneralProtection => Exception::GeneralProtection(0),
            }),
        })
    }

    fn trace(&self, pid: u32, address: Gva) -> Result<Vec<(i8, Gpa, u64)>, Failure> {
        Ok(vm::traced(&self.walker(pid)?, address))
    }

    /// KVM_TRANSLATE's. It does not ask whether an address is canonical.
    fn third_opinion(&self, check: &Check<Exception>) -> Result<Option<String>, Failure> {
        let Some(wanted) = check.leads else { return Ok(None) };
        let seen = self.guest.borrow_mut().translate(check.address)?.output;
        let words = |output: Option<Gpa>| output.map_or("nowhere".into(), |gpa| gpa.to_string());
        Ok((seen != wanted)
            .then(|| format!("; KVM_TRANSLATE: {}, expected {}", words(seen), words(wanted))))
    }

    fn moved(&self, pid: u32, at: Gva, to: Gpa) -> Result<(Gpa, u64, u8), Failure> {
        vm::moved(&self.walker(pid)?, at, to)
    }

    fn edit(&self, _: u32, edit: &Edit) -> io::Result<Result<[u64; 3], String>> {
        let Edit { address, entry, word, .. } = *edit;
        let edited = self.guest.borrow_mut().edit(&x86::Edit { address, entry, word })?;
        Ok(edited
            .map(|x86::Edited { before, between, after }| [before, between, after])
            .map_err(|outcome| outcome.to_string()))
    }

    /// CR3 becomes another's, or the guest never runs again.
    fn leave(&self, _: u32) -> Result<(), Failure> {
        self.run_process(PROCESS)
    }

    fn left(
        &self,
        pid: u32,
        checker: &mut Checker<'a, Self>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        if pid != OTHER {
            return Ok(());
        }
        let finds = Finds::Page(0x0060_9040, Allows::both("r--"));
        let look = look("after a process has gone", PROCESS, 0xffff_9000_0041_1040, finds);
        for check in look.checks::<Self>() {
            checker.run(&check, report)?;
        }
        Ok(())
    }
}
