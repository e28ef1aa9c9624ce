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

use alloc::vec::Vec;
use core::ops::Deref;

use pgtable::{
    Address, AllocError, Contents, DeferringAllocator, TableAllocator, TableLayout, TableState,
};

use crate::cache::{Cache, Detached};
use crate::error::Error;
use crate::frames::Frames;
use crate::grace::{Grace, Readers};
use crate::source::FrameSource;
use crate::sync::Lock;

/// Tables that gather before a free looks whether some can be put back.
const BATCH: usize = 64;

#[derive(Debug, Default)]
struct Queue {
    gathering: Vec<Detached>,
    waiting: Vec<Detached>,
    /// The grace period of `waiting`.
    cookie: u64,
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
    queue: Lock<Queue>,
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
        Self { cache, grace, queue: Lock::new(Queue::default()) }
    }

    /// The cache: to close it, or to free what no reader ever saw.
    pub fn cache(&self) -> &Cache<A, S, F> {
        &self.cache
    }

    /// As [`Cache::take`]; out of memory, it first puts back the tables that wait, as far as it
    /// may.
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
    /// to queue it.
    pub fn give(&self, table: A, shift: u8, contents: Contents) -> Result<(), Error<A>> {
        let mut queue = self.queue.lock();
        if queue.gathering.try_reserve(1).is_err() {
            return Err(Error::Exhausted { shift });
        }
        queue.gathering.push(self.cache.detach(table, shift, contents)?);
        let full = queue.gathering.len() >= BATCH;
        drop(queue);
        if full { self.collect().map(|_| ()) } else { Ok(()) }
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
    /// The first error of putting a table back; the others were put back.
    pub fn collect(&self) -> Result<usize, Error<A>> {
        // Those that waited, then those that gathered; what is freed meanwhile is the next call's.
        let mut through = [Vec::new(), Vec::new()];
        let mut queue = self.queue.lock();
        for batch in &mut through {
            self.start(&mut queue);
            if queue.waiting.is_empty() || !self.grace.passed(queue.cookie) {
                break;
            }
            *batch = core::mem::take(&mut queue.waiting);
        }
        drop(queue);
        let count = through.iter().map(Vec::len).sum();
        let put = |table| self.cache.put_detached(table);
        through.into_iter().flatten().map(put).fold(Ok(()), Result::and).map(|()| count)
    }

    /// Those that gathered wait from now on, if no others do.
    fn start(&self, queue: &mut Queue) {
        if queue.waiting.is_empty() && !queue.gathering.is_empty() {
            queue.waiting = core::mem::take(&mut queue.gathering);
            queue.cookie = self.grace.start();
        }
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
