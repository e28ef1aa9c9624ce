//! How much work a verb may do, whatever the tables say.
//!
//! A tree knows how many entries all its tables have together. A verb comes to each of its tables
//! once (a promotion once for each level), so it enters no more than so many entries' worth of
//! tables; unless somebody else wrote entries by which a table is its own child, or the child of
//! many. Then the verb ends with [`Error::Malformed`](crate::Error::Malformed) where it would
//! enter one table too many.

use core::sync::atomic::{AtomicU64, Ordering};

/// Twice what a verb of a sound tree needs: a verb may come back to the tables on its way after it
/// changed one of them.
const TIMES: u64 = 2;

/// How many entries the tables of a tree have had, and how many of them are gone.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    made: AtomicU64,
    gone: AtomicU64,
    /// Tables that their allocator did not take back, and no error told of.
    refused: AtomicU64,
    /// Several threads count.
    pub(crate) shared: bool,
}

impl Entries {
    /// A table of `2^width` entries was allocated for the tree.
    pub(crate) fn more(&self, width: u8) {
        self.count(&self.made, 1 << (width & 63));
    }

    /// A table of `2^width` entries left it.
    pub(crate) fn fewer(&self, width: u8) {
        self.count(&self.gone, 1 << (width & 63));
    }

    /// The allocator did not take a table back that was never linked.
    #[cold]
    pub(crate) fn refuse(&self) {
        self.count(&self.refused, 1);
    }

    /// How many tables the allocator did not take back.
    pub(crate) fn refused(&self) -> usize {
        usize::try_from(self.refused.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }

    fn count(&self, count: &AtomicU64, entries: u64) {
        if self.shared {
            count.fetch_add(entries, Ordering::Relaxed);
        } else {
            count.store(count.load(Ordering::Relaxed).wrapping_add(entries), Ordering::Relaxed);
        }
    }
}

/// What is left of the work that a verb may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance<'e> {
    entries: &'e Entries,
    /// Entries of tables that were gone when it began.
    gone: u64,
    /// How often each table may be entered.
    times: u64,
    spent: u64,
    /// How much may be spent, by what had been made when that was looked at last.
    limit: u64,
}

impl<'e> Allowance<'e> {
    /// For a verb that comes to each table once for each of `levels` levels.
    pub(crate) fn new(entries: &'e Entries, levels: u8) -> Self {
        let gone = entries.gone.load(Ordering::Relaxed);
        Self { entries, gone, times: TIMES * u64::from(levels), spent: 0, limit: 0 }
    }

    /// The verb is to enter a table of `2^width` entries; false if that is one too many.
    ///
    /// What other writers make meanwhile counts too; what they take out was there all the same.
    #[inline(always)]
    pub(crate) fn enter(&mut self, width: u8) -> bool {
        self.spent = self.spent.saturating_add(1 << (width & 63));
        self.spent <= self.limit || self.is_within()
    }

    /// The same by what was made until now: that only grows.
    #[inline(never)]
    fn is_within(&mut self) -> bool {
        let entries = self.entries.made.load(Ordering::Relaxed).saturating_sub(self.gone);
        self.limit = entries.saturating_mul(self.times);
        self.spent <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::{Allowance, Entries, TIMES};

    #[test]
    fn as_much_as_the_tree_has() {
        let entries = Entries::default();
        (0..3).for_each(|_| entries.more(9));
        entries.fewer(9);
        let mut allowance = Allowance::new(&entries, 1);
        let enter =
            |allowance: &mut Allowance<'_>| (0..).take_while(|_| allowance.enter(9)).count();
        assert_eq!(enter(&mut allowance) as u64, 2 * TIMES);
        // A table that is made meanwhile may be entered too; the entry that was refused counts.
        entries.more(9);
        entries.fewer(9);
        assert_eq!(enter(&mut allowance) as u64, TIMES - 1);
        assert_eq!(enter(&mut Allowance::new(&entries, 3)) as u64, 2 * 3 * TIMES);
    }
}
