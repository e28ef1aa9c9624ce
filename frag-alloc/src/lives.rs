//! Who has each table: one word for each granule (the smallest table), at which a table may start.
//!
//! # Protocol
//! | word | meaning |
//! | --- | --- |
//! | 0 | no table starts here, and none ever did |
//! | idle | a table that nobody has: in a pool, in a front, waiting, or in a frame that is not in use |
//! | idle, stale | the same; it must be zeroed before it is handed out as zeroed |
//! | a [`Tag`] | a live table: owner, cache, kind and size in one word |
//!
//! - *Hand out*: a store of the tag, by the thread that took the idle table out of its pool or
//!   front and so is alone with it.
//! - *Free*: one compare-exchange from the tag that the caller claims to an idle mark. It decides
//!   everything: table, owner, cache and size are compared together, and of several frees of one
//!   table one succeeds. A free that fails changed nothing.
//! - *Fill* marks the tables of a new frame idle. It never meets a live table: a live table is
//!   counted in its frame's `fragments`, so the frame is still in use.
//! - Nothing else stores here. In particular *retire* does not: all tables of its frame are idle.
//!
//! The words are this crate's alone. What a tree notes about its tables stands in
//! [`TableState`](pgtable::allocator::TableState), which is the tree's alone: no store of the one
//! ever undoes a store of the other, whatever words a tree found in memory that a guest writes.
//!
//! A hand-out is a Release and a free an Acquire, so that a free sees the frame as the hand-out
//! left it, even a free by a thread that was never told of the table. A free is a Release and
//! [`Lives::is`] an Acquire, so that a thread that finds a table gone also sees the stores that
//! unlinked it. Checked by `loom/frag-alloc/tests/pairs.rs`.

use alloc::boxed::Box;

use pgtable::allocator::Contents;

use crate::descriptor::Tag;
use crate::sync::{AtomicU64, Ordering};

/// A zeroed table that nobody has.
const IDLE: u64 = 1;
/// A table that nobody has and that holds anything.
const IDLE_STALE: u64 = 2;

/// Words in a block, within which they change places. (Models have few, and no cache lines.)
const BLOCK: u32 = if cfg!(pgtable_loom) { 1 } else { 256 };

/// The words of all granules.
#[derive(Debug)]
pub(crate) struct Lives {
    words: Box<[AtomicU64]>,
    granules: u32,
}

impl Lives {
    /// For so many granules, at none of which a table ever started.
    pub(crate) fn new(granules: u32) -> Self {
        let words = u64::from(granules).next_multiple_of(u64::from(BLOCK));
        Self { words: (0..words).map(|_| AtomicU64::new(0)).collect(), granules }
    }

    /// How many granules there are.
    #[inline]
    pub(crate) fn granules(&self) -> u32 {
        self.granules
    }

    /// Bytes of the words.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    #[inline]
    fn of(&self, granule: u32) -> &AtomicU64 {
        &self.words[place(granule) as usize]
    }

    /// An idle table that holds anything starts at `granule`: its frame was just filled.
    pub(crate) fn fill(&self, granule: u32) {
        self.of(granule).store(IDLE_STALE, Ordering::Relaxed);
    }

    /// Whether the idle table at `granule`, which the caller took, is known to be zeroed.
    #[inline]
    pub(crate) fn is_zeroed(&self, granule: u32) -> bool {
        self.of(granule).load(Ordering::Relaxed) == IDLE
    }

    /// The idle table at `granule`, which the caller took, is alive from now on.
    #[inline]
    pub(crate) fn hand_out(&self, granule: u32, tag: Tag) {
        self.of(granule).store(tag.0, Ordering::Release);
    }

    /// Frees the live table `tag` at `granule`. False, and nothing changed, if there is none.
    #[inline]
    pub(crate) fn free(&self, granule: u32, tag: Tag, contents: Contents) -> bool {
        let idle = if contents == Contents::Zeroed { IDLE } else { IDLE_STALE };
        let word = self.of(granule);
        word.compare_exchange(tag.0, idle, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Whether the live table `tag` starts at `granule`.
    #[inline]
    pub(crate) fn is(&self, granule: u32, tag: Tag) -> bool {
        self.of(granule).load(Ordering::Acquire) == tag.0
    }

    /// Whether any live table starts at `granule`.
    pub(crate) fn is_live(&self, granule: u32) -> bool {
        !Tag(self.of(granule).load(Ordering::Relaxed)).is_free()
    }
}

/// Where in its block: a line is 8 words (bits 3 to 7), and the low bits of a small table's number
/// choose it, so that tables of 256 bytes that follow each other have theirs in different lines.
/// Those of 4 KiB are two lines apart anyway.
#[inline]
fn place(granule: u32) -> u32 {
    if BLOCK == 1 { granule } else { granule ^ ((granule & 0b111) << 5) }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use super::*;
    use crate::descriptor::{Kind, Owner};

    #[test]
    fn each_has_its_own_place_in_its_block() {
        let mut taken = [false; 3 * BLOCK as usize];
        for granule in 0..3 * BLOCK {
            assert_eq!(place(granule) / BLOCK, granule / BLOCK);
            assert!(!core::mem::replace(&mut taken[place(granule) as usize], true), "{granule}");
        }
    }

    #[test]
    fn neighbours_are_in_different_lines() {
        for step in [1, 16] {
            for granule in (0..BLOCK - step).step_by(step as usize) {
                assert_ne!(place(granule) / 8, place(granule + step) / 8, "{granule} and {step}");
            }
        }
    }

    #[test]
    fn case_a2_a_free_names_table_owner_cache_kind_and_size() {
        let lives = Lives::new(2);
        let tag = Tag::new(Owner(1), Kind::User, 8, 0);
        lives.fill(0);
        assert!(!lives.free(0, tag, Contents::Zeroed), "idle");
        lives.hand_out(0, tag);
        for (other, what) in [
            (Tag::new(Owner(2), Kind::User, 8, 0), "owner"),
            (Tag::new(Owner(1), Kind::Kernel, 8, 0), "kind"),
            (Tag::new(Owner(1), Kind::User, 9, 0), "size"),
            (Tag::new(Owner(1), Kind::User, 8, 1), "cache"),
        ] {
            assert!(!lives.free(0, other, Contents::Zeroed) && lives.is(0, tag), "{what}");
        }
        assert!(!lives.free(1, tag, Contents::Zeroed), "beside it");
        assert!(lives.free(0, tag, Contents::Zeroed) && lives.is_zeroed(0));
        assert!(!lives.free(0, tag, Contents::Stale) && lives.is_zeroed(0), "twice");
    }
}
