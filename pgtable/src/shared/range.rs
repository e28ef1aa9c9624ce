//! Several operations on one range under one lock.
//!
//! # Protocol
//! [`Writer::lock`] locks the lowest table that covers the range (its cover, as any verb does), and
//! then every table below it that has an entry in the range: each before those below it, from the
//! lowest address to the highest, with the one above it locked. So when it returns, no other writer
//! is inside, and none can come in: every verb locks the tables in which it changes entries. What
//! is made in the range is locked before it is linked. The tables are unlocked, those below first,
//! when the range is finished or dropped.
//!
//! What is excluded is the tables that have an entry in the range: of a table at its end that
//! reaches beyond it, all of it. What else the cover maps is excluded only from verbs that lock the
//! cover itself.
//!
//! # Bounds
//! Locking takes each table once, and unlocking visits no more tables than were locked or made,
//! whatever the tables say meanwhile. A second way to a table that is locked already, which only
//! somebody else can have made, is [`Error::Malformed`].

use crate::access::Prot;
use crate::descent::{InPlace, Node};
use crate::edit::{Each, Modify, ReadOnly, Replace, Rights};
use crate::error::{Error, RangeError};
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::group::translation_by;
use crate::lock::{DeferringAllocator, Locks as _, ReadSide, Whole};
use crate::memory::TableMemory;
use crate::ranges::Alive;
use crate::record::{Recorded, Writers};
use crate::space::Leaves;
use crate::state::Owner;
use crate::table::PageTable;
use crate::trail::Trail;
use crate::unmap::Report;
use crate::walk::{LeafOf, TranslationOf, bounds, malformed};
use crate::word::{Word, load_raw};

use super::Writer;

/// The way to where the writer of a locked range works.
type TrailOf<'t, F, A> = Trail<Whole<'t, A, F>>;

/// A range that one writer has to itself until this is finished or dropped: no other writer
/// changes anything in it, and none sees it half changed. (Readers and hardware do: they take no
/// lock.)
///
/// Of all tables in the range the others are kept out; to be quick beside others, lock no more than
/// is needed. The thread must not use its [`Writer`] on the range meanwhile: it would wait for
/// itself ([`Error::Contended`]).
///
/// Tables below the smallest one around the range leave the tree when they become empty. That one
/// stays while the range is locked. [`finish`](Self::finish) takes it out if it is empty, if no
/// other writer is in the way. Dropping the range leaves it in the tree, for
/// [`map`](Writer::map) to fill, for a [`Writer::unmap`] of a page in it, or for
/// [`PageTable::destroy`].
///
/// A range that is forgotten (`mem::forget`) stays locked until
/// [`SharedPageTable::into_inner`](crate::shared::SharedPageTable::into_inner): other writers get
/// [`Error::Contended`] there. Nothing else is lost: its counts and stale ranges were told at each
/// verb. A tree has at most 128 ranges at once; [`Writer::lock`] waits for one more.
pub struct LockedRange<'w, 't, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    pub(crate) writer: &'w Writer<'t, F, M, A>,
    pub(crate) trail: TrailOf<'t, F, A>,
    pub(crate) start: u64,
    pub(crate) last: u64,
    /// Its number, and so each lock that names it, is dead when the tables have been unlocked.
    alive: Alive<'t>,
}

impl<F, M, A> core::fmt::Debug for LockedRange<'_, '_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("LockedRange")
            .field("start", &self.start)
            .field("last", &self.last)
            .field("cover", &self.cover())
            .field("number", &self.alive.number())
            .finish_non_exhaustive()
    }
}

impl<F, M, A> Drop for LockedRange<'_, '_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    fn drop(&mut self) {
        let mut held = self.trail.locks.held();
        self.unlock(self.cover(), self.start, &mut held);
    }
}

