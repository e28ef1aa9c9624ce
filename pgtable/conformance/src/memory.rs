//! Memory for tables, and an allocator that checks its callers and can run out.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Frames, Region};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::format::{Format, Output, TableWord as _};
use pgtable::invalidate::Stale;
use pgtable::memory::DirectMap;
use pgtable::{Address, Level};
use zerocopy::FromZeros;

use crate::log::Logged;

/// Memory for tables: where it starts in its space, its words, and a state word for each 256 bytes.
#[derive(Debug)]
pub struct Arena {
    start: u64,
    words: Vec<AtomicU64>,
    states: Vec<TableState>,
}

impl Arena {
    /// `bytes` bytes of zeros. The operating system provides those that are used.
    ///
    /// # Panics
    /// If there is no memory for them.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            start: 0x4000_0000,
            words: AtomicU64::new_vec_zeroed(bytes / 8).expect("memory"),
            states: (0..bytes / 256).map(|_| TableState::new()).collect(),
        }
    }

    /// The word at `address`.
    #[must_use]
    pub fn word(&self, address: u64) -> &AtomicU64 {
        &self.words[((address - self.start) / 8) as usize]
    }

    /// The arena as memory that knows which stores it was told of.
    #[must_use]
    pub fn logged<A: Address>(&self) -> Logged<'_, A> {
        Logged::new(&self.words, A::new(self.start))
    }

    /// The arena as table memory.
    #[must_use]
    pub fn memory<A: Address>(&self) -> DirectMap<'_, A> {
        DirectMap::new(&self.words, A::new(self.start))
    }
}

/// An allocator that trusts no caller: a table that comes back must be live, of the same layout,
/// and as clean as it is said to be.
#[derive(Debug)]
pub struct Tables<'m> {
    arena: &'m Arena,
    free: RefCell<HashMap<u8, Vec<u64>>>,
    top: Cell<u64>,
    live: RefCell<BTreeMap<u64, TableLayout>>,
    /// The number of tables that it still hands out.
    pub budget: Cell<usize>,
    /// Others write the tables too: they may hold anything.
    others_write: bool,
    /// The words of all tables that were ever handed out.
    handed_out: Cell<usize>,
}

impl<'m> Tables<'m> {
    /// An allocator of tables in `arena`.
    #[must_use]
    pub fn new(arena: &'m Arena) -> Self {
        Self {
            arena,
            free: RefCell::default(),
            top: Cell::new(arena.start),
            live: RefCell::default(),
            budget: Cell::new(usize::MAX),
            others_write: false,
            handed_out: Cell::new(0),
        }
    }

    /// Beyond the last table that was ever handed out.
    #[must_use]
    pub fn top(&self) -> u64 {
        self.top.get()
    }

    /// The number of words of all tables that were ever handed out.
    #[must_use]
    pub fn handed_out(&self) -> usize {
        self.handed_out.get()
    }

    /// The same for tables that others write too: one that comes back may hold anything.
    #[must_use]
    pub fn written_by_others(self) -> Self {
        Self { others_write: true, ..self }
    }

    /// The live tables.
    #[must_use]
    pub fn all(&self) -> Vec<(u64, TableLayout)> {
        self.live.borrow().iter().map(|(&table, &layout)| (table, layout)).collect()
    }

    /// The number of live tables.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live.borrow().len()
    }

    /// Whether `address` lies in a live table.
    #[must_use]
    pub fn is_live(&self, address: u64) -> bool {
        let live = self.live.borrow();
        let below = live.range(..=address).next_back();
        below.is_some_and(|(table, layout)| address - table < layout.bytes() as u64)
    }

    fn words(&self, table: u64, layout: TableLayout) -> &[AtomicU64] {
        let first = (table - self.arena.start) as usize / 8;
        &self.arena.words[first..first + layout.bytes() / 8]
    }

    fn bump(&self, layout: TableLayout) -> Option<u64> {
        // One state word for each 256 bytes.
        let bytes = (layout.bytes() as u64).max(256);
        let table = self.top.get().next_multiple_of(bytes);
        let end = self.arena.start + self.arena.words.len() as u64 * 8;
        (table + bytes <= end).then(|| {
            self.top.set(table + bytes);
            table
        })
    }
}

