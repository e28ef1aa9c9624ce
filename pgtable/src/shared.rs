//! A tree that many threads change at once: each locks the smallest subtree that covers its range, so disjoint ranges go on in parallel.
//!
//! # Protocol
//! Each thread has a [`Writer`]. A verb of it locks the lowest table that covers the verb's range, does what [`PageTable`]'s verb of that name does (it is the same code), and
//! unlocks; a [`SharedCursor`] does several things to one range under one lock. Who waits for whom, and why no circle can come of it, is the
//! [module `lock`](crate::ReadSide)'s affair.
//!
//! What two operations on overlapping ranges see of each other: the effect is that of one after the other. Readers without a lock see
//! each entry before or after, as ever.
//!
//! Invalidations run where exclusive writers run them: in [`Gather::finish`], which each thread calls for what it took out; and, in the middle of a verb, before a leaf is split or
//! replaced, and when a gather is full: then with locks held. So an [`Invalidate`] must not change the tree whose invalidation it is.

use core::cell::RefCell;
use core::ops::ControlFlow;

use arrayvec::ArrayVec;

use crate::access::Access;
use crate::address::Address;
use crate::allocator::{TableAllocator, TableState};
use crate::descent::{Link, Node, Trail, descend};
use crate::error::{Error, RangeError};
use crate::fault::Fault;
use crate::format::{Entry, Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::geometry::Level;
use crate::keep::Kept;
use crate::lock::{ReadSide, Shared};
use crate::memory::TableMemory;
use crate::quick::{Last, descend_to_last};
use crate::record::{Recorded, Writers};
use crate::space::{AddressSpace, Leaves};
use crate::table::PageTable;
use crate::walk::{LeafOf, TranslationOf, Walker, bounds, malformed, translation};
use crate::word::{Word, any_set};

/// How many tables that left the tree under it a writer follows before it gives up. Each is another writer's progress.
const TRIES: usize = 1 << 12;

/// A tree that many threads change at once.
///
/// Its allocator must keep a freed table to itself until every [`ReadSide::Reading`] that could see it has ended, as `frag-alloc`'s `Deferred` does.
/// What needs the whole tree (moving tables, tearing it down) is done by [`into_inner`](Self::into_inner).
#[derive(Debug)]
pub struct SharedPageTable<F, M, A>(PageTable<F, M, A>);

impl<F, M, A> From<PageTable<F, M, A>> for SharedPageTable<F, M, A> {
    /// From now on empty tables leave at once. ([`PageTable::trim`] first, if one was [kept](PageTable::keep_last_empty).)
    fn from(mut table: PageTable<F, M, A>) -> Self {
        table.kept = Kept::default();
        Self(table)
    }
}

impl<F, M, A> SharedPageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// The tree, for one writer again.
    pub fn into_inner(self) -> PageTable<F, M, A> {
        self.0
    }

    /// The address of the root table.
    pub fn root(&self) -> Output<F> {
        self.0.root()
    }

    /// The format.
    pub fn format(&self) -> &F {
        self.0.format()
    }

    /// The allocator that tables come from.
    pub fn tables(&self) -> &A {
        self.0.tables()
    }

    /// A reader of this tree, which takes no lock. What it reads while others write is kept from reuse only while a [`ReadSide::Reading`] lives.
    pub fn walker(&self) -> Walker<F, &M> {
        self.0.walker()
    }

    /// A writer for one thread, which descends under `reader`.
    pub fn writer<R: ReadSide>(&self, reader: R) -> Writer<'_, F, M, A, R> {
        Writer { table: &self.0, reader: RefCell::new(reader) }
    }
}

/// One thread's hand on a [`SharedPageTable`].
#[derive(Debug)]
pub struct Writer<'t, F, M, A, R> {
    table: &'t PageTable<F, M, A>,
    reader: RefCell<R>,
}

/// The tables that a writer has locked, until it is dropped.
#[derive(Debug)]
struct Held<'t, O: Address, A: TableAllocator<O>>(Trail<Shared<'t, A, O>>);

