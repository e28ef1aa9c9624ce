//! What a change made stale, and the tables that left the tree. For the protocol see
//! [`invalidate`](crate::invalidate).

use arrayvec::ArrayVec;

use crate::address::{Address, low_bits};
use crate::allocator::{AllocError, Contents, TableAllocator, TableLayout};
use crate::stage::Stage;

/// Ranges that a gather holds apart before it asks for everything to be flushed.
pub const MAX_RANGES: usize = 16;
/// Tables that a gather holds before it flushes and frees in the middle of a verb.
pub const MAX_TABLES: usize = 64;

/// Input addresses whose old translations hardware may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StaleRange<A> {
    /// The first stale address.
    pub start: A,
    /// The last stale page's first address (so that a range may end with the address space).
    pub last: A,
    /// log2 of the page size by which the old translations were made.
    pub shift: u8,
}

impl<A: Address> StaleRange<A> {
    /// How many pages it spans; `u64::MAX` if that is no `u64`.
    #[must_use]
    pub fn pages(&self) -> u64 {
        let between = self.last.get().saturating_sub(self.start.get());
        between.checked_shr(self.shift.into()).unwrap_or(0).saturating_add(1)
    }
}

/// From where to where stale entries reach, as they are met in order: what a verb notes of a run
/// before it tells its gather.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent<T>(pub(crate) Option<(T, T)>);

impl<T: Copy> Extent<T> {
    /// Those from `first` to `last` are stale too.
    #[inline(always)]
    pub(crate) fn add(&mut self, first: T, last: T) {
        self.0 = Some((self.0.map_or(first, |(first, _)| first), last));
    }
}

/// Everything that has to become unreachable, for the [`Invalidate`] implementation to read.
#[derive(Clone, Debug)]
pub struct Stale<A: Address> {
    ranges: ArrayVec<StaleRange<A>, MAX_RANGES>,
    everything: bool,
    tables: bool,
    /// The address at which the last range goes on, and its pages' size; 0 if there is no range, or
    /// if it ends with the space.
    next: u64,
    shift: u8,
}

impl<A: Address> Stale<A> {
    const fn new() -> Self {
        Self { ranges: ArrayVec::new_const(), everything: false, tables: false, next: 0, shift: 0 }
    }

    fn clear(&mut self) {
        self.ranges.clear();
        (self.everything, self.tables) = (false, false);
        (self.next, self.shift) = (0, 0);
    }

    /// The stale ranges; none if [`everything`](Self::everything) is set, which includes them.
    #[must_use]
    pub fn ranges(&self) -> &[StaleRange<A>] {
        &self.ranges
    }

    /// The whole address space is stale: more ranges than a gather holds, or a teardown.
    #[must_use]
    pub fn everything(&self) -> bool {
        self.everything
    }

    /// Tables left the tree: page-walk caches must be invalidated too, not only leaf translations.
    #[must_use]
    pub fn tables(&self) -> bool {
        self.tables
    }

    /// Nothing is stale.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty() && !self.everything && !self.tables
    }

    /// Whether hardware may hold a translation of any of the `bytes` bytes from `start` on, or a
    /// table that has left.
    pub(crate) fn meets(&self, start: A, bytes: u64) -> bool {
        let last = start.get().saturating_add(bytes.saturating_sub(1));
        let meets = |range: &StaleRange<A>| {
            let end = range.last.get().saturating_add(low_bits(range.shift));
            range.start.get() <= last && start.get() <= end
        };
        self.everything || self.tables || self.ranges.iter().any(meets)
    }

    #[inline]
    fn add(&mut self, range: StaleRange<A>) {
        // Not across the end of the space: 0 goes on from nowhere.
        if range.start.get() == self.next && range.shift == self.shift && self.next != 0 {
            if let Some(last) = self.ranges.last_mut() {
                last.last = range.last;
            }
            self.ends(range);
        } else if !self.everything {
            self.open(range);
        }
    }

    #[inline(always)]
    fn ends(&mut self, range: StaleRange<A>) {
        self.next = range.last.get().wrapping_add(1 << (range.shift & 63));
    }

    fn open(&mut self, range: StaleRange<A>) {
        if self.ranges.try_push(range).is_err() {
            self.all();
        } else {
            self.shift = range.shift;
            self.ends(range);
        }
    }

    /// The whole address space is stale; ranges are of no use any more.
    fn all(&mut self) {
        self.ranges.clear();
        (self.everything, self.next) = (true, 0);
    }
}

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
    /// Tables that their allocator did not take back when a tree was destroyed. (A gather that is
    /// finished says so by [`GatherError::Alloc`].)
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
        if self.retired.is_full() { self.flush(allocator) } else { Ok(()) }
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

    /// From now on a cursor stands in a table and keeps to itself what it makes stale there; or it
    /// has told.
    pub(crate) fn untold(&mut self, untold: bool) {
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

#[cfg(test)]
mod tests {
    use super::{MAX_RANGES, Stale, StaleRange};
    use crate::address::Gva;

    /// After "everything" no range is left that could be extended by what comes next.
    #[test]
    fn case_a5_everything_has_no_ranges() {
        let mut stale = Stale::<Gva>::new();
        let mut add = |page: u64| {
            let page = Gva::new(page << 16);
            stale.add(StaleRange { start: page, last: page, shift: 16 });
            (stale.ranges().len(), stale.everything())
        };
        for n in 0..MAX_RANGES {
            assert_eq!(add(2 * n as u64), (n + 1, false));
        }
        // The 17th is at the other end of the space, and the 18th goes on from there.
        let far = 1 << 40;
        for page in [far, far + 1, far + 2, 0, 1] {
            assert_eq!(add(page), (0, true), "{page:#x}");
        }
        assert!(!stale.is_empty());
        stale.clear();
        assert!(stale.is_empty());
        stale.add(StaleRange { start: Gva::new(0), last: Gva::new(0), shift: 12 });
        assert_eq!((stale.ranges().len(), stale.everything()), (1, false));
        stale.all();
        assert_eq!((stale.ranges().len(), stale.everything()), (0, true));
    }

    #[test]
    fn how_many_pages() {
        for (last, shift, pages) in [
            (0, 12, 1),
            (0xfff, 12, 1),
            (0x1000, 12, 2),
            (u64::MAX, 12, 1 << 52),
            (u64::MAX, 0, u64::MAX),
            (u64::MAX, 64, 1),
            (u64::MAX, 255, 1),
        ] {
            let range = StaleRange { start: Gva::new(0), last: Gva::new(last), shift };
            assert_eq!(range.pages(), pages, "{last:#x} {shift}");
        }
    }
}
