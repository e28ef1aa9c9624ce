//! A tree that many threads change at once: each locks the smallest subtree that covers its range,
//! so disjoint ranges go on in parallel.
//!
//! # Protocol
//! Each thread has a [`Writer`]. A verb of it locks the lowest table that covers the verb's range,
//! does what [`PageTable`]'s verb of that name does (it is the same code), and unlocks; a
//! [`LockedRange`] keeps other writers out of a range for several operations. For lock order and
//! deadlock freedom see the [module `lock`](crate::ReadSide).
//!
//! What two operations on overlapping ranges see of each other: the effect is that of one after the
//! other. Readers without a lock see each entry before or after, as ever.
//!
//! Invalidations run where exclusive writers run them: in [`Gather::finish`], which each thread
//! calls for what it took out; and, in the middle of a verb, before a leaf is split or replaced,
//! and when a gather is full: then with locks held. So an [`Invalidate`] may wait for readers of
//! the tree, but must not change the tree whose invalidation it is.

#[macro_use]
mod verbs;
mod held;
mod page;
mod range;
mod writer;

use crate::descent::Node;
use crate::format::{Format, Output};
use crate::keep::Kept;
use crate::lock::DeferringAllocator;
use crate::memory::TableMemory;
use crate::ranges::Ranges;
use crate::table::PageTable;
use crate::walk::Walker;

pub use range::LockedRange;
pub use writer::Writer;

/// A tree that many threads change at once.
///
/// Its allocator keeps a freed table to itself until every
/// [`ReadSide::Reading`](crate::ReadSide::Reading) that could see it has ended, as `frag-alloc`'s
/// `Deferred` does, and gives out the readers for which it waits. What needs the whole tree (moving
/// tables, tearing it down) is done by [`into_inner`](Self::into_inner).
#[derive(Debug)]
pub struct SharedPageTable<F, M, A> {
    table: PageTable<F, M, A>,
    ranges: Ranges,
}

impl<F, M, A> From<PageTable<F, M, A>> for SharedPageTable<F, M, A>
where
    F: Format,
    A: DeferringAllocator<Output<F>>,
{
    /// From now on empty tables leave at once. ([`PageTable::trim`] first, if one was
    /// [kept](PageTable::keep_last_empty).)
    fn from(mut table: PageTable<F, M, A>) -> Self {
        table.kept = Kept::default();
        table.entries.shared = true;
        let ranges = Ranges::after(table.ranges_before);
        Self { table, ranges }
    }
}

impl<F, M, A> SharedPageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    /// The tree, for one writer again. What is locked still (by a [`LockedRange`] that was
    /// forgotten, or because a guest hid the table) is unlocked when that writer comes to it.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(writer: shared, writer, gather);
    /// # drop(writer);
    /// let tree = shared.into_inner();
    /// let finished = tree.destroy(gather).map_err(|(_tree, error)| error)?;
    /// assert_eq!(finished.tables, 1);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn into_inner(self) -> PageTable<F, M, A> {
        let mut table = self.table;
        table.entries.shared = false;
        table.ranges_before = self.ranges.uses();
        if let Some(state) = table.state(Node::root(&table.format, table.root)) {
            state.adopt(table.tree);
        }
        table
    }

    /// The address of the root table.
    pub fn root(&self) -> Output<F> {
        self.table.root()
    }

    /// The format.
    pub fn format(&self) -> &F {
        self.table.format()
    }

    /// The allocator that tables come from.
    pub fn tables(&self) -> &A {
        self.table.tables()
    }

    /// A walker of this tree, which takes no lock. What it reads while others write is kept from
    /// reuse only while a reader of the tree's [`DeferringAllocator`] reads: see
    /// [`Writer::read`].
    pub fn walker(&self) -> Walker<F, &M> {
        self.table.walker()
    }

    /// A writer for one thread, with a reader of the tree's allocator; `None` if that has none
    /// left.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(writer: shared, writer, gather);
    /// // One for each thread.
    /// let writer = shared.writer().ok_or("the allocator has no reader left")?;
    /// writer.map(Gva::new(0x1000), Gpa::new(0x7000), 0x1000, Prot::R.into(), Leaves::Largest)?;
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn writer(&self) -> Option<Writer<'_, F, M, A>> {
        Writer::new(&self.table, &self.ranges)
    }
}
