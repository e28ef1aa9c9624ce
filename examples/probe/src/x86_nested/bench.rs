//! What the library says of a case: where the access goes through both stages, or who faults and
//! how, and what all entries on the way hold afterwards.
//!
//! The result is `TwoStage`'s. What is recorded in the entries comes of `Walker::access` on both
//! stages, which stands for the processor: each word of the guest's tables is reached by an access
//! of stage 2.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::Ordering;

use pgtable::format::{Entry, Format};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Cause, Gpa, Gva, Hpa};
use pgtable_x86::{Controls, Levels, LongMode, LongModeFault};

use super::records::{DATA, Order, WATCHES, block};
use super::scene::{SCRATCH, Scene, stub};
use super::second::{End, PAGE, Second, Start};

pub type Memory<'w> = DirectMap<'w, Hpa>;

/// A and D of stage 1.
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// One case.
#[derive(Clone, Debug)]
pub struct Case<S: Second> {
    pub kind: &'static str,
    pub scene: Scene,
    /// Words that are changed before: address, and new content.
    pub patches: Vec<(u64, u64)>,
    pub guest: Controls,
    pub second: S::Controls,
    pub address: u64,
    /// Where that is, if nothing comes between: a block that nobody else may write.
    pub data: u64,
    pub access: Access,
    /// What is stored.
    pub value: u64,
}

/// A word to look at.
#[derive(Clone, Copy, Debug)]
pub struct Watch {
    pub address: u64,
    /// What it holds afterwards,
    pub expected: u64,
    /// and which bits the processor may have set besides: it may mark the entries that it used
    /// before it faults, or not (SDM §4.8).
    pub may: u64,
}

/// What the library says.
#[derive(Clone, Debug)]
pub struct Prediction {
    pub end: End,
    pub rip: u64,
    pub rax: Option<u64>,
    pub watches: Vec<Watch>,
}

/// The tables.
pub struct Bench<'w> {
    pub memory: Memory<'w>,
    pub vmx: bool,
    /// How many levels both stages have.
    pub levels: Levels,
    /// MAXPHYADDR: from here on there is no memory, and what leads there is no entry.
    pub maxphyaddr: u8,
    /// [`Known::updates_unasked`](super::second::Known::updates_unasked).
    pub updates_unasked: bool,
}

/// A guest's table memory, through stage 2.
struct Through<'s, 'w, S> {
    second: &'s Walker<S, Memory<'w>>,
    /// Whether stage 2's entries record it.
    marks: bool,
}

impl<S: Second> Through<'_, '_, S> {
    /// Where the word at `address` stands behind the second stage, for `access`.
    fn behind(&self, address: Gpa, access: Access) -> Result<Hpa, MemoryError> {
        let found = if self.marks {
            self.second.access(address, access)
        } else {
            self.second.translate(address, access)
        };
        match found {
            Ok(found) => Ok(found.output),
            Err(_) => Err(MemoryError::outside(address, 1)),
        }
    }
}

impl<S: Second> ReadMemory<Gpa> for Through<'_, '_, S> {
    fn load(&self, address: Gpa) -> Result<u64, MemoryError> {
        let access = self.second.format().guest_table_access();
        self.second.memory().load(self.behind(address, access)?)
    }

    fn compare_exchange(&self, address: Gpa, current: u64, new: u64) -> Result<bool, MemoryError> {
        let at = self.behind(address, Access::WRITE)?;
        self.second.memory().compare_exchange(at, current, new)
    }

    fn is_writable(&self, address: Gpa) -> bool {
        self.second.translate(address, Access::WRITE).is_ok()
    }
}

/// The words on the way, as they were, and which bits of them may be set by an access that faults.
type Way = BTreeMap<u64, (u64, u64)>;

/// Both stages of a case.
struct Stages<'w, S: Second> {
    first: LongMode,
    root: Gpa,
    second: Walker<S, Memory<'w>>,
    maxphyaddr: u8,
    updates_unasked: bool,
}

impl<'w> Bench<'w> {
    pub fn load(&self, address: u64) -> Result<u64, MemoryError> {
        Ok(u64::from_le(self.memory.word(Hpa::new(address))?.load(Ordering::Relaxed)))
    }

    pub fn store(&self, address: u64, word: u64) -> Result<(), MemoryError> {
        self.memory.word(Hpa::new(address))?.store(word.to_le(), Ordering::Relaxed);
        Ok(())
    }

