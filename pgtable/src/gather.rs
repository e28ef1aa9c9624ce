//! What a change made stale, and the tables that left the tree. For the protocol see
//! [`invalidate`](crate::invalidate).

use arrayvec::ArrayVec;

use crate::allocator::{AllocError, Contents, TableAllocator, TableLayout};
use crate::stage::Stage;
use crate::stale::{Stale, StaleRange};

/// Tables that a gather holds before it flushes and frees in the middle of a verb.
pub const MAX_TABLES: usize = 64;

/// The act of making stale translations unreachable: what only the architecture and the embedder
/// know.
///
/// On bare metal, `tlbie` or `INVLPG` and a shoot-down; in a VMM whose guest owns the tables, a
/// request to the guest; for tables that no hardware has seen yet, [`Unused`].
pub trait Invalidate<S: Stage> {
    /// Which address space: PID and LPID, PCID and VPID.
    type Identity: Copy + Eq + core::fmt::Debug;

    /// Makes every translation in `stale` unreachable for `identity`, on every CPU, before it
    /// returns.
    ///
    /// # Errors
    /// [`InvalidateFailed`] if it could not; then nothing is freed.
    fn invalidate(
        &self,
        identity: Self::Identity,
        stale: &Stale<S::Input>,
    ) -> Result<(), InvalidateFailed>;

    /// A gather was dropped unfinished, and `tables` tables that it held are lost to their
    /// allocator. (What was stale has been invalidated by the drop, unless `failed` says that this
    /// failed.) A bug of the caller's: log it, count it, panic.
    fn abandoned(
        &self,
        identity: Self::Identity,
        tables: usize,
        failed: Result<(), InvalidateFailed>,
    );
}

impl<S: Stage, I: Invalidate<S> + ?Sized> Invalidate<S> for &I {
    type Identity = I::Identity;

    fn invalidate(
        &self,
        identity: I::Identity,
        stale: &Stale<S::Input>,
    ) -> Result<(), InvalidateFailed> {
        (**self).invalidate(identity, stale)
    }

    fn abandoned(
        &self,
        identity: I::Identity,
        tables: usize,
        failed: Result<(), InvalidateFailed>,
    ) {
        (**self).abandoned(identity, tables, failed);
    }
}

/// An invalidation could not be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("stale translations could not be invalidated")]
pub struct InvalidateFailed;

/// For tables that no hardware walks: there is nothing to invalidate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unused;

impl<S: Stage> Invalidate<S> for Unused {
    type Identity = ();

    fn invalidate(&self, (): (), _: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
}

/// A table that left the tree and is not free yet.
#[derive(Clone, Copy, Debug)]
struct Retired<A> {
    table: A,
    layout: TableLayout,
    contents: Contents,
}

/// What finishing a [`Gather`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Finished {
    /// Tables returned to their allocator.
    pub tables: usize,
    /// Invalidations carried out, those in the middle of verbs included.
    pub invalidations: usize,
    /// Tables that their allocator did not take back when a tree was destroyed, and when verbs of
    /// it had failed before. (A gather that is finished says so by [`GatherError::Alloc`].)
    pub refused: usize,
    /// Tables of a tree that was destroyed whose entries could not be read: those below them stay
    /// allocated.
    pub unread: usize,
}

/// Why a [`Gather`] could not be finished. What it still holds stays out of use until it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GatherError {
    /// The invalidation failed: nothing was freed.
    #[error(transparent)]
    Invalidate(#[from] InvalidateFailed),
    /// The allocator did not take a table back: it is not one of its own. The others were freed,
    /// and finishing again says how many.
    #[error(transparent)]
    Alloc(#[from] AllocError),
}

/// Collects what became stale, for one address space.
///
/// A gather that is forgotten (`mem::forget`) invalidates nothing and frees nothing: its tables
/// stay allocated, and its stale translations stay in use.
#[must_use = "stale translations stay reachable, and tables are lost, unless the gather is finished"]
#[derive(Debug)]
pub struct Gather<'i, S: Stage, I: Invalidate<S>> {
    by: &'i I,
    identity: I::Identity,
    stale: Stale<S::Input>,
    retired: ArrayVec<Retired<S::Output>, MAX_TABLES>,
    finished: Finished,
    /// Why the allocator did not take a table back: told when the gather is finished, since no
    /// verb that comes to flush it is to blame.
    refused: Option<AllocError>,
    /// A cursor stands in a table, and has not told what it made stale there.
    untold: bool,
    /// An invalidation began, and did not return.
    invalidating: bool,
}

impl<'i, S: Stage, I: Invalidate<S>> Gather<'i, S, I> {
    /// An empty gather for the address space `identity`, whose stale translations `by` can
    /// invalidate.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, unused);
    /// # let (shootdown, asid) = (Tlb::default(), 7);
    /// let mut gather = Gather::new(&shootdown, asid);
    /// tree.unmap(Gva::new(0x1000), 0x1000, &mut gather)?;
    /// assert_eq!(gather.finish(tree.tables())?.invalidations, 1);
    /// # unused.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[inline]
    pub fn new(by: &'i I, identity: I::Identity) -> Self {
        Self {
            by,
            identity,
            stale: Stale::new(),
            retired: ArrayVec::new_const(),
            finished: Finished::default(),
            refused: None,
            untold: false,
            invalidating: false,
        }
    }

