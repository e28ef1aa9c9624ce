//! A table of 16-byte entries found by number: what process table and partition table have in
//! common.

use core::sync::atomic::Ordering;

use pgtable::format::ByteOrder;
use pgtable::memory::{MemoryError, ReadMemory, TableMemory};
use pgtable::{Address, low_bits};

/// Why an entry of a process or partition table could not be reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TableError {
    /// The table ends before it.
    #[error("entry {index} of a table of {entries}")]
    Beyond {
        /// The PID or LPID that was looked for.
        index: u32,
        /// How many entries the table has.
        entries: u64,
    },
    /// It stands outside memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// The largest size that Linux takes for either table, as log2 of its bytes less 12.
const MAX_SIZE: u8 = 24;
/// The largest that the field has room for.
const FIELD_MAX: u8 = 31;

/// Where such a table is, and its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Indexed<A> {
    base: A,
    size: u8,
}

impl<A: Address> Indexed<A> {
    pub(crate) const ENTRY_SHIFT: u8 = 4;

    /// The table of `2^(12 + size)` bytes at `base`, if there may be such a one.
    pub(crate) fn new(base: A, size: u8) -> Option<Self> {
        Self::up_to(MAX_SIZE, base, size)
    }

    /// As [`new`](Self::new), but as large as its size can be written.
    pub(crate) fn of_any_size(base: A, size: u8) -> Option<Self> {
        Self::up_to(FIELD_MAX, base, size)
    }

    /// As [`new`](Self::new), but wherever its address can be written: at a multiple of 4 KiB.
    pub(crate) fn anywhere(base: A, size: u8) -> Option<Self> {
        let legal = size <= MAX_SIZE && base.is_aligned(12) && base.get() <= low_bits(60);
        legal.then_some(Self { base, size })
    }

    fn up_to(max: u8, base: A, size: u8) -> Option<Self> {
        let legal = size <= max && base.is_aligned(12 + size) && base.get() <= low_bits(60);
        legal.then_some(Self { base, size })
    }

    pub(crate) fn base(self) -> A {
        self.base
    }

    /// log2 of its bytes, less 12.
    pub(crate) fn size(self) -> u8 {
        self.size
    }

    pub(crate) fn entries(self) -> u64 {
        1 << (12 + self.size - Self::ENTRY_SHIFT)
    }

    /// The address of entry `index`.
    pub(crate) fn entry(self, index: u32) -> Result<A, TableError> {
        if u64::from(index) >= self.entries() {
            return Err(TableError::Beyond { index, entries: self.entries() });
        }
        // A table that is not aligned may end beyond the addresses that there are.
        let at = self.base.get().wrapping_add(u64::from(index) << Self::ENTRY_SHIFT);
        Ok(A::new(at))
    }

    /// Both doublewords of entry `index`.
    pub(crate) fn read<M: ReadMemory<A>>(
        self,
        memory: &M,
        index: u32,
    ) -> Result<[u64; 2], TableError> {
        let first = self.entry(index)?;
        let load = |at: A| memory.load(at).map(|word| ByteOrder::Big.swap(word));
        Ok([load(first)?, load(A::new(first.get() + 8))?])
    }

    /// Stores both doublewords of entry `index`, the second first: the first is what makes the
    /// entry usable.
    pub(crate) fn write<M: TableMemory<A>>(
        self,
        memory: &M,
        index: u32,
        entry: [u64; 2],
    ) -> Result<(), TableError> {
        let at = self.entry(index)?;
        let [first, second] = memory.table(at, 2)? else {
            return Err(MemoryError::outside(at, 2).into());
        };
        second.store(ByteOrder::Big.swap(entry[1]), Ordering::Relaxed);
        first.store(ByteOrder::Big.swap(entry[0]), Ordering::Release);
        memory.wrote(at, 2);
        Ok(())
    }
}
