//! Memory for the tables of all scenes.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::Address;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::memory::DirectMap;

use super::records::TABLES;

/// The alignment that registers have: a root may be smaller.
const SMALLEST: u64 = 64;
/// Bytes of tables in a scene.
pub const ROOM: u64 = 0x20_0000;

/// Memory for tables, from [`TABLES`] on.
pub struct Memory {
    pub words: Vec<AtomicU64>,
    pub next: Cell<u64>,
    pub end: Cell<u64>,
    /// One for each [`SMALLEST`] bytes.
    states: Vec<TableState>,
}

impl Memory {
    pub fn new() -> Self {
        Self {
            words: (TABLES.0..TABLES.1).step_by(8).map(|_| AtomicU64::new(0)).collect(),
            next: Cell::new(TABLES.0),
            end: Cell::new(TABLES.0),
            states: (TABLES.0..TABLES.1)
                .step_by(SMALLEST as usize)
                .map(|_| TableState::new())
                .collect(),
        }
    }

    pub fn map<A: Address>(&self) -> DirectMap<'_, A> {
        DirectMap::new(&self.words, A::new(TABLES.0))
    }

    pub fn load(&self, address: u64) -> Option<u64> {
        let index = address.checked_sub(TABLES.0)? / 8;
        self.words.get(usize::try_from(index).ok()?).map(|word| word.load(Ordering::Relaxed))
    }

    pub fn store(&self, address: u64, value: u64) {
        if let Some(word) = self.words.get(((address - TABLES.0) / 8) as usize) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The words that are used.
    pub fn used(&self) -> Vec<u64> {
        let count = ((self.next.get() - TABLES.0) / 8) as usize;
        self.words[..count].iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Room for another tree, if there is any.
    pub fn begin(&self) -> bool {
        let start = self.next.get().next_multiple_of(0x1_0000);
        self.next.set(start);
        self.end.set(start + ROOM);
        start + ROOM <= TABLES.1
    }
}

impl<A: Address> TableAllocator<A> for Memory {
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        let bytes = (layout.bytes() as u64).max(SMALLEST);
        let table = self.next.get().next_multiple_of(bytes);
        if table + bytes > self.end.get() {
            return Err(AllocError::Exhausted { layout });
        }
        self.next.set(table + bytes);
        Ok(A::new(table))
    }

    fn free(&self, table: A, layout: TableLayout, _: Contents) -> Result<(), AllocError> {
        let words = (table.get()..).step_by(8).take(layout.bytes() / 8);
        words.for_each(|at| self.store(at, 0));
        Ok(())
    }

    fn state(&self, table: A, _: TableLayout) -> Option<&TableState> {
        let index = table.get().checked_sub(TABLES.0)? / SMALLEST;
        self.states.get(usize::try_from(index).ok()?)
    }
}
