//! Linux's own algorithm (`arch/powerpc/mm/pgtable-frag.c`): a pointer that moves forward through a
//! frame, and never back.
//!
//! Allocate: under the lock, hand out the next fragment; past the end of the frame the cache is
//! empty. Empty: fill a frame outside the lock, count 1; under the lock, if the cache is still
//! empty, raise the count to the number of fragments and cache the second; else the racing filler's
//! cache stays, and our frame serves for its one fragment. Free: decrement; 0 retires the frame.
//! Close: subtract what was never handed out. Checked step by step in `tests/linux.rs`.
//!
//! One thing Linux has no need of: when the frame that the pointer is in was quarantined, what was
//! not handed out of it is subtracted.

use pgtable::Address;

use crate::descriptor::Tag;
use crate::error::Error;
use crate::frames::Frames;
use crate::source::FrameSource;
use crate::sync::Lock;

/// The next free fragment, as Linux's `pte_frag` and `pmd_frag`.
#[derive(Debug, Default)]
pub(crate) struct Bump {
    fragment: Option<u32>,
    closed: bool,
}

impl Bump {
    /// Hands out the next fragment.
    pub(crate) fn next<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        shift: u8,
    ) -> Option<u32> {
        let fragment = self.fragment?;
        let next = fragment + (1 << (shift - S::SMALLEST));
        self.fragment = (frames.frame_of(next) == frames.frame_of(fragment)).then_some(next);
        Some(fragment)
    }

    /// The slow path: a new frame's first fragment.
    pub(crate) fn refill<A: Address, S: FrameSource<A>>(
        this: &Lock<Self>,
        frames: &Frames<A, S>,
        tag: Tag,
    ) -> Result<u32, Error<A>> {
        let frame = frames.fill(tag, 1)?;
        let fragment = frame << (frames.shift - S::SMALLEST);
        let mut this = this.lock();
        if this.closed {
            drop(this);
            frames.drop_fragments(frame, 1)?;
            return Err(Error::Exhausted { shift: tag.shift() });
        }
        if this.fragment.is_none() {
            // Before the lock is released, so before any of them can be freed.
            frames.descriptor(frame).set_fragments(1 << frames.tables_shift(tag.shift()));
            this.fragment = Some(fragment + (1 << (tag.shift() - S::SMALLEST)));
        }
        Ok(fragment)
    }

    /// Leaves the frame that the cache points into if it is quarantined: the frame, and how many of
    /// its fragments were never handed out.
    pub(crate) fn leave_quarantined<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        shift: u8,
    ) -> Option<(u32, u32)> {
        if frames.is_out_of_use(self.fragment?) { self.leave(frames, shift) } else { None }
    }

    /// Closes; returns as [`leave_quarantined`](Self::leave_quarantined), for any frame.
    pub(crate) fn close<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        shift: u8,
    ) -> Option<(u32, u32)> {
        self.closed = true;
        self.leave(frames, shift)
    }

    fn leave<A: Address, S: FrameSource<A>>(
        &mut self,
        frames: &Frames<A, S>,
        shift: u8,
    ) -> Option<(u32, u32)> {
        let fragment = self.fragment.take()?;
        let frame = frames.frame_of(fragment);
        let handed_out =
            (fragment - (frame << (frames.shift - S::SMALLEST))) >> (shift - S::SMALLEST);
        Some((frame, (1 << frames.tables_shift(shift)) - handed_out))
    }
}
