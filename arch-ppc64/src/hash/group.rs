//! The eight entries of a group: which of them a search means, and the first that is free.

use core::sync::atomic::Ordering;

use super::hpte::HpteV;
use super::order::GROUP_ENTRIES;
use super::slot::{Busy, Locked, Slot};
use super::word::Word;

/// Entries of a group that are in one cache line.
const HALF: usize = GROUP_ENTRIES / 2;

/// What a search compares first doublewords with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pattern {
    mask: u64,
    want: u64,
}

impl Pattern {
    /// Words that are `want` under `mask`, both in the bit order of [`HpteV`].
    #[inline(always)]
    #[must_use]
    pub const fn new(want: u64, mask: u64) -> Self {
        Self { mask: mask.to_be(), want: want.to_be() }
    }

    /// The same of a `mask` in memory's byte order.
    #[inline(always)]
    pub(super) const fn in_memory(want: u64, mask: u64) -> Self {
        Self { mask, want: want.to_be() }
    }

    /// The same, whether the entry is valid or hidden, locked or not.
    const fn valid_or_hidden(self) -> Self {
        let mask = self.mask & !(HpteV::V | HpteV::HVLOCK).to_be();
        Self { mask, want: self.want & mask }
    }

    /// Whether `word`, in the bit order of [`HpteV`], is so.
    fn is(self, word: u64) -> bool {
        (word.to_be() ^ self.want) & self.mask == 0
    }

    /// Whether both words, in memory's byte order, are so.
    #[inline(always)]
    pub(super) const fn fits(self, one: u64, other: u64) -> bool {
        (one ^ self.want | other ^ self.want) & self.mask == 0
    }
}

/// The eight entries of a group.
#[derive(Debug)]
pub struct Group<'w, W> {
    words: &'w [W; 2 * GROUP_ENTRIES],
}

impl<W> Clone for Group<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Group<'_, W> {}

impl<'w, W: Word> Group<'w, W> {
    /// The group that consists of these words; `None` if they are not sixteen.
    #[inline(always)]
    #[must_use]
    pub fn new(words: &'w [W]) -> Option<Self> {
        Some(Self { words: words.try_into().ok()? })
    }

