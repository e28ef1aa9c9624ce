//! Table memory that a guest stores to, and in which a second writer works, while it is used.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::{Result, Unstructured};
use pgtable::format::{Format, TableWord as _};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::{Gpa, Level, Position, Stage1};

use super::START;
use super::allocator::Live;
use super::step::Turn;

/// Words that a step may ask for: every table a few times over for each page of its ranges, which
/// no verb needs, and what goes over a tree as often as it has ways does not keep to.
const MOST_WORDS: usize = 1 << 24;

/// A store of a guest's: after so many accesses, into which of its tables and which entry, what.
#[derive(Clone, Copy)]
pub(super) struct Store {
    after: u8,
    /// It is made again and again, until the step ends: a verb that waits for another word there
    /// would not end.
    stays: bool,
    table: u8,
    entry: u16,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Random(u64),
    /// A copy of one of its entries.
    Copy(u8, u16),
    /// A way to one of its tables, as an entry of that level.
    Own(u8, u8),
    /// A way to anything in the frames.
    Any(u16, u8),
}

impl Store {
    pub(super) fn of(input: &mut Unstructured<'_>) -> Result<Self> {
        let (after, stays) = (input.arbitrary()?, input.arbitrary::<u8>()? % 4 == 0);
        let (table, entry) = (input.arbitrary()?, input.arbitrary()?);
        let what = match input.arbitrary::<u8>()? % 5 {
            0 => What::Random(input.arbitrary()?),
            1 | 2 => What::Copy(input.arbitrary()?, input.arbitrary()?),
            3 => What::Own(input.arbitrary()?, input.arbitrary()?),
            _ => What::Any(input.arbitrary()?, input.arbitrary()?),
        };
        Ok(Self { after, stays, table, entry, what })
    }
}

/// What the second writer does, and when.
#[derive(Default)]
struct Second {
    /// The last one is the next.
    turns: RefCell<Vec<Turn>>,
    /// Accesses since its last turn.
    accesses: Cell<usize>,
    /// Borrowed while it acts: its own accesses give it no turn.
    acts: RefCell<Option<Box<dyn Fn(Turn)>>>,
}

impl Second {
    fn accessed(&self) {
        let Ok(acts) = self.acts.try_borrow_mut() else { return };
        let Some(act) = &*acts else { return };
        let accesses = self.accesses.get() + 1;
        self.accesses.set(accesses);
        let due = self.turns.borrow().last().is_some_and(|next| accesses > next.after());
        if due {
            self.accesses.set(0);
            let turn = self.turns.borrow_mut().pop();
            turn.into_iter().for_each(act);
        }
    }
}

/// The memory of a guest's tree.
pub(super) struct Written<F> {
    map: DirectMap<'static, Gpa>,
    format: F,
    live: Rc<Live>,
    stores: RefCell<Vec<Store>>,
    /// Accesses since the last store.
    accesses: Cell<usize>,
    words: Cell<usize>,
    second: Second,
}

impl<F: Format<Stage = Stage1>> Written<F> {
    pub(super) fn new(map: DirectMap<'static, Gpa>, format: F, live: Rc<Live>) -> Self {
        let (stores, second) = (RefCell::default(), Second::default());
        Self { map, format, live, stores, accesses: Cell::new(0), words: Cell::new(0), second }
    }

    /// A step begins, in the middle of which the guest makes `stores`.
    pub(super) fn begin(&self, stores: Vec<Store>) {
        self.stores.replace(stores);
        self.accesses.set(0);
        self.words.set(0);
    }

    /// A second writer has `turns` from now on, in each of which it does `act`.
    pub(super) fn share(&self, turns: Vec<Turn>, act: impl Fn(Turn) + 'static) {
        self.second.turns.replace(turns);
        self.second.accesses.set(0);
        self.second.acts.replace(Some(Box::new(act)));
    }

    /// Neither the guest nor a second writer does anything more.
    pub(super) fn end(&self) {
        self.stores.borrow_mut().clear();
        self.second.acts.replace(None);
    }

    fn slot(&self, table: u8, entry: u16) -> Option<&AtomicU64> {
        let live = self.live.borrow();
        let (&address, &shift) = live.iter().nth(usize::from(table) % live.len().max(1))?;
        // Often one of the first few: those are where the verbs work.
        let entry = if entry & 0x8000 == 0 { entry & 7 } else { entry & 0x7fff };
        self.map.word(Gpa::new(address + u64::from(entry) * 8 % (1 << shift))).ok()
    }

    fn link(&self, address: u64, level: u8) -> Option<u64> {
        let geometry = self.format.geometry();
        let level = Level(1 + level % geometry.root().0.max(1));
        let at = Position { level, shift: geometry.shift(level) };
        let width = geometry.width(Level(level.0 - 1));
        let table = address >> (width + F::Word::SHIFT) << (width + F::Word::SHIFT);
        let word = self.format.table(Gpa::new(table), width, at).ok()?;
        Some(F::Word::swap(F::BYTE_ORDER, word))
    }

    fn store(&self, store: Store) {
        let word = match store.what {
            What::Random(word) => Some(word),
            What::Copy(table, entry) => {
                self.slot(table, entry).map(|word| word.load(Ordering::Relaxed))
            }
            What::Own(table, level) => {
                let live = self.live.borrow();
                let address = live.keys().nth(usize::from(table) % live.len().max(1)).copied();
                address.and_then(|address| self.link(address, level))
            }
            // Most tables stand in the first frames.
            What::Any(granule, level) => self.link(START + u64::from(granule % 0x300) * 256, level),
        };
        if let (Some(slot), Some(word)) = (self.slot(store.table, store.entry), word) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    fn accessed(&self, words: usize) {
        let accesses = self.accesses.get() + 1;
        self.accesses.set(accesses);
        self.words.set(self.words.get() + words);
        assert!(self.words.get() <= MOST_WORDS, "a step asks for too many words");
        let next = self.stores.borrow().last().copied();
        if let Some(store) = next.filter(|next| accesses > next.after.into()) {
            self.accesses.set(0);
            if !store.stays {
                self.stores.borrow_mut().pop();
            }
            self.store(store);
        }
        self.second.accessed();
    }
}

impl<F: Format<Stage = Stage1>> ReadMemory<Gpa> for Written<F> {
    pgtable::words_in_place!(Gpa);
}

impl<F: Format<Stage = Stage1>> TableMemory<Gpa> for Written<F> {
    fn word(&self, address: Gpa) -> std::result::Result<&AtomicU64, MemoryError> {
        self.accessed(1);
        self.map.word(address)
    }

    fn table(&self, address: Gpa, words: usize) -> std::result::Result<&[AtomicU64], MemoryError> {
        self.accessed(words);
        self.map.table(address, words)
    }

    fn wrote(&self, address: Gpa, words: usize) {
        self.map.wrote(address, words);
    }
}
