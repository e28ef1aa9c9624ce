//! The tables of one address space.
//!
//! # Protocol
//! One [`Pool`] per table size, each behind its own lock. A table is allocated by taking it out of
//! its pool and marking it live, and freed by marking it idle and putting it back (see
//! [`lives`](crate::lives): of several frees of one table, at any time, by any thread, one
//! succeeds). When the pool has nothing, a frame is filled *outside* the lock; a thread that finds,
//! with the lock again, that another one was faster, sends its frame home unused.
//!
//! Tables of a whole frame or more, and all tables under [`Policy::Linux`], have no pool: their
//! frames count them, and the free that makes `fragments` 0 retires the frame. The tag by which a
//! table was freed says to which of the two it goes; its frame's descriptor is not asked. Checked
//! by `loom/frag-alloc`.

use core::ops::Deref;

use pgtable::Address;
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};

use crate::descriptor::{Kind, Owner, Tag};
use crate::error::Error;
use crate::frames::Frames;
use crate::linux::Bump;
use crate::pool::{Leaving, Pool};
use crate::source::FrameSource;
use crate::sync::{AtomicU32, Lock, Ordering};

/// Table sizes that share a frame: from a granule to half a frame.
pub(crate) const SIZES: usize = 8;

/// What happens to a table that is freed while others in its frame live.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Policy {
    /// It is handed out again before a new frame is taken.
    #[default]
    Reuse,
    /// It never is: the frame stays until its last table is freed. Step by step what Linux does on
    /// POWER; for comparison, and for readers without a grace period who rely on it.
    Linux,
}

/// What a cache left behind when it closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Closed {
    /// Frames that went home.
    pub frames: u32,
    /// Tables of pooled sizes that are still alive, or in somebody's front: each goes home by its
    /// own free.
    pub live: u32,
}

/// A table in the middle of being freed: nobody's, still counted, in nobody's hand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Detached {
    granule: u32,
    shift: u8,
}

/// Allocates and frees the tables of one address space. Shared by reference between threads; for
/// the speed of a thread that has its own, see [`Local`](crate::Local).
///
/// `F` is `&Frames` or `Arc<Frames>`, or anything else that derefs to it.
#[derive(Debug)]
pub struct Cache<A, S, F>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
{
    frames: F,
    owner: Owner,
    kind: Kind,
    policy: Policy,
    /// Its number among the caches of its frame table.
    number: u32,
    /// 1 when it has closed.
    closed: AtomicU32,
    pools: [Lock<Pool>; SIZES],
    bumps: [Lock<Bump>; SIZES],
}

impl<A, S, F> Cache<A, S, F>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
{
    /// A cache with no frames, for the tables of `owner`. Of an `Arc<Frames>`, give a clone, or
    /// `&*frames` to borrow it.
    pub fn new(frames: F, owner: Owner, kind: Kind, policy: Policy) -> Self {
        let pool = |size| {
            let shift = S::SMALLEST + size as u8;
            Lock::new(Pool::new(shift, frames.tables_shift(shift)))
        };
        let pools = core::array::from_fn(pool);
        let number = frames.open_cache();
        Self {
            frames,
            owner,
            kind,
            policy,
            number,
            closed: AtomicU32::new(0),
            pools,
            bumps: core::array::from_fn(|_| Lock::new(Bump::default())),
        }
    }

    /// The frame table that the tables come from.
    pub fn frames(&self) -> &Frames<A, S> {
        &self.frames
    }

    /// Whose tables these are.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// The tag of its tables of that size.
    #[inline]
    pub(crate) fn tag(&self, shift: u8) -> Tag {
        Tag::new(self.owner, self.kind, shift, self.number)
    }

    /// Whether tables of that size have a pool.
    #[inline]
    fn is_pooled(&self, shift: u8) -> bool {
        shift < self.frames.shift && self.policy == Policy::Reuse
    }

    /// The state word of the live table of `2^shift` bytes of this cache at `table`.
    #[inline]
    pub(crate) fn state_of(&self, table: A, shift: u8) -> Option<&TableState> {
        self.frames.state(table, self.tag(shift))
    }

    /// How many table sizes are smaller than a frame.
    fn pooled(&self) -> usize {
        usize::from(self.frames.shift - S::SMALLEST)
    }

    fn pool(&self, shift: u8) -> &Lock<Pool> {
        &self.pools[usize::from(shift - S::SMALLEST)]
    }