impl<O: Address, A: TableAllocator<O>> Drop for Held<'_, O, A> {
    fn drop(&mut self) {
        self.0.release();
    }
}

impl<'t, O: Address, A: TableAllocator<O>> Held<'t, O, A> {
    /// Does `verb`; if a table could not be locked on the way, says why.
    fn run<T, I: Address>(
        &mut self,
        verb: impl FnOnce(&mut Trail<Shared<'t, A, O>>) -> Result<T, RangeError<I>>,
    ) -> Result<T, RangeError<I>> {
        let result = verb(&mut self.0);
        match self.0.locks.take_refusal() {
            Some(refusal) => result.map_err(|RangeError { at, .. }| RangeError { at, error: refusal }),
            None => result,
        }
    }
}

impl<'t, F, M, A, R> Writer<'t, F, M, A, R>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    R: ReadSide,
{
    /// Locks the lowest table of `level` or above that covers the offsets `start` to `last`.
    fn hold(&self, start: u64, last: u64, level: u8) -> Result<Held<'t, Output<F>, A>, Error> {
        let table = self.table;
        let (format, geometry) = (&table.format, table.format.geometry());
        let mut floor = geometry.root().0;
        while floor > level && (start ^ last) >> geometry.shift(Level(floor)) == 0 {
            floor -= 1;
        }
        let root = Node::root(format, table.root);
        let locks = Shared::new(&table.tables, R::wait);
        let mut reader = self.reader.try_borrow_mut().map_err(|_| Error::Contended)?;
        let _reading = reader.read();
        let mut gone = None;
        for _ in 0..TRIES {
            let (mut cover, mut link) = (root, None);
            descend(format, &table.memory, root, start, floor, |node, at, entry, word| {
                if (start ^ last) >> node.span() == 0 {
                    (cover, link) = (node, Some(Link { at, entry, word }));
                }
            })
            .map_err(PageTable::<F, M, A>::lost)?;
            match locks.lock(cover.table) {
                Ok(()) => return Ok(Held(Trail::from(cover, start, locks))),
                Err(Some(error)) => return Err(error),
                // It was unlinked before it said that it left, and its place is not used again while this thread reads. So nothing leads there any more, unless somebody
                // else wrote the tables.
                Err(None) if gone == Some(cover.table) => {
                    let Some(Link { at, entry, word }) = link else { break };
                    return Err(Error::Malformed { at, entry, word });
                }
                Err(None) => gone = Some(cover.table),
            }
        }
        Err(Error::Contended)
    }

