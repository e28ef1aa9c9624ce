//! What the library says of a case: where the access goes, or how it ends, and what all entries on
//! the way hold afterwards.

use std::cell::Cell;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::memory::{DirectMap, MemoryError, TableMemory};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Address, Gva, Hpa, Privilege, low_bits};
use pgtable_riscv64::{Controls, Exception, GuestPaging, Paging, Sv, Trap};

use super::deviations::{Deviation, Deviations};
use super::records::{Csrs, DATA, End, NOTHING, Order, TABLES, WATCHES, block, run};
use super::scene::{Instruction, SCRATCH};
use super::state::{MXR, Machine, PMM, Roots, State, hstatus, registers};
use super::walks::{Masking, Stages, Way};

/// What makes the access, `None`: the fetch of an instruction; and with which privilege.
pub type Act = (Option<Instruction>, Privilege);

/// One case.
#[derive(Clone, Debug)]
pub struct Case {
    pub kind: &'static str,
    pub roots: Roots,
    /// Words that are changed before: address, and new content.
    pub patches: Vec<(u64, u64)>,
    pub state: State,
    pub address: u64,
    /// Where that is, if nothing comes between: a block that no other access may write.
    pub data: u64,
    pub act: Act,
    /// What is stored, or added.
    pub value: u64,
}

impl Case {
    pub fn access(&self) -> Access {
        let kind = match self.act.0 {
            None => AccessKind::Fetch,
            Some(Instruction::Load | Instruction::Hlv | Instruction::Hlvx) => AccessKind::Read,
            Some(Instruction::Store | Instruction::Amo | Instruction::Hsv) => AccessKind::Write,
        };
        Access { kind, privilege: self.act.1 }
    }

    /// Where the access begins.
    pub fn pc(&self) -> u64 {
        self.act.0.map_or(self.address, |it| it.address(&self.roots, self.act.1))
    }

    /// Whether it is made in the mode whose stages these are, and not by HS-mode.
    pub fn is_inside(&self) -> bool {
        !self.act.0.is_some_and(Instruction::is_hypervisors)
    }

    fn csrs(&self, machine: &Machine) -> Csrs {
        self.state.csrs(machine, self.roots, self.act.1, self.is_inside())
    }
}

/// What the library says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prediction {
    pub end: End,
    /// What the words on the way hold afterwards.
    pub watches: Vec<(u64, u64)>,
}

/// What the library says, and what of the machine's own ways it is due to.
pub type Predicted = (Prediction, Vec<Deviation>);

/// The tables.
pub struct Bench<'w> {
    pub words: &'w [AtomicU64],
    pub machine: Machine,
}

