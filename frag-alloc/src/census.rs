//! What the descriptors say, summed up.

use pgtable::Address;

use crate::descriptor::QUARANTINED;
use crate::frames::Frames;
use crate::source::FrameSource;

/// A count over all descriptors. Exact when nobody changes them meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Frames that hold tables.
    pub table_frames: u32,
    /// Frames whose last table is gone but that somebody still holds a reference to.
    pub retired_frames: u32,
    /// Frames that are quarantined, in use or not.
    pub quarantined: u32,
    /// Tables that are alive.
    pub live: u32,
    /// The sum of `refs`: one for each table frame (or table larger than a frame), and the
    /// speculative ones.
    pub refs: u64,
    /// The sum of `fragments`: live tables, and those that a cache could still hand out.
    pub fragments: u64,
}

impl Census {
    /// Whether every frame is back at its source and both counters of each are zero.
    #[must_use]
    pub fn all_home(&self) -> bool {
        Self { quarantined: 0, ..*self } == Self::default()
    }
}

impl<A: Address, S: FrameSource<A>> Frames<A, S> {
    /// Reads every descriptor.
    #[must_use]
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for (frame, it) in (0..).zip(&*self.descriptors) {
            let tag = it.tag();
            census.refs += u64::from(it.refs());
            census.fragments += u64::from(it.fragments());
            census.quarantined += u32::from(it.is(QUARANTINED));
            census.table_frames += u32::from(!tag.is_free());
            census.retired_frames += u32::from(tag.is_free() && it.refs() > 0);
            census.live += self.live_in(frame).count() as u32;
        }
        census
    }

    /// The first granules of the tables that are alive in a frame.
    pub(crate) fn live_in(&self, frame: u32) -> impl Iterator<Item = u32> + '_ {
        let tag = self.descriptor(frame).tag();
        let tables = if tag.is_free() || tag.is_tail() {
            0
        } else {
            1_u32 << self.tables_shift(tag.shift())
        };
        let first = frame << (self.shift - S::SMALLEST);
        (0..tables)
            .map(move |table| first + (table << (tag.shift() - S::SMALLEST)))
            .filter(|&granule| self.is_live(granule))
    }
}
