//! One thread's hand on a tree that is shared.

use core::cell::RefCell;

use crate::access::{Access, Prot};
use crate::address::Address;
use crate::allocator::TableAllocator;
use crate::descent::{InPlace, Node};
use crate::edit::{Each, Modify, ReadOnly, Replace, Rights};
use crate::error::{Error, RangeError};
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::lock::{DeferringAllocator, Locks as _, ReadSide as _};
use crate::memory::TableMemory;
use crate::ranges::Ranges;
use crate::record::{Recorded, Writers};
use crate::space::Leaves;
use crate::state::Owner;
use crate::table::PageTable;
use crate::tree_tables::layout;
use crate::unmap::Report;
use crate::walk::{LeafOf, TranslationOf, Walker, bounds};

use super::LockedRange;
use super::held::{Held, TrailOf};

/// One thread's hand on a [`SharedPageTable`](super::SharedPageTable).
pub struct Writer<'t, F, M, A>
where
    F: Format,
    A: DeferringAllocator<Output<F>>,
{
    pub(super) table: &'t PageTable<F, M, A>,
    pub(super) reader: RefCell<A::Reader<'t>>,
    /// The owner of the tables that its verbs lock.
    pub(super) me: Owner,
    pub(super) ranges: &'t Ranges,
    /// Its number.
    pub(super) number: u32,
}

impl<F, M, A> core::fmt::Debug for Writer<'_, F, M, A>
where
    F: Format,
    A: DeferringAllocator<Output<F>>,
{
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Writer").field("root", &self.table.root).finish_non_exhaustive()
    }
}

