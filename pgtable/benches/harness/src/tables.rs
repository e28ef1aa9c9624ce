//! Where our tables come from: free lists by size above a bump pointer, and a state word for each
//! table of the smallest size.
//!
//! For one thread. The only type of the bench that is an allocator, so that another may take its
//! place.

use std::cell::{Cell, RefCell};

use pgtable::Address;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};

use crate::arena::Arena;

/// log2 of the smallest table of any format: radix trees' with pages of 64 KiB.
const ANY: u8 = 8;
/// One more than log2 of the largest table.
const SIZES: usize = 24;

/// An allocator over the memory of some arenas, which it uses in turn, for tables from `2^FINEST`
/// bytes on.
pub struct Tables<const FINEST: u8 = ANY> {
    arenas: Vec<Arena>,
    tops: Vec<Cell<u64>>,
    next: Cell<usize>,
    /// Free tables of each size; bit 0 is set in the address of one that is not zeroed.
    free: [RefCell<Vec<u64>>; SIZES],
    start: u64,
    states: Vec<TableState>,
}

impl<const FINEST: u8> Tables<FINEST> {
    pub fn new(arenas: Vec<Arena>) -> Self {
        let start = arenas.iter().map(|arena| arena.start).min().unwrap();
        let end = arenas.iter().map(|arena| arena.start + arena.bytes as u64).max().unwrap();
        Self {
            tops: arenas.iter().map(|arena| Cell::new(arena.start)).collect(),
            arenas,
            next: Cell::new(0),
            free: Default::default(),
            start,
            states: (0..(end - start) >> FINEST).map(|_| TableState::new()).collect(),
        }
    }

    /// Takes everything back. No table may be in use.
    pub fn clear(&self) {
        self.arenas.iter().for_each(|arena| arena.clear());
        self.arenas.iter().zip(&self.tops).for_each(|(arena, top)| top.set(arena.start));
        self.free.iter().for_each(|list| list.borrow_mut().clear());
        self.next.set(0);
    }

    /// A table that was never used.
    #[inline]
    fn bump(&self, bytes: u64) -> Option<u64> {
        let turn = self.next.get();
        self.next.set((turn + 1) % self.arenas.len());
        let (arena, top) = (self.arenas[turn], &self.tops[turn]);
        let table = top.get().next_multiple_of(bytes);
        top.set(table + bytes);
        (table + bytes <= arena.start + arena.bytes as u64).then_some(table)
    }

    #[inline]
    fn take(&self, layout: TableLayout) -> Result<u64, AllocError> {
        let list =
            self.free.get(usize::from(layout.shift)).ok_or(AllocError::Unsupported { layout })?;
        let table = list.borrow_mut().pop().or_else(|| self.bump(layout.bytes() as u64));
        table.ok_or(AllocError::Exhausted { layout })
    }

    /// Makes the `bytes` bytes of `table` zero.
    #[inline]
    fn zero(&self, table: u64, bytes: usize) {
        let arena =
            self.arenas.iter().find(|arena| table.wrapping_sub(arena.start) < arena.bytes as u64);
        // SAFETY: a table that was handed out, so in that arena as a whole, and that nobody uses
        // any more.
        unsafe { std::ptr::write_bytes(arena.unwrap().pointer(table), 0, bytes) };
    }
}

impl<A: Address, const FINEST: u8> TableAllocator<A> for Tables<FINEST> {
    #[inline]
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        let table = self.take(layout)?;
        if table & 1 != 0 {
            self.zero(table & !1, layout.bytes());
        }
        Ok(A::new(table & !1))
    }

    #[inline]
    fn allocate_stale(&self, layout: TableLayout) -> Result<A, AllocError> {
        Ok(A::new(self.take(layout)? & !1))
    }

    #[inline]
    fn free(&self, table: A, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        let list =
            self.free.get(usize::from(layout.shift)).ok_or(AllocError::Unsupported { layout })?;
        list.borrow_mut().push(table.get() | u64::from(contents == Contents::Stale));
        Ok(())
    }

    #[inline]
    fn state(&self, table: A, _: TableLayout) -> Option<&TableState> {
        self.states.get((table.get().wrapping_sub(self.start) >> FINEST) as usize)
    }
}
