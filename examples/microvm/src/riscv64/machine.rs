//! The machine: the guest, its processes, and how its exceptions read.

use std::cell::{Cell, RefCell};
use std::io;

use pgtable::memory::GuestTables;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva};
use pgtable_riscv64::{Exception, Sv};
use probe_guest::Probe;
use probe_guest::riscv64::{self, Outcome, ProbeGuest};

use super::layout::{LINEAR, OTHER, PROCESS};
use super::shootdown::Shootdown;
use crate::allows::Allows;
use crate::check::{Answer, Checker};
use crate::look::{Finds, look};
use crate::report::{Failure, Report};
use crate::vm::{self, Edit, EditedPage, Ended, Parts, Vm};

/// The microVM.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    pub guest: &'a RefCell<ProbeGuest>,
    pub parts: Parts<'a>,
    pub format: Sv,
    /// Which tree each process has.
    pub roots: [(u32, Gpa); 2],
    /// Which one runs.
    pub running: &'a Cell<Option<u32>>,
    pub shootdown: &'a Shootdown<'a>,
}

impl<'a> Machine<'a> {
    fn root(&self, pid: u32) -> Result<Gpa, Failure> {
        let found = self.roots.iter().find(|(it, _)| *it == pid);
        Ok(found.ok_or_else(|| format!("there is no process {pid}"))?.1)
    }

    /// A reader of a process's tree, as the guest's hart is one.
    fn walker(&self, pid: u32) -> Result<Walker<Sv, &'a GuestTables<'a, Gpa>>, Failure> {
        Ok(Walker::new(self.format, self.parts.tables, self.root(pid)?))
    }
}

impl<'a> Vm<'a> for Machine<'a> {
    type Fault = Exception;
    type Format = Sv;
    type Shootdown = Shootdown<'a>;

    const INSTRUCTIONS: &'static str = "SFENCE.VMA";
    const TOUCHES: &'static [Access] = &[Access::READ, Access::READ.by_user()];
    const EDITED: EditedPage = EditedPage {
        pid: PROCESS,
        at: 0x005f_7000,
        places: [(0x0063_1000, 0x0123_4567_89ab_cdef), (0x0063_0000, 0xfedc_ba98_7654_3210)],
        linear: LINEAR,
        allows: Allows::supervisor("rwx"),
    };

    fn parts(&self) -> Parts<'a> {
        self.parts
    }

    fn sent(&self) -> usize {
        self.shootdown.sent()
    }

    /// "Virtual Address Translation Process": each is a page fault of the kind of access.
    fn refusal(_: Finds, access: Access) -> Exception {
        Exception::LoadPageFault.with_kind(access.kind)
    }

    /// Each process has an ASID of its own.
    fn run_process(&self, pid: u32) -> Result<(), Failure> {
        if self.running.replace(Some(pid)) != Some(pid) {
            let satp = self.format.satp(self.root(pid)?, pid as u16);
            self.guest.borrow().set_satp(satp.into_bits())?;
        }
        Ok(())
    }

    fn probe(&self, probe: &Probe) -> io::Result<(Ended<Exception>, String)> {
        let outcome = self.guest.borrow_mut().probe(probe)?;
        let ended = match outcome {
            Outcome::Completed { value } => Ended::Done(value),
            Outcome::Trapped(trap) => {
                let own = self.guest.borrow().is_of(&trap, probe);
                match Exception::from_code(trap.scause).filter(|_| own) {
                    Some(exception) => Ended::Faulted(exception),
                    None => Ended::Odd("an exception that is not this access's".into()),
                }
            }
            outcome => Ended::Odd(outcome.to_string()),
        };
        Ok((ended, outcome.to_string()))
    }

    /// Each says its own number.
    fn function(&self, number: u64, _: u64) -> (Vec<u8>, u64) {
        let (code, says) = riscv64::target((number & 0xf_ffff) as u32);
        (code.to_vec(), says)
    }

    fn translate(
        &self,
        pid: u32,
        address: Gva,
        access: Access,
    ) -> Result<Answer<Exception>, Failure> {
        Ok(match self.walker(pid)?.translate(address, access) {
            Ok(translation) => Answer::Reaches(translation.output),
            Err(fault) => Answer::Takes(fault.arch),
        })
    }

    fn trace(&self, pid: u32, address: Gva) -> Result<Vec<(i8, Gpa, u64)>, Failure> {
        Ok(vm::traced(&self.walker(pid)?, address))
    }

    fn moved(&self, pid: u32, at: Gva, to: Gpa) -> Result<(Gpa, u64, u8), Failure> {
        vm::moved(&self.walker(pid)?, at, to)
    }

    fn edit(&self, pid: u32, edit: &Edit) -> io::Result<Result<[u64; 3], String>> {
        let Edit { address, entry, word, .. } = *edit;
        let edited = self.guest.borrow_mut().edit(address, (entry, word), pid as u16)?;
        Ok(edited.map_err(|outcome| outcome.to_string()))
    }

    /// satp becomes another's, or the guest never runs again.
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
        let finds = Finds::Page(0x0060_9040, Allows::user("r--"));
        let look = look("after a process has gone", PROCESS, 0xffff_ffd0_0041_1040, finds);
        for check in look.checks::<Self>() {
            checker.run(&check, report)?;
        }
        Ok(())
    }
}
