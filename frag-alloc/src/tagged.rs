//! The hand-off from a gather: a table and what it is, in one word.
//!
//! Linux's `pgtable_free_tlb` packs an index into the low four bits of a table's address, queues
//! the word, and takes it apart after the grace period. Tables are at least 16-byte aligned, so the
//! bits are free.

use pgtable::allocator::TableLayout;
use pgtable::{Address, Level};

/// What a table is, by Linux's names for the levels. The numbers are Linux's, which the packed word
/// holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum TableKind {
    /// Of the last level.
    Pte = 0,
    /// Of the level above.
    Pmd = 1,
    /// Of the level above that.
    Pud = 2,
    /// The root. Linux never defers the free of a root.
    Pgd = 3,
}

/// log2 of the bytes of each kind of table, under one MMU and page size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableSizes {
    /// Of a [`TableKind::Pte`] table, its second half included.
    pub pte: u8,
    /// Of a [`TableKind::Pmd`] table, its second half included.
    pub pmd: u8,
    /// Of a [`TableKind::Pud`] table.
    pub pud: u8,
    /// Of a [`TableKind::Pgd`] table.
    pub pgd: u8,
}

impl TableSizes {
    /// Linux on POWER, hash MMU, 4 KiB pages.
    pub const HASH_4K: Self = Self { pte: 12, pmd: 10, pud: 12, pgd: 12 };
    /// Linux on POWER, hash MMU, 64 KiB pages: PTE and PMD tables carry a second half of the same
    /// size (slots of the hash table; deposited tables).
    pub const HASH_64K: Self = Self { pte: 12, pmd: 14, pud: 14, pgd: 11 };
    /// Linux on POWER, radix MMU, 4 KiB pages.
    pub const RADIX_4K: Self = Self { pte: 12, pmd: 12, pud: 12, pgd: 16 };
    /// Linux on POWER, radix MMU, 64 KiB pages.
    pub const RADIX_64K: Self = Self { pte: 8, pmd: 12, pud: 12, pgd: 16 };

    /// The layout of a table of that kind.
    #[must_use]
    pub const fn layout(&self, kind: TableKind) -> TableLayout {
        let shift = match kind {
            TableKind::Pte => self.pte,
            TableKind::Pmd => self.pmd,
            TableKind::Pud => self.pud,
            TableKind::Pgd => self.pgd,
        };
        TableLayout { shift, level: Level(kind as u8) }
    }
}

/// A table and its kind in one word.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TaggedTable<A>(A);

impl<A: Address> TaggedTable<A> {
    /// `None` if the table is not aligned to 16 bytes.
    #[must_use]
    pub fn new(table: A, kind: TableKind) -> Option<Self> {
        table.is_aligned(4).then(|| Self(A::new(table.get() | kind as u64)))
    }

    /// The word, for a queue of words.
    #[must_use]
    pub fn raw(self) -> u64 {
        self.0.get()
    }

    /// From a word out of a queue; `None` if its low bits name no kind.
    #[must_use]
    pub fn from_raw(raw: u64) -> Option<Self> {
        (raw & 0xf <= TableKind::Pgd as u64).then(|| Self(A::new(raw)))
    }

    /// The table.
    #[must_use]
    pub fn table(self) -> A {
        A::new(self.0.get() & !0xf)
    }

    /// Its kind.
    #[must_use]
    pub fn kind(self) -> TableKind {
        match self.0.get() & 0xf {
            0 => TableKind::Pte,
            1 => TableKind::Pmd,
            2 => TableKind::Pud,
            _ => TableKind::Pgd,
        }
    }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use super::*;
    use pgtable::Hpa;

    #[test]
    fn the_word_is_linuxs() {
        for (raw, kind) in [
            (0x1000, TableKind::Pte),
            (0x1001, TableKind::Pmd),
            (0x1002, TableKind::Pud),
            (0x1003, TableKind::Pgd),
        ] {
            let tagged = TaggedTable::new(Hpa::new(0x1000), kind).unwrap();
            assert_eq!(
                (tagged.raw(), tagged.table(), tagged.kind()),
                (raw, Hpa::new(0x1000), kind)
            );
            assert_eq!(TaggedTable::from_raw(raw), Some(tagged));
        }
        assert_eq!(TaggedTable::new(Hpa::new(0x1008), TableKind::Pte), None);
        assert_eq!(TaggedTable::<Hpa>::from_raw(0x1004), None);
    }
}