    /// A zeroed table of `2^shift` bytes, aligned to its size.
    ///
    /// # Errors
    /// [`Error::Exhausted`], [`Error::Unsupported`], [`Error::Constructor`], or a defect of the
    /// source. After an [`Error::Memory`] nothing is lost: the next attempt may find the same table
    /// again, unless its frame is [quarantined](Frames::quarantine).
    #[inline]
    pub fn take(&self, shift: u8) -> Result<A, Error<A>> {
        self.take_holding(shift, Contents::Zeroed)
    }

    /// A table that holds what is wanted.
    pub(crate) fn take_holding(&self, shift: u8, wanted: Contents) -> Result<A, Error<A>> {
        if !(S::SMALLEST..S::SMALLEST + 32).contains(&shift) {
            return Err(Error::Unsupported { shift });
        }
        let granule = if shift >= self.frames.shift {
            if self.is_closed() {
                return Err(Error::Exhausted { shift });
            }
            self.fill(self.tag(shift), 1)? << (self.frames.shift - S::SMALLEST)
        } else if self.policy == Policy::Linux {
            let bump = &self.bumps[usize::from(shift - S::SMALLEST)];
            let (left, next) = {
                let mut bump = bump.lock();
                (bump.leave_quarantined(&self.frames, shift), bump.next(&self.frames, shift))
            };
            if let Some((frame, rest)) = left {
                self.frames.drop_fragments(frame, rest)?;
            }
            match next {
                Some(fragment) => fragment,
                None => Bump::refill(bump, &self.frames, self.tag(shift))?,
            }
        } else {
            let mut one = [0];
            self.take_batch(shift, &mut one)?;
            one[0]
        };
        if self.frames.must_be_zeroed(granule, wanted) {
            self.zero(granule, shift)?;
        }
        Ok(self.frames.hand_out(granule, self.tag(shift)))
    }

    /// Zeroes an idle table that the caller took. If that cannot be, the table goes back.
    #[cold]
    #[inline(never)]
    pub(crate) fn zero(&self, granule: u32, shift: u8) -> Result<(), Error<A>> {
        let zeroed = self.frames.zero(granule, shift);
        if zeroed.is_err() {
            self.put_detached(Detached { granule, shift })?;
        }
        zeroed
    }

