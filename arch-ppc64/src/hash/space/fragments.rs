//! Fragments with a second half: what the allocator hands out for a table whose entries have slots
//! to remember.
//!
//! The tree knows only the first half, which holds its words. The second, of the same size, has a
//! word for each of them, and both are one fragment: of 64K pages 2 KiB + 2 KiB, sixteen to a
//! frame.

use pgtable::Address;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};

/// An allocator of tables whose lowest levels have second halves, out of the fragments of `A`.
#[derive(Clone, Copy, Debug)]
pub struct Fragments<A> {
    fragments: A,
    second_halves: u8,
}

impl<A> Fragments<A> {
    pub(crate) const fn new(fragments: A, second_halves: u8) -> Self {
        Self { fragments, second_halves }
    }

    /// The allocator that the fragments come from.
    pub const fn fragments(&self) -> &A {
        &self.fragments
    }

    /// The fragment in which a table of `layout` stands.
    fn whole(&self, layout: TableLayout) -> TableLayout {
        let second_half = u8::from(layout.level.0 < self.second_halves);
        TableLayout { shift: layout.shift + second_half, ..layout }
    }
}

impl<T: Address, A: TableAllocator<T>> TableAllocator<T> for Fragments<A> {
    fn allocate(&self, layout: TableLayout) -> Result<T, AllocError> {
        self.fragments.allocate(self.whole(layout))
    }

    fn free(&self, table: T, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.fragments.free(table, self.whole(layout), contents)
    }

    #[inline]
    fn state(&self, table: T, layout: TableLayout) -> Option<&TableState> {
        self.fragments.state(table, self.whole(layout))
    }
}
