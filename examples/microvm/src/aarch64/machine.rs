//! The machine: the guest, its processes, and how its exceptions read.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;

use pgtable::memory::GuestTables;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};
use pgtable_aarch64::{
    Esr, FaultStatus, Paging, Processor, Regime, Registers, TlbiAddress, Tree, VmsaStage1,
};
use probe_guest::Probe;
use probe_guest::aarch64::{self, Outcome, ProbeGuest};

use super::layout::{KERNEL, LINEAR, OTHER, PROCESS};
use super::shootdown::Shootdown;
use crate::allows::Allows;
use crate::check::{Answer, Check, Checker};
use crate::look::{Finds, look};
use crate::report::{Failure, Report};
use crate::vm::{self, Edit, EditedPage, Ended, Parts, Vm};

/// An abort as a row of a table can say it: ESR_EL1 but for the level of its fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort(Esr);

impl Abort {
    fn new(esr: Esr) -> Option<Self> {
        let status = FaultStatus::new(esr.fault()?.kind(), 0)?;
        Some(Self(esr.with_status(status.into_bits())))
    }
}

impl fmt::Display for Abort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EC {:#x}, ", self.0.class())?;
        f.write_str(if self.0.write() { "write, " } else { "" })?;
        match self.0.fault() {
            Some(status) => write!(f, "{:?}", status.kind()),
            None => write!(f, "status {:#x}", self.0.status()),
        }
    }
}

/// The microVM.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    pub guest: &'a RefCell<ProbeGuest>,
    pub parts: Parts<'a>,
    pub processor: Processor,
    /// The registers of each process: what translation depends on.
    pub processes: [(u32, Registers); 3],
    /// Which one runs.
    pub running: &'a Cell<Option<u32>>,
    /// ESR_EL1 of the last access, if it took an abort.
    pub last: &'a Cell<Option<Esr>>,
    pub shootdown: &'a Shootdown<'a>,
}

type Reader<'a> = Walker<VmsaStage1, &'a GuestTables<'a, Gpa>>;

impl<'a> Machine<'a> {
    fn registers(&self, pid: u32) -> Result<&Registers, Failure> {
        let found = self.processes.iter().find(|(it, _)| *it == pid);
        Ok(&found.ok_or_else(|| format!("there is no process {pid}"))?.1)
    }

    /// A reader of the tree that translates an address, as the guest's processor is one; or why
    /// none does.
    fn walker(
        &self,
        pid: u32,
        address: Gva,
        access: Access,
    ) -> Result<Result<Reader<'a>, Esr>, Failure> {
        let paging = Paging::of(Regime::El10, *self.registers(pid)?, &self.processor)?;
        Ok(match paging.tree(address, access) {
            Ok(Tree::On { format, root, .. }) => Ok(Walker::new(format, self.parts.tables, root)),
            Ok(Tree::Off { .. }) => return Err("translation is off".into()),
            Err(fault) => Err(fault.arch),
        })
    }

    /// Where an access leads, or ESR_EL1.
    fn walk(&self, pid: u32, address: Gva, access: Access) -> Result<Result<Gpa, Esr>, Failure> {
        Ok(self.walker(pid, address, access)?.and_then(|walker| {
            let found = walker.translate(address, access);
            found.map(|it| it.output).map_err(|fault| fault.arch)
        }))
    }
}

