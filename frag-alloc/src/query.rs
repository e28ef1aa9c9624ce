//! What is at a physical address? For a memory-failure handler, a scanner, or a person.
//!
//! # Protocol
//! Whoever asks holds nothing and stops nobody. [`Frames::try_get`] takes a reference unless there
//! is none (the frame is with its source), and only then looks at what the frame is: the frame can
//! retire meanwhile, and its last table be freed, but it cannot go home and come back as something
//! else until the reference is dropped. Whether a *table* is alive is a snapshot: its owner may
//! free it right after.
//!
//! Quarantine raises a flag that outlives the frame's use. Everybody who is about to hand something
//! out looks at it: the pool passes over the frame's free tables, fronts are emptied first, and the
//! frame itself is neither given back to the source nor accepted from it. Tables that are alive
//! stay alive; their owner moves them in his own time.

use pgtable::Address;

use crate::descriptor::{Kind, Owner, QUARANTINED};
use crate::error::Error;
use crate::frames::Frames;
use crate::source::FrameSource;

/// A frame that somebody holds tables or references in.
///
/// It keeps the frame from its source while it is held, and the others of a table of several frames
/// with it, though the table is freed meanwhile.
#[derive(Debug)]
#[must_use = "the reference is dropped at once"]
pub struct FrameRef<'f, A: Address, S: FrameSource<A>> {
    frames: &'f Frames<A, S>,
    frame: u32,
    /// The frame that was asked about: behind `frame`, inside a table larger than a frame.
    asked: u32,
}

/// What a table frame is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableFrame<A> {
    /// Whose tables.
    pub owner: Owner,
    /// User or kernel tables.
    pub kind: Kind,
    /// Where the frame starts; of a table larger than a frame, where the table starts.
    pub start: A,
    /// log2 of the bytes of a table.
    pub shift: u8,
}

impl<A: Address, S: FrameSource<A>> Frames<A, S> {
    /// A reference to the frame in which `address` lies, unless it is with its source: the
    /// speculative get. Look at [`FrameRef::table_frame`] afterwards, not before.
    ///
    /// # Errors
    /// [`Error::Outside`].
    pub fn try_get(&self, address: A) -> Result<Option<FrameRef<'_, A, S>>, Error<A>> {
        let granule = self.granule(address).ok_or(Error::Outside { address })?;
        let asked = self.frame_of(granule);
        // The frames of a larger table have no references of their own: the first one's count for
        // all. It is found by the size in the tag, and verified with the reference in hand.
        let head = |tag: crate::descriptor::Tag| {
            let run = tag.shift().saturating_sub(self.shift);
            if tag.is_tail() { self.head_of(asked, run) } else { asked }
        };
        let frame = head(self.descriptor(asked).tag());
        if !self.descriptor(frame).get_unless_zero() {
            return Ok(None);
        }
        let reference = FrameRef { frames: self, frame, asked };
        Ok((head(self.descriptor(asked).tag()) == frame).then_some(reference))
    }

    fn head_of(&self, frame: u32, run: u8) -> u32 {
        let first = (self.start >> self.shift) + u64::from(frame);
        frame - (first & ((1 << run) - 1)) as u32
    }

    /// Never hands the frame in which `address` lies out again, nor any table in it that is free
    /// now or later. What is alive in it stays so; [`Frames::try_get`] says whose it is. Of a table
    /// larger than a frame, the other frames go home when it is freed.
    ///
    /// # Errors
    /// [`Error::Outside`].
    pub fn quarantine(&self, address: A) -> Result<(), Error<A>> {
        let granule = self.granule(address).ok_or(Error::Outside { address })?;
        self.descriptor(self.frame_of(granule)).raise(QUARANTINED);
        self.count_quarantines(1);
        Ok(())
    }

    /// Whether the frame in which `address` lies is quarantined.
    ///
    /// # Errors
    /// [`Error::Outside`].
    pub fn is_quarantined(&self, address: A) -> Result<bool, Error<A>> {
        let granule = self.granule(address).ok_or(Error::Outside { address })?;
        Ok(self.descriptor(self.frame_of(granule)).is(QUARANTINED))
    }
}

impl<A: Address, S: FrameSource<A>> FrameRef<'_, A, S> {
    /// What the frame is for; `None` if its last table is gone and only references keep it, or its
    /// first is yet to come.
    #[must_use]
    pub fn table_frame(&self) -> Option<TableFrame<A>> {
        let tag = self.frames.descriptor(self.frame).tag();
        let start = self.frames.frame_address(self.frame);
        tag.owner().map(|owner| TableFrame { owner, kind: tag.kind(), start, shift: tag.shift() })
    }

    /// The first byte of the frame that was asked about.
    #[must_use]
    pub fn start(&self) -> A {
        self.frames.frame_address(self.asked)
    }

    /// The tables alive in the frame. Which address ranges they translate only their owner knows:
    /// his tree, asked for the entry that points here.
    pub fn tables(&self) -> impl Iterator<Item = A> + '_ {
        self.frames.live_in(self.frame).map(|granule| self.frames.address(granule))
    }

    /// The table in which `address` lies, if it is one of this frame's and alive.
    #[must_use]
    pub fn table_at(&self, address: A) -> Option<A> {
        let tag = self.frames.descriptor(self.frame).tag();
        let granule = self.frames.granule(address)?;
        let first = self.frame << (self.frames.shift - S::SMALLEST);
        let table = first
            + (granule.checked_sub(first)? >> (tag.shift().checked_sub(S::SMALLEST)?)
                << (tag.shift() - S::SMALLEST));
        self.frames
            .live_in(self.frame)
            .find(|&live| live == table)
            .map(|table| self.frames.address(table))
    }
}

impl<A: Address, S: FrameSource<A>> Drop for FrameRef<'_, A, S> {
    fn drop(&mut self) {
        // The reference was taken when this was made, so there is one to drop.
        let _ = self.frames.put(self.frame);
    }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use core::sync::atomic::AtomicU64;
    use std::vec::Vec;

    use pgtable::Hpa;
    use pgtable::allocator::Contents;
    use pgtable::memory::DirectMap;

    use crate::{Cache, Frames, Kind, Local, Owner, Policy, Region};

    /// Whatever holds tables looks them over after a quarantine, however many there were between.
    #[test]
    fn case_a8_quarantines_do_not_come_round() {
        for before in [0, u64::from(u32::MAX), u64::from(u32::MAX) * 2 + 1] {
            let words: Vec<_> = (0..1 << 13).map(|_| AtomicU64::new(0)).collect();
            let start = Hpa::new(0);
            let source = Region::new(DirectMap::new(&words, start), start, 1, 16).unwrap();
            let frames = Frames::new(source).unwrap();
            let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
            let (front, stack) = (Local::new(&cache), cache.take(8).unwrap());
            let tables = [front.take(8).unwrap(), front.take(8).unwrap()];
            front.give(tables[0], 8, Contents::Stale).unwrap();
            cache.give(stack, 8, Contents::Stale).unwrap();
            frames.count_quarantines(before);
            frames.quarantine(start).unwrap();
            assert!(frames.is_out_of_use(0), "{before}");
            assert!(front.take(8).is_err() && cache.take(8).is_err(), "{before}");
            front.give(tables[1], 8, Contents::Stale).unwrap();
            assert!(front.take(8).is_err(), "{before}");
        }
    }
}
