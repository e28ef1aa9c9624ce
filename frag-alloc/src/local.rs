//! A thread's own front of a cache.
//!
//! # Protocol
//! A front belongs to one thread (it is not `Sync`), and holds a few tables of each pooled size
//! that are idle and still counted in their frame's `fragments`. So a table passes from the front
//! to its user by two plain stores, and back by the one compare-exchange that is a free (see
//! [`lives`](crate::lives)). Tables go between front and pool by the half-front, under the pool's
//! lock. A table may be freed into another front than it came from. Dropping the front puts
//! everything back.
//!
//! After a quarantine the front puts everything back once, before it hands out another table, and
//! from then on takes no table of a quarantined frame: the pool keeps those. When the cache has
//! closed, the front puts everything back whenever it would hand out another table. Both are seen
//! by one look at a count that quarantines and closed caches raise.

use core::cell::Cell;
use core::ops::Deref;

use pgtable::Address;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};

use crate::cache::{Cache, SIZES};
use crate::descriptor::Tag;
use crate::error::Error;
use crate::frames::Frames;
use crate::source::FrameSource;

/// The most tables of one size that a front holds.
const DEPTH: usize = 32;

/// No number of changes.
const NEVER: u64 = u64::MAX;

/// Idle tables of one size, as a stack.
#[derive(Debug)]
struct Magazine {
    held: Cell<usize>,
    /// The tag of such tables.
    tag: Tag,
    /// How many it may hold: fewer of large tables, none of those that have no pool.
    room: usize,
    tables: [Cell<u32>; DEPTH],
}

/// A thread's own front of a [`Cache`]: allocates and frees without a lock, and mostly without a
/// shared cache line.
#[derive(Debug)]
pub struct Local<'c, A, S, F>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
{
    cache: &'c Cache<A, S, F>,
    frames: &'c Frames<A, S>,
    magazines: [Magazine; SIZES],
    /// [`Frames::changes`] when the front was last looked over; [`NEVER`] if the cache has closed.
    seen: Cell<u64>,
    /// How many quarantines there had been when the front was last looked over.
    quarantines: Cell<u64>,
}

impl<'c, A, S, F> Local<'c, A, S, F>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
{
    /// An empty front of `cache`.
    pub fn new(cache: &'c Cache<A, S, F>) -> Self {
        let magazine = |size| Magazine {
            held: Cell::new(0),
            tag: cache.tag(S::SMALLEST + size as u8),
            room: cache.front_room(S::SMALLEST + size as u8).min(DEPTH),
            tables: [const { Cell::new(0) }; DEPTH],
        };
        Self {
            cache,
            frames: cache.frames(),
            magazines: core::array::from_fn(magazine),
            seen: Cell::new(NEVER),
            quarantines: Cell::new(0),
        }
    }

    /// A zeroed table of `2^shift` bytes, aligned to its size.
    ///
    /// # Errors
    /// As [`Cache::take`].
    #[inline]
    pub fn take(&self, shift: u8) -> Result<A, Error<A>> {
        self.take_holding(shift, Contents::Zeroed)
    }

    #[inline]
    fn take_holding(&self, shift: u8, wanted: Contents) -> Result<A, Error<A>> {
        let frames = self.frames;
        if let Some(magazine) = self.magazines.get(usize::from(shift.wrapping_sub(S::SMALLEST))) {
            let held = magazine.held.get().wrapping_sub(1);
            if let Some(table) = magazine.tables.get(held) {
                if frames.changes() == self.seen.get() {
                    magazine.held.set(held);
                    return self.hand_out(table.get(), magazine.tag, wanted);
                }
            }
        }
        self.refill(shift, wanted)
    }

    /// Hands out an idle table that came out of the front.
    #[inline]
    fn hand_out(&self, granule: u32, tag: Tag, wanted: Contents) -> Result<A, Error<A>> {
        if self.frames.must_be_zeroed(granule, wanted) {
            self.cache.zero(granule, tag.shift())?;
        }
        Ok(self.frames.hand_out(granule, tag))
    }

    /// From the cache. If it has nothing, what the front holds may make up frames that go home.
    #[cold]
    #[inline(never)]
    fn refill(&self, shift: u8, wanted: Contents) -> Result<A, Error<A>> {
        match self.refill_once(shift, wanted) {
            Err(Error::Exhausted { .. }) if self.magazines.iter().any(|it| it.held.get() > 0) => {
                self.put_back()?;
                self.refill_once(shift, wanted)
            }
            result => result,
        }
    }

