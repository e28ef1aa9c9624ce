//! The walks of a case through its trees, as the machine makes them.
//!
//! With two stages the result is `TwoStage`'s. What is recorded in the entries comes of
//! `Walker::access` on both stages, which stands for the hart: each word of the guest's tables is
//! reached by an access of the second stage. Both ways must come to the same end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::Ordering;

use pgtable::bytes::Translate;
use pgtable::format::{Entry, Format, SecondStage};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::two_stage::TwoStageFault;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Cause, Fault, Gpa, Gva, Hpa, Level, Position, low_bits};
use pgtable_riscv64::{Exception, GuestPaging, PSEUDO_READ, Paging, Sv, SvX4, Trap};

use super::bench::Case;
use super::deviations::{Deviation, Deviations};
use super::records::NOTHING;

/// Where an access goes, or how it ends.
pub type Made = Result<u64, Trap>;

/// The words on the way, as they were.
pub type Way = BTreeMap<u64, u64>;

/// Both stages of a case; `None`: Bare.
pub struct Stages<'w> {
    pub first: Option<(Sv, Gpa)>,
    pub second: Option<Walker<SvX4, DirectMap<'w, Hpa>>>,
    /// The same by the registers. With one stage its second is Bare.
    pub paging: GuestPaging,
    /// How pointers are masked.
    pub masking: Masking,
    /// HLVX is a fetch.
    pub hlvx_fetches: bool,
    /// The tables, by their addresses in memory.
    pub host: DirectMap<'w, Hpa>,
    pub own: DirectMap<'w, Gpa>,
    pub deviations: Deviations,
}

