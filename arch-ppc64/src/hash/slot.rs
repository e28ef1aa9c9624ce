//! One entry in memory, and the protocol by which everybody who is allowed to touch it does.
//!
//! # Protocol
//! An entry is two words: `v`, which holds V and the lock bit (HVLOCK), and `r`, which holds R and
//! C. Both are big-endian.
//! - Hardware, and software that translates, read `v` before `r`, and never lock. Hardware reads
//!   both at once; software looks at `v` again ([`Slot::read_if`]). They set R and C in `r` by
//!   themselves: software by a compare-exchange, after which it looks at `v` again
//!   ([`Slot::record`]).
//! - A reader that needs both words of one moment ([`Slot::read`]: `H_READ`, the migration stream)
//!   takes the lock of a valid entry. Without the lock, `v` that is the same before and after `r`
//!   is loaded proves nothing: the entry may have left and come back between the two loads, with
//!   another `r`.
//! - An entry that its owner hides for a moment keeps its page in `v`. So a search that must not
//!   miss it compares neither V nor the lock bit, and waits for each locked entry that matches
//!   ([`Group::find`](super::Group::find)).
//! - Everybody else changes an entry only while he holds its lock bit. A free entry is filled by
//!   taking the lock out of V = 0, storing `r`, then storing `v` without the lock (`Release`): so
//!   whoever sees V sees the right `r`.
//! - To take an entry out, or to change what hardware may have cached, the owner of the lock stores
//!   `v` with V = 0 ([`Locked::hide`]), has the old translation invalidated, and then changes `r`
//!   by an atomic exchange. So an R or C that is set before the exchange is seen by it, and one
//!   that comes later fails its compare-exchange, or finds V gone when it looks again: no update is
//!   lost, and none hits an entry that was meanwhile put in the same place.
//! - Whoever only takes an entry out takes the lock and V by one exchange ([`Slot::hide_if`]),
//!   after which `r` need only be loaded ([`Hidden`]).
//! - Every change sets MODIFIED in `v`; the incremental reader clears it before it looks at the
//!   entry.
//!
//! Waiting for a lock is bounded ([`Busy`]), since the words stand in memory that somebody else may
//! have written. Checked by `loom/arch-ppc64/tests/hash.rs`, which runs this code.

use core::sync::atomic::Ordering;

use super::group::Pattern;
use super::hpte::HpteV;
use super::word::Word;

/// An entry stayed locked for longer than anybody holds a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a hashed page table entry stays locked")]
pub struct Busy;

/// How often a lock is looked at before [`Busy`]: for tens of milliseconds, longer than a holder
/// that lost its CPU is without it.
pub(in crate::hash) const PATIENCE: u32 = 1 << 22;

/// How often an operation begins anew because another thread changed an entry meanwhile, before
/// [`Busy`]: each turn means that another one succeeded, or that somebody else writes this memory.
pub(in crate::hash) const TURNS: u32 = 1 << 16;

