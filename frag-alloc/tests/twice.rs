//! A table is freed once for each time that it was handed out, by its own cache, and a frame is in
//! one use at a time: under threads here, in every interleaving in `loom/frag-alloc`.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use frag_alloc::{Cache, Error, FrameSource, Frames, Kind, Local, Owner, Policy, Region, Span};
use pgtable::allocator::{Contents, TableAllocator, TableLayout};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::{Hpa, Level};

const START: Hpa = Hpa::new(0x100_0000);

fn words(frames: usize, shift: u8) -> Vec<AtomicU64> {
    (0..frames << (shift - 3)).map(|_| AtomicU64::new(0)).collect()
}

type Table<'w> = Frames<Hpa, Region<Hpa, DirectMap<'w, Hpa>>>;

fn frames(words: &[AtomicU64], shift: u8) -> Table<'_> {
    let count = (words.len() >> (shift - 3)) as u32;
    Frames::new(Region::new(DirectMap::new(words, START), START, count, shift).unwrap()).unwrap()
}

/// Two threads free one table at once, again and again; the table is its frame's last, so that the
/// free which is accepted also retires the frame. One of the two is accepted, always.
#[test]
fn case_a2_a_frames_last_table_freed_twice_at_once() {
    const ROUNDS: usize = 4_000;
    // Frame, table, policy, whether its cache is closed when the table is freed.
    for (frame, shift, policy, closed) in [
        (16, 16, Policy::Reuse, false),
        (12, 12, Policy::Reuse, false),
        (16, 8, Policy::Linux, false),
        (16, 8, Policy::Reuse, true),
    ] {
        let words = words(4, frame);
        let frames = &frames(&words, frame);
        let (barrier, table, accepted) = (Barrier::new(2), AtomicU64::new(0), AtomicUsize::new(0));
        let open = Cache::new(frames, Owner(1), Kind::User, policy);
        let free = |table: Hpa, turns: usize| {
            barrier.wait();
            (0..turns % 400).for_each(|_| std::hint::spin_loop());
            let freed = if closed {
                frames.give(table, Owner(1))
            } else {
                open.give(table, shift, Contents::Stale)
            };
            accepted.fetch_add(usize::from(freed.is_ok()), Ordering::SeqCst);
            barrier.wait();
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    barrier.wait();
                    free(Hpa::new(table.load(Ordering::SeqCst)), round);
                }
            });
            for round in 0..ROUNDS {
                let own = Cache::new(frames, Owner(1), Kind::User, policy);
                let taken = if closed { own.take(shift) } else { open.take(shift) }.unwrap();
                drop(own);
                table.store(taken.get(), Ordering::SeqCst);
                accepted.store(0, Ordering::SeqCst);
                barrier.wait();
                free(taken, 0);
                assert_eq!(accepted.load(Ordering::SeqCst), 1, "2^{shift}, {policy:?}, {round}");
            }
        });
        drop(open);
        assert!(frames.census().all_home(), "{:?}", frames.census());
    }
}

/// A table is freed by the cache that it came from, while that is open: another cache of the same
/// owner, kind and size has other frames in its pool.
#[test]
fn case_a2_another_cache_of_the_same_owner_is_another_cache() {
    let words = words(4, 12);
    let frames = frames(&words, 12);
    let caches = [(); 2].map(|()| Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse));
    for shift in [8, 12] {
        let layout = TableLayout { shift, level: Level(0) };
        let table = caches[0].take(shift).unwrap();
        assert!(
            caches[0].state(table, layout).is_some() && caches[1].state(table, layout).is_none()
        );
        let front = Local::new(&caches[1]);
        for refused in [
            caches[1].give(table, shift, Contents::Stale),
            front.give(table, shift, Contents::Stale),
        ] {
            assert!(matches!(refused, Err(Error::NotLive { .. })), "{refused:?}");
        }
        caches[0].give(table, shift, Contents::Stale).unwrap();
    }
    drop(caches);
    assert!(frames.census().all_home());
}

