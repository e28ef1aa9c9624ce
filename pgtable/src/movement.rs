//! Movement: the tables of a tree go to other frames while readers and hardware walk it.
//!
//! # Protocol of relocation
//! The tree's one writer moves it, table by table, from the root down:
//! 1. The new table gets the words of the old one, and its count of live entries.
//! 2. The entry above is switched by compare-exchange, so that a bit that hardware sets in it
//!    meanwhile is kept.
//! 3. After a batch of tables, what was walked through the old ones is invalidated: from now on
//!    hardware records in the new ones only.
//! 4. What hardware recorded in the old ones after they were copied is added to the new ones.
//! 5. The old tables are retired into the [`Gather`], which frees them after one more invalidation.
//!
//! At no time is anything not mapped that was mapped before. A reader in an old table reads there
//! what the tree said when the table was switched, which was after the reader came; the words stay
//! until the allocator hands the table out again, so the allocator has to wait for readers, as for
//! every change. Going from the root down, a table that left the tree is reachable only from tables
//! that left before it.
//!
//! Threads that *record* while they walk ([`Walker::access`]) are what hardware is in step 3: the
//! [`Invalidate`] implementation has to wait for the accesses that they are making, here as for a
//! harvest.

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use crate::address::{Address, low_bits};
use crate::allocator::{Contents, TableAllocator, TableLayout};
use crate::descent::{Link, Node, decode};
use crate::error::Error;
use crate::format::{Entry, Format, Output};
use crate::gather::{Gather, Invalidate, MAX_TABLES};
use crate::interrupted::OnPanic;
use crate::memory::TableMemory;
use crate::table::PageTable;
use crate::table_word::TableWord as _;
use crate::tree_tables::layout;
use crate::word::{Word, swap};
use crate::work::Allowance;

/// Tables that are moved between two invalidations. Half of what a gather holds, so that after a
/// failed invalidation it holds those of the batch before and those of this one.
const BATCH: usize = MAX_TABLES / 2;

/// How often an entry is switched anew because hardware changed it meanwhile. It has one bit to set
/// there.
const TRIES: usize = 16;

/// A table that was moved, and may still be walked where it was.
#[derive(Clone, Copy)]
struct Moved {
    old: Node,
    new: Node,
}

/// Tables that were moved, until they are the gather's: also by a panic of the invalidation.
struct Settling<'s, 'i, F, M, A, I>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    I: Invalidate<F::Stage>,
{
    table: &'s PageTable<F, M, A>,
    batch: ArrayVec<Moved, BATCH>,
    gather: &'s mut Gather<'i, F::Stage, I>,
}

impl<F, M, A, I> Settling<'_, '_, F, M, A, I>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    I: Invalidate<F::Stage>,
{
    /// What was recorded in the old tables goes to the new ones, and the old ones go.
    fn settle(&mut self) -> Result<(), Error> {
        let mut settled = Ok(());
        for Moved { old, new } in self.batch.drain(..) {
            let merged = self.table.merge_records(old, new);
            self.table.queue(old, Contents::Stale, self.gather);
            settled = settled.and(merged);
        }
        settled
    }
}

impl<F, M, A, I> Drop for Settling<'_, '_, F, M, A, I>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
    I: Invalidate<F::Stage>,
{
    fn drop(&mut self) {
        // An error here would be the second one.
        let _ = self.settle();
    }
}

