//! The machine: the guest, its process table, and how its interrupts read.

use std::cell::{Cell, RefCell};
use std::io;

use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};
use pgtable_ppc64::radix::{
    Granule, GuestMmu, PageSize, ProcessScoped, ProcessTable, Prte, RcPolicy, Rs, Tlbie,
};
use pgtable_ppc64::{Interrupt, Status, Vector};
use probe_guest::Probe;
use probe_guest::ppc64::{self, Outcome, ProbeGuest};

use super::layout::{KERNEL, LINEAR, PROCESS, Q3, stubs};
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
    pub processes: ProcessTable,
    pub running: &'a Cell<Option<u32>>,
    pub shootdown: &'a Shootdown<'a>,
}

impl Machine<'_> {
    /// The guest's MMU as our library sees it while process `pid` runs. (Both granules' trees read
    /// alike.)
    fn mmu(&self, pid: u32) -> GuestMmu {
        GuestMmu::new(self.processes.word(), pid, ProcessScoped::new(Granule::K64))
    }
}

impl Machine<'_> {
    /// Sets R and C as the guest's kernel does where the processor leaves it to software.
    pub fn record(&self, pid: u32, address: Gva, access: Access) -> Result<(), Failure> {
        let format = ProcessScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
        let mmu = GuestMmu::new(self.processes.word(), pid, format);
        let process = mmu.process(address).ok_or("no process's address")?;
        let walker = mmu.walker(self.parts.tables, process);
        walker.map_err(|cause| format!("process {process} {cause}"))?.access(address, access)?;
        Ok(())
    }
}

