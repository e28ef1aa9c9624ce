//! What the library says of a case: where the access goes, or how it ends, and what all entries on
//! the way hold afterwards.

use std::cell::Cell;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use arch_riscv64::{Exception, Trap};
use pgtable::{
    Access, AccessKind, Address, DirectMap, Gva, Hpa, MemoryError, Privilege, TableMemory, Walker,
};

use super::records::{DATA, End, NOTHING, Order, TABLES, WATCHES, block, run};
use super::scene::{Instruction, SCRATCH};
use super::state::{Machine, Roots, State, hstatus};
use super::walks::{Stages, Way};

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
    pub access: Access,
    /// A write is an AMO.
    pub amo: bool,
    /// What is stored, or added.
    pub value: u64,
}

impl Case {
    /// The instruction that makes the access; `None`: it is the fetch of one.
    pub fn instruction(&self) -> Option<Instruction> {
        match self.access.kind {
            AccessKind::Read => Some(Instruction::Load),
            AccessKind::Write if self.amo => Some(Instruction::Amo),
            AccessKind::Write => Some(Instruction::Store),
            AccessKind::Fetch => None,
        }
    }

    /// Where the access begins.
    pub fn pc(&self) -> u64 {
        self.instruction().map_or(self.address, |it| it.address(self.access.privilege))
    }

    fn guest(&self) -> bool {
        self.roots.second.is_some()
    }
}

/// What the library says.
#[derive(Clone, Debug)]
pub struct Prediction {
    pub end: End,
    /// What the words on the way hold afterwards.
    pub watches: Vec<(u64, u64)>,
    /// Whether the manual says otherwise than this machine.
    pub known: bool,
}

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

    fn stages(&self, case: &Case) -> Stages<'w> {
        let Case { roots, state, .. } = case;
        let second = state.second(&self.machine);
        Stages {
            first: state.first(&self.machine, case.guest()),
            root: roots.first,
            second: roots.second.map(|root| Walker::new(second, self.memory(), root)),
            own: self.memory(),
            known: self.machine.known,
        }
    }

    /// What comes of a case; `None`: a table stands where the library sees no memory and the
    /// machine may have some, or the page where there is no data.
    pub fn predict(&self, case: &Case) -> Result<Option<Prediction>, Box<dyn Error>> {
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

    fn predict_patched(&self, case: &Case) -> Result<Option<Prediction>, Box<dyn Error>> {
        let mut way = Way::new();
        let made = self.stages(case).make_all(case, &mut way);
        let mut watches = Vec::new();
        for (&address, &word) in &way {
            watches.push((address, self.load(address)?));
            self.store(address, word)?;
        }
        let Some((pc, made, known)) = made? else { return Ok(None) };
        if made != Ok(case.data) {
            watches.push((case.data, block(case.data)));
        }
        let Access { kind, privilege } = case.access;
        // Beyond memory the walk is done, and the access fails.
        let made = match made {
            Ok(hpa) if hpa >= NOTHING => Err(Trap {
                exception: Exception::LoadAccessFault.with_kind(kind),
                stval: case.address,
                htval: 0,
                htinst: 0,
            }),
            made => made,
        };
        let mode = if case.guest() { 1 } else { 3 };
        let end = match made {
            Ok(hpa) => {
                // Data is looked at by whole blocks.
                if !(DATA.0..DATA.1).contains(&hpa) || hpa & 15 != 0 {
                    return Ok(None);
                }
                let found = block(hpa);
                let (a0, after) = match case.instruction() {
                    Some(Instruction::Load) => (found, found),
                    Some(Instruction::Store) => (0, case.value),
                    Some(Instruction::Amo) => (found, found.wrapping_add(case.value)),
                    None => (run(hpa), found),
                };
                watches.push((hpa, after));
                let cause = match (privilege, case.guest()) {
                    (Privilege::User, _) => 8,
                    (Privilege::Supervisor, false) => 9,
                    (Privilege::Supervisor, true) => 10,
                };
                let hstatus = hstatus(case.guest(), privilege, false);
                let epc = pc.wrapping_add(4);
                End { cause, tval: 0, tval2: 0, tinst: 0, hstatus, epc, a0, mode }
            }
            Err(Trap { exception, stval: tval, htval: tval2, htinst }) => {
                let explicit = case.instruction().filter(|_| pc == case.pc());
                let explicit = explicit.filter(|_| exception.kind() != AccessKind::Fetch);
                let tinst = match explicit {
                    Some(it) if htinst == 0 && self.machine.known.transforms => it.transformed(),
                    _ => htinst,
                };
                let cause = u64::from(exception.code());
                let hstatus = hstatus(case.guest(), privilege, case.guest());
                End { cause, tval, tval2, tinst, hstatus, epc: pc, a0: 0, mode }
            }
        };
        Ok(Some(Prediction { end, watches, known }))
    }

    /// What the machine is to do for a case. `None` if there are too many words to look at.
    pub fn order(&self, case: &Case, prediction: &Prediction) -> Option<Order> {
        let mut patches = [(SCRATCH, 0); 2];
        patches.iter_mut().zip(&case.patches).for_each(|(to, patch)| *to = *patch);
        let csrs = case.state.csrs(&self.machine, case.roots, case.access.privilege);
        let watches: Vec<_> = prediction.watches.iter().map(|watch| watch.0).collect();
        let (pc, a1, a2) = (case.pc(), case.address, case.value);
        let order = Order { patches, watches, csrs, pc, a1, a2 };
        (order.watches.len() <= WATCHES).then_some(order)
    }

    /// Every entry on the way to the address of a case through both stages, the last one included:
    /// addresses in memory, first the first stage's.
    pub fn entries(&self, case: &Case) -> (Vec<u64>, Vec<u64>) {
        self.stages(case).entries(Gva::new(case.address))
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
