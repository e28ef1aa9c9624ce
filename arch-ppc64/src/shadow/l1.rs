//! L1's memory, as L1's own second-stage tables address it.

use core::sync::atomic::AtomicU64;

use pgtable::memory::{MemoryError, ReadMemory, TableMemory};
use pgtable::{Gpa, Hpa};

/// What L1 takes for host real addresses is its guest real memory `G`: the one place where the one
/// becomes the other.
///
/// With it, a walker of L1's partition-scoped tables is an ordinary
/// [`Walker`](pgtable::walk::Walker) of [`PartitionScoped`](crate::radix::PartitionScoped), whose
/// output is what L1 calls host real.
#[derive(Clone, Copy, Debug)]
pub struct L1Memory<'g, G>(pub &'g G);

impl<G: ReadMemory<Gpa>> ReadMemory<Hpa> for L1Memory<'_, G> {
    #[inline]
    fn load(&self, address: Hpa) -> Result<u64, MemoryError> {
        self.0.load(Gpa::new(address.get()))
    }

    #[inline]
    fn compare_exchange(&self, address: Hpa, current: u64, new: u64) -> Result<bool, MemoryError> {
        self.0.compare_exchange(Gpa::new(address.get()), current, new)
    }

    #[inline]
    fn is_writable(&self, address: Hpa) -> bool {
        self.0.is_writable(Gpa::new(address.get()))
    }

    #[inline]
    fn in_place(&self, address: Hpa, words: usize) -> Option<&[AtomicU64]> {
        self.0.in_place(Gpa::new(address.get()), words)
    }
}

impl<G: TableMemory<Gpa>> TableMemory<Hpa> for L1Memory<'_, G> {
    #[inline]
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.0.word(Gpa::new(address.get()))
    }

    #[inline]
    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.0.table(Gpa::new(address.get()), words)
    }

    #[inline]
    fn wrote(&self, address: Hpa, words: usize) {
        self.0.wrote(Gpa::new(address.get()), words);
    }
}