    fn refill_once(&self, shift: u8, wanted: Contents) -> Result<A, Error<A>> {
        self.look_over()?;
        let Some(magazine) = self
            .magazines
            .get(usize::from(shift.wrapping_sub(S::SMALLEST)))
            .filter(|it| it.room > 0)
        else {
            return self.cache.take_holding(shift, wanted);
        };
        // Another cache's end changes nothing here.
        let held = magazine.held.get().wrapping_sub(1);
        if let Some(table) = magazine.tables.get(held) {
            magazine.held.set(held);
            return self.hand_out(table.get(), magazine.tag, wanted);
        }
        let mut batch = [0; DEPTH];
        let taken = self.cache.take_batch(shift, &mut batch[..magazine.room.div_ceil(2)])?;
        let (first, rest) = (batch[0], &batch[1..taken]);
        for (cell, &table) in magazine.tables.iter().zip(rest) {
            cell.set(table);
        }
        magazine.held.set(rest.len());
        self.hand_out(first, magazine.tag, wanted)
    }

    /// Puts everything back if a frame was quarantined since the last time, or the cache closed.
    #[inline]
    fn look_over(&self) -> Result<(), Error<A>> {
        // Before the rest: what is missed now is looked for the next time.
        let changes = self.frames.changes();
        if changes == self.seen.get() { Ok(()) } else { self.look_over_at(changes) }
    }

    #[cold]
    #[inline(never)]
    fn look_over_at(&self, changes: u64) -> Result<(), Error<A>> {
        let quarantines = self.frames.quarantines();
        let closed = self.cache.is_closed();
        self.seen.set(if closed { NEVER } else { changes });
        if quarantines != self.quarantines.replace(quarantines) || closed {
            self.put_back()?;
        }
        Ok(())
    }

    /// Takes a table of `2^shift` bytes back.
    ///
    /// # Errors
    /// As [`Cache::give`].
    #[inline]
    pub fn give(&self, table: A, shift: u8, contents: Contents) -> Result<(), Error<A>> {
        let frames = self.frames;
        let magazine = self.magazines.get(usize::from(shift.wrapping_sub(S::SMALLEST)));
        if let (Some(granule), Some(magazine)) = (frames.table_granule(table), magazine) {
            let held = magazine.held.get();
            if held < magazine.room && !frames.is_out_of_use(granule) {
                if !frames.set_idle(granule, magazine.tag, contents) {
                    return Err(frames.not_live(table));
                }
                if let Some(cell) = magazine.tables.get(held) {
                    cell.set(granule);
                    magazine.held.set(held + 1);
                }
                return Ok(());
            }
        }
        self.give_slowly(table, shift, contents)
    }

    /// The front is full, or the table is not one that it would hold.
    #[cold]
    #[inline(never)]
    fn give_slowly(&self, table: A, shift: u8, contents: Contents) -> Result<(), Error<A>> {
        if let Some(magazine) = self.magazines.get(usize::from(shift.wrapping_sub(S::SMALLEST))) {
            let keep = magazine.held.get() / 2;
            self.put_batch(shift, magazine, keep)?;
        }
        self.cache.give(table, shift, contents)
    }

    /// Puts back all but the `keep` tables that were freed last.
    fn put_batch(&self, shift: u8, magazine: &Magazine, keep: usize) -> Result<(), Error<A>> {
        let mut batch = [0; DEPTH];
        let held = magazine.held.replace(keep).min(DEPTH);
        for (to, from) in batch.iter_mut().zip(&magazine.tables[..held]) {
            *to = from.get();
        }
        let (cold, warm) = batch[..held].split_at(held - keep);
        for (to, &from) in magazine.tables.iter().zip(warm) {
            to.set(from);
        }
        self.cache.put_batch(shift, cold)
    }

    /// Puts everything back into the cache.
    ///
    /// # Errors
    /// [`Error::Underflow`] if a frame's counter was tampered with; the other tables were put back.
    pub fn put_back(&self) -> Result<(), Error<A>> {
        let mut result = Ok(());
        for (size, magazine) in self.magazines.iter().enumerate() {
            if magazine.held.get() > 0 {
                result = result.and(self.put_batch(S::SMALLEST + size as u8, magazine, 0));
            }
        }
        result
    }
}

impl<A, S, F> Drop for Local<'_, A, S, F>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
{
    fn drop(&mut self) {
        let _ = self.put_back();
    }
}

impl<A, S, F> TableAllocator<A> for Local<'_, A, S, F>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
{
    #[inline]
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        self.take(layout.shift).map_err(|error| error.into_alloc(layout))
    }

    #[inline]
    fn allocate_stale(&self, layout: TableLayout) -> Result<A, AllocError> {
        self.take_holding(layout.shift, Contents::Stale).map_err(|error| error.into_alloc(layout))
    }

    #[inline]
    fn free(&self, table: A, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.give(table, layout.shift, contents).map_err(|error| error.into_alloc(layout))
    }

    #[inline]
    fn state(&self, table: A, layout: TableLayout) -> Option<&TableState> {
        self.cache.state_of(table, layout.shift)
    }
}