    /// Whether it allocates nothing any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire) != 0
    }

    /// Fills `batch` with idle tables of a pooled size, at least one; says how many.
    pub(crate) fn take_batch(&self, shift: u8, batch: &mut [u32]) -> Result<usize, Error<A>> {
        let pool = self.pool(shift);
        loop {
            let mut locked = pool.lock();
            if locked.is_stale(&self.frames) {
                let leaving = locked.settle(&self.frames, 0, Leaving::NONE);
                drop(locked);
                self.let_go(leaving)?;
                continue;
            }
            let taken = locked.take(&self.frames, batch);
            let closed = locked.closed;
            drop(locked);
            if taken > 0 {
                return Ok(taken);
            }
            if closed {
                return Err(Error::Exhausted { shift });
            }
            let tables = 1 << self.frames.tables_shift(shift);
            let frame = self.fill(self.tag(shift), tables)?;
            let mut pool = pool.lock();
            if pool.closed || pool.has_room(&self.frames.descriptors) {
                let closed = pool.closed;
                drop(pool);
                self.frames.drop_fragments(frame, tables)?;
                if closed {
                    return Err(Error::Exhausted { shift });
                }
            } else {
                pool.adopt(&self.frames.descriptors, frame);
            }
        }
    }

    /// As [`Frames::fill`]. If the source has nothing left, frames without a live table that the
    /// pools kept go home first.
    fn fill(&self, tag: Tag, fragments: u32) -> Result<u32, Error<A>> {
        match self.frames.fill(tag, fragments) {
            Err(Error::Exhausted { .. }) if self.trim()? > 0 => self.frames.fill(tag, fragments),
            result => result,
        }
    }

    /// Takes a table of `2^shift` bytes back.
    ///
    /// # Errors
    /// [`Error::NotLive`] or [`Error::Outside`], and nothing changed, if it isn't one.
    pub fn give(&self, table: A, shift: u8, contents: Contents) -> Result<(), Error<A>> {
        self.put_detached(self.detach(table, shift, contents)?)
    }

    /// The first half of a free: the table is nobody's any more, but still counted, and in nobody's
    /// hand.
    #[inline]
    pub(crate) fn detach(
        &self,
        table: A,
        shift: u8,
        contents: Contents,
    ) -> Result<Detached, Error<A>> {
        match self.frames.table_granule(table) {
            Some(granule) if self.frames.set_idle(granule, self.tag(shift), contents) => {
                Ok(Detached { granule, shift })
            }
            _ => Err(self.frames.not_live(table)),
        }
    }

    /// The second half: it may be handed out again, or is counted no longer.
    #[inline]
    pub(crate) fn put_detached(&self, table: Detached) -> Result<(), Error<A>> {
        let Detached { granule, shift } = table;
        if !self.is_pooled(shift) {
            return self.frames.drop_fragments(self.frames.frame_of(granule), 1).map(|_| ());
        }
        self.put_batch(shift, &[granule])
    }

    /// Puts idle tables of a pooled size back. All are taken, even after an error.
    #[inline]
    pub(crate) fn put_batch(&self, shift: u8, batch: &[u32]) -> Result<(), Error<A>> {
        let mut pool = self.pool(shift).lock();
        if pool.closed {
            drop(pool);
            let loose =
                |&granule| self.frames.drop_fragments(self.frames.frame_of(granule), 1).map(|_| ());
            return batch.iter().map(loose).fold(Ok(()), Result::and);
        }
        let leaving = pool.put(&self.frames, batch);
        drop(pool);
        self.let_go(leaving).map(|_| ())
    }

    /// What was in hand of these frames is never handed out again; says how many of them went home
    /// by that.
    #[inline]
    fn let_go(&self, mut leaving: Leaving) -> Result<u32, Error<A>> {
        let mut home = 0;
        let mut result = Ok(());
        while let Some((frame, in_hand)) = leaving.pop(&self.frames.descriptors) {
            match self.frames.drop_fragments(frame, in_hand.into()) {
                Ok(retired) => home += u32::from(retired),
                Err(error) => result = Err(error),
            }
        }
        result.map(|()| home)
    }

    /// How many tables of `2^shift` bytes a front may hold: a part of what a frame holds; none if
    /// they have no pool.
    pub(crate) fn front_room(&self, shift: u8) -> usize {
        if self.is_pooled(shift) { (1 << self.frames.tables_shift(shift)) / 4 + 1 } else { 0 }
    }

    /// Sends home every frame in which no table is alive, except for tables in fronts; says how
    /// many.
    ///
    /// A cache does this by itself when it finds no frame left, but not for another cache of the
    /// same [`Frames`], to which at most 65 frames of each size may stay unused.
    ///
    /// # Errors
    /// [`Error::Underflow`] if a frame's counter was tampered with.
    pub fn trim(&self) -> Result<u32, Error<A>> {
        let mut frames = 0;
        for pool in &self.pools[..self.pooled()] {
            let mut pool = pool.lock();
            let settled = pool.settle(&self.frames, 0, Leaving::NONE);
            let leaving = pool.pop_empty(&self.frames.descriptors, settled);
            drop(pool);
            frames += self.let_go(leaving)?;
        }
        Ok(frames)
    }

    /// Returns everything that is not handed out; the cache, and every front of it, allocates
    /// nothing from now on ([`Error::Exhausted`]). Tables that are still alive keep their frames,
    /// and are freed through this cache, or without it by [`Frames::give`].
    ///
    /// # Errors
    /// [`Error::Underflow`] if a frame's counter was tampered with; the other frames were dealt
    /// with.
    pub fn close(&self) -> Result<Closed, Error<A>> {
        let mut closed = Closed::default();
        let mut result = Ok(());
        for pool in &self.pools[..self.pooled()] {
            let (leaving, live) = pool.lock().close(&self.frames);
            closed.live += live;
            match self.let_go(leaving) {
                Ok(home) => closed.frames += home,
                Err(error) => result = Err(error),
            }
        }
        for (size, bump) in self.bumps[..self.pooled()].iter().enumerate() {
            let rest = bump.lock().close(&self.frames, S::SMALLEST + size as u8);
            if let Some((frame, rest)) = rest {
                match self.frames.drop_fragments(frame, rest) {
                    Ok(retired) => closed.frames += u32::from(retired),
                    Err(error) => result = Err(error),
                }
            }
        }
        // In this order: what finds the cache closed finds every pool of it closed.
        self.closed.store(1, Ordering::Release);
        self.frames.close_cache(self.number);
        result.map(|()| closed)
    }
}

impl<A, S, F> Drop for Cache<A, S, F>
where
    A: Address,
    S: FrameSource<A>,
    F: Deref<Target = Frames<A, S>>,
{
    /// Closes; whoever wants to know what was left closes first.
    fn drop(&mut self) {
        let _ = self.close();
        self.frames.release_cache(self.number);
    }
}

impl<A, S, F> TableAllocator<A> for Cache<A, S, F>
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
        self.state_of(table, layout.shift)
    }
}
