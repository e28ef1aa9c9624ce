//! The frames of one owner that hold tables of one size, and which of those tables are free.
//!
//! # Protocol
//! A pool is behind a lock. While a frame is in a pool its `fragments` stays at the number of
//! tables it has room for: a table is either *alive* with a user, or *in hand* here (a bit in the
//! descriptor), and passes between the two without touching the counter. So the invariant is
//! Linux's, `fragments` = alive + not handed out, with one addition: a freed table is in hand
//! again. A frame leaves the pool when all its tables are in hand (they are dropped from the
//! counter together, which retires it), or when the pool closes (those in hand are dropped; the
//! rest become *loose*, one decrement each).
//!
//! The last few freed tables lie on a stack, and are the first to be handed out: warm, and without
//! a look at their frame. They are still counted and not in hand; [`Pool::settle`] puts them in
//! hand when the stack is full, when a frame was quarantined since, and when the pool is trimmed or
//! closes.
//!
//! Tables of a quarantined frame go straight into hand when they come back, and nothing is taken
//! from such a frame. What lay on the stack before the quarantine is found by the number of
//! quarantines: a pool that looked its stack over before the last one does so again before it
//! hands anything out.
//!
//! Frames are kept in lists by how full they are, and tables are taken from the fullest: sparse
//! frames get a chance to empty. One empty frame is kept, so that a workload that swings around a
//! frame's edge doesn't construct and destruct.

use pgtable::Address;

use crate::descriptor::{Descriptor, NONE, QUARANTINED};
use crate::frames::Frames;
use crate::source::FrameSource;
use crate::sync::Ordering::Relaxed;

/// Lists of frames: eight by how full they are (the fullest first), those with no table alive,
/// those with none in hand.
const LISTS: usize = 10;
const EMPTY: usize = 8;
const FULL: usize = 9;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Pool {
    heads: [u32; LISTS],
    /// log2 of a table's bytes.
    shift: u8,
    /// log2 of the tables per frame.
    tables: u8,
    pub(crate) closed: bool,
    /// How many quarantines there had been when the stack was last looked over.
    quarantines: u64,
    held: usize,
    stack: [u32; DEPTH],
}

/// The most tables on the stack.
const DEPTH: usize = 64;

/// Frames that left the pool: what was in hand of them is to be dropped from their counters,
/// without the lock.
#[derive(Debug)]
#[must_use]
pub(crate) struct Leaving(u32);

impl Leaving {
    pub(crate) const NONE: Self = Self(NONE);

    /// The next one, and how many of its tables were in hand.
    pub(crate) fn pop(&mut self, frames: &[Descriptor]) -> Option<(u32, u16)> {
        let frame = self.0;
        (frame != NONE).then(|| {
            let it = &frames[frame as usize];
            self.0 = it.next.load(Relaxed);
            it.hand.iter().for_each(|word| word.store(0, Relaxed));
            (frame, it.in_hand.swap(0, Relaxed))
        })
    }

    fn push(&mut self, frames: &[Descriptor], frame: u32) {
        frames[frame as usize].next.store(self.0, Relaxed);
        self.0 = frame;
    }
}

impl Pool {
    pub(crate) fn new(shift: u8, tables: u8) -> Self {
        Self {
            heads: [NONE; LISTS],
            shift,
            tables,
            closed: false,
            quarantines: 0,
            held: 0,
            stack: [0; DEPTH],
        }
    }

    /// How many tables a frame holds.
    pub(crate) fn per_frame(&self) -> u16 {
        1 << self.tables
    }

    fn list_of(&self, in_hand: u16) -> usize {
        match in_hand {
            0 => FULL,
            all if all == self.per_frame() => EMPTY,
            some => usize::from(some >> self.tables.saturating_sub(3)),
        }
    }

    fn link(&mut self, frames: &[Descriptor], frame: u32, list: usize) {
        let head = self.heads[list];
        frames[frame as usize].previous.store(NONE, Relaxed);
        frames[frame as usize].next.store(head, Relaxed);
        if head != NONE {
            frames[head as usize].previous.store(frame, Relaxed);
        }
        self.heads[list] = frame;
    }

    fn unlink(&mut self, frames: &[Descriptor], frame: u32, list: usize) {
        let (next, previous) = (
            frames[frame as usize].next.load(Relaxed),
            frames[frame as usize].previous.load(Relaxed),
        );
        if next != NONE {
            frames[next as usize].previous.store(previous, Relaxed);
        }
        if previous == NONE {
            self.heads[list] = next;
        } else {
            frames[previous as usize].next.store(next, Relaxed);
        }
    }

    fn recount(&mut self, frames: &[Descriptor], frame: u32, before: u16, now: u16) {
        frames[frame as usize].in_hand.store(now, Relaxed);
        let (from, to) = (self.list_of(before), self.list_of(now));
        if from != to {
            self.unlink(frames, frame, from);
            self.link(frames, frame, to);
        }
    }

    /// How many tables the stack may hold: no more than a frame's.
    fn room(&self) -> usize {
        DEPTH.min(usize::from(self.per_frame()))
    }

    /// Whether there is a table that may be handed out.
    pub(crate) fn has_room(&self, frames: &[Descriptor]) -> bool {
        self.held > 0 || self.roomy(frames).is_some()
    }

    /// The fullest frame with a table in hand.
    fn roomy(&self, frames: &[Descriptor]) -> Option<u32> {
        for &head in &self.heads[..FULL] {
            let mut frame = head;
            while frame != NONE {
                let it = &frames[frame as usize];
                if !it.is(QUARANTINED) {
                    return Some(frame);
                }
                frame = it.next.load(Relaxed);
            }
        }
        None
    }

