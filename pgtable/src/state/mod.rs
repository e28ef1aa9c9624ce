//! What a tree knows about each of its tables, and which writer may change a table.
//!
//! # Protocol
//! Each table has one word of 64 bits, which names its owner and counts its live entries:
//!
//! | owner | written as | may change the table's entries and the word |
//! | --- | --- | --- |
//! | none: the table is not in a tree (never was, or has left it) | zero | nothing |
//! | an exclusive tree | the tree's number | that tree's one writer |
//! | a shared tree | the tree's number | nothing: a writer locks the table first |
//! | a verb of a [`Writer`](crate::shared::Writer) | tree, "verb", the writer's number | that verb |
//! | a [`LockedRange`](crate::shared::LockedRange) | tree, "range", the range's number | that range |
//!
//! A table is born with its owner: the word is stored before the table can be linked. Each change
//! of the word names the owner that makes it, and does nothing if the word names another. So a
//! table that a guest made reachable by a second way, from the same tree or from another tree of
//! the same allocator, is not counted, unlocked, unlinked or freed by a writer that it does not
//! belong to.
//!
//! The owner is a plain load and compare: while the word names an owner, only that owner stores to
//! it. Two steps are atomic exchanges. A lock is taken from the shared tree; and the lock of a
//! range that has [ended](crate::ranges::Ranges), which its writer could not give back because a
//! guest hid the table, is taken over.

mod lock;
mod owner;

use core::sync::atomic::Ordering;

#[cfg(not(pgtable_loom))]
use core::sync::atomic::AtomicU64;
#[cfg(pgtable_loom)]
use loom::sync::atomic::AtomicU64;

pub(crate) use lock::{LockRefused, Locked};
pub(crate) use owner::Owner;

/// Bits of the count of live entries. A table has at most 2^20.
const COUNT: u64 = (1 << 22) - 1;
/// From this count on it is not known how many entries are live, since a writer was interrupted. (A
/// table has at most 2^20.)
pub(crate) const UNKNOWN: u32 = (1 << 20) + 1;
/// Added to a count that is not known from now on: as many entries as a table has may come or go,
/// and it stays unknown.
pub(crate) const LOST: u32 = 5 << 19;

/// What a tree knows about one of its tables, in 64 bits: who may change it, and how many of its
/// entries are live.
///
/// The word belongs to the tree. An allocator keeps one for each table that it can hand out, zero
/// at the beginning, and neither reads nor writes it.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct TableState(AtomicU64);

impl TableState {
    /// The state of a table that is in no tree.
    #[cfg(not(pgtable_loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// The state of a table that is in no tree. (A model checker's atomics are not made at compile
    /// time.)
    #[cfg(pgtable_loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// How many entries of the table are present; more than 2^20 if that is not known, because a
    /// writer was interrupted (a cursor that was forgotten, a panic of the embedder's code).
    #[inline]
    #[must_use]
    pub fn live(&self) -> u32 {
        (self.load() & COUNT) as u32
    }

