//! What the tests of shared trees stand on, where their writers take turns on one thread.

use std::marker::PhantomData;

use pgtable::Address;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::shared::{DeferringAllocator, ReadSide};

use crate::support::Tables;

/// Tables for many writers that take turns on one thread, and read by an `R`: nothing has to be
/// kept for them.
pub struct Shareable<'t, R>(&'t Tables<'t>, PhantomData<R>);

impl<'t, R> Shareable<'t, R> {
    pub fn new(tables: &'t Tables<'t>) -> Self {
        Self(tables, PhantomData)
    }
}

impl<A: Address, R> TableAllocator<A> for Shareable<'_, R> {
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        self.0.allocate(layout)
    }

    fn allocate_stale(&self, layout: TableLayout) -> Result<A, AllocError> {
        self.0.allocate_stale(layout)
    }

    fn free(&self, table: A, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.0.free(table, layout, contents)
    }

    fn state(&self, table: A, layout: TableLayout) -> Option<&TableState> {
        self.0.state(table, layout)
    }
}

impl<A: Address, R: ReadSide + Default> DeferringAllocator<A> for Shareable<'_, R> {
    type Reader<'a>
        = R
    where
        Self: 'a;

    fn reader(&self) -> Option<R> {
        Some(R::default())
    }
}

/// The reader of a writer that is the only one: it waits as long as a reader does that says nothing
/// else.
#[derive(Debug, Default)]
pub struct Alone;

impl ReadSide for Alone {
    type Reading<'r> = ();

    fn read(&mut self) {}
}

/// The reader of a writer that waits for no other.
#[derive(Debug, Default)]
pub struct Impatient;

impl ReadSide for Impatient {
    type Reading<'r> = ();

    fn read(&mut self) {}

    fn wait(_: u32) -> bool {
        false
    }
}
