//! The guest's memory as the hardware's walk finds it, and its words, one by one.

use std::cell::Cell;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::Gpa;
use pgtable::format::ByteOrder;
use pgtable::memory::{GuestTables, MemoryError, ReadMemory, TableMemory};
use vm_memory::GuestMemoryMmap;

use super::case::Slot;

/// The guest real addresses that a partition-scoped tree translates.
///
/// QEMU's MMU ignores the bits beyond, so that an address with such a bit is an alias of one
/// without, but only while KVM happens to have that one mapped; else KVM hears of it, as of an
/// address without memory. So an alias of memory is no question with an answer, and no case may
/// meet one.
pub const SECOND_STAGE: u64 = (1 << 52) - 1;

/// The guest's memory.
pub struct Tables<'m> {
    memory: GuestTables<'m, Gpa>,
    /// Whether an alias of memory was asked for.
    aliased: Cell<bool>,
}

impl<'m> Tables<'m> {
    /// All of `memory`.
    pub fn new(memory: &'m GuestMemoryMmap) -> Result<Self, Box<dyn Error>> {
        Ok(Self { memory: GuestTables::new(memory)?, aliased: Cell::new(false) })
    }

    /// Whether an alias of memory was asked for since this was asked last.
    pub fn met_an_alias(&self) -> bool {
        self.aliased.take()
    }

    /// The word at `address`.
    pub fn load(&self, address: u64) -> Result<Slot, MemoryError> {
        let word = self.memory.word(Gpa::new(address))?.load(Ordering::Acquire);
        Ok(Slot { address, word: ByteOrder::Big.swap(word) })
    }

    /// Stores a word.
    pub fn store(&self, Slot { address, word }: Slot) -> Result<(), MemoryError> {
        self.memory.word(Gpa::new(address))?.store(ByteOrder::Big.swap(word), Ordering::Release);
        Ok(())
    }

    /// The same words, as they are now.
    pub fn reload(&self, words: &[Slot]) -> Result<Vec<Slot>, MemoryError> {
        words.iter().map(|slot| self.load(slot.address)).collect()
    }

    /// Stores words.
    pub fn store_all<'a>(
        &self,
        words: impl IntoIterator<Item = &'a Slot>,
    ) -> Result<(), MemoryError> {
        words.into_iter().try_for_each(|&slot| self.store(slot))
    }
}

impl ReadMemory<Gpa> for Tables<'_> {
    pgtable::words_in_place!(Gpa);
}

impl TableMemory<Gpa> for Tables<'_> {
    fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
        if address.get() > SECOND_STAGE
            && self.memory.word(Gpa::new(address.get() & SECOND_STAGE)).is_ok()
        {
            self.aliased.set(true);
        }
        self.memory.word(address)
    }

    fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.word(address)?;
        self.memory.table(address, words)
    }

    fn wrote(&self, address: Gpa, words: usize) {
        self.memory.wrote(address, words);
    }
}