/// How the machine masks the pointer of an access.
pub enum Masking {
    /// As these registers say.
    Registers(Paging),
    /// Shifted right by so many bits.
    Shifted(u8),
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
        if self.stages.deviations.has(Deviation::MxrForTables) {
            Access::READ.by_user()
        } else {
            Access::READ
        }
    }

    /// The access by which A or D is recorded in a guest's table.
    fn update(&self) -> Access {
        let second = self.stages.second.as_ref().map(Walker::format);
        let unasked = self.stages.deviations.has(Deviation::UpdatesUnasked);
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

/// What comes of a case: where the last instruction stands that was to be carried out, and how it
/// ended.
pub type MadeAll = Result<Option<(u64, Made)>, Box<dyn Error>>;

impl Stages<'_> {
    /// Carries out the case: the fetch of its instruction, unless HS-mode makes it, then the
    /// access, as the machine takes it. `way` gets the words on the way, as they were.
    pub fn make_all(&self, case: &Case, access: Access, way: &mut Way) -> MadeAll {
        if let Some(instruction) = case.act.0.filter(|_| case.is_inside()) {
            let fetch = Access { kind: AccessKind::Fetch, ..access };
            self.on_the_way(Gva::new(case.pc()), way);
            let Some(made) = self.make(Gva::new(case.pc()), fetch)? else { return Ok(None) };
            match made {
                Ok(hpa) if hpa != instruction.place() => return Ok(None),
                Ok(_) => {}
                Err(_) => return Ok(Some((case.pc(), made))),
            }
        }
        self.on_the_way(self.masked(Gva::new(case.address), access), way);
        let made = self.make(Gva::new(case.address), access)?;
        Ok(made.map(|made| (case.pc(), made)))
    }

    /// The address that an access uses: after pointer masking.
    pub fn masked(&self, address: Gva, access: Access) -> Gva {
        match self.masking {
            Masking::Registers(paging) => paging.masked(address, access),
            Masking::Shifted(bits) => Gva::new(address.get() >> bits),
        }
    }

    /// Makes an access: where it goes, or how it ends. `None` if the library cannot tell.
    ///
    /// By the manual alone, what the registers say is asked too: it must say the same.
    fn make(&self, unmasked: Gva, access: Access) -> Result<Option<Made>, Box<dyn Error>> {
        let judged = self.translate(unmasked, access);
        let address = self.masked(unmasked, access);
        let marking = self.through(true);
        let refused = |table, fault| TwoStageFault::Stage2 { address, access, table, fault };
        let reached = match self.first {
            None => Ok(Gpa::new(address.get())),
            Some((format, root)) => Walker::new(format, &marking, root)
                .access(address, access)
                .map(|found| found.output)
                .map_err(|fault| match (marking.refused.take(), &self.second) {
                    (Some(other), Some(second)) => {
                        let arch = second.format().fault_of_guest_table(other.arch, access);
                        // Where the update was refused, the walk names no entry.
                        let at = fault.at.unwrap_or(Position { level: Level(0), shift: 12 });
                        refused(Some(at), Fault { arch, ..other })
                    }
                    _ => TwoStageFault::Stage1(fault),
                }),
        };
        let result = reached.and_then(|gpa| match &self.second {
            None => Ok(gpa.get()),
            Some(second) => second
                .access(gpa, access.by_user())
                .map(|found| found.output.get())
                .map_err(|fault| refused(None, fault)),
        });
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
        let by_manual = result.as_ref().map(|hpa| *hpa).map_err(Trap::from);
        if self.deviations == Deviations::default() && judged != by_manual {
            let both = format!("{judged:x?}, {by_manual:x?}");
            return Err(format!("the library’s walks do not agree: {both}").into());
        }
        Ok(Some(result.map_err(|fault| self.trap(&fault))))
    }

    /// The trap as the machine reports it: guest-page faults of HLVX may be page faults of a
    /// fetch.
    fn trap(&self, fault: &TwoStageFault<Sv, SvX4>) -> Trap {
        let mut trap = self.trap_of_stage(fault);
        if self.hlvx_fetches && trap.exception.is_guest_page_fault() {
            trap.exception = Exception::InstructionPageFault;
        }
        trap
    }

    fn trap_of_stage(&self, fault: &TwoStageFault<Sv, SvX4>) -> Trap {
        let mut trap = Trap::from(fault);
        let TwoStageFault::Stage2 { table, fault, .. } = fault else { return trap };
        if fault.cause != Cause::TableAccess {
            return trap;
        }
        let gpa = fault.address.get() >> 2;
        if table.is_some() && self.deviations.has(Deviation::TablesOutsideRefuse) {
            let kind = trap.exception.kind();
            trap.exception = Exception::LoadGuestPageFault.with_kind(kind);
            (trap.htval, trap.htinst) = (gpa, PSEUDO_READ);
        } else if self.deviations.has(Deviation::AccessFaultsTell) {
            trap.htval = gpa;
        }
        trap
    }

    /// The same by the registers, without recording anything.
    fn translate(&self, address: Gva, access: Access) -> Made {
        self.paging.walker(self.host).translate(address, access).map(|found| found.output.get())
    }

    fn through(&self, marks: bool) -> Through<'_, '_> {
        Through { stages: self, marks, refused: Cell::new(None), outside: Cell::new(None) }
    }

    /// The addresses of the first stage's entries on the way, and of the page.
    fn first_addresses(&self, address: Gva) -> (Vec<Gpa>, Option<Gpa>) {
        let Some((format, root)) = self.first else {
            return (Vec::new(), Some(Gpa::new(address.get())));
        };
        let through = self.through(false);
        let trace = Walker::new(format, &through, root).trace(address);
        let index = |level: u8| (address.get() >> (12 + 9 * level) & 511) * 8;
        let entry = |table: Gpa, level: u8| Gpa::new(table.get() + index(level));
        let mut all = vec![entry(root, format.geometry().root().0)];
        for step in &trace {
            match step.entry {
                Entry::Table { table, .. } => {
                    all.push(entry(table, step.at.level.0.saturating_sub(1)));
                }
                Entry::Leaf { output, .. } => {
                    let shift = step.at.shift + format.group(step.word, step.at);
                    let within = address.get() & low_bits(shift);
                    return (all, Some(Gpa::new(output.get() & !low_bits(shift) | within)));
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
