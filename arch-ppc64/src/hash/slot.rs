//! One entry in memory, and the protocol by which everybody who is allowed to touch it does.
//!
//! # Protocol
//! An entry is two words: `v`, which holds V and the lock bit (HVLOCK), and `r`, which holds R and C. Both are big-endian.
//! - Hardware, and software that translates, read `v` before `r`. They never lock. They set R and C in `r` by themselves: software by a
//!   compare-exchange, after which it looks at `v` again ([`Slot::record`]).
//! - Everybody else changes an entry only while he holds its lock bit. A free entry is filled by taking the lock out of V = 0, storing
//!   `r`, then storing `v` without the lock (`Release`): so whoever sees V sees the right `r`.
//! - To take an entry out, or to change what hardware may have cached, the owner of the lock stores `v` with V = 0 ([`Locked::hide`]), has the old
//!   translation invalidated, and then changes `r` by an atomic exchange. So an R or C that is set before the exchange is seen
//!   by it, and one that comes later fails its compare-exchange, or finds V gone when it looks again: no update is lost, and none hits an entry that
//!   was meanwhile put in the same place.
//! - Every change sets MODIFIED in `v`; the incremental reader clears it before it looks at the entry.
//!
//! Waiting for a lock is bounded ([`Busy`]), since the words stand in memory that somebody else may have written. Checked by
//! `tests/hash/loom.rs`, which runs this code.

use core::sync::atomic::{AtomicU64, Ordering};

use super::hpte::HpteV;
use super::order::GROUP_ENTRIES;

/// A word of a table that several threads read and write: an `AtomicU64`, or a model checker's.
pub trait Word {
    /// As [`AtomicU64::load`].
    fn load(&self, order: Ordering) -> u64;
    /// As [`AtomicU64::store`].
    fn store(&self, value: u64, order: Ordering);
    /// As [`AtomicU64::compare_exchange`].
    ///
    /// # Errors
    /// What it holds, if that is not `current`.
    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64>;
    /// As [`AtomicU64::swap`].
    fn swap(&self, value: u64, order: Ordering) -> u64;
    /// As [`AtomicU64::fetch_and`].
    fn fetch_and(&self, value: u64, order: Ordering) -> u64;
    /// As [`AtomicU64::fetch_or`].
    fn fetch_or(&self, value: u64, order: Ordering) -> u64;
    /// A store (`Release`) by the owner of the lock, while others exchange single bits of the word. Loom does not know that such a store comes
    /// after the exchanges that it overwrites; for it this is an exchange too.
    #[inline(always)]
    fn publish(&self, value: u64) {
        self.store(value, Ordering::Release);
    }
    /// Called in a loop that waits for another thread.
    fn relax() {
        core::hint::spin_loop();
    }
}

impl Word for AtomicU64 {
    #[inline(always)]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline(always)]
    fn store(&self, value: u64, order: Ordering) {
        self.store(value, order);
    }

    #[inline(always)]
    fn compare_exchange(&self, current: u64, new: u64, success: Ordering, failure: Ordering) -> Result<u64, u64> {
        self.compare_exchange(current, new, success, failure)
    }

    #[inline(always)]
    fn swap(&self, value: u64, order: Ordering) -> u64 {
        self.swap(value, order)
    }

    #[inline(always)]
    fn fetch_and(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_and(value, order)
    }

    #[inline(always)]
    fn fetch_or(&self, value: u64, order: Ordering) -> u64 {
        self.fetch_or(value, order)
    }
}

/// An entry stayed locked for longer than anybody holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a hashed page table entry stays locked")]
pub struct Busy;

/// How often a lock is looked at before [`Busy`]: seconds.
const PATIENCE: u32 = 1 << 26;

/// Masks in memory's byte order, so that a word need not be swapped to be looked at.
const LOCK: u64 = HpteV::HVLOCK.to_be();
const VALID: u64 = HpteV::V.to_be();
const MODIFIED: u64 = HpteV::MODIFIED.to_be();

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
        Self { mask: mask.to_be(), want: (want & mask).to_be() }
    }
}

/// The two words of an entry.
#[derive(Debug)]
pub struct Slot<'w, W> {
    v: &'w W,
    r: &'w W,
}

impl<W> Clone for Slot<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Slot<'_, W> {}

impl<'w, W: Word> Slot<'w, W> {
    /// The entry that consists of these words.
    pub const fn new(v: &'w W, r: &'w W) -> Self {
        Self { v, r }
    }

