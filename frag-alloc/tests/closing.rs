//! Open and closed caches: which tables are freed without their cache, and that a closed cache
//! hands out nothing, by any way.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Error, Frames, Kind, Local, Owner, Policy, Region};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::memory::DirectMap;

const START: Hpa = Hpa::new(0x100_0000);

type Table<'w> = Frames<Hpa, Region<Hpa, DirectMap<'w, Hpa>>>;

fn words() -> Vec<AtomicU64> {
    (0..8 << 13).map(|_| AtomicU64::new(0)).collect()
}

fn frames(words: &[AtomicU64]) -> Table<'_> {
    Frames::new(Region::new(DirectMap::new(words, START), START, 8, 16).unwrap()).unwrap()
}

/// Tables in a pool, tables counted as Linux does, tables of a frame and of more.
const ROWS: [(Policy, u8); 7] = [
    (Policy::Reuse, 8),
    (Policy::Reuse, 12),
    (Policy::Reuse, 16),
    (Policy::Reuse, 18),
    (Policy::Linux, 8),
    (Policy::Linux, 16),
    (Policy::Linux, 18),
];

#[test]
fn case_a2_a_table_of_an_open_cache_is_freed_by_its_cache_alone() {
    for (policy, shift) in ROWS {
        let words = words();
        let frames = frames(&words);
        let cache = Cache::new(&frames, Owner(1), Kind::User, policy);
        let [table, kept] = [(); 2].map(|()| cache.take(shift).unwrap());
        let before = frames.census();
        let refused = frames.give(table, Owner(1));
        assert!(matches!(refused, Err(Error::NotLive { .. })), "{policy:?} 2^{shift}: {refused:?}");
        assert_eq!(frames.census(), before, "{policy:?} 2^{shift}");
        cache.give(table, shift, Contents::Stale).unwrap();
        // Another cache of the same owner that closes is another cache.
        Cache::new(&frames, Owner(1), Kind::User, policy).close().unwrap();
        assert!(frames.give(kept, Owner(1)).is_err(), "{policy:?} 2^{shift}");
        cache.close().unwrap();
        assert!(frames.give(kept, Owner(2)).is_err(), "{policy:?} 2^{shift}: another owner's");
        frames.give(kept, Owner(1)).unwrap();
        assert!(frames.give(kept, Owner(1)).is_err(), "{policy:?} 2^{shift}: twice");
        assert!(frames.census().all_home());
    }
}

#[test]
fn case_a2_a_closed_cache_hands_out_nothing() {
    for (policy, shift) in ROWS {
        let words = words();
        let frames = frames(&words);
        let cache = Cache::new(&frames, Owner(1), Kind::User, policy);
        let [front, late] = [(); 2].map(|()| Local::new(&cache));
        let [held, after] = [(); 2].map(|()| front.take(shift).unwrap());
        front.give(held, shift, Contents::Zeroed).unwrap();
        cache.close().unwrap();
        for turn in 0..3 {
            let refused = Err(Error::Exhausted { shift });
            assert_eq!(front.take(shift), refused, "front, {policy:?} 2^{shift}, {turn}");
            assert_eq!(late.take(shift), refused, "unused front, {policy:?} 2^{shift}, {turn}");
            assert_eq!(cache.take(shift), refused, "cache, {policy:?} 2^{shift}, {turn}");
            // A table that comes back late is not handed out again either.
            if turn == 1 {
                front.give(after, shift, Contents::Zeroed).unwrap();
            }
        }
        assert!(frames.census().all_home(), "{policy:?} 2^{shift}: {:?}", frames.census());
    }
}

/// A front keeps what it has when another cache closes.
#[test]
fn another_caches_end_is_nothing_to_a_front() {
    let words = words();
    let frames = frames(&words);
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let front = Local::new(&cache);
    let tables = [(); 4].map(|()| front.take(8).unwrap());
    for table in tables {
        front.give(table, 8, Contents::Zeroed).unwrap();
    }
    for table in tables.into_iter().rev() {
        drop(Cache::new(&frames, Owner(2), Kind::User, Policy::Reuse));
        assert_eq!(front.take(8), Ok(table), "the warmest first");
    }
    for table in tables {
        front.give(table, 8, Contents::Zeroed).unwrap();
    }
    drop(front);
    drop(cache);
    assert!(frames.census().all_home());
}
