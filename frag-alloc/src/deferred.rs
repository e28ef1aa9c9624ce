//! Tables freed while readers without a lock may still walk them.
//!
//! # Protocol
//! A freed table becomes idle at once (a second free is refused at once), and waits. Waiting tables
//! gather in a batch; a grace period starts for the whole batch when the one before is through,
//! after the last of its tables was freed. Only when it has passed is a table zeroed and put back,
//! and only then is it no longer counted in its frame. So a frame can't retire before a grace
//! period after the free of its last table: Linux's rule for deferred frames (`pte_free_defer`),
//! and for each table besides, since ours are handed out again. Nothing runs behind the caller's
//! back: tables are put back inside [`Deferred::give`], [`Deferred::take`] when memory runs out,
//! and [`Deferred::collect`]. Each of them asks for a grace period again as soon as it has started
//! it: where no reader is about it has passed by then.

use alloc::vec::{IntoIter, Vec};
use core::ops::Deref;

use pgtable::Address;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::shared::DeferringAllocator;

use crate::cache::{Cache, Detached};
use crate::error::Error;
use crate::frames::Frames;
use crate::grace::{Grace, Readers};
use crate::source::FrameSource;
use crate::sync::Lock;

/// Tables that gather before a free looks whether some can be put back.
const BATCH: usize = 64;

#[derive(Debug)]
struct Queue<A: Address> {
    gathering: Vec<Detached>,
    waiting: Vec<Detached>,
    /// The grace period of `waiting`.
    cookie: u64,
    /// What went wrong inside a free that itself was right.
    error: Option<Error<A>>,
}

/// Tables whose grace period has passed, on their way back. If the embedder's code panics on the
/// way, the rest waits again.
struct Returning<'q, A: Address> {
    queue: &'q Lock<Queue<A>>,
    batches: [IntoIter<Detached>; 2],
}

impl<A: Address> Drop for Returning<'_, A> {
    fn drop(&mut self) {
        if self.batches.iter().any(|batch| batch.len() > 0) {
            self.queue.lock().gathering.extend(self.batches.iter_mut().flatten());
        }
    }
}

/// A [`Cache`] whose freed tables are handed out again only after a grace period.
#[derive(Debug)]
pub struct Deferred<A, S, F, G>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
    G: Grace,
{
    cache: Cache<A, S, F>,
    grace: G,
    queue: Lock<Queue<A>>,
}

impl<A, S, F, G> Deferred<A, S, F, G>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
    G: Grace,
{
    /// The tables of `cache`, for readers whose grace periods `grace` knows.
    pub fn new(cache: Cache<A, S, F>, grace: G) -> Self {
        let (gathering, waiting) = (Vec::new(), Vec::new());
        let queue = Queue { gathering, waiting, cookie: 0, error: None };
        Self { cache, grace, queue: Lock::new(queue) }
    }

    /// The cache: to close it, or to free what no reader ever saw.
    pub fn cache(&self) -> &Cache<A, S, F> {
        &self.cache
    }

    /// As [`Cache::take`]; out of memory, it first puts back the tables that wait, as far as it
    /// may. (It does not wait for another thread that is putting tables back.)
    ///
    /// # Errors
    /// As [`Cache::take`].
    pub fn take(&self, shift: u8) -> Result<A, Error<A>> {
        self.take_holding(shift, Contents::Zeroed)
    }

    fn take_holding(&self, shift: u8, wanted: Contents) -> Result<A, Error<A>> {
        match self.cache.take_holding(shift, wanted) {
            Err(Error::Exhausted { .. }) if self.collect()? > 0 => {
                self.cache.take_holding(shift, wanted)
            }
            result => result,
        }
    }

    /// As [`Cache::give`], after a grace period.
    ///
    /// # Errors
    /// As [`Cache::give`]; [`Error::Exhausted`], and the table stays alive, if there is no memory
    /// to queue it. What goes wrong with the tables that it puts back on the occasion is the error
    /// of the next [`collect`](Self::collect): this table is freed.
    pub fn give(&self, table: A, shift: u8, contents: Contents) -> Result<(), Error<A>> {
        let mut queue = self.queue.lock();
        if queue.gathering.try_reserve(1).is_err() {
            return Err(Error::Exhausted { shift });
        }
        queue.gathering.push(self.cache.detach(table, shift, contents)?);
        let full = queue.gathering.len() >= BATCH;
        drop(queue);
        if full {
            if let (_, Err(error)) = self.put_back() {
                self.queue.lock().error.get_or_insert(error);
            }
        }
        Ok(())
    }

    /// How many tables wait.
    pub fn waiting(&self) -> usize {
        let queue = self.queue.lock();
        queue.gathering.len() + queue.waiting.len()
    }

    /// Puts back the tables whose grace period has passed, starts one for those that gathered, and
    /// puts those back too if it has passed at once; says how many were put back. With no reader
    /// about, nothing is left that was freed before the call.
    ///
    /// # Errors
    /// The first error of putting a table back, since the last call that returned one; the others
    /// were put back.
    pub fn collect(&self) -> Result<usize, Error<A>> {
        let (count, result) = self.put_back();
        let earlier = self.queue.lock().error.take();
        earlier.map_or(result, Err).map(|()| count)
    }

    /// As [`collect`](Self::collect), whatever went wrong before.
    fn put_back(&self) -> (usize, Result<(), Error<A>>) {
        // Those that waited, then those that gathered; what is freed meanwhile is the next call's.
        // (`returning` is dropped after `queue`, so a panic in here finds the lock free.)
        let mut returning = Returning { queue: &self.queue, batches: Default::default() };
        let mut queue = self.queue.lock();
        for batch in &mut returning.batches {
            *batch = self.passed(&mut queue).into_iter();
            if batch.len() == 0 {
                break;
            }
        }
        drop(queue);
        let (mut count, mut result) = (0, Ok(()));
        for table in returning.batches.iter_mut().flatten() {
            count += 1;
            result = result.and(self.cache.put_detached(table));
        }
        (count, result)
    }

    /// Starts a grace period for those that gathered, if no others wait; takes those that wait out
    /// if theirs has passed.
    fn passed(&self, queue: &mut Queue<A>) -> Vec<Detached> {
        if queue.waiting.is_empty() && !queue.gathering.is_empty() {
            // First, in case that it panics: tables never wait for an older grace period.
            queue.cookie = self.grace.start();
            queue.waiting = core::mem::take(&mut queue.gathering);
        }
        let passed = !queue.waiting.is_empty() && self.grace.passed(queue.cookie);
        if passed { core::mem::take(&mut queue.waiting) } else { Vec::new() }
    }
}