    /// The first doubleword, software bits included.
    #[inline(always)]
    #[must_use]
    pub fn v(self) -> u64 {
        u64::from_be(self.v.load(Ordering::Acquire))
    }

    /// The second doubleword. Says something only about the `v` that was loaded before it.
    #[inline(always)]
    #[must_use]
    pub fn r(self) -> u64 {
        u64::from_be(self.r.load(Ordering::Acquire))
    }

    /// Both doublewords as they were at one time.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn read(self) -> Result<[u64; 2], Busy> {
        let mut v = self.v.load(Ordering::Acquire);
        for _ in 0..PATIENCE {
            let r = self.r.load(Ordering::Acquire);
            let again = self.v.load(Ordering::Acquire);
            if (again ^ v) & !MODIFIED == 0 && again & LOCK == 0 {
                return Ok([u64::from_be(again), u64::from_be(r)]);
            }
            if again & LOCK != 0 {
                W::relax();
            }
            v = again;
        }
        Err(Busy)
    }

    /// Fills the entry if it is free and not locked; says whether it did.
    #[inline(always)]
    pub fn enter(self, words: [u64; 2]) -> bool {
        let seen = self.v.load(Ordering::Relaxed);
        if seen & (LOCK | VALID) != 0
            || self.v.compare_exchange(seen, LOCK, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return false;
        }
        self.fill(words);
        true
    }

    /// Fills an entry whose lock the caller holds, and unlocks it.
    #[inline]
    fn fill(self, [v, r]: [u64; 2]) {
        // `Release`, too: whoever sets R or C in this `r` must see that the entry is not the one before any more.
        self.r.store(r.to_be(), Ordering::Release);
        self.v.publish(v.to_be() & !LOCK | MODIFIED);
    }

    /// Fills the entry if it is free, waiting for its lock; says whether it did.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn enter_waiting(self, words: [u64; 2]) -> Result<bool, Busy> {
        match self.lock_if(|v| v & HpteV::V == 0)? {
            Some(locked) => {
                core::mem::forget(locked);
                self.fill(words);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Takes the lock if `wanted` of the unlocked first doubleword; `None` if not.
    ///
    /// # Errors
    /// [`Busy`].
    #[inline]
    pub fn lock_if(self, wanted: impl Fn(u64) -> bool) -> Result<Option<Locked<'w, W>>, Busy> {
        let mut seen = self.v.load(Ordering::Relaxed);
        for _ in 0..PATIENCE {
            if seen & LOCK != 0 {
                W::relax();
                seen = self.v.load(Ordering::Relaxed);
                continue;
            }
            if !wanted(u64::from_be(seen)) {
                return Ok(None);
            }
            match self.v.compare_exchange(seen, seen | LOCK, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(Some(Locked { slot: self, v: seen, changed: false })),
                Err(now) => seen = now,
            }
        }
        Err(Busy)
    }

    /// As [`lock_if`](Self::lock_if), but gives up at once if somebody else holds the lock.
    #[inline]
    pub fn try_lock_if(self, wanted: impl Fn(u64) -> bool) -> Option<Locked<'w, W>> {
        let seen = self.v.load(Ordering::Relaxed);
        if seen & LOCK != 0 || !wanted(u64::from_be(seen)) {
            return None;
        }
        self.v.compare_exchange(seen, seen | LOCK, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Locked { slot: self, v: seen, changed: false })
    }

    /// Sets what `rc` has of R and C in the entry that was seen as `v` and `r`, on behalf of an access; false if it is not that entry any more:
    /// then the access must be translated anew.
    #[inline]
    pub fn record(self, v: u64, r: u64, rc: u64) -> bool {
        if self.r.compare_exchange(r.to_be(), (r | rc).to_be(), Ordering::AcqRel, Ordering::Acquire).is_err() {
            return false;
        }
        // An exchange, not a load, even if the bit is set: it is ordered with the one that clears it.
        let now = self.v.fetch_or(MODIFIED, Ordering::AcqRel);
        (now ^ v.to_be()) & !(LOCK | MODIFIED) == 0
    }

    /// Clears MODIFIED; says whether it was set. Whatever set it is seen by later loads.
    #[inline]
    pub fn take_modified(self) -> bool {
        self.v.load(Ordering::Relaxed) & MODIFIED != 0 && self.v.fetch_and(!MODIFIED, Ordering::AcqRel) & MODIFIED != 0
    }

    /// Stores an entry, or zeros, in a table that nobody else uses now.
    #[inline(always)]
    pub fn put(self, [v, r]: [u64; 2]) {
        self.r.store(r.to_be(), Ordering::Relaxed);
        self.v.store(v.to_be(), Ordering::Release);
    }
}

