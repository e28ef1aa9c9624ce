//! Table memory that counts what is read, so that a target can say how much a call may read.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;

use pgtable::Address;
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};

/// A direct map and a count.
pub struct Counted<'m, A> {
    map: DirectMap<'m, A>,
    loads: Cell<usize>,
}

impl<'m, A: Address> Counted<'m, A> {
    pub fn of(map: DirectMap<'m, A>) -> Self {
        Self { map, loads: Cell::new(0) }
    }

    /// How many words were asked for since the last call.
    pub fn loads(&self) -> usize {
        self.loads.take()
    }

    fn count(&self, words: usize) {
        self.loads.set(self.loads.get() + words);
    }
}

impl<A: Address> ReadMemory<A> for Counted<'_, A> {
    pgtable::words_in_place!(A);
}

impl<A: Address> TableMemory<A> for Counted<'_, A> {
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.count(1);
        self.map.word(address)
    }

    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.count(words);
        self.map.table(address, words)
    }

    fn wrote(&self, address: A, words: usize) {
        self.map.wrote(address, words);
    }
}