    fn stages<S: Second>(&self, case: &Case<S>) -> Stages<'w, S> {
        let second =
            Walker::new(S::under(self.levels, case.second), self.memory, case.scene.second);
        Stages {
            first: LongMode::new(self.levels, case.guest),
            root: case.scene.first,
            second,
            maxphyaddr: self.maxphyaddr,
            updates_unasked: self.updates_unasked,
        }
    }

    /// What comes of a case; `None`: a table stands where the library sees no memory, or the page
    /// where there is no data.
    pub fn predict<S: Second>(&self, case: &Case<S>) -> Result<Option<Prediction>, Box<dyn Error>> {
        self.with(&case.patches, || self.predict_patched(case))?
    }

    /// Does something while words are other words.
    pub fn with<T>(
        &self,
        patches: &[(u64, u64)],
        act: impl FnOnce() -> T,
    ) -> Result<T, MemoryError> {
        let mut before = Vec::new();
        for &(address, word) in patches {
            before.push((address, self.load(address)?));
            self.store(address, word)?;
        }
        let result = act();
        for (address, word) in before.into_iter().rev() {
            self.store(address, word)?;
        }
        Ok(result)
    }

    fn predict_patched<S: Second>(
        &self,
        case: &Case<S>,
    ) -> Result<Option<Prediction>, Box<dyn Error>> {
        let stages = self.stages(case);
        let Access { kind, privilege } = case.access;
        let rip = if kind == AccessKind::Fetch { case.address } else { stub(kind, privilege) };
        let fetch = (Gva::new(rip), Access { kind: AccessKind::Fetch, privilege });
        let mut way = Way::new();
        let mut end = None;
        for (address, access) in [fetch, (Gva::new(case.address), case.access)] {
            let mut marks = Way::new();
            stages.on_the_way(address, access, &mut marks);
            for (&at, &(word, _)) in &marks {
                way.entry(at).or_insert((word, 0));
            }
            let made = stages.make(address, access);
            if made.is_err() {
                for (at, (_, may)) in marks {
                    way.entry(at).and_modify(|all| all.1 |= may);
                }
            }
            end = Some(made);
            if end.as_ref().is_none_or(Result::is_err) || kind == AccessKind::Fetch {
                break;
            }
        }
        let mut watches = Vec::new();
        for (address, (word, may)) in way {
            watches.push(Watch { address, expected: self.load(address)?, may });
            self.store(address, word)?;
        }
        let end = match end {
            Some(Ok(Some(hpa))) => Ok(hpa.get()),
            Some(Err(Some(end))) => Err(end),
            _ => return Ok(None),
        };
        if end != Ok(case.data) {
            watches.push(Watch {
                address: case.data,
                expected: block(self.vmx, case.data),
                may: 0,
            });
        }
        let Ok(hpa) = end else {
            return Ok(end.err().map(|end| Prediction { end, rip, rax: None, watches }));
        };
        if hpa >> self.maxphyaddr != 0 {
            let end = End::Odd(format!("the library goes to {hpa:#x}, beyond MAXPHYADDR"));
            return Ok(Some(Prediction { end, rip, rax: None, watches }));
        }
        // Data is read by whole blocks.
        if !(DATA.0..DATA.1).contains(&hpa) || hpa & 15 != 0 {
            return Ok(None);
        }
        let found = block(self.vmx, hpa);
        let (rax, after) = match kind {
            AccessKind::Read => (found, found),
            AccessKind::Write => (case.value, case.value),
            AccessKind::Fetch => (hpa >> 4, found),
        };
        watches.push(Watch { address: hpa, expected: after, may: 0 });
        let length = if kind == AccessKind::Fetch { 5 } else { 3 };
        Ok(Some(Prediction {
            end: End::Called,
            rip: rip.wrapping_add(length),
            rax: Some(rax),
            watches,
        }))
    }

    /// What the machine is to do for a case. `None` if there are too many words to look at.
    pub fn order<S: Second>(&self, case: &Case<S>, prediction: &Prediction) -> Option<Order> {
        let mut patches = [(SCRATCH, 0); 2];
        patches.iter_mut().zip(&case.patches).for_each(|(to, patch)| *to = *patch);
        let Access { kind, privilege } = case.access;
        let rip = if kind == AccessKind::Fetch { case.address } else { stub(kind, privilege) };
        let stages = self.stages(case);
        let registers = stages.first.registers(stages.root);
        let start = Start { registers, ac: case.guest.ac, rip, privilege };
        let watches: Vec<_> = prediction.watches.iter().map(|watch| watch.address).collect();
        let fields = stages.second.format().fields(case.scene.second, &start);
        let host_efer = stages.second.format().host_efer();
        let order =
            Order { patches, watches, fields, rcx: case.address, rax: case.value, host_efer };
        (order.watches.len() <= WATCHES).then_some(order)
    }

    /// Every entry on the way to an address through both stages, the last one included:
    /// host-physical addresses, first the guest's.
    pub fn entries<S: Second>(&self, case: &Case<S>) -> (Vec<u64>, Vec<u64>) {
        self.stages(case).entries(Gva::new(case.address))
    }
}

