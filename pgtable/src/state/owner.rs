//! Who owns a table, as a number above the count of its live entries.

use core::sync::atomic::{AtomicU32, Ordering};

/// "Locked by a verb", "locked by a range"; without either the tree itself is the owner.
const VERB: u64 = 1 << 22;
const RANGE: u64 = 2 << 22;
/// The number of the writer or of the range.
const NUMBER_SHIFT: u32 = 24;
pub(super) const NUMBER: u64 = (1 << 20) - 1;
/// The number of the tree. No tree has the number zero.
const TREE_SHIFT: u32 = 44;
const TREES: u32 = (1 << 20) - 1;

/// The owner of a table: a tree, or a writer of a shared tree that has locked the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Owner(pub(super) u64);

impl Owner {
    /// No owner.
    pub(crate) const NONE: Self = Self(0);

    /// A new tree. Its number is another tree's too only if 2^20 trees were made in between.
    pub(crate) fn new_tree() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed) % TREES + 1;
        Self(u64::from(number) << TREE_SHIFT)
    }

    /// A verb of the writer `number` of this tree.
    pub(crate) fn verb(self, number: u32) -> Self {
        Self(self.tree().0 | VERB | (u64::from(number) & NUMBER) << NUMBER_SHIFT)
    }

    /// The locked range `number` of this tree.
    pub(crate) fn range(self, number: u32) -> Self {
        Self(self.tree().0 | RANGE | (u64::from(number) & NUMBER) << NUMBER_SHIFT)
    }

    /// The tree itself.
    #[inline(always)]
    pub(crate) fn tree(self) -> Self {
        Self(self.0 >> TREE_SHIFT << TREE_SHIFT)
    }

    /// The number of the locked range, if that is the owner.
    #[inline]
    pub(super) fn range_number(self) -> Option<u32> {
        (self.0 & RANGE != 0).then_some((self.0 >> NUMBER_SHIFT & NUMBER) as u32)
    }
}