    /// Locks a table that covers `bytes` bytes from `input` on, and more than those: so that it stays where it is whatever becomes of them.
    fn hold_around(&self, input: Input<F>, bytes: u64) -> Result<Held<'t, Output<F>, A>, RangeError<Input<F>>> {
        let (start, end) = bounds(&self.table.format, input, bytes, 0)?;
        let geometry = self.table.format.geometry();
        // The lowest level at which one entry is less than the range.
        let larger = |level: &u8| u32::from(geometry.shift(Level(level + 1))) > 63 - bytes.max(1).leading_zeros();
        let level = (0..geometry.root().0).find(larger).unwrap_or(geometry.root().0);
        let last = end.max(start + 1) - 1;
        self.hold(start, last, level).map_err(|error| RangeError { at: input, error })
    }

    /// Takes the table of `level` that covers `offset` out of the tree if it is empty, and those above it that become empty by that.
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
            let trail = &mut held.0;
            let found = trail.seek(&table.format, &table.memory, offset, level).map(|stop| stop.node.level);
            if let Some(refusal) = trail.locks.take_refusal() {
                return Err(refusal);
            }
            if found.map_err(PageTable::<F, M, A>::lost)? == level && trail.top() > level {
                table.discount(trail, offset, level, 0, gather)?;
            }
            if !empty(table, trail.node(trail.top())) {
                break;
            }
            level = trail.top();
        }
        Ok(())
    }

    /// Unlocks, and takes what became empty out of the tree.
    fn let_go<I: Invalidate<F::Stage>>(
        &self,
        held: Held<'t, Output<F>, A>,
        offset: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<(), Error> {
        let cover = held.0.node(held.0.top());
        let empty = empty(self.table, cover);
        drop(held);
        if empty { self.prune(offset, cover.level, gather) } else { Ok(()) }
    }

    /// Locks the smallest subtree that covers the `bytes` bytes from `input` on, for several operations within them.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Memory`], [`Error::Malformed`]; [`Error::Contended`] if another writer holds it for too long.
    pub fn lock(&self, input: Input<F>, bytes: u64) -> Result<SharedCursor<'_, 't, F, M, A, R>, RangeError<Input<F>>> {
        let (start, end) = bounds(&self.table.format, input, bytes, 0)?;
        let last = end.max(start + 1) - 1;
        let held = self.hold(start, last, 0).map_err(|error| RangeError { at: input, error })?;
        Ok(SharedCursor { writer: self, held, start, last })
    }

    /// As [`PageTable::map`].
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
        let table = self.table;
        let mut held = self.hold_around(input, bytes)?;
        held.run(|trail| table.map_range(trail, input, output, bytes, attributes, leaves))
    }

    /// The common case of [`map`](Self::map): one page of the usual size into a table that is there, and that nobody has locked. False, and nothing changed, if it is any other.
    #[inline(always)]
    fn map_page(
        &self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> bool {
        let Some(offset) = self.table.usual_page(input, bytes, leaves) else { return false };
        self.with_page(offset, |table, last, state| {
            let (node, free) =
                (last.node(&table.format), !any_set::<F>(last.slot.memory(), table.format.present_mask()));
            let Some(leaf) = table.usual_leaf(node, output, attributes).filter(|_| free) else { return false };
            last.slot.store(leaf);
            table.wrote(node.entry(offset), 1);
            state.add(1);
            true
        })
        .unwrap_or(false)
    }

    /// Does `change` to the last-level entry for `offset`, with its table locked; `None` if there is none, or it is not to be had at once.
    #[inline(always)]
    fn with_page<T>(
        &self,
        offset: u64,
        change: impl FnOnce(&PageTable<F, M, A>, &Last<'_, F>, &TableState) -> T,
    ) -> Option<T> {
        let table = self.table;
        let mut reader = self.reader.try_borrow_mut().ok()?;
        let reading = reader.read();
        let predicted = |word, at| table.format.predicted_table(word, at);
        let last = descend_to_last(&table.format, &table.memory, table.root, offset, predicted).ok()?;
        let state = table.tables.state(<Output<F> as Address>::new(last.table))?;
        state.try_lock().ok()?;
        // What is locked stays.
        drop(reading);
        let done = change(table, &last, state);
        state.unlock();
        Some(done)
    }

    /// The common case of [`unmap`](Self::unmap): one page of the usual size in a table that keeps others, and that nobody has locked. False, and nothing changed, if it is any other.
    #[inline(always)]
    fn unmap_page<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> bool {
        let Some(offset) = self.table.usual_page(input, bytes, Leaves::Largest) else { return false };
        self.with_page(offset, |table, last, state| {
            let node = last.node(&table.format);
            if state.live() <= 1 || !any_set::<F>(last.slot.memory(), table.format.present_mask()) {
                return false;
            }
            last.slot.store(0);
            table.wrote(node.entry(offset), 1);
            gather.pages(input, input, node.shift);
            state.sub(1);
            true
        })
        .unwrap_or(false)
    }

    /// As [`PageTable::unmap`].
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
        let pruned = self.let_go(held, offset, gather).map_err(|error| RangeError { at: input, error });
        unmapped.and_then(|unmapped| pruned.map(|()| unmapped))
    }

    /// As [`PageTable::protect`].
    ///
    /// # Errors
    /// As there, and [`Error::Contended`].
    pub fn protect<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let table = self.table;
        let mut held = self.hold_around(input, bytes)?;
        held.run(|trail| table.protect_range(trail, (input, bytes), attributes, Writers::Running, gather))
    }

    /// As [`PageTable::split`].
    ///
    /// # Errors
    /// As there, and [`Error::Contended`].
    pub fn split<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        shift: u8,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, RangeError<Input<F>>> {
        let table = self.table;
        let mut held = self.hold_around(input, bytes)?;
        held.run(|trail| table.split_range(trail, input, bytes, shift, gather))
    }

    /// As [`PageTable::promote`].
    ///
    /// # Errors
    /// As there, and [`Error::Contended`].
    pub fn promote<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, RangeError<Input<F>>> {
        let table = self.table;
        let mut held = self.hold_around(input, bytes)?;
        held.run(|trail| table.promote_range(trail, input, bytes, gather))
    }

    /// As [`PageTable::harvest`].
    ///
    /// # Errors
    /// As there, and [`Error::Contended`].
    pub fn harvest<I: Invalidate<F::Stage>>(
        &self,
        input: Input<F>,
        bytes: u64,
        recorded: Recorded,
        writers: Writers,
        bitmap: &mut [u64],
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let table = self.table;
        let mut held = self.hold_around(input, bytes)?;
        held.run(|trail| table.harvest_range(trail, (input, bytes), recorded, writers, bitmap, gather))
    }

    /// Does `look` with a walker of the tree, while what it sees is kept from reuse. No lock is taken.
    pub fn read<T>(&self, look: impl FnOnce(Walker<F, &M>) -> T) -> T {
        // If it is borrowed, this thread is reading already.
        let mut reader = self.reader.try_borrow_mut().ok();
        let _reading = reader.as_mut().map(|reader| reader.read());
        look(self.table.walker())
    }

    /// Translates one access, without a lock.
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises for it.
    pub fn translate(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        self.read(|walker| walker.translate(input, access))
    }
}

