//! The frames of one owner that hold tables of one size, and which of those tables are free.
//!
//! # Protocol
//! A pool is behind a lock. While a frame is in a pool its `fragments` stays at the number of tables it has room for: a
//! table is either *alive* with a user, or *in hand* here (a bit in the descriptor), and passes between the two without touching
//! the counter. So the invariant is Linux's, `fragments` = alive + not handed out, with one addition: a freed table is in hand
//! again. A frame leaves the pool when all its tables are in hand (they are dropped from the counter together, which
//! retires it), or when the pool closes (those in hand are dropped; the rest become *loose*, one decrement each).
//!
//! Frames are kept in lists by how full they are, and tables are taken from the fullest: sparse frames get a chance to
//! empty. One empty frame is kept, so that a workload that swings around a frame's edge doesn't construct and destruct.

use pgtable::Address;

use crate::descriptor::{Descriptor, GRANULE, NONE, QUARANTINED};
use crate::frames::Frames;
use crate::source::FrameSource;
use crate::sync::Ordering::Relaxed;

/// In a batch of granules: the table was never handed out, and must be zeroed.
pub(crate) const UNCLEAN: u32 = 1 << 31;

/// Lists of frames: eight by how full they are (the fullest first), those with no table alive, those with none in hand.
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
}

/// What became of tables that were put back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Put {
    /// They are in hand.
    Kept,
    /// They were the last of this frame, which has left the pool: its tables are to be dropped from its counter.
    Emptied(u32),
}

impl Pool {
    pub(crate) fn new(shift: u8, tables: u8) -> Self {
        Self { heads: [NONE; LISTS], shift, tables, closed: false }
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
        let (next, previous) =
            (frames[frame as usize].next.load(Relaxed), frames[frame as usize].previous.load(Relaxed));
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

    /// Whether a table is in hand that may be handed out.
    pub(crate) fn has_room(&self, frames: &[Descriptor]) -> bool {
        self.roomy(frames).is_some()
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
        it.fresh.store(0, Relaxed);
        self.link(frames, frame, EMPTY);
    }

    /// Fills `batch` with tables from the fullest frames, as far as there are any; says how many.
    pub(crate) fn take<A: Address, S: FrameSource<A>>(&mut self, frames: &Frames<A, S>, batch: &mut [u32]) -> usize {
        let mut filled = 0;
        while filled < batch.len() {
            let Some(frame) = self.roomy(&frames.descriptors) else { break };
            let it = frames.descriptor(frame);
            let before = it.in_hand.load(Relaxed);
            let first = frame << (frames.shift - GRANULE);
            let mut taken = 0;
            for (index, word) in it.hand.iter().enumerate() {
                let mut bits = word.load(Relaxed);
                while bits != 0 && filled < batch.len() {
                    let table = index as u16 * 64 + bits.trailing_zeros() as u16;
                    bits &= bits - 1;
                    // The lowest comes first, so the first one that was never handed out is the watermark itself.
                    let unclean = if table >= it.fresh.load(Relaxed) {
                        it.fresh.store(table + 1, Relaxed);
                        UNCLEAN
                    } else {
                        0
                    };
                    batch[filled] = (first + (u32::from(table) << (self.shift - GRANULE))) | unclean;
                    filled += 1;
                    taken += 1;
                }
                word.store(bits, Relaxed);
            }
            self.recount(&frames.descriptors, frame, before, before - taken);
        }
        filled
    }

    /// Takes a table into hand again.
    pub(crate) fn put<A: Address, S: FrameSource<A>>(&mut self, frames: &Frames<A, S>, granule: u32) -> Put {
        let frame = frames.frame_of(granule);
        let it = frames.descriptor(frame);
        let table = (granule - (frame << (frames.shift - GRANULE))) >> (self.shift - GRANULE);
        let word = &it.hand[(table / 64) as usize];
        let bit = 1 << (table % 64);
        word.store(word.load(Relaxed) | bit, Relaxed);
        let before = it.in_hand.load(Relaxed);
        let had_empty = self.heads[EMPTY] != NONE;
        self.recount(&frames.descriptors, frame, before, before + 1);
        if before + 1 == self.per_frame() && (had_empty || it.is(QUARANTINED)) {
            self.unlink(&frames.descriptors, frame, EMPTY);
            return Put::Emptied(frame);
        }
        Put::Kept
    }

    /// Takes the empty frame out, if there is one.
    pub(crate) fn pop_empty(&mut self, frames: &[Descriptor]) -> Option<u32> {
        let frame = self.heads[EMPTY];
        (frame != NONE).then(|| {
            self.unlink(frames, frame, EMPTY);
            frame
        })
    }

    /// Takes any frame out, for a pool that closes; returns it with the number of its tables in hand.
    pub(crate) fn pop(&mut self, frames: &[Descriptor]) -> Option<(u32, u16)> {
        let list = (0..LISTS).find(|&list| self.heads[list] != NONE)?;
        let frame = self.heads[list];
        self.unlink(frames, frame, list);
        let it = &frames[frame as usize];
        it.hand.iter().for_each(|word| word.store(0, Relaxed));
        Some((frame, it.in_hand.swap(0, Relaxed)))
    }
}
