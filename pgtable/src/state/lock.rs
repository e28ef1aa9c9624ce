//! Locking a table: its word names another owner for a while.

use core::sync::atomic::Ordering;

use super::{COUNT, Owner, TableState};
use crate::ranges::Ranges;

/// Why a table was not locked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum LockRefused {
    /// Another writer has it.
    Busy,
    /// This owner has it already.
    Mine,
    /// It is not a table of this tree (any more).
    Left,
}

impl TableState {
    /// Tries once to lock the table for `me`, a writer of a tree whose locked ranges are `ranges`.
    #[inline]
    pub(crate) fn try_lock(&self, me: Owner, ranges: &Ranges) -> Result<(), LockRefused> {
        let state = self.load();
        let owner = Owner(state & !COUNT);
        if owner != me.tree() {
            return self.try_lock_of(state, me, ranges);
        }
        let locked = me.0 | state & COUNT;
        match self.0.compare_exchange(state, locked, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => Ok(()),
            Err(found) if Owner(found).tree() != me.tree() => Err(LockRefused::Left),
            Err(_) => Err(LockRefused::Busy),
        }
    }

    /// The same for a table that the tree itself has not.
    #[cold]
    fn try_lock_of(&self, state: u64, me: Owner, ranges: &Ranges) -> Result<(), LockRefused> {
        let owner = Owner(state & !COUNT);
        if owner.tree() != me.tree() {
            // What the writer that took it out of the tree stored before is seen by whoever looks
            // for it once more.
            self.0.load(Ordering::Acquire);
            return Err(LockRefused::Left);
        }
        if owner == me {
            return Err(LockRefused::Mine);
        }
        match owner.range_number() {
            Some(number) if !ranges.is_alive(number) => self.take_over(state, me, number, ranges),
            _ => Err(LockRefused::Busy),
        }
    }

    /// Locks the table for `me`, which a range that has ended left locked.
    ///
    /// A new range of the same number may begin meanwhile, and a guest may lead it here. The range
    /// is alive before it looks at the table ([`is_of`](Self::is_of)), and this looks whether it is
    /// alive after the exchange, each in the one order of sequentially consistent accesses. So
    /// either the range finds that it has not the table, or this finds the range alive, and gives
    /// the table back.
    fn take_over(
        &self,
        state: u64,
        me: Owner,
        number: u32,
        ranges: &Ranges,
    ) -> Result<(), LockRefused> {
        let locked = me.0 | state & COUNT;
        let (order, failed) = (Ordering::SeqCst, Ordering::Relaxed);
        if self.0.compare_exchange(state, locked, order, failed).is_err() {
            return Err(LockRefused::Busy);
        }
        if ranges.is_alive(number) {
            self.0.store(state, Ordering::Release);
            return Err(LockRefused::Busy);
        }
        Ok(())
    }

    /// Tries once to lock the table for `me`, until what this returns is dropped: also by the panic
    /// of an embedder's code.
    #[inline(always)]
    pub(crate) fn lock_once(&self, me: Owner, tree: Owner) -> Option<Locked<'_>> {
        let open = self.load();
        let live = open ^ tree.0;
        // Of a table that is full by its count nothing is known.
        if live >= COUNT {
            return None;
        }
        let (order, failed) = (Ordering::Acquire, Ordering::Relaxed);
        self.0.compare_exchange(open, me.0 | live, order, failed).ok()?;
        Some(Locked { state: self, open })
    }
}

/// A table that is locked until this is dropped, and then has the count that this says.
#[must_use]
#[derive(Debug)]
pub(crate) struct Locked<'s> {
    state: &'s TableState,
    open: u64,
}

impl Locked<'_> {
    /// How many entries are live.
    #[inline(always)]
    pub(crate) fn live(&self) -> u32 {
        (self.open & COUNT) as u32
    }

    /// One entry more is live. Once: there was room for one.
    #[inline(always)]
    pub(crate) fn added(&mut self) {
        self.open += 1;
    }

    /// One entry fewer is live, of several.
    #[inline(always)]
    pub(crate) fn removed(&mut self) {
        self.open -= 1;
    }
}

impl Drop for Locked<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.state.0.store(self.open, Ordering::Release);
    }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use super::super::owner::NUMBER;
    use super::{LockRefused, Owner, TableState};
    use crate::ranges::{Alive, Ranges, Uses};

    /// What becomes of a table that is asked for, by whose it is.
    #[test]
    fn who_locks() {
        let ranges = Ranges::after(Uses::default());
        let alive = Alive::begin(&ranges, 5).expect("the first");
        let [tree, other] = [0; 2].map(|_| Owner::new_tree());
        let range = tree.range(alive.number());
        let me = tree.verb(9);
        for (has, locked) in [
            (tree, Ok(())),
            (Owner::NONE, Err(LockRefused::Left)),
            (other, Err(LockRefused::Left)),
            (other.range(alive.number()), Err(LockRefused::Left)),
            (other.range(0), Err(LockRefused::Left)),
            (me, Err(LockRefused::Mine)),
            (tree.verb(10), Err(LockRefused::Busy)),
            (range, Err(LockRefused::Busy)),
            // Ranges that have ended, or never were.
            (tree.range(alive.number() + 1), Ok(())),
            (tree.range(NUMBER as u32), Ok(())),
        ] {
            let state = TableState::new();
            state.begin(has);
            state.add(has, 7);
            let before = state.load();
            assert_eq!(state.try_lock(me, &ranges), locked, "{has:?}");
            let after = if locked.is_ok() { me.0 | 7 } else { before };
            assert_eq!(state.load(), after, "{has:?}");
            assert_eq!(state.adopt(tree), has.tree() == tree, "{has:?}");
        }
        let state = TableState::new();
        state.begin(range);
        drop(alive);
        assert_eq!(state.try_lock(me, &ranges), Ok(()));
    }

    /// A new range of the number of one that ended keeps the table if it is alive when another
    /// writer takes the table over.
    #[test]
    fn who_takes_over() {
        let ranges = Ranges::after(Uses::default());
        let alive = Alive::begin(&ranges, 0).expect("the first");
        let tree = Owner::new_tree();
        let (me, range) = (tree.verb(1), tree.range(alive.number()));
        let state = TableState::new();
        state.begin(range);
        let seen = state.load();
        assert_eq!(state.take_over(seen, me, alive.number(), &ranges), Err(LockRefused::Busy));
        assert!(state.is_of(range));
        assert_eq!(state.take_over(seen + 1, me, alive.number(), &ranges), Err(LockRefused::Busy));
        let number = alive.number();
        drop(alive);
        assert_eq!(state.take_over(seen, me, number, &ranges), Ok(()));
        assert!(state.is_of(me));
    }
}
