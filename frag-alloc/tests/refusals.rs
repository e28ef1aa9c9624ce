//! Memory that refuses to be zeroed for a while: the table is still there afterwards.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Error, Frames, Kind, Local, Owner, Policy, Region};
use pgtable::allocator::{Contents, TableAllocator, TableLayout};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::{Hpa, Level};

const FRAME: u8 = 16;

/// Refuses tables at the addresses below `below`, unless they are a whole frame or more.
struct Moody<'w>(DirectMap<'w, Hpa>, &'w Cell<u64>);

impl ReadMemory<Hpa> for Moody<'_> {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Moody<'_> {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.0.word(address)
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        if address.get() < self.1.get() {
            return Err(MemoryError::outside(address, words));
        }
        self.0.table(address, words)
    }

    fn wrote(&self, _: Hpa, _: usize) {}
}

#[test]
fn case_a15_a_refusal_of_memory_loses_no_place() {
    for (policy, shift) in [
        (Policy::Reuse, 8),
        (Policy::Reuse, 12),
        (Policy::Reuse, 15),
        (Policy::Reuse, 16),
        (Policy::Linux, 16),
    ] {
        for fronts in [false, true] {
            let words: Vec<_> = (0..1 << (FRAME - 3)).map(|_| AtomicU64::new(!0)).collect();
            let below = Cell::new(0);
            let memory = Moody(DirectMap::new(&words, Hpa::new(0)), &below);
            let frames = Frames::new(Region::new(memory, Hpa::new(0), 1, FRAME).unwrap()).unwrap();
            let cache = Cache::new(&frames, Owner(1), Kind::User, policy);
            let front = Local::new(&cache);
            let layout = TableLayout { shift, level: Level(0) };
            let take = || if fronts { front.take(shift) } else { cache.take(shift) };
            // The frame is filled while all of it can be reached; then it cannot be.
            let stale = cache.allocate_stale(layout).unwrap();
            cache.give(stale, shift, Contents::Stale).unwrap();
            below.set(1 << FRAME);
            for _ in 0..3 {
                let refused = take();
                assert!(matches!(refused, Err(Error::Memory(_))), "2^{shift}: {refused:?}");
            }
            below.set(0);
            let tables: Vec<_> = std::iter::from_fn(|| take().ok()).collect();
            assert_eq!(tables.len(), 1 << (FRAME - shift), "{policy:?} 2^{shift}, {fronts}");
            for table in tables {
                cache.give(table, shift, Contents::Stale).unwrap();
            }
            drop(front);
            cache.close().unwrap();
            assert!(frames.census().all_home(), "{policy:?} 2^{shift}: {:?}", frames.census());
        }
    }
}

/// A part that stays out of reach is quarantined, by the address that the error names; the rest is
/// handed out.
#[test]
fn case_a15_what_stays_out_of_reach_is_quarantined() {
    let words: Vec<_> = (0..2 << (FRAME - 3)).map(|_| AtomicU64::new(!0)).collect();
    let below = Cell::new(0);
    let memory = Moody(DirectMap::new(&words, Hpa::new(0)), &below);
    let frames = Frames::new(Region::new(memory, Hpa::new(0), 2, FRAME).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let kept = cache.take(8).unwrap();
    below.set(1 << FRAME);
    let Err(Error::Memory(error)) = cache.take(8) else { panic!("it can be zeroed") };
    frames.quarantine(Hpa::new(error.address)).unwrap();
    let tables: Vec<_> = std::iter::from_fn(|| cache.take(8).ok()).collect();
    assert_eq!(tables.len(), 256);
    for table in tables.into_iter().chain([kept]) {
        cache.give(table, 8, Contents::Stale).unwrap();
    }
    cache.close().unwrap();
    assert!(frames.census().all_home());
}

/// Frames that other caches keep without a live table are theirs, so many at most, and come back
/// when those are trimmed.
#[test]
fn case_a15_what_other_caches_keep_comes_back_when_they_are_trimmed() {
    const FRAMES: usize = 80;
    let words: Vec<_> = (0..FRAMES << (FRAME - 3)).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0));
    let region = Region::new(memory, Hpa::new(0), FRAMES as u32, FRAME).unwrap();
    let frames = Frames::new(region).unwrap();
    let cache = |owner| Cache::new(&frames, Owner(owner), Kind::User, Policy::Reuse);
    let (other, ours) = (cache(1), cache(2));
    // Every frame, of 16 tables; then one of each frame, so that they lie side by side on the
    // stack, and all others.
    let tables: Vec<_> = std::iter::from_fn(|| other.take(12).ok()).collect();
    assert_eq!(tables.len(), 16 * FRAMES);
    for nth in (0..16).rev() {
        for table in tables.iter().skip(nth).step_by(16) {
            other.give(*table, 12, Contents::Stale).unwrap();
        }
    }
    let kept = frames.census().table_frames;
    assert!((1..=65).contains(&kept), "{kept} frames are kept for one size");
    let free = FRAMES - kept as usize;
    let taken: Vec<_> = std::iter::from_fn(|| ours.take(FRAME).ok()).collect();
    assert_eq!((taken.len(), ours.take(FRAME)), (free, Err(Error::Exhausted { shift: FRAME })));
    assert_eq!(other.trim().unwrap(), kept);
    let more: Vec<_> = std::iter::from_fn(|| ours.take(FRAME).ok()).collect();
    assert_eq!(more.len(), FRAMES - free);
    for table in taken.into_iter().chain(more) {
        ours.give(table, FRAME, Contents::Stale).unwrap();
    }
    assert!(frames.census().all_home());
}