impl<S: Second> Stages<'_, S> {
    /// Makes an access: where it goes, or how it ends. `None` if the library cannot tell.
    fn make(&self, address: Gva, access: Access) -> Result<Option<Hpa>, Option<End>> {
        let both = TwoStage::new(
            self.first,
            self.root,
            Walker::new(*self.second.format(), *self.second.memory(), self.second.root()),
        );
        let result = both.translate(address, access);
        let marking = Through { second: &self.second, marks: true };
        let marked = Walker::new(self.first, marking, self.root).access(address, access);
        let marked =
            marked.map(|found| self.second.access(found.output, access).map(|found| found.output));
        match (result, marked) {
            (Ok(found), Ok(Ok(output))) if found.output() == output => Ok(Some(output)),
            (Err(TwoStageFault::Stage1(fault)), Err(_)) => Err(match (fault.cause, fault.arch) {
                (Cause::TableAccess, _) => None,
                (_, LongModeFault::PageFault(code)) => Some(End::PageFault {
                    code: u64::from(code.into_bits()),
                    address: fault.address.get(),
                }),
                (_, LongModeFault::GeneralProtection) => Some(End::GeneralProtection),
            }),
            // What only the update of a guest's entry meets.
            (Err(TwoStageFault::Stage2 { fault, table: Some(_), .. }), Err(_))
                if self.updates_unasked
                    && fault.access != S::guest_table_access(self.second.format()) =>
            {
                Err(None)
            }
            (Err(TwoStageFault::Stage2 { address, fault, table, .. }), marked)
                if matches!((table, marked), (Some(_), Err(_)) | (None, Ok(Err(_)))) =>
            {
                let entry = fault.entry.map_or(0, Hpa::get);
                Err(match fault.cause {
                    Cause::TableAccess if entry >> self.maxphyaddr == 0 => None,
                    Cause::TableAccess => {
                        Some(End::Odd(format!("the library reads {entry:#x}, beyond MAXPHYADDR")))
                    }
                    _ => Some(S::end(&fault, address.get())),
                })
            }
            (result, marked) => Err(Some(End::Odd(format!(
                "the library’s walks do not agree: {result:?}, {:?}",
                marked.is_ok()
            )))),
        }
    }

    /// The guest-physical addresses of the entries of stage 1 on the way, and of the page.
    fn guest_addresses(&self, address: Gva) -> (Vec<Gpa>, Option<Gpa>) {
        let walker =
            Walker::new(self.first, Through { second: &self.second, marks: false }, self.root);
        let trace = walker.trace(address);
        let index = |level: u8| (address.get() >> (12 + 9 * level) & 511) * 8;
        let entry = |table: Gpa, level: u8| Gpa::new(table.get() + index(level));
        let mut all = vec![entry(self.root, self.first.geometry().root().0)];
        for step in &trace {
            match step.entry {
                Entry::Table { table, .. } => {
                    all.push(entry(table, step.at.level.0.saturating_sub(1)));
                }
                Entry::Leaf { output, .. } => {
                    let within = address.get() & pgtable::low_bits(step.at.shift);
                    return (all, Some(Gpa::new(output.get() | within)));
                }
                _ => {}
            }
        }
        (all, None)
    }

    fn entries(&self, address: Gva) -> (Vec<u64>, Vec<u64>) {
        let (tables, page) = self.guest_addresses(address);
        let access = self.second.format().guest_table_access();
        let reached =
            |gpa: &Gpa| self.second.translate(*gpa, access).ok().map(|found| found.output.get());
        let first = tables.iter().filter_map(reached).collect();
        let mut second = Vec::new();
        for gpa in tables.into_iter().chain(page) {
            second.extend(self.second.trace(gpa).iter().map(|entry| entry.address.get()));
        }
        second.sort_unstable();
        second.dedup();
        (first, second)
    }

    fn on_the_way(&self, address: Gva, access: Access, way: &mut Way) {
        let recorded = self.second.format().bits(PAGE);
        let (first, second) = self.entries(address);
        let dirty = if access.kind == AccessKind::Write { DIRTY } else { 0 };
        let seconds = second
            .into_iter()
            .map(|at| (at, recorded.accessed.hardware.mask | recorded.table.hardware.mask));
        let last = first.len().saturating_sub(1);
        let firsts = first.into_iter().enumerate();
        let firsts = firsts
            .map(|(number, at)| (at, if number == last { ACCESSED | dirty } else { ACCESSED }));
        for (at, may) in seconds.chain(firsts) {
            if let Ok(word) = self.second.memory().word(Hpa::new(at)) {
                way.insert(at, (u64::from_le(word.load(Ordering::Relaxed)), may));
            }
        }
    }
}

/// A source of numbers no two of which are the same.
#[derive(Default)]
pub struct Values(Cell<u64>);

impl Values {
    pub fn next(&self) -> u64 {
        self.0.set(self.0.get() + 1);
        self.0.get().wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