impl<'a> Vm<'a> for Machine<'a> {
    type Fault = Abort;
    type Format = VmsaStage1;
    type Shootdown = Shootdown<'a>;

    const INSTRUCTIONS: &'static str = "TLBI";
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

    /// The upper range is there in every process.
    fn looker(pid: u32) -> u32 {
        if pid == KERNEL { PROCESS } else { pid }
    }

    /// DDI 0487, ISS encodings of data and instruction aborts. EL1 takes all of them.
    fn refusal(finds: Finds, access: Access) -> Abort {
        let status = match finds {
            Finds::Page(..) => 0b00_1100,
            Finds::Unmapped | Finds::NoTree | Finds::NoAddress => 0b00_0100,
        };
        let class = match access.kind {
            AccessKind::Fetch => 0x20,
            AccessKind::Read | AccessKind::Write => 0x24,
        };
        let same_level = u8::from(access.privilege == Privilege::Supervisor);
        let write = access.kind == AccessKind::Write;
        let esr = Esr::new().with_class(class | same_level).with_il(true);
        Abort(esr.with_write(write).with_status(status))
    }

    /// Each process has an ASID of its own.
    fn run_process(&self, pid: u32) -> Result<(), Failure> {
        if self.running.replace(Some(pid)) != Some(pid) {
            self.guest.borrow().set_registers(self.registers(pid)?)?;
        }
        Ok(())
    }

    fn probe(&self, probe: &Probe) -> io::Result<(Ended<Abort>, String)> {
        let outcome = self.guest.borrow_mut().probe(probe)?;
        self.last.set(None);
        let ended = match outcome {
            Outcome::Completed { value } => Ended::Done(value),
            Outcome::Trapped(trap) => {
                let own = self.guest.borrow().is_of(&trap, probe);
                match Abort::new(trap.esr).filter(|_| own) {
                    Some(abort) => {
                        self.last.set(Some(trap.esr));
                        Ended::Faulted(abort)
                    }
                    None => Ended::Odd("an exception that is not this access's".into()),
                }
            }
            outcome => Ended::Odd(outcome.to_string()),
        };
        Ok((ended, outcome.to_string()))
    }

    /// Each says its own number.
    fn function(&self, number: u64, _: u64) -> (Vec<u8>, u64) {
        let (code, says) = aarch64::target((number & 0xffff) as u16);
        (code.to_vec(), says)
    }

    fn translate(&self, pid: u32, address: Gva, access: Access) -> Result<Answer<Abort>, Failure> {
        Ok(match self.walk(pid, address, access)? {
            Ok(output) => Answer::Reaches(output),
            Err(esr) => Abort::new(esr).map_or(Answer::Odd(esr.to_string()), Answer::Takes),
        })
    }

    fn trace(&self, pid: u32, address: Gva) -> Result<Vec<(i8, Gpa, u64)>, Failure> {
        let walker = self.walker(pid, address, Access::READ)?;
        Ok(walker.map_or(Vec::new(), |walker| vm::traced(&walker, address)))
    }

    /// ESR_EL1 as a whole, its level included; and what hardware recorded in the page's entry.
    fn third_opinion(&self, check: &Check<Abort>) -> Result<Option<String>, Failure> {
        let Check { pid, address, access, .. } = *check;
        let seen = self.last.get();
        let walked = self.walk(pid, address, access)?.err();
        if walked != seen {
            let words = |esr: Option<Esr>| esr.map_or("no abort".into(), |esr| esr.to_string());
            return Ok(Some(format!("; {}, expected {}", words(seen), words(walked))));
        }
        let Ok(walker) = self.walker(pid, address, access)? else { return Ok(None) };
        let attributes = walker.query(address).ok().flatten().map(|found| found.attributes);
        Ok(match attributes {
            Some(it) if seen.is_none() && !it.accessed() => Some("; not marked accessed".into()),
            Some(it) if seen.is_none() && access.kind == AccessKind::Write && !it.dirty() => {
                Some("; not marked dirty".into())
            }
            _ => None,
        })
    }

    fn moved(&self, pid: u32, at: Gva, to: Gpa) -> Result<(Gpa, u64, u8), Failure> {
        let walker = self.walker(pid, at, Access::READ)?.map_err(|esr| esr.to_string())?;
        vm::moved(&walker, at, to)
    }

    /// Break-before-make: there is no load between the entry's old word and its new one.
    fn edit(&self, pid: u32, edit: &Edit) -> io::Result<Result<[u64; 3], String>> {
        let Edit { address, entry, word, .. } = *edit;
        let page = TlbiAddress::new().with_page(address.get() >> 12).with_asid(pid as u16);
        let edited = self.guest.borrow_mut().edit(address, (entry, word), page.into_bits())?;
        let loads = edited.map(|[before, after]| [before, after, after]);
        Ok(loads.map_err(|outcome| outcome.to_string()))
    }

    /// TTBR0 becomes another's, or the lower range is turned off; without the kernel's tree the
    /// guest never runs again.
    fn leave(&self, pid: u32) -> Result<(), Failure> {
        match pid {
            KERNEL => Ok(()),
            PROCESS => self.run_process(KERNEL),
            _ => self.run_process(PROCESS),
        }
    }

    fn left(
        &self,
        pid: u32,
        checker: &mut Checker<'a, Self>,
        report: &mut Report,
    ) -> Result<(), Failure> {
        let looker = match pid {
            KERNEL => return Ok(()),
            OTHER => PROCESS,
            _ => KERNEL,
        };
        let finds = Finds::Page(0x0060_9040, Allows::both("r--"));
        let look = look("after a process has gone", looker, 0xffff_9000_0041_1040, finds);
        for check in look.checks::<Self>() {
            checker.run(&check, report)?;
        }
        Ok(())
    }
}