/// Of what a tree may change, an address says nothing: only the tables that its allocator handed
/// out have a state, each of its own size, while it is alive.
#[test]
fn case_a1_only_a_live_table_of_this_cache_has_a_state() {
    let words = words(4, 16);
    let frames = frames(&words, 16);
    let mine = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let other = Cache::new(&frames, Owner(2), Kind::User, Policy::Reuse);
    let layout = |shift| TableLayout { shift, level: Level(0) };
    for shift in [8, 9, 12, 16] {
        let (table, theirs) = (mine.take(shift).unwrap(), other.take(shift).unwrap());
        assert!(mine.state(table, layout(shift)).is_some());
        for (address, size, what) in [
            (table.get(), shift + 1, "larger"),
            (table.get(), shift - 1, "smaller"),
            (table.get() + 8, shift, "a word behind its start"),
            (table.get() + (1 << shift) / 2, shift, "its middle"),
            (theirs.get(), shift, "another owner's"),
            (START.get() - (1 << shift), shift, "before the region"),
            (START.get() + (4 << 16), shift, "behind the region"),
            (u64::MAX, shift, "the last address"),
        ] {
            assert!(mine.state(Hpa::new(address), layout(size)).is_none(), "2^{shift}: {what}");
            assert!(
                mine.give(Hpa::new(address), size, Contents::Stale).is_err(),
                "2^{shift}: {what}"
            );
        }
        mine.give(table, shift, Contents::Stale).unwrap();
        assert!(mine.state(table, layout(shift)).is_none(), "2^{shift}: freed");
        other.give(theirs, shift, Contents::Stale).unwrap();
    }
}

/// Hands out what it likes: of one frame the second of its eight, of more the first ones.
struct Liar<'w>(DirectMap<'w, Hpa>, AtomicU32);

impl ReadMemory<Hpa> for Liar<'_> {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Liar<'_> {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.0.word(address)
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.0.table(address, words)
    }

    fn wrote(&self, address: Hpa, words: usize) {
        self.0.wrote(address, words);
    }
}

impl FrameSource<Hpa> for Liar<'_> {
    fn span(&self) -> Span<Hpa> {
        Span { start: START, frames: 8, shift: 12 }
    }

    fn take(&self, order: u8) -> Option<Hpa> {
        self.1.fetch_add(1, Ordering::Relaxed);
        Some(Hpa::new(START.get() + if order == 0 { 0x1000 } else { 0 }))
    }

    fn give(&self, _: Hpa, _: u8) {}
}

/// A source that hands out frames of which one is in use is found out, whichever it is.
#[test]
fn case_a8_every_frame_of_a_run_is_claimed() {
    let words = words(8, 12);
    let frames = Frames::new(Liar(DirectMap::new(&words, START), AtomicU32::new(0))).unwrap();
    let [one, two] =
        [1, 2].map(|owner| Cache::new(&frames, Owner(owner), Kind::User, Policy::Reuse));
    let small = one.take(12).unwrap();
    for shift in [13, 14, 15] {
        assert_eq!(two.take(shift), Err(Error::Source { frame: START }), "2^{shift}");
        assert_eq!(frames.census().refs, 1, "nothing is left of it");
    }
    one.give(small, 12, Contents::Stale).unwrap();
    // And the other way round: a frame in the middle of a larger table.
    let large = two.take(14).unwrap();
    assert_eq!(one.take(12), Err(Error::Source { frame: Hpa::new(START.get() + 0x1000) }));
    two.give(large, 14, Contents::Stale).unwrap();
    // A frame that is out of use is handed out again and again: that comes to an end too.
    frames.quarantine(Hpa::new(START.get() + 0x1000)).unwrap();
    let before = frames.source().1.load(Ordering::Relaxed);
    assert!(matches!(one.take(12), Err(Error::Source { .. })));
    assert!(frames.source().1.load(Ordering::Relaxed) - before <= 9);
    assert!(frames.census().all_home());
}