fn empty<F, M, A>(table: &PageTable<F, M, A>, node: Node) -> bool
where
    F: Format,
    A: TableAllocator<Output<F>>,
{
    table.tables.state(<Output<F> as Address>::new(node.table)).is_some_and(|state| state.live() == 0)
}

/// A range that one writer has to himself, until this is finished or dropped.
///
/// Dropping it unlocks the range and leaves tables that became empty where they are, for the next [`Writer::unmap`] that comes by;
/// [`finish`](Self::finish) takes them out.
#[derive(Debug)]
pub struct SharedCursor<'w, 't, F, M, A, R>
where
    F: Format,
    A: TableAllocator<Output<F>>,
{
    writer: &'w Writer<'t, F, M, A, R>,
    held: Held<'t, Output<F>, A>,
    start: u64,
    last: u64,
}

impl<F, M, A, R> SharedCursor<'_, '_, F, M, A, R>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    R: ReadSide,
{
    /// That the `bytes` bytes from `input` on are within the range.
    fn check(&self, input: Input<F>, bytes: u64) -> Result<(), RangeError<Input<F>>> {
        let (start, end) = bounds(&self.writer.table.format, input, bytes, 0)?;
        if start < self.start || end > self.last.saturating_add(1) {
            return Err(RangeError { at: input, error: Error::Range });
        }
        Ok(())
    }

    /// As [`PageTable::map`], within the range, and with leaves no larger than an entry of the table that is locked: for a leaf that covers the whole range, lock a larger one.
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