    /// What is stale so far.
    #[must_use]
    pub fn stale(&self) -> &Stale<S::Input> {
        &self.stale
    }

    /// The pages of `2^shift` bytes from the one at `start` to the one at `last` had translations.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// // Software changed the table words of two pages by itself.
    /// gather.pages(Gva::new(0x1000), Gva::new(0x2000), 12);
    /// assert_eq!(gather.stale().ranges().len(), 1);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[inline]
    pub fn pages(&mut self, start: S::Input, last: S::Input, shift: u8) {
        self.stale.add(StaleRange { start, last, shift });
    }

    /// The whole address space had translations.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// gather.everything();
    /// assert!(gather.stale().everything());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn everything(&mut self) {
        self.stale.all();
    }

    /// A table left the tree, or the way to one changed: page-walk caches may hold it.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(tree: tree, gather);
    /// // A table entry was changed by other means: page-walk caches go too.
    /// gather.table_left();
    /// assert!(gather.stale().tables());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn table_left(&mut self) {
        self.stale.tables = true;
    }

    /// Makes room for a table that is about to leave the tree: flushes if there is none. If that
    /// fails the table has to stay.
    pub(crate) fn make_room<A: TableAllocator<S::Output>>(
        &mut self,
        allocator: &A,
    ) -> Result<(), InvalidateFailed> {
        if self.is_full() { self.flush(allocator) } else { Ok(()) }
    }

    /// Whether it has no room for another table.
    #[inline(always)]
    pub(crate) fn is_full(&self) -> bool {
        self.retired.is_full()
    }

    /// `table` left the tree; it is freed after the invalidation.
    pub(crate) fn retire(&mut self, table: S::Output, layout: TableLayout, contents: Contents) {
        self.stale.tables = true;
        // There is room: made before, or left by a flush.
        let _ = self.retired.try_push(Retired { table, layout, contents });
    }

    /// Invalidates, then frees; the gather is empty again. After a failed invalidation nothing was
    /// freed.
    pub(crate) fn flush<A: TableAllocator<S::Output>>(
        &mut self,
        allocator: &A,
    ) -> Result<(), InvalidateFailed> {
        self.tell();
        if !self.stale.is_empty() {
            self.invalidating = true;
            let invalidated = self.by.invalidate(self.identity, &self.stale);
            self.invalidating = false;
            invalidated?;
            self.finished.invalidations += 1;
            self.stale.clear();
        }
        for Retired { table, layout, contents } in self.retired.drain(..) {
            match allocator.free(table, layout, contents) {
                Ok(()) => self.finished.tables += 1,
                Err(error) => {
                    self.finished.refused += 1;
                    self.refused = Some(error);
                }
            }
        }
        Ok(())
    }

    /// From now on somebody keeps to himself what he makes stale (a cursor in the table where it
    /// stands); or he has told. What another one never told before may be anything.
    pub(crate) fn untold(&mut self, untold: bool) {
        if untold {
            self.tell();
        }
        self.untold = untold;
    }

    /// If a cursor never told what it made stale, since it was forgotten, anything may be.
    #[inline]
    fn tell(&mut self) {
        if core::mem::take(&mut self.untold) {
            self.stale.all();
        }
    }

    /// What was done since it was finished last, for a caller that tells of refused tables too.
    pub(crate) fn told(&mut self) -> Finished {
        self.refused = None;
        core::mem::take(&mut self.finished)
    }

    /// Invalidates what is stale, then returns retired tables to `allocator`, from which they came.
    /// The gather is empty again, and may be used again.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// tree.unmap(Gva::new(0), 0x20_0000, &mut gather)?;
    /// let finished = gather.finish(tree.tables())?;
    /// assert_eq!((finished.invalidations, finished.tables), (1, 3));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GatherError`]; after a failed invalidation nothing was freed, all is still gathered, and
    /// finishing may be tried again.
    #[inline]
    pub fn finish<A: TableAllocator<S::Output>>(
        &mut self,
        allocator: &A,
    ) -> Result<Finished, GatherError> {
        self.flush(allocator)?;
        match self.refused.take() {
            Some(error) => Err(error.into()),
            None => Ok(core::mem::take(&mut self.finished)),
        }
    }
}

impl<S: Stage, I: Invalidate<S>> Drop for Gather<'_, S, I> {
    #[inline]
    fn drop(&mut self) {
        self.tell();
        if !self.stale.is_empty() || !self.retired.is_empty() {
            self.abandon();
        }
    }
}

impl<S: Stage, I: Invalidate<S>> Gather<'_, S, I> {
    #[cold]
    fn abandon(&mut self) {
        // What panicked is not called again while the panic goes on.
        let invalidated = if self.invalidating {
            Err(InvalidateFailed)
        } else {
            self.by.invalidate(self.identity, &self.stale)
        };
        self.by.abandoned(self.identity, self.retired.len(), invalidated);
    }
}