/// The lock on an entry. Dropping it unlocks.
#[derive(Debug)]
pub struct Locked<'w, W: Word> {
    slot: Slot<'w, W>,
    /// What `v` is when it is unlocked, in memory's byte order.
    v: u64,
    /// Whether anything differs from what was there before the lock.
    changed: bool,
}

impl<W: Word> Locked<'_, W> {
    /// The first doubleword, without the lock.
    #[inline]
    #[must_use]
    pub fn v(&self) -> u64 {
        u64::from_be(self.v)
    }

    /// The second doubleword. Hardware may still set R and C in it, unless the entry is hidden and was invalidated.
    #[inline]
    #[must_use]
    pub fn r(&self) -> u64 {
        self.slot.r()
    }

    /// Makes the entry invalid, until it is unlocked.
    #[inline]
    pub fn hide(&mut self) {
        self.slot.v.publish(self.v & !VALID | LOCK);
        self.changed = true;
    }

    /// Replaces the second doubleword by what `change` makes of it; returns what it was.
    pub fn update_r(&mut self, change: impl Fn(u64) -> u64) -> u64 {
        self.changed = true;
        let mut seen = self.slot.r.load(Ordering::Relaxed);
        // Only R and C can be set meanwhile, each once, unless somebody else writes this memory: then his writes win in the end.
        for _ in 0..PATIENCE {
            let new = change(u64::from_be(seen)).to_be();
            match self.slot.r.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        u64::from_be(seen)
    }

    /// Empties the entry, which is hidden, and unlocks it; returns its second doubleword with everything that was recorded in it.
    #[inline]
    pub fn clear(mut self) -> u64 {
        let r = self.slot.r.swap(0, Ordering::AcqRel);
        self.changed = true;
        self.v = 0;
        u64::from_be(r)
    }
}

impl<W: Word> Drop for Locked<'_, W> {
    #[inline]
    fn drop(&mut self) {
        if self.changed {
            self.slot.v.publish(self.v | MODIFIED);
        } else {
            // Not a store: MODIFIED may have been set meanwhile.
            self.slot.v.fetch_and(!LOCK, Ordering::Release);
        }
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
        Slot { v: &self.words[at], r: &self.words[at + 1] }
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
        let mut found = 0;
        for index in 0..GROUP_ENTRIES {
            let word = self.words[index * 2].load(Ordering::Relaxed);
            found |= u32::from(word & pattern.mask == pattern.want) << index;
        }
        found
    }

    /// Puts `words` into the first free entry of those in `places` (a bit for each); `None` if there is none.
    ///
    /// First without waiting, then, if that found nothing, waiting for the lock of each entry that may become free.
    ///
    /// # Errors
    /// [`Busy`].
    #[inline]
    pub fn enter(self, words: [u64; 2], places: u8) -> Result<Option<usize>, Busy> {
        let mut free = self.matching(Pattern::new(0, HpteV::V | HpteV::HVLOCK)) & u32::from(places);
        while free != 0 {
            let index = free.trailing_zeros() as usize;
            if self.slot(index).enter(words) {
                return Ok(Some(index));
            }
            free &= free - 1;
        }
        self.enter_waiting(words, places)
    }

    #[cold]
    fn enter_waiting(self, words: [u64; 2], places: u8) -> Result<Option<usize>, Busy> {
        for index in (0..GROUP_ENTRIES).filter(|index| places >> index & 1 != 0) {
            let slot = self.slot(index);
            let v = slot.v();
            if (v & HpteV::V == 0 || v & HpteV::HVLOCK != 0) && slot.enter_waiting(words)? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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

    #[test]
    fn recording_hits_the_entry_that_was_seen_or_nothing() {
        let words = words();
        let slot = Group::new(&words).unwrap().slot(2);
        assert!(slot.enter([0x1001, 0x190]));
        assert!(slot.take_modified());
        assert!(!slot.take_modified());
        assert!(slot.record(0x1001, 0x190, 0x80));
        assert!(slot.take_modified());
        assert_eq!(slot.read(), Ok([0x1001, 0x190]));
        assert!(!slot.record(0x1001, 0x110, 0x80), "another second doubleword");
        assert!(!slot.record(0x2001, 0x190, 0x80), "another page");
        assert!(slot.take_modified(), "that the entry is read once more does no harm");
        let locked = slot.lock_if(|_| true).unwrap().unwrap();
        drop(locked);
        assert_eq!(slot.read(), Ok([0x1001, 0x190]), "unchanged, so not marked as modified");
    }
}
