//! A quarantined frame stays out of use by every way in which a table of it could come back.

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Error, Frames, Kind, Local, Owner, Policy, Region};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::memory::DirectMap;

const SHIFT: u8 = 8;
const FRAME: u8 = 16;
const PER_FRAME: usize = 1 << (FRAME - SHIFT);

type Table<'w> = Frames<Hpa, Region<Hpa, DirectMap<'w, Hpa>>>;

fn words() -> Vec<AtomicU64> {
    (0..2 << (FRAME - 3)).map(|_| AtomicU64::new(!0)).collect()
}

/// Two frames, of which `test` quarantines the one that it names; then all of the other can be had,
/// and no more.
fn left_of_two(
    policy: Policy,
    test: impl FnOnce(&Table<'_>, &Cache<Hpa, Region<Hpa, DirectMap<'_, Hpa>>, &Table<'_>>) -> Hpa,
) {
    let words = words();
    let region = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 2, FRAME)
        .expect("aligned and within");
    let frames = Frames::new(region).expect("fits");
    let cache = Cache::new(&frames, Owner(1), Kind::User, policy);
    let bad = test(&frames, &cache);
    assert!(frames.is_quarantined(bad).expect("within"));
    let mut had = 0;
    let end = loop {
        match cache.take(SHIFT) {
            Ok(table) => {
                assert_ne!(table.get() >> FRAME, bad.get() >> FRAME, "{table} after {had}");
            }
            Err(error) => break error,
        }
        had += 1;
    };
    assert_eq!(end, Error::Exhausted { shift: SHIFT });
    assert_eq!(had, PER_FRAME);
    assert_eq!(
        cache.close().expect("counted right").live as usize,
        if policy == Policy::Reuse { PER_FRAME } else { 0 }
    );
    assert_eq!(frames.census().table_frames, 1, "nothing of the quarantined frame is counted");
}

#[test]
fn freed_afterwards() {
    left_of_two(Policy::Reuse, |frames, cache| {
        let tables: Vec<_> = (0..9).map(|_| cache.take(SHIFT).unwrap()).collect();
        frames.quarantine(tables[0]).unwrap();
        // The pool has looked its stack over, and takes what follows for good.
        let other = cache.take(SHIFT).unwrap();
        cache.give(other, SHIFT, Contents::Stale).unwrap();
        for &table in &tables {
            cache.give(table, SHIFT, Contents::Stale).unwrap();
        }
        tables[0]
    });
}

#[test]
fn freed_into_a_front_afterwards() {
    left_of_two(Policy::Reuse, |frames, cache| {
        let front = Local::new(cache);
        let tables: Vec<_> = (0..9).map(|_| front.take(SHIFT).unwrap()).collect();
        frames.quarantine(tables[0]).unwrap();
        let other = front.take(SHIFT).unwrap();
        for &table in &tables {
            front.give(table, SHIFT, Contents::Stale).unwrap();
            let next = front.take(SHIFT).unwrap();
            assert_ne!(next.get() >> FRAME, table.get() >> FRAME);
            front.give(next, SHIFT, Contents::Stale).unwrap();
        }
        front.give(other, SHIFT, Contents::Stale).unwrap();
        tables[0]
    });
}

#[test]
fn in_a_front_whose_pool_has_already_looked() {
    left_of_two(Policy::Reuse, |frames, cache| {
        let front = Local::new(cache);
        let table = front.take(SHIFT).unwrap();
        front.give(table, SHIFT, Contents::Stale).unwrap();
        frames.quarantine(table).unwrap();
        let other = cache.take(SHIFT).unwrap();
        front.put_back().unwrap();
        cache.give(other, SHIFT, Contents::Stale).unwrap();
        table
    });
}

#[test]
fn under_others_on_the_stack() {
    left_of_two(Policy::Reuse, |frames, cache| {
        // All of one frame and a few of the next: the stack takes 64, and then lays half of them
        // down.
        let tables: Vec<_> = (0..PER_FRAME + 8).map(|_| cache.take(SHIFT).unwrap()).collect();
        let (bad, good) = tables.split_at(PER_FRAME);
        for &table in bad {
            cache.give(table, SHIFT, Contents::Stale).unwrap();
        }
        frames.quarantine(bad[0]).unwrap();
        for &table in good {
            cache.give(table, SHIFT, Contents::Stale).unwrap();
        }
        bad[0]
    });
}

/// One of 64 frames is out of use, and no other: whatever was handed out together with it.
#[test]
fn case_a8_the_others_of_a_run_stay_in_use() {
    const FRAMES: u32 = 64;
    let words: Vec<_> = (0..FRAMES << 9).map(|_| AtomicU64::new(0)).collect();
    for shift in 12..=18 {
        // Quarantined while it is free, and while it is the fifth frame of a large table.
        for alive in [false, true] {
            let start = Hpa::new(0);
            let source = Region::new(DirectMap::new(&words, start), start, FRAMES, 12).unwrap();
            let frames = Frames::new(source).unwrap();
            let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
            let bad = Hpa::new(5 << 12);
            let table = if alive { cache.take(18).ok() } else { None };
            frames.quarantine(bad).unwrap();
            if let Some(table) = table {
                cache.give(table, 18, Contents::Stale).unwrap();
            }
            let tables: Vec<Hpa> = std::iter::from_fn(|| cache.take(shift).ok()).collect();
            assert_eq!(tables.len(), (64 >> (shift - 12)) - 1, "2^{shift}, alive: {alive}");
            for table in &tables {
                assert_ne!(bad.get() >> shift, table.get() >> shift, "2^{shift} at {table}");
                cache.give(*table, shift, Contents::Stale).unwrap();
            }
            assert!(frames.census().all_home());
            assert_eq!(std::iter::from_fn(|| cache.take(12).ok()).count(), 63, "2^{shift}");
            assert_eq!(frames.census().quarantined, 1);
        }
    }
}

#[test]
fn under_the_pointer_that_only_moves_forward() {
    left_of_two(Policy::Linux, |frames, cache| {
        let table = cache.take(SHIFT).unwrap();
        frames.quarantine(table).unwrap();
        cache.give(table, SHIFT, Contents::Stale).unwrap();
        table
    });
}