    /// The common case of [`map`](Self::map): one page of the usual size into the last-level table that is locked. False, and nothing changed, if it is any other.
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
        let node = self.held.0.node(self.held.0.top());
        let Some(offset) = table.usual_page(input, bytes, leaves) else { return false };
        let Some(leaf) = table.usual_leaf(node, output, attributes) else { return false };
        if offset < self.start || offset > self.last {
            return false;
        }
        let Ok(memory) = table.memory.word(<Output<F> as Address>::new(node.entry(offset))) else { return false };
        if any_set::<F>(memory, table.format.present_mask()) {
            return false;
        }
        Word::<F>::new(memory).store(leaf);
        table.wrote(node.entry(offset), 1);
        table.count(node, 1);
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
        self.check(input, bytes)?;
        let (table, start, last) = (self.writer.table, self.start, self.last);
        self.held.run(|trail| {
            let mapped = table.map_range(trail, input, output, bytes, attributes, leaves);
            // There may be a table now that covers the range, and is smaller than the one that was locked.
            if trail.top() > 0 && mapped.is_ok() && bytes > 0 {
                let offset = table.format.offset(input).unwrap_or(start);
                let sought = trail.seek(&table.format, &table.memory, offset, 0);
                sought.map_err(|lost| RangeError { at: input, error: PageTable::<F, M, A>::lost(lost) })?;
                trail.narrow(start, last);
            }
            mapped
        })
    }

    /// As [`PageTable::unmap`], within the range.
    ///
    /// # Errors
    /// As there; [`Error::Range`] beyond the range, [`Error::Contended`].
    pub fn unmap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.check(input, bytes)?;
        let table = self.writer.table;
        self.held.run(|trail| table.unmap_range(trail, input, bytes, gather))
    }

    /// As [`PageTable::protect`], within the range.
    ///
    /// # Errors
    /// As there; [`Error::Range`] beyond the range, [`Error::Contended`].
    pub fn protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.check(input, bytes)?;
        let table = self.writer.table;
        self.held.run(|trail| table.protect_range(trail, (input, bytes), attributes, Writers::Running, gather))
    }

    /// What is mapped at `input`; `None` if nothing is.
    ///
    /// # Errors
    /// [`Error::Range`] beyond the range, [`Error::Malformed`], [`Error::Memory`], [`Error::Contended`].
    pub fn query(&mut self, input: Input<F>) -> Result<Option<TranslationOf<F>>, RangeError<Input<F>>> {
        self.check(input, 1)?;
        let table = self.writer.table;
        let fail = |error| RangeError { at: input, error };
        self.held.run(|trail| {
            let offset = table.format.offset(input).ok_or(fail(Error::Range))?;
            let stop = trail
                .seek(&table.format, &table.memory, offset, 0)
                .map_err(|lost| fail(PageTable::<F, M, A>::lost(lost)))?;
            match stop.decode(&table.format) {
                Entry::Absent => Ok(None),
                Entry::Leaf { output, attributes } => {
                    Ok(Some(translation(output, offset, stop.node.position(), attributes)))
                }
                Entry::Malformed | Entry::Table { .. } => Err(fail(malformed(stop.node, stop.word, offset))),
            }
        })
    }

    /// Unlocks the range, and takes tables that became empty out of the tree.
    ///
    /// # Errors
    /// [`Error::Contended`], and as [`PageTable::unmap`]'s; the range is unlocked in any case.
    pub fn finish<I: Invalidate<F::Stage>>(self, gather: &mut Gather<'_, F::Stage, I>) -> Result<(), Error> {
        self.writer.let_go(self.held, self.start, gather)
    }
}

/// Code that is written for one writer runs beside others.
impl<F, M, A, R> AddressSpace for Writer<'_, F, M, A, R>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    R: ReadSide,
{
    type Stage = F::Stage;
    type Attributes = F::Attributes;
    type Fault = Fault<F>;

    fn map(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        Self::map(self, input, output, bytes, attributes, leaves)
    }

    fn unmap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::unmap(self, input, bytes, gather)
    }

    fn protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::protect(self, input, bytes, attributes, gather)
    }

    fn translate(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        Self::translate(self, input, access)
    }

    fn for_each<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        self.read(|walker| walker.for_each(input, bytes, visit))
    }

    fn leaf_shifts(&self) -> ArrayVec<u8, 8> {
        self.table.leaf_shifts()
    }

    fn range(&self) -> (Input<F>, u64) {
        self.table.range()
    }
}