impl<'t, F, M, A> Writer<'t, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    /// `None` if the allocator has no reader left.
    pub(super) fn new(table: &'t PageTable<F, M, A>, ranges: &'t Ranges) -> Option<Self> {
        let reader = RefCell::new(table.tables.reader()?);
        let number = ranges.writer();
        Some(Self { table, reader, me: table.tree.verb(number), ranges, number })
    }

    /// Does `verb` to a range, with the tables locked that it comes to.
    fn within<T>(
        &self,
        input: Input<F>,
        bytes: u64,
        verb: impl FnOnce(
            &PageTable<F, M, A>,
            &mut TrailOf<'t, F, A>,
        ) -> Result<T, RangeError<Input<F>>>,
    ) -> Result<T, RangeError<Input<F>>> {
        self.hold_around(input, bytes)?.run(|trail| verb(self.table, trail))
    }

    /// Takes the table of `level` that covers `offset` out of the tree if it is empty, and those
    /// above it that become empty by that.
    fn prune<I: Invalidate<F::Stage>>(
        &self,
        offset: u64,
        level: u8,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), Error> {
        let table = self.table;
        let mut level = level;
        while level < table.format.geometry().root().0 {
            let mut held = self.hold(offset, offset, level + 1)?;
            let trail = held.trail();
            let found = trail
                .seek(&table.format, InPlace(&table.memory), offset, level)
                .map(|stop| stop.node.level);
            if let Some(refusal) = trail.locks.take_refusal() {
                return Err(refusal);
            }
            if found.map_err(PageTable::<F, M, A>::lost)? == level && trail.top() > level {
                table.discount(trail, offset, level, 0, gather)?;
            }
            if !empty(table, held.top()) {
                break;
            }
            level = held.top().level;
        }
        Ok(())
    }

    /// Unlocks, and takes what became empty out of the tree, if that can be done: where another
    /// writer is in the way, or the gather cannot be flushed (which it tells when it is finished),
    /// the empty table stays, for [`map`](Self::map) to fill or the next
    /// [`unmap`](Self::unmap) to take out. What was done before is done, and no less right.
    pub(super) fn let_go<I: Invalidate<F::Stage>>(
        &self,
        held: Held<'t, F, A>,
        offset: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) {
        let cover = held.top();
        drop(held);
        self.prune_if_empty(cover, offset, gather);
    }

    /// Takes the table of `node`, which covers `offset` and is not locked any more, out of the tree
    /// if it is empty. (What it was is looked at again under the lock of the one above.)
    pub(super) fn prune_if_empty<I: Invalidate<F::Stage>>(
        &self,
        node: Node,
        offset: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) {
        if empty(self.table, node) {
            let _ = self.prune(offset, node.level, gather);
        }
    }

    /// Locks the `bytes` bytes from `input` on for several operations within them: no other writer
    /// changes anything there until the range is finished or dropped.
    ///
    /// Work: a lock for each table that has an entry in the range, and a wait for each other writer
    /// that is in it.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(pages: shared, writer, gather);
    /// let mut range = writer.lock(Gva::new(0), 0x20_0000)?;
    /// // No other writer sees the page move.
    /// range.unmap(Gva::new(0x1000), 0x1000, &mut gather)?;
    /// gather.finish(shared.tables())?;
    /// range.map(Gva::new(0x1000), Gpa::new(0x7000), 0x1000, Prot::R.into(), Leaves::Largest)?;
    /// range.finish(&mut gather);
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Memory`], [`Error::Malformed`]; [`Error::Contended`] if another
    /// writer holds a part of it for too long.
    pub fn lock(
        &self,
        input: Input<F>,
        bytes: u64,
    ) -> Result<LockedRange<'_, 't, F, M, A>, RangeError<Input<F>>> {
        let (start, end) = bounds(&self.table.format, input, bytes, 0)?;
        LockedRange::new(self, (start, end.max(start + 1) - 1))
            .map_err(|error| RangeError { at: input, error })
    }

    /// As [`PageTable::map`].
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(writer: shared, writer, gather);
    /// writer.map(Gva::new(0x1000), Gpa::new(0x7000), 0x1000, Prot::R.into(), Leaves::Largest)?;
    /// assert!(writer.translate(Gva::new(0x1000), Access::READ).is_ok());
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there, and [`Error::Contended`].
    pub fn map(
        &self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        if self.map_page(input, output, bytes, attributes, leaves) {
            return Ok(());
        }
        self.map_range(input, output, bytes, attributes, leaves)
    }

    /// The general case of [`map`](Self::map).
    #[inline(never)]
    fn map_range(
        &self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        self.within(input, bytes, |table, trail| {
            table.map_range(trail, input, output, bytes, attributes, leaves)
        })
    }

    /// As [`PageTable::unmap`]. A table that became empty may stay in the tree if another writer is
    /// in the way.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(pages: shared, writer, gather);
    /// assert_eq!(writer.unmap(Gva::new(0x1000), 0x2000, &mut gather)?, 0x2000);
    /// gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there, and [`Error::Contended`].
    pub fn unmap<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        if self.unmap_page(input, bytes, gather) {
            return Ok(bytes);
        }
        self.unmap_range(input, bytes, gather)
    }

    /// The general case of [`unmap`](Self::unmap).
    #[inline(never)]
    fn unmap_range<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let table = self.table;
        let mut held = self.hold_around(input, bytes)?;
        let unmapped = held.run(|trail| table.unmap_range(trail, input, bytes, gather));
        let offset = table.format.offset(input).unwrap_or(0);
        self.let_go(held, offset, gather);
        unmapped
    }

    /// As [`PageTable::unmap_with`].
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(pages: shared, writer, gather);
    /// let mut gone = 0;
    /// writer.unmap_with(Gva::new(0x1000), 0x2000, |_| gone += 1, &mut gather)?;
    /// assert_eq!(gone, 2);
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there, and [`Error::Contended`].
    pub fn unmap_with<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        each: impl FnMut(LeafOf<F>),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let table = self.table;
        let mut held = self.hold_around(input, bytes)?;
        let unmapped =
            held.run(|trail| table.change_range(trail, (input, bytes), Report(each), gather));
        let offset = table.format.offset(input).unwrap_or(0);
        self.let_go(held, offset, gather);
        unmapped
    }

    /// As [`PageTable::annotate`]. A table that became empty may stay in the tree if another writer
    /// is in the way.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(pages: shared, writer, gather);
    /// writer.annotate(Gva::new(1 << 30), 0x1000, 42, &mut gather)?;
    /// let kept = writer.read(|walker| walker.annotation(Gva::new(1 << 30)))?;
    /// assert_eq!(kept, Some(42));
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there, and [`Error::Contended`].
    pub fn annotate<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        value: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), RangeError<Input<F>>> {
        let table = self.table;
        let mut held = self.hold_around(input, bytes)?;
        let done = held.run(|trail| table.annotate_range(trail, (input, bytes), value, gather));
        let offset = table.format.offset(input).unwrap_or(0);
        self.let_go(held, offset, gather);
        done
    }

    verbs!(self: &Self, ".", "pages: shared, hand, gather");

    /// Does `look` with a walker of the tree, while what it sees is kept from reuse. No lock is
    /// taken.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(pages: shared, writer, gather);
    /// let pages = writer.read(|walker| walker.iter(Gva::new(0), 1 << 21).map(Iterator::count))?;
    /// assert_eq!(pages, 512);
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn read<T>(&self, look: impl FnOnce(Walker<F, &M>) -> T) -> T {
        // If it is borrowed, this thread is reading already.
        let mut reader = self.reader.try_borrow_mut().ok();
        let _reading = reader.as_mut().map(|reader| reader.read());
        look(self.table.walker())
    }

    /// Translates one access, without a lock.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(pages: shared, writer, gather);
    /// assert_eq!(writer.translate(Gva::new(0x1234), Access::READ)?.output, Gpa::new(0x80_1234));
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises for it.
    pub fn translate(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        self.read(|walker| walker.translate(input, access))
    }
}

/// Whether the table of `node` has no live entry.
fn empty<F, M, A>(table: &PageTable<F, M, A>, node: Node) -> bool
where
    F: Format,
    A: TableAllocator<Output<F>>,
{
    let address = <Output<F> as Address>::new(node.table);
    let state = table.tables.state(address, layout::<F>(node));
    state.is_some_and(|state| state.live() == 0)
}