    /// Entry `index`, of which the low three bits count.
    #[inline(always)]
    #[must_use]
    pub fn slot(self, index: usize) -> Slot<'w, W> {
        let at = index % GROUP_ENTRIES * 2;
        Slot::new(&self.words[at], &self.words[at + 1])
    }

    /// Loads a word of each half, so that both are in the cache soon; waits for neither.
    #[inline(always)]
    pub fn touch(self) {
        for half in [0, GROUP_ENTRIES] {
            core::hint::black_box(self.words[half].load(Ordering::Relaxed));
        }
    }

    /// Which entries' first doublewords fit `pattern`, as a bit for each.
    #[inline(always)]
    #[must_use]
    pub fn matching(self, pattern: Pattern) -> u32 {
        self.matching_half(pattern, 0) | self.matching_half(pattern, HALF)
    }

    /// The first of the entries whose first doublewords fit `pattern`; the second half, which is
    /// another cache line, is looked at only if the first has none.
    #[inline(always)]
    pub(super) fn first_matching(self, pattern: Pattern) -> Option<usize> {
        let mut matching = self.matching_half(pattern, 0);
        if matching == 0 {
            matching = self.matching_half(pattern, HALF);
            if matching == 0 {
                return None;
            }
        }
        Some(matching.trailing_zeros() as usize)
    }

    /// As [`matching`](Self::matching), of the four entries from `first` on.
    #[inline(always)]
    fn matching_half(self, pattern: Pattern, first: usize) -> u32 {
        // A borrow for each that is zero, shifted in from the last to the first: no branch, and two
        // instructions beside the comparison.
        let mut found = 0_u32;
        for index in (first..first + HALF).rev() {
            let differs =
                (self.words[index * 2].load(Ordering::Relaxed) ^ pattern.want) & pattern.mask;
            found = found + found + u32::from(differs == 0);
        }
        found << first
    }

    /// The first valid entry whose first doubleword fits `pattern` and that `fits`: its place and
    /// both doublewords, as they were at one time. `pattern` says that V is set.
    ///
    /// One scan, in which an entry that another thread hides for a moment matches as well: it is
    /// waited for. So an entry that stays is found, however often it is hidden.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn find(
        self,
        pattern: Pattern,
        fits: impl Fn([u64; 2]) -> bool,
    ) -> Result<Option<(usize, [u64; 2])>, Busy> {
        let mut matching = self.matching(pattern.valid_or_hidden());
        while matching != 0 {
            let index = matching.trailing_zeros() as usize;
            matching &= matching - 1;
            let slot = self.slot(index);
            let words = match slot.read_if(pattern) {
                Some(words) if words[1] != 0 => Some(words),
                // Hidden, gone, or a second doubleword that may be that of an emptied place.
                _ => slot.read_locked(|v| pattern.is(v))?,
            };
            if let Some(words) = words.filter(|words| fits(*words)) {
                return Ok(Some((index, words)));
            }
        }
        Ok(None)
    }

    /// Puts `words` into the first free entry of those in `places` (a bit for each); `None` if
    /// there is none.
    ///
    /// First without waiting, then, if that found nothing, waiting for the lock of each entry that
    /// may become free.
    ///
    /// # Errors
    /// [`Busy`].
    #[inline]
    pub fn enter(self, words: [u64; 2], places: u8) -> Result<Option<usize>, Busy> {
        match self.enter_at_once(words, places, Slot::enter) {
            Some(index) => Ok(Some(index)),
            None => self.enter_waiting(words, places),
        }
    }

    /// As [`enter`](Self::enter), without waiting: `None` also if what may become free is locked.
    /// By `enter`, which fills a free entry and says whether it did.
    #[inline(always)]
    pub(super) fn enter_at_once(
        self,
        words: [u64; 2],
        places: u8,
        enter: impl Fn(Slot<'w, W>, [u64; 2]) -> bool,
    ) -> Option<usize> {
        let free = Pattern::new(0, HpteV::V | HpteV::HVLOCK);
        for half in [0, HALF] {
            let mut free = self.matching_half(free, half) & u32::from(places);
            while free != 0 {
                let index = free.trailing_zeros() as usize;
                if enter(self.slot(index), words) {
                    return Some(index);
                }
                free &= free - 1;
            }
        }
        None
    }

    #[inline(never)]
    pub(super) fn enter_waiting(self, words: [u64; 2], places: u8) -> Result<Option<usize>, Busy> {
        let full = self.matching(Pattern::new(HpteV::V, HpteV::V | HpteV::HVLOCK));
        let mut open = u32::from(places) & !full;
        while open != 0 {
            let index = open.trailing_zeros() as usize;
            if self.slot(index).enter_waiting(words)? {
                return Ok(Some(index));
            }
            open &= open - 1;
        }
        Ok(None)
    }

    /// Locks the free entry that [`enter`](Self::enter) would fill, and says which it is.
    ///
    /// # Errors
    /// [`Busy`].
    pub(super) fn lock_free(self) -> Result<Option<(usize, Locked<'w, W>)>, Busy> {
        let free = |v: u64| v & HpteV::V == 0;
        let slots = || (0..GROUP_ENTRIES).map(|index| (index, self.slot(index)));
        let at_once = |(index, slot): (_, Slot<'w, W>)| Some((index, slot.try_lock_if(free)?));
        if let Some(locked) = slots().find_map(at_once) {
            return Ok(Some(locked));
        }
        for (index, slot) in slots() {
            if let Some(locked) = slot.lock_if(free)? {
                return Ok(Some((index, locked)));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU64;
    extern crate std;
    use std::vec::Vec;

    fn words() -> Vec<AtomicU64> {
        (0..16).map(|_| AtomicU64::new(0)).collect()
    }

    #[test]
    fn a_group_fills_in_order_and_no_further() {
        let words = words();
        let group = Group::new(&words).unwrap();
        for index in 0..8 {
            assert_eq!(group.enter([0x1001, index], 0xff), Ok(Some(index as usize)));
        }
        assert_eq!(group.enter([0x1001, 9], 0xff), Ok(None));
        let locked = group.slot(5).lock_if(|v| v & HpteV::V != 0).unwrap().unwrap();
        assert!(group.slot(5).try_lock_if(|_| true).is_none());
        assert_eq!((locked.v() & !HpteV::OWN, locked.r()), (0x1001, 5));
        drop(locked);
        let mut locked = group.slot(5).try_lock_if(|_| true).unwrap();
        locked.hide();
        assert_eq!(group.slot(5).v() & (HpteV::V | HpteV::HVLOCK), HpteV::HVLOCK);
        assert_eq!(locked.clear(), 5);
        assert_eq!(group.slot(5).read(), Ok([HpteV::MODIFIED, 0]));
        assert_eq!(group.enter([0x2001, 7], 0xdf), Ok(None));
        assert_eq!(group.enter([0x2001, 7], 0xff), Ok(Some(5)));
        assert_eq!(words[10].load(Ordering::Relaxed).to_be(), 0x2001 | HpteV::MODIFIED);
        assert!(Group::new(&words[1..]).is_none());
    }
}
