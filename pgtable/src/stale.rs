//! What became stale: ranges of addresses, or everything; and whether tables left the tree.

use arrayvec::ArrayVec;

use crate::address::{Address, low_bits};

/// Ranges that a gather holds apart before it asks for everything to be flushed.
pub const MAX_RANGES: usize = 16;

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

/// Everything that has to become unreachable, for the [`Invalidate`](crate::invalidate::Invalidate)
/// implementation to read.
#[derive(Clone, Debug)]
pub struct Stale<A: Address> {
    ranges: ArrayVec<StaleRange<A>, MAX_RANGES>,
    everything: bool,
    pub(crate) tables: bool,
    /// The address at which the last range goes on, and its pages' size; 0 if there is no range, or
    /// if it ends with the space.
    next: u64,
    shift: u8,
}

impl<A: Address> Stale<A> {
    pub(crate) const fn new() -> Self {
        Self { ranges: ArrayVec::new_const(), everything: false, tables: false, next: 0, shift: 0 }
    }

    pub(crate) fn clear(&mut self) {
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
    pub(crate) fn add(&mut self, range: StaleRange<A>) {
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
    pub(crate) fn all(&mut self) {
        self.ranges.clear();
        (self.everything, self.next) = (true, 0);
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

    /// What may be mapped again: nothing where hardware may hold a translation, and nowhere while a
    /// table that left may be walked.
    #[test]
    fn what_is_met() {
        let page = |page: u64| Gva::new(page << 12);
        let range = StaleRange { start: page(4), last: page(6), shift: 12 };
        for (start, bytes, meets) in [
            (page(0), 0x4000, false),
            (page(0), 0x4001, true),
            (page(6), 0x1000, true),
            (page(7), 0x1000, false),
            (page(7), u64::MAX, false),
            (page(0), u64::MAX, true),
            (page(4), 0, true),
        ] {
            let mut stale = Stale::<Gva>::new();
            assert!(!stale.meets(start, bytes));
            stale.add(range);
            assert_eq!(stale.meets(start, bytes), meets, "{start} {bytes:#x}");
            stale.tables = true;
            assert!(stale.meets(start, bytes), "{start} {bytes:#x}");
            stale.tables = false;
            stale.all();
            assert!(stale.meets(start, bytes), "{start} {bytes:#x}");
        }
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
