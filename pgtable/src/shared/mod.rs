//! A tree that many threads change at once: each locks the smallest subtree that covers its range,
//! so disjoint ranges go on in parallel.
//!
//! # Protocol
//! Each thread has a [`Writer`]. A verb of it locks the lowest table that covers the verb's range,
//! does what [`PageTable`]'s verb of that name does (it is the same code), and unlocks; a
//! [`LockedRange`] keeps other writers out of a range for several operations. Lock order and
//! deadlock freedom are below.
//!
//! What two operations on overlapping ranges see of each other: the effect is that of one after the
//! other. Readers without a lock see each entry before or after, as ever.
//!
//! Invalidations run where exclusive writers run them: in [`Gather::finish`], which each thread
//! calls for what it took out; and, in the middle of a verb, before a leaf is split or replaced,
//! and when a gather is full: then with locks held. So an [`Invalidate`] may wait for readers of
//! the tree, but must not change the tree whose invalidation it is.
//!
//! # Who may change a table
//! The state of each table names its owner ([`TableState`](crate::allocator::TableState)). A
//! table's words, its count of live entries and its leaving the tree belong to the writer that has
//! locked it, and to nothing else (hardware sets its bits in entries all the same).
//!
//! 1. A writer descends without a lock, as readers do, to the lowest table that covers all of its
//!    range, its *cover*, and locks that. While it descends it reads (see [`ReadSide`]): no table
//!    that it can reach is handed out again meanwhile. If another writer has the cover it stops
//!    reading, waits for a turn, and descends again; if the cover left the tree before it was
//!    locked it descends again at once.
//! 2. Below, it locks every table before it reads an entry of it for a change, holding the one
//!    above: down the way to its address, and up again as it moves on to the right. At any time it
//!    has the tables on the way from its cover to where it works. The writer of a
//!    [`LockedRange`] locks all tables of its range in the same order, and
//!    keeps them.
//! 3. A table is linked, or unlinked, by the writer that has the one above; to unlink a table it
//!    must have that too. A new table is locked by its writer from the moment that it is allocated.
//!    A table that is unlinked has no owner from then on, and waits
//!    in the [`Gather`](crate::invalidate::Gather) for its invalidation and then, with the
//!    allocator, for readers that may still see it.
//! 4. A writer cannot unlink its own empty cover: it does not hold the parent's lock. So it unlocks
//!    the cover, locks the parent (as in 1), then the empty table (as in 2), and unlinks it if it
//!    is still empty.
//!
//! This is the tree protocol (A. Silberschatz, Z. Kedem, "Consistency in hierarchical database
//! systems", J. ACM 27, 1980): after its first lock, a writer locks only a table whose parent it
//! holds. So a writer waits only for one whose locked tables are all further down, there is no
//! circle of waiting, and overlapping operations have the effect of one after the other.
//!
//! A writer waits for a lock outside of any reading, and holds locks while it invalidates (before
//! a leaf is split or replaced, and when its gather is full). So an
//! [`Invalidate`](crate::invalidate::Invalidate) may wait for readers, but must not change the tree
//! whose invalidation it is.
//!
//! # Memory that others write
//! A guest that writes its own tables can make an entry lead to any table. A table that is no live
//! table of the tree's allocator, or is another tree's, is not locked ([`Error::Malformed`]). Each
//! change of a table's state compares its owner. So a table has one writer at a time, whatever ways
//! lead to it, and is freed once. A writer does not wait for a table that it holds itself
//! ([`Error::Malformed`]), and waits for others no longer than [`ReadSide::wait`] says
//! ([`Error::Contended`]). A range that cannot find a table again, because a guest hid it, leaves
//! it locked by an owner that has ended; the next writer takes it over. What is
//! mapped in that guest's tree, and what is counted there, may be wrong; nothing else is.
//!
//! Checked by `loom/pgtable/tests/writers` and, with threads, the conformance kit's `writers`
//! and `locked.rs`.
//!
//! [`PageTable`]: crate::tree::PageTable
//! [`Gather::finish`]: crate::invalidate::Gather::finish
//! [`Invalidate`]: crate::invalidate::Invalidate
//! [`Error::Malformed`]: crate::Error::Malformed
//! [`Error::Contended`]: crate::Error::Contended

#[macro_use]
mod verbs;
mod held;
mod page;
mod range;
mod range_lock;
mod writer;
mod writer_space;

use crate::descent::Node;
use crate::format::{Format, Output};
use crate::keep::Kept;
use crate::memory::TableMemory;
use crate::ranges::Ranges;
use crate::table::PageTable;
use crate::walk::Walker;

pub use crate::lock::{DeferringAllocator, ReadSide};
pub use range::LockedRange;
pub use writer::Writer;

/// A tree that many threads change at once.
///
/// Its allocator keeps a freed table to itself until every
/// [`ReadSide::Reading`] that could see it has ended, as `frag-alloc`'s
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
