//! The walks of a case through its trees, as the machine makes them.
//!
//! With two stages the result is `TwoStage`'s. What is recorded in the entries comes of
//! `Walker::access` on both stages, which stands for the hart: each word of the guest's tables is
//! reached by an access of the second stage. Both ways must come to the same end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::Ordering;

use arch_riscv64::{Exception, PSEUDO_READ, Sv, SvX4, Trap};
use pgtable::{
    Access, AccessKind, Cause, DirectMap, Entry, Fault, Format, Gpa, Gva, Hpa, Level, MemoryError,
    Position, ReadMemory, SecondStage, TableMemory, TwoStage, TwoStageFault, Walker, low_bits,
};

use super::bench::Case;
use super::records::NOTHING;
use super::state::Known;

/// Where an access goes, or how it ends.
pub type Made = Result<u64, Trap>;

/// The words on the way, as they were.
pub type Way = BTreeMap<u64, u64>;

/// Both stages of a case.
pub struct Stages<'w> {
    pub first: Sv,
    pub root: Gpa,
    pub second: Option<Walker<SvX4, DirectMap<'w, Hpa>>>,
    /// The first stage's tables, by their addresses in memory.
    pub own: DirectMap<'w, Gpa>,
    pub known: Known,
}

/// A first stage's table memory: behind the second stage, if there is one.
struct Through<'s, 'w> {
    stages: &'s Stages<'w>,
    /// Whether the second stage's entries record it.
    marks: bool,
    /// What the second stage said when it refused.
    refused: Cell<Option<Fault<SvX4>>>,
    /// Where there was no memory.
    outside: Cell<Option<u64>>,
}

impl Through<'_, '_> {
    /// Where the word at `address` stands, for `access`.
    fn behind(&self, address: Gpa, access: Access) -> Result<Gpa, MemoryError> {
        let Some(second) = &self.stages.second else { return Ok(address) };
        let found = if self.marks {
            second.access(address, access)
        } else {
            second.translate(address, access)
        };
        found.map(|found| Gpa::new(found.output.get())).map_err(|fault| {
            self.refused.set(Some(fault));
            MemoryError::outside(address, 1)
        })
    }

    /// The access by which a guest's table is read.
    fn table_read(&self) -> Access {
        if self.stages.known.mxr_for_tables { Access::READ.by_user() } else { Access::READ }
    }

    /// The access by which A or D is recorded in a guest's table.
    fn update(&self) -> Access {
        let second = self.stages.second.as_ref().map(Walker::format);
        let unasked = self.stages.known.updates_unasked;
        second.filter(|_| !unasked).and_then(SvX4::guest_table_update).unwrap_or(self.table_read())
    }
}

impl ReadMemory<Gpa> for Through<'_, '_> {
    fn load(&self, address: Gpa) -> Result<u64, MemoryError> {
        let at = self.behind(address, self.table_read())?;
        self.stages.own.load(at).inspect_err(|_| self.outside.set(Some(at.get())))
    }

    fn compare_exchange(&self, address: Gpa, current: u64, new: u64) -> Result<bool, MemoryError> {
        let at = self.behind(address, self.update())?;
        self.stages.own.compare_exchange(at, current, new)
    }

    fn is_writable(&self, address: Gpa) -> bool {
        let second = self.stages.second.as_ref();
        second.is_none_or(|second| second.translate(address, self.update()).is_ok())
    }
}

/// What comes of a case: where the last instruction stands that was to be carried out, how it
/// ended, and whether the machine is known to end it otherwise than the manual.
pub type MadeAll = Result<Option<(u64, Made, bool)>, Box<dyn Error>>;