impl<'w, 't, F, M, A> LockedRange<'w, 't, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    /// Locks every table with an entry between the offsets `start` and `last`.
    pub(super) fn new(
        writer: &'w Writer<'t, F, M, A>,
        (start, last): (u64, u64),
    ) -> Result<Self, Error> {
        let mut turns = 0;
        let alive = loop {
            match Alive::begin(writer.ranges, writer.number) {
                Some(alive) => break alive,
                None if A::Reader::<'t>::wait(turns) => turns = turns.saturating_add(1),
                None => return Err(Error::Contended),
            }
        };
        let me = writer.table.tree.range(alive.number());
        let cover = writer.hold_cover(start, last, 0, me)?;
        let locks = Whole::new(writer.table.own(), me);
        // From now on dropping it unlocks what is locked.
        let range = Self { writer, trail: Trail::from(cover, start, locks), start, last, alive };
        range.lock_below(cover, start)?;
        Ok(range)
    }

    /// The owner of what is locked.
    pub(crate) fn me(&self) -> Owner {
        self.trail.locks.owner()
    }

    /// The highest table that is locked.
    fn cover(&self) -> Node {
        self.trail.node(self.trail.top())
    }

    /// That the `bytes` bytes from `input` on are within the range.
    fn check(&self, input: Input<F>, bytes: u64) -> Result<(), RangeError<Input<F>>> {
        let (start, end) = bounds(&self.writer.table.format, input, bytes, 0)?;
        if start < self.start || end > self.last.saturating_add(1) {
            return Err(RangeError { at: input, error: Error::Range });
        }
        Ok(())
    }

    /// As [`PageTable::map`], within the range, and with leaves no larger than an entry of the
    /// smallest table around it: for a leaf that covers the whole range, lock a larger one.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(range: shared, range, gather);
    /// range.map(Gva::new(0x40_0000), Gpa::new(0x7000), 0x1000, Prot::R.into(), Leaves::Largest)?;
    /// assert!(range.query(Gva::new(0x40_0000))?.is_some());
    /// # range.finish(&mut gather);
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there; [`Error::Range`] beyond the range, [`Error::Contended`].
    pub fn map(
        &mut self,
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

    /// The common case of [`map`](Self::map): one page of the usual size into the last-level table
    /// where the last one was. False, and nothing changed, if it is any other.
    #[inline(always)]
    fn map_page(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> bool {
        let table = self.writer.table;
        let Some(offset) = table.base_page_at(input, bytes, leaves) else { return false };
        let Some(node) = self.trail.here(offset) else { return false };
        let Some(leaf) = table.base_page(node, output, attributes) else { return false };
        if offset < self.start || offset > self.last {
            return false;
        }
        let Ok(memory) = table.word(node.entry::<F>(offset)) else {
            return false;
        };
        if load_raw(memory) != 0 {
            return false;
        }
        Word::<F>::new(memory).store(leaf);
        table.wrote(node.entry::<F>(offset), 1);
        table.count(node, 1, self.me());
        table.appeared(offset, 1 << node.shift);
        true
    }

    /// The general case of [`map`](Self::map).
    #[inline(never)]
    fn map_range(
        &mut self,
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

    /// As [`PageTable::unmap`], within the range.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(range: shared, range, gather);
    /// assert_eq!(range.unmap(Gva::new(0x1000), 0x2000, &mut gather)?, 0x2000);
    /// # range.finish(&mut gather);
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there; [`Error::Range`] beyond the range, [`Error::Contended`].
    pub fn unmap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.within(input, bytes, |table, trail| table.unmap_range(trail, input, bytes, gather))
    }

    /// As [`PageTable::unmap_with`], within the range.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(range: shared, range, gather);
    /// let mut gone = 0;
    /// range.unmap_with(Gva::new(0x1000), 0x2000, |_| gone += 1, &mut gather)?;
    /// assert_eq!(gone, 2);
    /// # range.finish(&mut gather);
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there; [`Error::Range`] beyond the range, [`Error::Contended`].
    pub fn unmap_with<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        each: impl FnMut(LeafOf<F>),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.within(input, bytes, |table, trail| {
            table.change_range(trail, (input, bytes), Report(each), gather)
        })
    }

    /// As [`PageTable::annotate`], within the range.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(range: shared, range, gather);
    /// range.annotate(Gva::new(0x40_0000), 0x1000, 42, &mut gather)?;
    /// assert!(range.query(Gva::new(0x40_0000))?.is_none());
    /// # range.finish(&mut gather);
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As there; [`Error::Range`] beyond the range, [`Error::Contended`].
    pub fn annotate<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        value: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), RangeError<Input<F>>> {
        self.within(input, bytes, |table, trail| {
            table.annotate_range(trail, (input, bytes), value, gather)
        })
    }

    verbs!(self: &mut Self, ", within the range ([`Error::Range`] beyond it). The smallest table around the range stays: what would put a leaf in its place needs a larger range.", "range: shared, hand, gather");

    /// Does `verb` to a part of the range.
    fn within<T>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        verb: impl FnOnce(
            &PageTable<F, M, A>,
            &mut TrailOf<'t, F, A>,
        ) -> Result<T, RangeError<Input<F>>>,
    ) -> Result<T, RangeError<Input<F>>> {
        self.check(input, bytes)?;
        let table = self.writer.table;
        self.trail.locks.begin(table.allowance());
        let done = verb(table, &mut self.trail);
        if let Some(refusal) = self.trail.locks.take_refusal() {
            return done.map_err(|RangeError { at, .. }| RangeError { at, error: refusal });
        }
        // Where one entry of the cover is the way to all of the range, there may be a table now
        // that covers it too, and is smaller.
        let smaller = (self.start ^ self.last) >> self.cover().shift == 0;
        if done.is_ok() && smaller && self.trail.top() > 0 && bytes > 0 {
            let offset = table.format.offset(input).unwrap_or(self.start);
            if self.trail.seek(&table.format, InPlace(&table.memory), offset, 0).is_ok() {
                while let Some(above) = self.trail.narrow(self.start, self.last) {
                    if let Some(state) = table.state(above) {
                        state.unlock(self.trail.locks.owner());
                    }
                }
            }
            let _ = self.trail.locks.take_refusal();
        }
        done
    }

    /// What is mapped at `input`; `None` if nothing is.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(range: shared, range, gather);
    /// let page = range.query(Gva::new(0x1000))?.expect("it is mapped");
    /// assert_eq!(page.output, Gpa::new(0x80_1000));
    /// # range.finish(&mut gather);
    /// # gather.finish(shared.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Range`] beyond the range, [`Error::Malformed`], [`Error::Memory`],
    /// [`Error::Contended`].
    pub fn query(
        &mut self,
        input: Input<F>,
    ) -> Result<Option<TranslationOf<F>>, RangeError<Input<F>>> {
        self.within(input, 1, |table, trail| {
            let fail = |error| RangeError { at: input, error };
            let offset = table.format.offset(input).ok_or(fail(Error::Range))?;
            let stop = trail
                .seek(&table.format, InPlace(&table.memory), offset, 0)
                .map_err(|lost| fail(PageTable::<F, M, A>::lost(lost)))?;
            match stop.decode(&table.format) {
                Entry::Absent => Ok(None),
                Entry::Leaf { output, attributes } => {
                    let (at, said) = (stop.node.position(), (output, attributes));
                    Ok(Some(translation_by(&table.format, stop.word, at, said, offset)))
                }
                Entry::Malformed | Entry::Table { .. } => {
                    Err(fail(malformed(&table.format, stop.node, stop.word, offset)))
                }
            }
        })
    }

    /// Unlocks the range, and takes tables that became empty out of the tree (as
    /// [`Writer::unmap`] does).
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(range: shared, range, gather);
    /// range.unmap(Gva::new(0), 1 << 30, &mut gather)?;
    /// // The range is unlocked, and the tables that it does not need any more leave the tree.
    /// range.finish(&mut gather);
    /// assert_eq!(gather.finish(shared.tables())?.tables, 3);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn finish<I: Invalidate<F::Stage>>(self, gather: &mut Gather<'_, F::Stage, I>) {
        let (writer, cover, start) = (self.writer, self.cover(), self.start);
        drop(self);
        writer.prune_if_empty(cover, start, gather);
    }
}