impl<A: Address> TableAllocator<A> for Tables<'_> {
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        let exhausted = AllocError::Exhausted { layout };
        self.budget.set(self.budget.get().checked_sub(1).ok_or(exhausted)?);
        let reused = self.free.borrow_mut().entry(layout.shift).or_default().pop();
        let table = reused.or_else(|| self.bump(layout)).ok_or(exhausted)?;
        assert!(self.words(table, layout).iter().all(|word| word.load(Ordering::Relaxed) == 0));
        self.live.borrow_mut().insert(table, layout);
        self.handed_out.set(self.handed_out.get() + layout.bytes() / 8);
        Ok(A::new(table))
    }

    /// The table holds what looks like entries of any format, so that a word that is not stored
    /// shows.
    fn allocate_stale(&self, layout: TableLayout) -> Result<A, AllocError> {
        let table: A = self.allocate(layout)?;
        self.words(table.get(), layout)
            .iter()
            .for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
        Ok(table)
    }

    fn free(&self, table: A, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        let address = table.get();
        assert_eq!(
            self.live.borrow_mut().remove(&address),
            Some(layout),
            "{address:#x} is not live with that layout"
        );
        let words = self.words(address, layout);
        match contents {
            Contents::Zeroed if !self.others_write => {
                assert!(
                    words.iter().all(|word| word.load(Ordering::Relaxed) == 0),
                    "said to be zeroed"
                );
            }
            Contents::Zeroed | Contents::Stale => {
                words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
            }
        }
        self.free.borrow_mut().entry(layout.shift).or_default().push(address);
        Ok(())
    }

    fn state(&self, table: A, layout: TableLayout) -> Option<&TableState> {
        let live = self.live.borrow().get(&table.get()) == Some(&layout);
        live.then(|| &self.arena.states[(table.get() - self.arena.start) as usize / 256])
    }
}

/// Frames in one block of memory.
type FewFrames<'m, A> = Frames<A, Region<A, DirectMap<'m, A>>>;

/// So few frames that their tables are used again at once.
#[derive(Debug)]
pub struct Scarce {
    words: Vec<AtomicU64>,
    count: u32,
    /// log2 of the bytes of a frame.
    shift: u8,
}

impl Scarce {
    /// Where the frames begin.
    const START: u64 = 1 << 24;

    /// `count` frames for the tables of `format`, more if its tables are large. `None` if
    /// frag-alloc has no frames as large as its tables.
    #[must_use]
    pub fn new<F: Format>(format: F, count: u32) -> Option<Self> {
        let geometry = format.geometry();
        let width = |level| geometry.width(Level(level)) + F::Word::SHIFT;
        let shifts = || (0..geometry.levels()).map(width);
        let shift = shifts().fold(16, u8::max);
        // frag-alloc's tables have 256 bytes at least.
        if shift > 16 || shifts().any(|shift| shift < 8) {
            return None;
        }
        // Of the tables below the root, which there are many of, eight fit in a frame.
        let below = shifts().rev().skip(1).fold(0, u8::max);
        let count = count << (below + 3).saturating_sub(shift).min(3);
        let words = (0..(count as usize) << (shift - 3)).map(|_| AtomicU64::new(0)).collect();
        Some(Self { words, count, shift })
    }

    /// The frames as table memory.
    #[must_use]
    pub fn memory<F: Format>(&self) -> DirectMap<'_, Output<F>> {
        DirectMap::new(&self.words, Output::<F>::new(Self::START))
    }

    /// The frames as frag-alloc gives them out.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn frames<F: Format>(&self) -> FewFrames<'_, Output<F>> {
        let start = Output::<F>::new(Self::START);
        let region = Region::new(self.memory::<F>(), start, self.count, self.shift);
        Frames::new(region.expect("aligned")).expect("frames of one size")
    }
}

/// The stale ranges: first page, last page, size.
#[must_use]
pub fn ranges<A: Address>(stale: &Stale<A>) -> Vec<(u64, u64, u8)> {
    stale.ranges().iter().map(|range| (range.start.get(), range.last.get(), range.shift)).collect()
}