impl<'w> Bench<'w> {
    fn memory<A: Address>(&self) -> DirectMap<'w, A> {
        DirectMap::new(self.words, A::new(TABLES.0))
    }

    pub fn load(&self, address: u64) -> Result<u64, MemoryError> {
        let memory = self.memory::<Hpa>();
        Ok(u64::from_le(memory.word(Hpa::new(address))?.load(Ordering::Relaxed)))
    }

    pub fn store(&self, address: u64, word: u64) -> Result<(), MemoryError> {
        let memory = self.memory::<Hpa>();
        memory.word(Hpa::new(address))?.store(word.to_le(), Ordering::Relaxed);
        Ok(())
    }

    fn stages(&self, case: &Case, deviations: Deviations) -> Result<Stages<'w>, Box<dyn Error>> {
        let Case { roots, state, act, .. } = case;
        let registers = registers(&case.csrs(&self.machine));
        let hlvx = act.0 == Some(Instruction::Hlvx) && !deviations.has(Deviation::HlvxFetches);
        let (mut first, mut second) =
            (state.first(&self.machine, roots.guest), state.second(&self.machine));
        if !case.is_inside() && deviations.has(Deviation::HlvByMenvcfg) {
            let extensions = state.second;
            first = Sv::new(first.mode(), Controls { extensions, ..first.controls() });
        }
        if hlvx {
            (first, second) = (first.for_hlvx(), second.for_hlvx());
        }
        let hart = self.machine.hart();
        let paging = match roots.guest {
            true => GuestPaging::of(&registers, hart)?,
            false => GuestPaging { first: Paging::of(&registers, hart)?, second: None },
        };
        let paging = if hlvx { paging.for_hlvx() } else { paging };
        let [supervisors, users] = state.masks;
        let mask = if act.1 == Privilege::Supervisor { supervisors } else { users };
        let by_hypervisor = matches!(act.0, Some(Instruction::Hlv | Instruction::Hsv));
        let masking = if by_hypervisor && mask != 0 && deviations.has(Deviation::HlvMasksShift) {
            Masking::Shifted(if mask == 2 { 7 } else { 16 })
        } else if hlvx {
            Masking::Registers(paging.first)
        } else {
            let mut registers = registers;
            if deviations.has(Deviation::MxrMasks) {
                registers.sstatus &= !MXR;
                registers.vsstatus &= !MXR;
            }
            if case.is_inside() && deviations.has(Deviation::VsMaskedByMenvcfg) {
                registers.henvcfg = registers.henvcfg & !PMM | registers.menvcfg & PMM;
            }
            Masking::Registers(match roots.guest {
                true => Paging::of_guest(&registers, hart)?,
                false => Paging::of(&registers, hart)?,
            })
        };
        Ok(Stages {
            first: roots.first.map(|root| (first, root)),
            second: roots.second.map(|root| Walker::new(second, self.memory(), root)),
            paging,
            masking,
            hlvx_fetches: act.0 == Some(Instruction::Hlvx) && !hlvx,
            host: self.memory(),
            own: self.memory(),
            deviations,
        })
    }

    /// What comes of a case on the machine, and the rows that make it another than without them.
    /// `None`: a table stands where the library sees no memory and the machine may have some, or
    /// the page where there is no data.
    pub fn predict(&self, case: &Case) -> Result<Option<Predicted>, Box<dyn Error>> {
        let by =
            |deviations| self.with(&case.patches, || self.predict_patched(case, deviations))?;
        let plain = by(Deviations::default())?;
        let all = self.machine.deviations();
        if all == Deviations::default() {
            return Ok(plain.map(|plain| (plain, Vec::new())));
        }
        let Some(found) = by(all)? else { return Ok(None) };
        let mut due = Vec::new();
        if plain.as_ref() != Some(&found) {
            for row in all.rows() {
                if by(all.without(row.deviation))?.as_ref() != Some(&found) {
                    due.push(row.deviation);
                }
            }
        }
        Ok(Some((found, due)))
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

    fn predict_patched(
        &self,
        case: &Case,
        deviations: Deviations,
    ) -> Result<Option<Prediction>, Box<dyn Error>> {
        let stages = self.stages(case, deviations)?;
        let mut way = Way::new();
        let mut access = case.access();
        if case.act.0 == Some(Instruction::Hlvx) && deviations.has(Deviation::HlvxFetches) {
            access.kind = AccessKind::Fetch;
        }
        let made = stages.make_all(case, access, &mut way);
        let mut watches = Vec::new();
        for (&address, &word) in &way {
            watches.push((address, self.load(address)?));
            self.store(address, word)?;
        }
        let Some((pc, made)) = made? else { return Ok(None) };
        if made != Ok(case.data) {
            watches.push((case.data, block(case.data)));
        }
        // Beyond memory the walk is done, and the access fails.
        let made = match made {
            Ok(hpa) if hpa >= NOTHING => Err(Trap {
                exception: Exception::LoadAccessFault.with_kind(access.kind),
                stval: stages.masked(Gva::new(case.address), access).get(),
                htval: 0,
                htinst: 0,
            }),
            made => made,
        };
        let supervisor = access.privilege == Privilege::Supervisor;
        let (guest, inside) = (case.roots.guest, case.is_inside());
        let end = match made {
            Ok(hpa) => {
                // Data is looked at by whole blocks.
                if !(DATA.0..DATA.1).contains(&hpa) || hpa & 15 != 0 {
                    return Ok(None);
                }
                let found = block(hpa);
                let (a0, after) = match case.act.0 {
                    Some(Instruction::Load | Instruction::Hlv) => (found, found),
                    Some(Instruction::Hlvx) => (found & low_bits(32), found),
                    Some(Instruction::Store | Instruction::Hsv) => (0, case.value),
                    Some(Instruction::Amo) => (found, found.wrapping_add(case.value)),
                    None => (run(hpa), found),
                };
                watches.push((hpa, after));
                let (cause, mode) = match (supervisor, guest, inside) {
                    (_, _, false) => (9, 3),
                    (false, true, _) => (8, 1),
                    (true, true, _) => (10, 1),
                    (false, false, _) => (8, 3),
                    (true, false, _) => (9, 3),
                };
                let hstatus = hstatus(guest && inside, guest && supervisor, false);
                let epc = pc.wrapping_add(4);
                End { cause, tval: 0, tval2: 0, tinst: 0, hstatus, epc, a0, mode }
            }
            Err(Trap { exception, stval: tval, htval: tval2, htinst }) => {
                let explicit = case.act.0.filter(|_| pc == case.pc());
                let explicit = explicit.filter(|_| exception.kind() != AccessKind::Fetch);
                let tinst = match explicit {
                    Some(it) if htinst == 0 && deviations.has(Deviation::Transforms) => {
                        // In the field rs1 the lowest bits of how far tval is from the address.
                        it.transformed() | (tval.wrapping_sub(case.address) & 31) << 15
                    }
                    _ => htinst,
                };
                let cause = u64::from(exception.code());
                let hstatus = hstatus(guest && inside, guest && supervisor, guest);
                let mode = if guest { 1 } else { 3 };
                End { cause, tval, tval2, tinst, hstatus, epc: pc, a0: 0, mode }
            }
        };
        Ok(Some(Prediction { end, watches }))
    }

    /// What the machine is to do for a case. `None` if there are too many words to look at.
    pub fn order(&self, case: &Case, prediction: &Prediction) -> Option<Order> {
        let mut patches = [(SCRATCH, 0); 2];
        patches.iter_mut().zip(&case.patches).for_each(|(to, patch)| *to = *patch);
        let csrs = case.csrs(&self.machine);
        let watches: Vec<_> = prediction.watches.iter().map(|watch| watch.0).collect();
        let (pc, a1, a2) = (case.pc(), case.address, case.value);
        let order = Order { patches, watches, csrs, pc, a1, a2 };
        (order.watches.len() <= WATCHES).then_some(order)
    }

    /// Every entry on the way to the address of a case through both stages, the last one included:
    /// addresses in memory, first the first stage's.
    pub fn entries(&self, case: &Case) -> Result<(Vec<u64>, Vec<u64>), Box<dyn Error>> {
        let stages = self.stages(case, self.machine.deviations())?;
        Ok(stages.entries(stages.masked(Gva::new(case.address), case.access())))
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