impl<'a> Vm<'a> for Machine<'a> {
    type Fault = Interrupt;
    type Format = ProcessScoped;
    type Shootdown = Shootdown<'a>;

    const INSTRUCTIONS: &'static str = "tlbie";
    const TOUCHES: &'static [Access] = &[Access::READ];
    const EDITED: EditedPage = EditedPage {
        pid: PROCESS,
        at: 0x007f_0000,
        places: [(0x0070_0000, 0x0123_4567_89ab_cdef), (0x0078_0000, 0xfedc_ba98_7654_3210)],
        linear: LINEAR,
        allows: Allows::both("rwx"),
    };

    fn parts(&self) -> Parts<'a> {
        self.parts
    }

    fn sent(&self) -> usize {
        self.shootdown.sent()
    }

    /// The kernel's tree is there in every process.
    fn looker(_: u32) -> u32 {
        PROCESS
    }

    /// Power ISA v3.0B Book III 6.5.3 to 6.5.6.
    fn refusal(finds: Finds, access: Access) -> Interrupt {
        let status = match (finds, access.kind) {
            (Finds::Page(..), AccessKind::Fetch) => Status::new().with_no_execute(true),
            (Finds::Page(..), _) => Status::new().with_protection(true),
            (Finds::Unmapped, _) => Status::new().with_no_translation(true),
            (Finds::NoTree, _) => Status::new().with_bad_configuration(true),
            (Finds::NoAddress, AccessKind::Fetch) => {
                return Interrupt { vector: Vector::InstructionSegment, status: Status::new() };
            }
            (Finds::NoAddress, _) => {
                return Interrupt { vector: Vector::DataSegment, status: Status::new() };
            }
        };
        match access.kind {
            AccessKind::Fetch => Interrupt { vector: Vector::InstructionStorage, status },
            AccessKind::Read => Interrupt { vector: Vector::DataStorage, status },
            AccessKind::Write => {
                Interrupt { vector: Vector::DataStorage, status: status.with_store(true) }
            }
        }
    }

    fn run_process(&self, pid: u32) -> Result<(), Failure> {
        if self.running.get() != Some(pid) {
            self.guest.borrow().set_pid(pid)?;
            self.running.set(Some(pid));
        }
        Ok(())
    }

    fn probe(&self, probe: &Probe) -> io::Result<(Ended<Interrupt>, String)> {
        let outcome = self.guest.borrow_mut().probe(probe)?;
        let ended = match outcome {
            Outcome::Completed { value } => Ended::Done(value),
            Outcome::Interrupted(it) => taken(&it, probe.address, probe.access.privilege),
            outcome => Ended::Odd(outcome.to_string()),
        };
        Ok((ended, outcome.to_string()))
    }

    /// A call adds to the value; each copy of the function adds another number.
    fn function(&self, number: u64, value: u64) -> (Vec<u8>, u64) {
        let addend = (number & 0x3fff) as i16 + 1;
        let code = self.guest.borrow().target(addend);
        (code.to_vec(), value.wrapping_add(addend as u64))
    }

    fn translate(
        &self,
        pid: u32,
        address: Gva,
        access: Access,
    ) -> Result<Answer<Interrupt>, Failure> {
        Ok(match self.mmu(pid).translate_ea(self.parts.tables, address, access) {
            Ok(translation) => Answer::Reaches(translation.output),
            Err(fault) if fault.address == address => Answer::Takes(fault.interrupt),
            Err(fault) => Answer::Odd(fault.to_string()),
        })
    }

    fn trace(&self, pid: u32, address: Gva) -> Result<Vec<(i8, Gpa, u64)>, Failure> {
        let mmu = self.mmu(pid);
        let walker = mmu.process(address).map(|pid| mmu.walker(self.parts.tables, pid));
        Ok(match walker {
            Some(Ok(walker)) => vm::traced(&walker, address),
            Some(Err(_)) | None => Vec::new(),
        })
    }

    fn moved(&self, pid: u32, at: Gva, to: Gpa) -> Result<(Gpa, u64, u8), Failure> {
        let walker = self.mmu(pid).walker(self.parts.tables, pid);
        vm::moved(&walker.map_err(|cause| format!("process {pid} {cause}"))?, at, to)
    }

    fn edit(&self, pid: u32, edit: &Edit) -> io::Result<Result<[u64; 3], String>> {
        let Edit { address, entry, word, shift } = *edit;
        let size =
            PageSize::of_shift(shift).ok_or_else(|| io::Error::other("a leaf of no page size"))?;
        let tlbie = Tlbie::page(address.get(), size, Rs::new().with_pid(pid));
        let edit = ppc64::Edit { address, entry, word, tlbie };
        let edited = self.guest.borrow_mut().edit(&edit)?;
        Ok(edited
            .map(|ppc64::Edited { before, between, after }| [before, between, after])
            .map_err(|outcome| outcome.to_string()))
    }

    /// Takes it out of the process table.
    fn leave(&self, pid: u32) -> Result<(), Failure> {
        Ok(self.processes.write(self.parts.tables, pid, Prte::default())?)
    }

    fn left(
        &self,
        pid: u32,
        checker: &mut Checker<'a, Self>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        if pid == KERNEL {
            return self.without_a_kernel(report);
        }
        // The process has no tree any more, and the kernel's still works.
        let kernel = Finds::Page(0x0060_8040, Allows::supervisor("rw-"));
        for (at, finds) in [(0x0080_0000, Finds::NoTree), (Q3 | 0x0041_0040, kernel)] {
            for check in look("after a process has gone", PROCESS, at, finds).checks::<Self>() {
                checker.run(&check, report)?;
            }
        }
        Ok(())
    }
}

impl Machine<'_> {
    /// Without a kernel's tree not even the stubs can be fetched.
    fn without_a_kernel(&self, report: &mut Report) -> Result<(), Failure> {
        let interrupt = Interrupt {
            vector: Vector::InstructionStorage,
            status: Status::new().with_bad_configuration(true),
        };
        let outcome = self.guest.borrow_mut().hello()?;
        let seen = match outcome {
            Outcome::Interrupted(it) if it.srr0 & !0xfff == stubs::SUPERVISOR => {
                match taken(&it, Gva::new(it.srr0), Privilege::Supervisor) {
                    Ended::Faulted(interrupt) => Answer::Takes(interrupt),
                    Ended::Done(_) | Ended::Odd(_) => Answer::Odd(outcome.to_string()),
                }
            }
            outcome => Answer::Odd(outcome.to_string()),
        };
        let question = format!("{} {:#018x}", Access::FETCH, stubs::SUPERVISOR);
        report.equal("after the kernel has gone", &question, Answer::Takes(interrupt), seen)
    }
}

/// The interrupt in the library's words, if it is about `address` and came in that state.
fn taken(interrupt: &ppc64::Interrupt, address: Gva, privilege: Privilege) -> Ended<Interrupt> {
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
            let status = Status::from_bits(interrupt.reason().unwrap_or(0));
            Ended::Faulted(Interrupt { vector, status })
        }
        _ => Ended::Odd("an interrupt that is not this access's".into()),
    }
}
