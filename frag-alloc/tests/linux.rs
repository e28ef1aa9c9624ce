//! The Linux policy, step by step: after each step, the counter of the frame, as Linux's own would
//! stand.

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region, TableKind, TableSizes, TaggedTable};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::memory::DirectMap;

enum Step {
    /// Allocates; this table of this frame comes out.
    Alloc {
        frame: u64,
        table: u64,
    },
    Free {
        frame: u64,
        table: u64,
    },
    /// `frag_destroy`.
    Destroy,
}
use Step::{Alloc, Destroy, Free};

#[test]
fn the_counter_stands_as_linuxs_does() {
    let words: Vec<_> = (0..4 << 13).map(|_| AtomicU64::new(!0)).collect();
    let frames =
        Frames::new(Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 4, 16).unwrap())
            .unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Linux);
    // hash 64K, PMD with its second half: 16 KiB, 4 per page.
    let layout = TableSizes::HASH_64K.layout(TableKind::Pmd);
    let (steps, shift) = (
        [
            (Alloc { frame: 0, table: 0 }, 4, "the whole page is charged at the fill"),
            (Alloc { frame: 0, table: 1 }, 4, "from the cache, without a count"),
            (Free { frame: 0, table: 0 }, 3, ""),
            (Alloc { frame: 0, table: 2 }, 3, "a freed fragment is not handed out again"),
            (Alloc { frame: 0, table: 3 }, 3, "the pointer wraps: the cache is empty"),
            (Alloc { frame: 1, table: 0 }, 7, "a second page"),
            (Free { frame: 0, table: 1 }, 6, ""),
            (Free { frame: 0, table: 2 }, 5, ""),
            (Free { frame: 0, table: 3 }, 4, "the first page is free"),
            (Free { frame: 1, table: 0 }, 3, "never handed out: 3, and they keep the page"),
            (Destroy, 0, "4 - 1 are subtracted: the page is free"),
        ],
        layout.shift,
    );
    for (number, (step, fragments, why)) in steps.into_iter().enumerate() {
        let at = |frame: u64, table: u64| Hpa::new((frame << 16) + (table << shift));
        match step {
            Alloc { frame, table } => {
                assert_eq!(cache.take(shift), Ok(at(frame, table)), "step {number}: {why}");
            }
            Free { frame, table } => {
                let tagged = TaggedTable::new(at(frame, table), TableKind::Pmd).unwrap();
                let queued = TaggedTable::<Hpa>::from_raw(tagged.raw()).unwrap();
                let layout = TableSizes::HASH_64K.layout(queued.kind());
                cache.give(queued.table(), layout.shift, Contents::Stale).unwrap();
            }
            Destroy => assert_eq!(cache.close().unwrap().frames, 1, "step {number}: {why}"),
        }
        assert_eq!(frames.census().fragments, fragments, "step {number}: {why}");
    }
    assert!(frames.census().all_home());
}