/// A relocation under way.
struct Moving<'t, 'g, 'i, F: Format, I: Invalidate<F::Stage>, W> {
    which: W,
    /// How many tables it may still come to.
    allowance: Allowance<'t>,
    gather: &'g mut Gather<'i, F::Stage, I>,
    batch: ArrayVec<Moved, BATCH>,
    count: usize,
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Moves the tables below the root for which `which` says so to other places, which the tree's
    /// allocator chooses; returns how many. `|_, _| true` moves all of them; to empty a frame, say
    /// yes to the tables in it.
    ///
    /// If `which` panics, or an invalidation does, what was moved so far stays moved, and the
    /// tables that it left are freed with `gather`; take everything for dirty.
    ///
    /// `which` is called at most `2 × n` times, where `n` is the number of tables of the tree, and
    /// once for each where nobody else wrote them.
    ///
    /// Everything stays mapped throughout, for hardware and for readers, and nothing that hardware
    /// records (accessed, dirty) is lost. There is an invalidation per 32 tables, and the last old
    /// tables are freed when `gather` is finished.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// // A part of memory is unplugged: the tables in it move.
    /// let leaves = |table: Gpa, _| table.get() >= 0x4000_0000;
    /// let moved = tree.relocate(leaves, &mut gather)?;
    /// assert_eq!(moved, 3);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Alloc`], [`Error::Malformed`], [`Error::Memory`], [`Error::Unencodable`] (a new
    /// table lies where an entry cannot point): the tree is whole, and part of it was moved.
    /// [`Error::Invalidate`]: likewise, but what hardware records in tables that it still walks at
    /// their old places is lost; take everything for dirty.
    pub fn relocate<I: Invalidate<F::Stage>>(
        &mut self,
        which: impl FnMut(Output<F>, TableLayout) -> bool,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<usize, Error> {
        // Room for what a failed invalidation leaves behind.
        gather.flush(&self.tables).map_err(Error::Invalidate)?;
        let allowance = Allowance::new(&self.entries, 1);
        let mut moving =
            Moving::<F, I, _> { which, allowance, gather, batch: ArrayVec::new(), count: 0 };
        let walked = self.relocate_below(Node::root(&self.format, self.root), 0, &mut moving);
        let settled = self.settle(&mut moving);
        walked.and(settled).map(|()| moving.count)
    }

    /// Moves the root table; returns its new address.
    ///
    /// `switch` is called with it once the new root can be walked; it brings the address to
    /// wherever the root is found: CR3 or an EPTP on each CPU, a process or partition table, the
    /// variable from which readers on other threads make their [`Walker`](crate::walk::Walker)s. A
    /// walker with the old root sees there what the tree was when its root moved, for as long as it
    /// is kept.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let mut satp = tree.root();
    /// let root = tree.relocate_root(|root| satp = root, &mut gather)?;
    /// assert_eq!(satp, root);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`relocate`](Self::relocate). Only with [`Error::Invalidate`], or [`Error::Alloc`] for a
    /// table that *came back*, was the root moved.
    pub fn relocate_root<I: Invalidate<F::Stage>>(
        &mut self,
        switch: impl FnOnce(Output<F>),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<Output<F>, Error> {
        gather.flush(&self.tables).map_err(Error::Invalidate)?;
        let old = Node::root(&self.format, self.root);
        let new = self.copy_table(old)?;
        self.root = new.table;
        switch(self.root());
        gather.everything();
        gather.table_left();
        let batch = ArrayVec::from_iter([Moved { old, new }]);
        if let Some(state) = self.state(old) {
            state.leave(self.tree);
        }
        let allowance = self.allowance();
        self.settle(&mut Moving::<F, I, _> { which: (), allowance, gather, batch, count: 1 })?;
        Ok(self.root())
    }

    /// Moves tables below the one of `node`, whose first entry covers `base`.
    fn relocate_below<I: Invalidate<F::Stage>, W: FnMut(Output<F>, TableLayout) -> bool>(
        &self,
        node: Node,
        base: u64,
        moving: &mut Moving<'_, '_, '_, F, I, W>,
    ) -> Result<(), Error> {
        let words = self.words(node.table, 1 << node.width)?;
        for (index, memory) in words.iter().enumerate() {
            let slot = Word::<F>::new(memory);
            let offset = base + ((index as u64) << node.shift);
            let word = slot.load();
            let malformed =
                Link { at: node.position(), entry: node.entry::<F>(offset), word }.malformed();
            let mut below = match decode(&self.format, word, node.position()) {
                Entry::Table { table, width } => node.below(table.get(), width),
                Entry::Absent | Entry::Leaf { .. } => continue,
                Entry::Malformed => {
                    return Err(crate::walk::malformed(&self.format, node, word, offset));
                }
            };
            // Somebody else made this entry: it leads back, to a table that was come to already,
            // or to none of this tree.
            let state = self.state(below).filter(|state| state.adopt(self.tree));
            let Some(state) =
                state.filter(|_| below.table != self.root && moving.allowance.enter(below.width))
            else {
                return Err(malformed);
            };
            let Moving { which, gather, batch, .. } = moving;
            let interrupted = OnPanic::new(|| self.unsettled(batch, gather));
            let wanted = which(<Output<F> as Address>::new(below.table), layout::<F>(below));
            interrupted.disarm();
            if wanted {
                let new = self.copy_table(below)?;
                if let Err(error) = self.switch(slot, node, below, new) {
                    self.shrink(&[new], self.tree);
                    return Err(error);
                }
                self.wrote(node.entry::<F>(offset), 1);
                state.leave(self.tree);
                self.moved(Moved { old: below, new }, offset, moving)?;
                below = new;
            }
            if below.level > 0 {
                self.relocate_below(below, offset, moving)?;
            }
        }
        Ok(())
    }

    /// A new table that says what the one of `old` says; not in the tree yet.
    fn copy_table(&self, old: Node) -> Result<Node, Error> {
        let words = 1usize << old.width;
        let from = self.words(old.table, words)?;
        // Not the allocator's: then it could not be given back either.
        let foreign = crate::allocator::AllocError::NotLive { address: old.table };
        let live = self.state(old).ok_or(foreign)?.live();
        let table = self.allocate(layout::<F>(old), Contents::Zeroed, self.tree)?;
        let new = Node { table: table.get(), ..old };
        match self.words(table.get(), words) {
            Ok(to) => {
                for (from, to) in from.iter().zip(to) {
                    Word::<F>::new(to).store(Word::<F>::new(from).load());
                }
                self.wrote(new.table, words);
            }
            Err(error) => {
                self.shrink(&[new], self.tree);
                return Err(error.into());
            }
        }
        self.count(new, live, self.tree);
        Ok(new)
    }

    /// Makes `slot`, the entry of `above`'s table that is the way to `old`, the way to `new`; what
    /// else it says stays.
    fn switch(&self, slot: Word<'_, F>, above: Node, old: Node, new: Node) -> Result<(), Error> {
        for _ in 0..TRIES {
            let word = slot.load();
            if slot.mark(word, self.relink(word, above, old, new)?) {
                return Ok(());
            }
        }
        Err(Error::Malformed { at: above.position(), entry: above.table, word: slot.load() })
    }

    /// `word`, an entry of `above`'s table that is the way to `old`, as the way to `new`.
    pub(crate) fn relink(
        &self,
        word: u64,
        above: Node,
        old: Node,
        new: Node,
    ) -> Result<u64, Error> {
        let at = above.position();
        // Of two entries for tables only the bits of the address differ.
        let linked = word ^ self.table_word(above, old)? ^ self.table_word(above, new)?;
        let table = <Output<F> as Address>::new(new.table);
        match decode(&self.format, linked, at) {
            entry if entry == (Entry::Table { table, width: new.width }) => Ok(linked),
            _ => Err(Error::Malformed { at, entry: above.table, word }),
        }
    }

    /// The table of `moved`, whose first entry covers `base`, has left the tree.
    fn moved<I: Invalidate<F::Stage>, W>(
        &self,
        moved: Moved,
        base: u64,
        moving: &mut Moving<'_, '_, '_, F, I, W>,
    ) -> Result<(), Error> {
        let old = moved.old;
        moving.count += 1;
        moving.gather.table_left();
        if old.level == 0 {
            let last = base + (low_bits(old.width) << old.shift);
            moving.gather.pages(self.format.address(base), self.format.address(last), old.shift);
        } else {
            // Leaves of any size, on any level below.
            moving.gather.everything();
        }
        // A full batch is settled at once.
        let _ = moving.batch.try_push(moved);
        if moving.batch.is_full() { self.settle(moving) } else { Ok(()) }
    }

    /// Invalidates; then what was recorded late is complete, and the old tables can go.
    fn settle<I: Invalidate<F::Stage>, W>(
        &self,
        moving: &mut Moving<'_, '_, '_, F, I, W>,
    ) -> Result<(), Error> {
        let batch = core::mem::take(&mut moving.batch);
        let mut settling = Settling { table: self, batch, gather: moving.gather };
        let flushed = settling.gather.flush(&self.tables).map_err(Error::Invalidate);
        flushed.and(settling.settle())
    }

    /// The embedder's code panicked while `batch` was being moved.
    #[cold]
    fn unsettled<I: Invalidate<F::Stage>>(
        &self,
        batch: &mut ArrayVec<Moved, BATCH>,
        gather: &mut Gather<'_, F::Stage, I>,
    ) {
        drop(Settling { table: self, batch: core::mem::take(batch), gather });
    }

    /// Adds what hardware recorded in the table of `old` to that of `new`, which says the same
    /// otherwise.
    fn merge_records(&self, old: Node, new: Node) -> Result<(), Error> {
        let bits = self.format.bits(old.position());
        let words = 1usize << old.width;
        let from = self.words(old.table, words)?;
        let to = self.words(new.table, words)?;
        for (from, to) in from.iter().zip(to) {
            let word = Word::<F>::new(from).load();
            let records: &[_] = match decode(&self.format, word, old.position()) {
                Entry::Leaf { .. } => &[bits.accessed, bits.dirty],
                Entry::Table { .. } => &[bits.table],
                Entry::Absent | Entry::Malformed => &[],
            };
            let copy = Word::<F>::new(to).load();
            for record in records.iter().filter(|record| record.is_in(word) && !record.is_in(copy))
            {
                // Made since the table was copied, so by hardware.
                let made = record.hardware;
                let (mask, order) = (swap::<F>(made.mask), Ordering::Relaxed);
                if made.recorded == 0 {
                    to.and_raw(!mask, order);
                } else {
                    to.or_raw(mask, order);
                }
            }
        }
        self.wrote(new.table, words);
        Ok(())
    }
}