impl Stages<'_> {
    /// Carries out the case: the fetch of its instruction, then the access. `way` gets the words on
    /// the way, as they were.
    pub fn make_all(&self, case: &Case, way: &mut Way) -> MadeAll {
        let Access { kind, privilege } = case.access;
        let fetch = (Gva::new(case.pc()), Access { kind: AccessKind::Fetch, privilege });
        self.on_the_way(fetch.0, way);
        let Some((made, known)) = self.make(fetch.0, fetch.1)? else { return Ok(None) };
        let Some(instruction) = case.instruction() else {
            return Ok(Some((case.pc(), made, known)));
        };
        match made {
            Ok(hpa) if hpa != instruction.place() => return Ok(None),
            Ok(_) => {}
            Err(_) => return Ok(Some((case.pc(), made, known))),
        }
        self.on_the_way(Gva::new(case.address), way);
        let access = Access { kind, privilege };
        let made = self.make(Gva::new(case.address), access)?;
        Ok(made.map(|(made, other)| (case.pc(), made, known || other)))
    }

    /// Makes an access: where it goes, or how it ends, and whether that is otherwise than the
    /// manual says. `None` if the library cannot tell.
    fn make(&self, address: Gva, access: Access) -> Result<Option<(Made, bool)>, Box<dyn Error>> {
        let judged = self.translate(address, access);
        let marking = self.through(true);
        let marked = Walker::new(self.first, &marking, self.root).access(address, access);
        let refused = |table, fault| TwoStageFault::Stage2 { address, access, table, fault };
        let result = match (marked, &self.second) {
            (Ok(found), None) => Ok(found.output.get()),
            (Ok(found), Some(second)) => second
                .access(found.output, access.by_user())
                .map(|found| found.output.get())
                .map_err(|fault| refused(None, fault)),
            (Err(fault), second) => Err(match (marking.refused.take(), second) {
                (Some(other), Some(second)) => {
                    let arch = second.format().fault_of_guest_table(other.arch, access);
                    // Where the update was refused, the walk names no entry.
                    let at = fault.at.unwrap_or(Position { level: Level(0), shift: 12 });
                    refused(Some(at), Fault { arch, ..other })
                }
                _ => TwoStageFault::Stage1(fault),
            }),
        };
        let outside = match &result {
            Err(TwoStageFault::Stage1(fault)) if fault.cause == Cause::TableAccess => {
                marking.outside.get()
            }
            Err(TwoStageFault::Stage2 { fault, .. }) if fault.cause == Cause::TableAccess => {
                fault.entry.map(Hpa::get)
            }
            _ => None,
        };
        if outside.is_some_and(|at| at < NOTHING) {
            return Ok(None);
        }
        let known = match (&judged, &result) {
            (Ok(there), Ok(here)) if there == here => false,
            (Err(there), Err(here)) if Trap::from(there) == Trap::from(here) => false,
            (Err(there), _) if self.excuses(there) => true,
            (there, here) => {
                return Err(format!("the library’s walks do not agree: {there:?}, {here:?}").into());
            }
        };
        let by_manual = result.as_ref().err().map(Trap::from);
        let result = result.map_err(|fault| self.trap(&fault));
        let known = known || result.err() != by_manual;
        Ok(Some((result, known)))
    }

    /// Whether the machine is known not to see a fault.
    fn excuses(&self, fault: &TwoStageFault<Sv, SvX4>) -> bool {
        let TwoStageFault::Stage2 { table: Some(_), fault, .. } = fault else { return false };
        let update = fault.access.kind == AccessKind::Write;
        if update { self.known.updates_unasked } else { self.known.mxr_for_tables }
    }

    /// The trap as the machine reports it.
    fn trap(&self, fault: &TwoStageFault<Sv, SvX4>) -> Trap {
        let mut trap = Trap::from(fault);
        let TwoStageFault::Stage2 { access, table, fault, .. } = fault else { return trap };
        if fault.cause != Cause::TableAccess {
            return trap;
        }
        let gpa = fault.address.get() >> 2;
        if table.is_some() && self.known.tables_outside_refuse {
            trap.exception = Exception::LoadGuestPageFault.with_kind(access.kind);
            (trap.htval, trap.htinst) = (gpa, PSEUDO_READ);
        } else if self.known.access_faults_tell {
            trap.htval = gpa;
        }
        trap
    }

    /// The same without recording anything.
    fn translate(&self, address: Gva, access: Access) -> Result<u64, TwoStageFault<Sv, SvX4>> {
        match &self.second {
            None => Walker::new(self.first, self.own, self.root)
                .translate(address, access)
                .map(|found| found.output.get())
                .map_err(TwoStageFault::Stage1),
            Some(second) => {
                let second = Walker::new(*second.format(), *second.memory(), second.root());
                let both = TwoStage::new(self.first, self.root, second);
                both.translate(address, access).map(|found| found.output().get())
            }
        }
    }

    fn through(&self, marks: bool) -> Through<'_, '_> {
        Through { stages: self, marks, refused: Cell::new(None), outside: Cell::new(None) }
    }

    /// The addresses of the first stage's entries on the way, and of the page.
    fn first_addresses(&self, address: Gva) -> (Vec<Gpa>, Option<Gpa>) {
        let through = self.through(false);
        let trace = Walker::new(self.first, &through, self.root).trace(address);
        let index = |level: u8| (address.get() >> (12 + 9 * level) & 511) * 8;
        let entry = |table: Gpa, level: u8| Gpa::new(table.get() + index(level));
        let mut all = vec![entry(self.root, self.first.geometry().root().0)];
        for step in &trace {
            match step.entry {
                Entry::Table { table, .. } => {
                    all.push(entry(table, step.at.level.0.saturating_sub(1)));
                }
                Entry::Leaf { output, .. } => {
                    let within = address.get() & low_bits(step.at.shift);
                    return (all, Some(Gpa::new(output.get() | within)));
                }
                _ => {}
            }
        }
        (all, None)
    }

    /// Every entry on the way to an address, the last one included: addresses in memory, first the
    /// first stage's.
    pub fn entries(&self, address: Gva) -> (Vec<u64>, Vec<u64>) {
        let (tables, page) = self.first_addresses(address);
        let through = self.through(false);
        let access = through.table_read();
        let reached = |gpa: &Gpa| through.behind(*gpa, access).ok().map(Gpa::get);
        let first = tables.iter().filter_map(reached).collect();
        let mut seconds = Vec::new();
        if let Some(second) = &self.second {
            for gpa in tables.into_iter().chain(page) {
                seconds.extend(second.trace(gpa).iter().map(|entry| entry.address.get()));
            }
        }
        seconds.sort_unstable();
        seconds.dedup();
        (first, seconds)
    }

    fn on_the_way(&self, address: Gva, way: &mut Way) {
        let (first, second) = self.entries(address);
        for at in first.into_iter().chain(second) {
            if let Ok(word) = self.own.word(Gpa::new(at)) {
                way.entry(at).or_insert_with(|| u64::from_le(word.load(Ordering::Relaxed)));
            }
        }
    }
}