/// Masks in memory's byte order, so that a word need not be swapped to be looked at.
const LOCK: u64 = HpteV::HVLOCK.to_be();
const VALID: u64 = HpteV::V.to_be();
const MODIFIED: u64 = HpteV::MODIFIED.to_be();

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

    /// Loads a word, so that the entry is in the cache soon; does not wait for it.
    #[inline(always)]
    pub fn touch(self) {
        core::hint::black_box(self.v.load(Ordering::Relaxed));
    }

    /// Both doublewords, if the first fits `pattern` before and after the second is loaded.
    ///
    /// They belong together unless the entry left and came back between the loads. If it was the
    /// only one to do so, the second is one of its two, or zero: that of a place which is being
    /// emptied. If another entry stood there in between, the second may be that one's. A table
    /// whose removals wait for software that translates (as they wait for hardware, before the
    /// place is free: [`Partition::invalidate`](super::Partition::invalidate)) has no such reader.
    /// A reader that nobody waits for takes the lock: [`read`](Self::read),
    /// [`read_locked`](Self::read_locked).
    #[inline(always)]
    #[must_use]
    pub fn read_if(self, pattern: Pattern) -> Option<[u64; 2]> {
        let before = self.v.load(Ordering::Acquire);
        let r = self.r.load(Ordering::Acquire);
        let after = self.v.load(Ordering::Relaxed);
        pattern.fits(before, after).then(|| [after, r].map(u64::from_be))
    }

    /// Both doublewords as they were at one time; of an entry that is not valid the second is zero.
    ///
    /// Takes the lock of a valid entry: this needs memory that may be written.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn read(self) -> Result<[u64; 2], Busy> {
        match self.lock_or_seen(|v| v & HpteV::V != 0)? {
            Ok(locked) => Ok([locked.v(), locked.r()]),
            Err(v) => Ok([v, 0]),
        }
    }

    /// Both doublewords as they were at one time, if `wanted` of the first; waits while another
    /// thread changes the entry.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn read_locked(self, wanted: impl Fn(u64) -> bool) -> Result<Option<[u64; 2]>, Busy> {
        Ok(self.lock_if(wanted)?.map(|locked| [locked.v(), locked.r()]))
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
        // `Release`, too: whoever sets R or C in this `r` must see that the entry is not the one
        // before any more.
        self.r.store(r.to_be(), Ordering::Release);
        self.v.publish(v.to_be() & !LOCK | MODIFIED);
    }

    /// Fills the entry if it is free, waiting for its lock; says whether it did.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn enter_waiting(self, words: [u64; 2]) -> Result<bool, Busy> {
        let free = self.lock_if(|v| v & HpteV::V == 0)?;
        Ok(free.map(|free| free.fill(words)).is_some())
    }

    /// Takes the lock if `wanted` of the unlocked first doubleword; `None` if not.
    ///
    /// # Errors
    /// [`Busy`].
    #[inline]
    pub fn lock_if(self, wanted: impl Fn(u64) -> bool) -> Result<Option<Locked<'w, W>>, Busy> {
        self.lock_or_seen(wanted).map(Result::ok)
    }

    /// As [`lock_if`](Self::lock_if); in place of the lock the first doubleword that is not wanted.
    #[inline]
    fn lock_or_seen(
        self,
        wanted: impl Fn(u64) -> bool,
    ) -> Result<Result<Locked<'w, W>, u64>, Busy> {
        let mut seen = self.v.load(Ordering::Relaxed);
        for _ in 0..PATIENCE {
            if seen & LOCK != 0 {
                W::relax();
                seen = self.v.load(Ordering::Relaxed);
                continue;
            }
            if !wanted(u64::from_be(seen)) {
                return Ok(Err(u64::from_be(seen)));
            }
            match self.v.compare_exchange(seen, seen | LOCK, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return Ok(Ok(Locked { slot: self, v: seen, changed: false })),
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

    /// Takes the lock and makes the entry invalid, in one exchange, if it is still as it was seen:
    /// `v`, which is valid and not locked.
    #[inline(always)]
    pub fn hide_if(self, v: u64) -> Option<Hidden<'w, W>> {
        let seen = v.to_be();
        if seen & LOCK != 0 {
            return None;
        }
        let hidden = seen & !VALID | LOCK;
        self.v.compare_exchange(seen, hidden, Ordering::Acquire, Ordering::Relaxed).ok()?;
        Some(Hidden { slot: self, v: seen })
    }

    /// Sets what `rc` has of R and C in the entry that was seen as `v` and `r`, on behalf of an
    /// access; false if it is not that entry any more: then the access must be translated anew.
    #[inline]
    pub fn record(self, v: u64, r: u64, rc: u64) -> bool {
        if self
            .r
            .compare_exchange(r.to_be(), (r | rc).to_be(), Ordering::AcqRel, Ordering::Acquire)
            .is_err()
        {
            return false;
        }
        // An exchange, not a load, even if the bit is set: it is ordered with the one that clears
        // it.
        let now = self.v.fetch_or(MODIFIED, Ordering::AcqRel);
        (now ^ v.to_be()) & !(LOCK | MODIFIED) == 0
    }

    /// Clears MODIFIED; says whether it was set. Whatever set it is seen by later loads.
    #[inline]
    pub fn take_modified(self) -> bool {
        self.v.load(Ordering::Relaxed) & MODIFIED != 0
            && self.v.fetch_and(!MODIFIED, Ordering::AcqRel) & MODIFIED != 0
    }

    /// Stores an entry, or zeros, in a table that nobody else uses now.
    #[inline(always)]
    pub fn put(self, [v, r]: [u64; 2]) {
        self.r.store(r.to_be(), Ordering::Relaxed);
        self.v.store(v.to_be(), Ordering::Release);
    }
}

/// The lock on an entry that was made invalid by the exchange that took the lock. Dropping it puts
/// the entry back.
///
/// Who records R and C exchanges `v` after `r`. So either his exchange of `v` was before the one
/// that hid the entry, and what he set in `r` is seen by whoever holds this; or it comes after, and
/// he sees that the entry is gone. So `r` need only be loaded.
#[derive(Debug)]
pub struct Hidden<'w, W: Word> {
    slot: Slot<'w, W>,
    /// What `v` was, in memory's byte order.
    v: u64,
}

impl<W: Word> Hidden<'_, W> {
    /// The second doubleword, with everything that was recorded in it.
    #[inline(always)]
    #[must_use]
    pub fn r(&self) -> u64 {
        u64::from_be(self.slot.r.load(Ordering::Relaxed))
    }

    /// Empties the entry, and unlocks it.
    #[inline(always)]
    pub fn clear(self) {
        self.slot.r.publish(0);
        self.slot.v.publish(MODIFIED);
        core::mem::forget(self);
    }
}

impl<W: Word> Drop for Hidden<'_, W> {
    fn drop(&mut self) {
        self.slot.v.publish(self.v | MODIFIED);
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

    /// The second doubleword. Hardware may still set R and C in it, unless the entry is hidden and
    /// was invalidated.
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
        // Only R and C can be set meanwhile, each once, unless somebody else writes this memory:
        // then his writes win in the end.
        for _ in 0..PATIENCE {
            let new = change(u64::from_be(seen)).to_be();
            match self.slot.r.compare_exchange(seen, new, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        u64::from_be(seen)
    }

    /// Fills the entry, which is free, and unlocks it.
    #[inline]
    pub fn fill(self, words: [u64; 2]) {
        let slot = self.slot;
        core::mem::forget(self);
        slot.fill(words);
    }

    /// Empties the entry, which is hidden, and unlocks it; returns its second doubleword with
    /// everything that was recorded in it.
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

#[cfg(test)]
mod tests {
    use crate::hash::Group;
    extern crate std;
    use core::sync::atomic::AtomicU64;
    use std::vec::Vec;

    fn words() -> Vec<AtomicU64> {
        (0..16).map(|_| AtomicU64::new(0)).collect()
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