    /// Whether the table is in a tree and not locked.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        let owner = self.owner();
        owner != Owner::NONE && owner == owner.tree()
    }

    #[inline(always)]
    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    #[inline(always)]
    fn owner(&self) -> Owner {
        Owner(self.load() & !COUNT)
    }

    /// How many entries are live, if `owner` has the table.
    #[inline(always)]
    pub(crate) fn live_of(&self, owner: Owner) -> Option<u32> {
        let live = self.load() ^ owner.0;
        (live <= COUNT).then_some(live as u32)
    }

    /// Whether `owner` has the table. (Sequentially consistent: see
    /// [`take_over`](Self::take_over).)
    #[inline(always)]
    pub(crate) fn is_of(&self, owner: Owner) -> bool {
        self.0.load(Ordering::SeqCst) ^ owner.0 <= COUNT
    }

    /// The table was allocated for `owner`; no entry is live.
    #[inline]
    pub(crate) fn begin(&self, owner: Owner) {
        self.0.store(owner.0, Ordering::Relaxed);
    }

    /// `entries` more are live. False, and nothing changed, if `owner` has not the table.
    #[inline(always)]
    pub(crate) fn add(&self, owner: Owner, entries: u32) -> bool {
        let live = self.load() ^ owner.0;
        if live > COUNT {
            return false;
        }
        // Without a carry into the owner, also where a guest's stores made the count wrong.
        self.0.store(owner.0 | (live + u64::from(entries)) & COUNT, Ordering::Relaxed);
        true
    }

    /// One entry more is live. False, and nothing changed, if `owner` has not the table.
    #[inline(always)]
    pub(crate) fn add_one(&self, owner: Owner) -> bool {
        let state = self.load();
        let added = state ^ owner.0 < COUNT;
        if added {
            self.0.store(state + 1, Ordering::Relaxed);
        }
        added
    }

    /// `entries` fewer are live; returns how many remain. `None`, and nothing changed, if `owner`
    /// has not the table.
    #[inline]
    pub(crate) fn sub(&self, owner: Owner, entries: u32) -> Option<u32> {
        let live = self.live_of(owner)?;
        let left = live.wrapping_sub(entries) & COUNT as u32;
        self.0.store(owner.0 | u64::from(left), Ordering::Relaxed);
        Some(left)
    }

    /// One entry fewer is live, and another one still is. False, and nothing changed, if that is
    /// not so of a table of `owner`.
    #[inline(always)]
    pub(crate) fn remove_one(&self, owner: Owner) -> bool {
        let state = self.load();
        // Less than two are larger than any count.
        let removed = (state ^ owner.0).wrapping_sub(2) <= COUNT - 2;
        if removed {
            self.0.store(state - 1, Ordering::Relaxed);
        }
        removed
    }

    /// The last live entry is not any more. False, and nothing changed, if there is not just one in
    /// a table of `owner`.
    #[inline]
    pub(crate) fn remove_last(&self, owner: Owner) -> bool {
        let last = self.load() ^ owner.0 == 1;
        if last {
            self.0.store(owner.0, Ordering::Relaxed);
        }
        last
    }

    /// It is not known any more how many entries are live, until they are [counted](Self::counted).
    pub(crate) fn unknown(&self, owner: Owner) {
        if let Some(live) = self.live_of(owner) {
            let lost = if live < UNKNOWN { live + LOST } else { live };
            self.0.store(owner.0 | u64::from(lost) & COUNT, Ordering::Relaxed);
        }
    }

    /// So many entries are live.
    pub(crate) fn counted(&self, owner: Owner, live: u32) {
        if self.live_of(owner).is_some() {
            self.0.store(owner.0 | u64::from(live) & COUNT, Ordering::Relaxed);
        }
    }

    /// The table left the tree of `owner`, which has it. False, and nothing changed, if it has not.
    #[inline]
    pub(crate) fn leave(&self, owner: Owner) -> bool {
        let had = self.live_of(owner).is_some();
        if had {
            self.0.store(0, Ordering::Release);
        }
        had
    }

    /// Unlocks the table, if `owner` has locked it.
    #[inline]
    pub(crate) fn unlock(&self, owner: Owner) -> bool {
        let live = self.live_of(owner);
        if let Some(live) = live {
            self.0.store(owner.tree().0 | u64::from(live), Ordering::Release);
        }
        live.is_some()
    }

    /// Whether this is a table of `tree`, which has one writer now. A lock that a writer left
    /// behind when the tree was shared (it was forgotten, or a guest hid the table) ends.
    #[inline]
    pub(crate) fn adopt(&self, tree: Owner) -> bool {
        if self.live_of(tree).is_some() {
            return true;
        }
        let state = self.load();
        let ours = Owner(state).tree() == tree;
        if ours {
            self.0.store(tree.0 | state & COUNT, Ordering::Relaxed);
        }
        ours
    }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use super::{COUNT, Owner, TableState};

    /// Owners that are told apart: two trees, two verbs, two ranges.
    fn owners() -> [Owner; 6] {
        let [one, other] = [0; 2].map(|_| Owner::new_tree());
        [one, other, one.verb(1), one.verb(2), one.range(1), one.range(2)]
    }

    /// Each change of a state does nothing if another owner has the table, and its count reaches no
    /// bit of the owner.
    #[test]
    fn case_a1_each_change_names_its_owner() {
        type Change = fn(&TableState, Owner) -> bool;
        let changes: [(&str, Change); 7] = [
            ("add", |state, by| state.add(by, 3)),
            ("add too many", |state, by| state.add(by, u32::MAX)),
            ("add one", TableState::add_one),
            ("remove one", TableState::remove_one),
            ("sub too many", |state, by| state.sub(by, 7).is_some()),
            ("leave", TableState::leave),
            ("unlock", TableState::unlock),
        ];
        for has in owners() {
            for by in owners().into_iter().chain(owners().map(|_| has)) {
                for (name, change) in changes {
                    let state = TableState::new();
                    state.begin(has);
                    assert!(state.add(has, 5));
                    let before = state.load();
                    assert_eq!(change(&state, by), by == has, "{name}: {has:?} {by:?}");
                    let left = if name == "leave" { Owner::NONE } else { has.tree() };
                    let after = if name == "leave" || name == "unlock" { left } else { has };
                    assert_eq!(state.owner(), if by == has { after } else { has }, "{name}");
                    assert!(by == has || state.load() == before, "{name}: {has:?} {by:?}");
                    assert_eq!(state.is_of(by), state.owner() == by);
                    assert_eq!(state.live_of(by).is_some(), state.owner() == by);
                }
            }
        }
    }

    /// The most that a table's count can hold, and one more.
    #[test]
    fn a_full_count_is_no_owner() {
        let tree = Owner::new_tree();
        let state = TableState::new();
        state.begin(tree);
        assert!(state.add(tree, COUNT as u32));
        assert!(!state.add_one(tree));
        assert!(state.lock_once(tree.verb(0), tree).is_none());
        assert_eq!((state.live(), state.is_open()), (COUNT as u32, true));
        assert_eq!(state.sub(tree, COUNT as u32 + 1), Some(COUNT as u32));
        assert_eq!(state.owner(), tree);
    }
}
