//! What the tests of address spaces stand on: memory, an allocator that checks its callers and can
//! run out, and a TLB that remembers everything.

pub mod harness;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::{
    Address, AllocError, Contents, DirectMap, Invalidate, InvalidateFailed, Stage, Stale,
    TableAllocator, TableLayout, TableState,
};

/// Memory for tables: where it starts in its space, its words, and a state word for each 256 bytes.
pub struct Arena {
    start: u64,
    words: Vec<AtomicU64>,
    states: Vec<TableState>,
}

impl Arena {
    pub fn new(bytes: usize) -> Self {
        Self {
            start: 0x4000_0000,
            words: (0..bytes / 8).map(|_| AtomicU64::new(0)).collect(),
            states: (0..bytes / 256).map(|_| TableState::new()).collect(),
        }
    }

    /// The word at `address`.
    #[allow(dead_code, reason = "not every test looks at words")]
    pub fn word(&self, address: u64) -> &AtomicU64 {
        &self.words[((address - self.start) / 8) as usize]
    }

    pub fn memory<A: Address>(&self) -> DirectMap<'_, A> {
        DirectMap::new(&self.words, A::new(self.start))
    }
}

/// An allocator that trusts nobody: what comes back must be live, of the same layout, and as clean
/// as it is said to be.
pub struct Tables<'m> {
    arena: &'m Arena,
    free: RefCell<HashMap<u8, Vec<u64>>>,
    top: Cell<u64>,
    live: RefCell<BTreeMap<u64, TableLayout>>,
    /// How many more tables it hands out.
    pub budget: Cell<usize>,
}

impl<'m> Tables<'m> {
    pub fn new(arena: &'m Arena) -> Self {
        Self {
            arena,
            free: RefCell::default(),
            top: Cell::new(arena.start),
            live: RefCell::default(),
            budget: Cell::new(usize::MAX),
        }
    }

    /// How many tables are live.
    pub fn live(&self) -> usize {
        self.live.borrow().len()
    }

    fn words(&self, table: u64, layout: TableLayout) -> &[AtomicU64] {
        let first = (table - self.arena.start) as usize / 8;
        &self.arena.words[first..first + layout.bytes() / 8]
    }

    fn bump(&self, layout: TableLayout) -> Option<u64> {
        let bytes = layout.bytes() as u64;
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
        Ok(A::new(table))
    }

    /// What it holds looks like entries of any format, so that a word which is not stored shows.
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
            Contents::Zeroed => {
                assert!(
                    words.iter().all(|word| word.load(Ordering::Relaxed) == 0),
                    "said to be zeroed"
                );
            }
            Contents::Stale => words.iter().for_each(|word| word.store(0, Ordering::Relaxed)),
        }
        self.free.borrow_mut().entry(layout.shift).or_default().push(address);
        Ok(())
    }

    fn state(&self, table: A, layout: TableLayout) -> Option<&TableState> {
        let live = self.live.borrow().get(&table.get()) == Some(&layout);
        live.then(|| &self.arena.states[(table.get() - self.arena.start) as usize / 256])
    }
}

/// The ranges that are stale: first page, last page, size.
pub fn ranges<A: Address>(stale: &Stale<A>) -> Vec<(u64, u64, u8)> {
    stale.ranges().iter().map(|range| (range.start.get(), range.last.get(), range.shift)).collect()
}

/// A TLB of unlimited size: whatever was once translated stays until it is invalidated.
#[derive(Default)]
pub struct Tlb {
    /// Input page → (output, prot bits), by pages of the test's unit.
    pub cached: RefCell<BTreeMap<u64, (u64, u8)>>,
    pub invalidations: Cell<usize>,
}

impl<S: Stage> Invalidate<S> for Tlb {
    type Identity = u32;

    fn invalidate(&self, _: u32, stale: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.invalidations.set(self.invalidations.get() + 1);
        let mut cached = self.cached.borrow_mut();
        if stale.everything() {
            cached.clear();
        }
        for range in stale.ranges() {
            let end = range.last.get() + ((1u64 << range.shift) - 1);
            cached.retain(|&page, _| page < range.start.get() || page > end);
        }
        Ok(())
    }

    fn abandoned(&self, _: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}