    /// Adds a frame that has just been filled, all of its tables in hand.
    pub(crate) fn adopt(&mut self, frames: &[Descriptor], frame: u32) {
        let it = &frames[frame as usize];
        let all = self.per_frame();
        for (index, word) in it.hand.iter().enumerate() {
            let bits = u32::from(all).saturating_sub(index as u32 * 64);
            word.store(if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }, Relaxed);
        }
        it.in_hand.store(all, Relaxed);
        self.link(frames, frame, EMPTY);
    }

    /// Whether a frame was quarantined since the stack was last looked over: then it must settle
    /// first.
    #[inline]
    pub(crate) fn is_stale<A: Address, S: FrameSource<A>>(&self, frames: &Frames<A, S>) -> bool {
        self.quarantines != frames.quarantines()
    }

    /// Fills `batch` with tables, warm ones or those of the fullest frames, as far as there are
    /// any; says how many.
    #[inline]
    pub(crate) fn take<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        batch: &mut [u32],
    ) -> usize {
        if self.held == 0 {
            return self.take_in_hand(frames, batch);
        }
        let count = self.held.min(batch.len());
        self.held -= count;
        batch[..count].copy_from_slice(&self.stack[self.held..self.held + count]);
        count
    }

    /// The same from the fullest frames.
    fn take_in_hand<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        batch: &mut [u32],
    ) -> usize {
        let mut filled = 0;
        while filled < batch.len() {
            let Some(frame) = self.roomy(&frames.descriptors) else { break };
            let it = frames.descriptor(frame);
            let before = it.in_hand.load(Relaxed);
            let first = frame << (frames.shift - S::SMALLEST);
            let mut taken = 0;
            for (index, word) in it.hand.iter().enumerate() {
                let mut bits = word.load(Relaxed);
                while bits != 0 && filled < batch.len() {
                    let table = index as u16 * 64 + bits.trailing_zeros() as u16;
                    bits &= bits - 1;
                    batch[filled] = first + (u32::from(table) << (self.shift - S::SMALLEST));
                    filled += 1;
                    taken += 1;
                }
                word.store(bits, Relaxed);
            }
            self.recount(&frames.descriptors, frame, before, before - taken);
        }
        filled
    }

    /// Takes idle tables back.
    #[inline]
    pub(crate) fn put<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        batch: &[u32],
    ) -> Leaving {
        let mut leaving = Leaving::NONE;
        for &granule in batch {
            if frames.is_out_of_use(granule) {
                if let Some(frame) = self.take_into_hand(frames, granule) {
                    leaving.push(&frames.descriptors, frame);
                }
                continue;
            }
            if self.held == self.room() {
                leaving = self.settle(frames, self.held / 2, leaving);
            }
            self.stack[self.held] = granule;
            self.held += 1;
        }
        leaving
    }

    /// Takes all but the last `keep` tables of the stack into hand.
    #[inline(never)]
    pub(crate) fn settle<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        keep: usize,
        mut leaving: Leaving,
    ) -> Leaving {
        // What stays on the stack was not looked over.
        if keep == 0 {
            self.quarantines = frames.quarantines();
        }
        let down = self.held.saturating_sub(keep);
        for index in 0..down {
            if let Some(frame) = self.take_into_hand(frames, self.stack[index]) {
                leaving.push(&frames.descriptors, frame);
            }
        }
        self.stack.copy_within(down..self.held, 0);
        self.held -= down;
        leaving
    }

    /// Returns the frame if it left the pool.
    fn take_into_hand<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        granule: u32,
    ) -> Option<u32> {
        let frame = frames.frame_of(granule);
        let it = frames.descriptor(frame);
        let table =
            (granule - (frame << (frames.shift - S::SMALLEST))) >> (self.shift - S::SMALLEST);
        let word = &it.hand[(table / 64) as usize];
        word.store(word.load(Relaxed) | 1 << (table % 64), Relaxed);
        let before = it.in_hand.load(Relaxed);
        let had_empty = self.heads[EMPTY] != NONE;
        self.recount(&frames.descriptors, frame, before, before + 1);
        let leaves = before + 1 == self.per_frame() && (had_empty || it.is(QUARANTINED));
        leaves.then(|| {
            self.unlink(&frames.descriptors, frame, EMPTY);
            frame
        })
    }

    /// Takes the empty frame out, if there is one.
    pub(crate) fn pop_empty(&mut self, frames: &[Descriptor], mut leaving: Leaving) -> Leaving {
        let frame = self.heads[EMPTY];
        if frame != NONE {
            self.unlink(frames, frame, EMPTY);
            leaving.push(frames, frame);
        }
        leaving
    }

    /// Closes: nothing is handed out from now on, all frames become loose, and leave.
    /// Returns those with tables in hand, and how many tables are not. In one hold of the lock: a
    /// frame without tables in hand is only its users' from then on.
    pub(crate) fn close<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
    ) -> (Leaving, u32) {
        self.closed = true;
        let mut leaving = self.settle(frames, 0, Leaving::NONE);
        let mut live = 0;
        for list in 0..LISTS {
            while self.heads[list] != NONE {
                let frame = self.heads[list];
                self.unlink(&frames.descriptors, frame, list);
                let it = frames.descriptor(frame);
                let in_hand = it.in_hand.load(Relaxed);
                live += u32::from(self.per_frame() - in_hand);
                if in_hand > 0 {
                    leaving.push(&frames.descriptors, frame);
                }
            }
        }
        (leaving, live)
    }
}