impl<A, S, F, G> TableAllocator<A> for Deferred<A, S, F, G>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
    G: Grace,
{
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        self.take(layout.shift).map_err(|error| error.into_alloc(layout))
    }

    fn allocate_stale(&self, layout: TableLayout) -> Result<A, AllocError> {
        self.take_holding(layout.shift, Contents::Stale).map_err(|error| error.into_alloc(layout))
    }

    fn free(&self, table: A, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.give(table, layout.shift, contents).map_err(|error| error.into_alloc(layout))
    }

    fn state(&self, table: A, layout: TableLayout) -> Option<&TableState> {
        self.cache.state_of(table, layout.shift)
    }
}

/// The readers of a tree of these tables are those for which the tables wait.
impl<A, S, F, G> DeferringAllocator<A> for Deferred<A, S, F, G>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
    G: Readers,
{
    type Reader<'a>
        = G::Reader<'a>
    where
        Self: 'a;

    fn reader(&self) -> Option<G::Reader<'_>> {
        self.grace.reader()
    }
}

impl<A, S, F, G> Drop for Deferred<A, S, F, G>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
    G: Grace,
{
    /// Puts back what may be put back. What readers may still see stays counted, and so its frame
    /// stays out of use: a leak that the census shows, never a reuse.
    fn drop(&mut self) {
        let _ = self.collect();
    }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use core::sync::atomic::AtomicU64;

    use pgtable::Hpa;
    use pgtable::memory::DirectMap;

    use super::*;
    use crate::{Epochs, Kind, Owner, Policy, Region};

    /// A free puts back others' tables on the occasion; their error is not its own.
    #[test]
    fn case_a15_a_free_that_was_right_is_ok() {
        let words: Vec<_> = (0..1 << 13).map(|_| AtomicU64::new(0)).collect();
        let start = Hpa::new(0);
        let source = Region::new(DirectMap::new(&words, start), start, 16, 12).unwrap();
        let frames = Frames::new(source).unwrap();
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let tables = Deferred::new(cache, Epochs::new(0));
        let bad = tables.take(12).unwrap();
        tables.give(bad, 12, Contents::Stale).unwrap();
        frames.descriptor(frames.frame_of(frames.granule(bad).unwrap())).set_fragments(0);
        let others: Vec<_> = (1..BATCH).map(|_| tables.take(8).unwrap()).collect();
        for table in &others {
            assert_eq!(tables.give(*table, 8, Contents::Stale), Ok(()));
            assert!(tables.give(*table, 8, Contents::Stale).is_err(), "it was freed");
        }
        assert_eq!(tables.waiting(), 0);
        let error = Error::Underflow { frame: bad, count: "fragments", value: 0 };
        assert_eq!(tables.collect(), Err(error));
        assert_eq!(tables.collect(), Ok(0), "told once");
    }
}
