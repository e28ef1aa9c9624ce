//! How much: what a front holds back from others, which frame is used next, what the books cost,
//! how large a table may be, and what is no table.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use frag_alloc::{
    Cache, Deferred, Epochs, Error, FrameSource, Frames, Kind, Local, Owner, Policy, Region, Span,
};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::{Address, Hpa, Level};

const FRAME: u8 = 16;

fn words(frames: usize) -> Vec<AtomicU64> {
    (0..frames << (FRAME - 3)).map(|_| AtomicU64::new(0)).collect()
}

fn frames(words: &[AtomicU64]) -> Frames<Hpa, Region<Hpa, DirectMap<'_, Hpa>>> {
    frames_of(words, FRAME)
}

/// All of `words` as frames of `2^shift` bytes.
fn frames_of(words: &[AtomicU64], shift: u8) -> Frames<Hpa, Region<Hpa, DirectMap<'_, Hpa>>> {
    let count = (words.len() >> (shift - 3)) as u32;
    let region =
        Region::new(DirectMap::new(words, Hpa::new(0)), Hpa::new(0), count, shift).unwrap();
    Frames::new(region).unwrap()
}

/// A front that has handed out one table keeps some for itself: half of a quarter of a frame's, at
/// most 16 with the one; so nobody starves by another thread's front.
#[test]
fn a_front_holds_so_much() {
    for (shift, taken) in
        [(8, 16), (9, 16), (10, 9), (11, 5), (12, 3), (13, 2), (14, 1), (15, 1), (16, 1)]
    {
        let words = words(1);
        let frames = frames(&words);
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let front = Local::new(&cache);
        let table = front.take(shift).unwrap();
        let mut left = 0;
        while cache.take(shift).is_ok() {
            left += 1;
        }
        assert_eq!(left, (1 << (FRAME - shift)) - taken, "tables of 2^{shift} bytes");
        front.give(table, shift, Contents::Stale).unwrap();
    }
    // A table that is a frame or more goes straight back to it, also where a front has a place for
    // that size.
    for shift in [12, 13, 15] {
        let words = words(1);
        let frames = frames_of(&words, 12);
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let front = Local::new(&cache);
        let table = front.take(shift).unwrap();
        assert_eq!(frames.census().fragments, 1, "2^{shift}");
        front.give(table, shift, Contents::Stale).unwrap();
        assert!(frames.census().all_home(), "2^{shift}");
    }
}

/// Freed tables are used again in the fullest frame first, so that the others can become empty.
#[test]
fn the_fullest_frame_is_used_next() {
    let words = words(2);
    let frames = frames(&words);
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let tables: Vec<Hpa> = (0..512).map(|_| cache.take(8).unwrap()).collect();
    let of = |frame: u64| tables.iter().copied().filter(move |table| table.get() >> FRAME == frame);
    // Of the first frame a quarter stays, of the second nearly all.
    for table in of(0).skip(64).chain(of(1).take(32)) {
        cache.give(table, 8, Contents::Stale).unwrap();
    }
    // What was freed last is warm, and comes back first: the stack of at most 64 tables. What comes
    // after it is the second frame's.
    let again: Vec<Hpa> = (0..32 + 64).map(|_| cache.take(8).unwrap()).collect();
    assert_eq!(again.iter().filter(|table| table.get() >> FRAME == 1).count(), 32);
    // All of the first but what was left of it can go: it is in use by what stayed, and no more.
    for table in again.into_iter().filter(|table| table.get() >> FRAME == 0).chain(of(0).take(64)) {
        cache.give(table, 8, Contents::Stale).unwrap();
    }
    cache.trim().unwrap();
    assert_eq!(frames.census().table_frames, 1);
}

/// A descriptor per frame, and per smallest table a life word and a state word.
#[test]
fn the_books_are_small() {
    let words = words(64);
    let region =
        || Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 64, FRAME).unwrap();
    let share = |overhead: usize| overhead * 1000 / (64 << FRAME);
    assert_eq!(share(Frames::new(region()).unwrap().overhead()), 63, "per mille");
    let large = Frames::new(region().of_tables_from::<12>()).unwrap().overhead();
    assert_eq!(share(large), 4, "per mille");
}

/// Tables from 4 KiB on, in frames of 64 KiB and of 1 MiB: each size fills the frames, smaller ones
/// are unsupported, and what is no multiple of 4 KiB is no table.
#[test]
fn tables_from_4_kib_on() {
    let words = words(32);
    for frame in [12, 16, 20] {
        let count = 32_u32 << 16 >> frame;
        let region = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), count, frame);
        let frames = Frames::new(region.unwrap().of_tables_from::<12>()).unwrap();
        for policy in [Policy::Reuse, Policy::Linux] {
            let cache = Cache::new(&frames, Owner(1), Kind::User, policy);
            let front = Local::new(&cache);
            for shift in 12..=frame + 1 {
                let tables: BTreeSet<Hpa> = std::iter::from_fn(|| front.take(shift).ok()).collect();
                assert_eq!(tables.len(), 32 << 16 >> shift, "2^{shift} in 2^{frame}");
                assert_eq!(frames.census().live as usize, tables.len());
                for &table in &tables {
                    assert!(table.is_aligned(shift));
                    let layout = TableLayout { shift, level: Level(0) };
                    let inside = Hpa::new(table.get() + 0x100);
                    assert!(front.state(table, layout).is_some());
                    assert!(front.state(inside, layout).is_none());
                    let refused = front.give(inside, shift, Contents::Stale);
                    assert!(matches!(refused, Err(Error::NotLive { .. })), "{refused:?}");
                    let found = frames.try_get(inside).unwrap().unwrap();
                    assert_eq!(found.table_at(inside), Some(table));
                    front.give(table, shift, Contents::Stale).unwrap();
                }
                front.put_back().unwrap();
                cache.trim().unwrap();
            }
            for shift in [8, 11] {
                assert_eq!(front.take(shift), Err(Error::Unsupported { shift }));
                assert!(front.give(Hpa::new(0), shift, Contents::Stale).is_err());
            }
            drop(front);
            cache.close().unwrap();
            assert!(frames.census().all_home(), "{:?}", frames.census());
        }
    }
    let region = |shift| Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 1, shift);
    assert!(Frames::new(region(21).unwrap().of_tables_from::<12>()).is_err(), "512 in a frame");
    assert!(Frames::new(region(11).unwrap().of_tables_from::<12>()).is_err(), "none in a frame");
    assert!(Frames::new(region(12).unwrap().of_tables_from::<7>()).is_err(), "below the granule");
}

#[test]
fn a_table_is_at_most_64_frames() {
    let words = words(128);
    let frames = frames(&words);
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    assert!(!frames.census().retired_frames > 0 && frames.census().all_home());
    let table = cache.take(FRAME + 6).unwrap();
    assert!(table.is_aligned(FRAME + 6) && !frames.census().all_home());
    for shift in [FRAME + 7, 40, 63, 7, 0] {
        assert_eq!(cache.take(shift), Err(Error::Unsupported { shift }));
    }
    cache.give(table, FRAME + 6, Contents::Stale).unwrap();
    assert!(frames.census().all_home());
    // One that is kept out of use is at home.
    frames.quarantine(Hpa::new(0)).unwrap();
    assert!(frames.census().quarantined == 1 && frames.census().all_home());
}

/// Whoever holds a table of a closed cache gives it back by the frames; only the table itself, and
/// once.
#[test]
fn what_is_no_table_is_not_taken_back() {
    let words = words(8);
    let frames = frames(&words);
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let (small, large) = (cache.take(12).unwrap(), cache.take(FRAME + 1).unwrap());
    assert_eq!(cache.close().unwrap().live, 1, "a table larger than a frame is no pool's");
    let inside =
        [small.get() + 0x100, small.get() + 0x800, large.get() + 0x100, large.get() + (1 << FRAME)];
    for address in inside.map(Hpa::new) {
        assert!(
            matches!(frames.give(address, Owner(1)), Err(Error::NotLive { table, .. }) if table == address)
        );
    }
    for table in [small, large] {
        assert!(
            matches!(frames.give(table, Owner(2)), Err(Error::NotLive { .. })),
            "somebody else's"
        );
        frames.give(table, Owner(1)).unwrap();
        assert!(matches!(frames.give(table, Owner(1)), Err(Error::NotLive { .. })), "twice");
    }
    assert_eq!(
        frames.give(Hpa::new(8 << FRAME), Owner(1)),
        Err(Error::Outside { address: Hpa::new(8 << FRAME) })
    );
    assert!(frames.census().all_home());
}

/// Tables that wait for readers are the cache's: their state is where its is.
#[test]
fn a_deferred_table_has_its_state() {
    let words = words(2);
    let frames = frames(&words);
    let epochs = Epochs::new(1);
    let deferred = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let table = deferred.take(8).unwrap();
    let layout = TableLayout { shift: 8, level: Level(0) };
    let state = deferred.state(table, layout).unwrap();
    assert!(std::ptr::eq(state, deferred.cache().state(table, layout).unwrap()));
    assert!(deferred.state(Hpa::new(2 << FRAME), layout).is_none(), "beyond the region");
    deferred.give(table, 8, Contents::Stale).unwrap();
    assert!(deferred.state(table, layout).is_none(), "freed, though it waits");
}

/// Four frames from 1 MiB on, and a source that hands out what it likes.
struct Wrong<'w>(DirectMap<'w, Hpa>, u64);

impl ReadMemory<Hpa> for Wrong<'_> {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Wrong<'_> {
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

impl FrameSource<Hpa> for Wrong<'_> {
    fn span(&self) -> Span<Hpa> {
        Span { start: Hpa::new(1 << 20), frames: 4, shift: FRAME }
    }

    fn take(&self, _: u8) -> Option<Hpa> {
        Some(Hpa::new(self.1))
    }

    fn give(&self, frame: Hpa, _: u8) {
        panic!("{frame} was never taken");
    }
}

/// A source's frame that is none of its own, or not aligned, is an error that names it, and not
/// used.
#[test]
fn a_source_is_not_believed() {
    const START: u64 = 1 << 20;
    let words = words(4);
    for (frame, shift) in [
        (START + 0x100, 8),
        (START + (3 << FRAME) + 0x8000, 8),
        (START + (4 << FRAME), 8),
        (START - (1 << FRAME), 8),
        (0, 8),
        (!0xffff, 8),
        (START + (1 << FRAME), FRAME + 1),
        (START + (4 << FRAME), FRAME + 1),
        (START + (4 << FRAME), FRAME + 2),
    ] {
        let frames = Frames::new(Wrong(DirectMap::new(&words, Hpa::new(START)), frame)).unwrap();
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        assert_eq!(cache.take(shift), Err(Error::Source { frame: Hpa::new(frame) }), "{frame:#x}");
        assert!(frames.census().all_home());
    }
}

/// Closing says how many frames went home with it, of all sizes together.
#[test]
fn closing_counts_the_frames_that_go_home() {
    let words = words(8);
    let frames = frames(&words);
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let tables = [8, 10, 12, 15].map(|shift| (cache.take(shift).unwrap(), shift));
    for (table, shift) in tables {
        cache.give(table, shift, Contents::Stale).unwrap();
    }
    let kept = frames.census().table_frames;
    assert!(kept >= 2, "an empty frame of each size stays with its cache");
    assert_eq!((cache.close().unwrap().frames, cache.close().unwrap().frames), (kept, 0));
    assert!(frames.census().all_home());
}

/// A thread's front as an allocator: what it frees is free, and has its state while it lives.
#[test]
fn a_front_is_an_allocator() {
    let words = words(2);
    let frames = frames(&words);
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let front = Local::new(&cache);
    let layout = TableLayout { shift: 9, level: Level(0) };
    let table: Hpa = front.allocate(layout).unwrap();
    let state = TableAllocator::<Hpa>::state(&front, table, layout).unwrap();
    assert!(std::ptr::eq(state, cache.state(table, layout).unwrap()));
    front.free(table, layout, Contents::Stale).unwrap();
    let twice = front.free(table, layout, Contents::Stale);
    assert!(
        matches!(twice, Err(AllocError::NotLive { address }) if address == table.get()),
        "{twice:?}"
    );
    drop(front);
    cache.close().unwrap();
    assert!(frames.census().all_home());
}

/// One frame, whose memory ends before it.
struct Short<'w>(DirectMap<'w, Hpa>, Cell<u32>);

impl ReadMemory<Hpa> for Short<'_> {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Short<'_> {
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

impl FrameSource<Hpa> for Short<'_> {
    fn span(&self) -> Span<Hpa> {
        Span { start: Hpa::new(0), frames: 2, shift: FRAME }
    }

    fn take(&self, _: u8) -> Option<Hpa> {
        self.1.set(self.1.get() + 1);
        Some(Hpa::new(0))
    }

    fn give(&self, _: Hpa, _: u8) {
        self.1.set(self.1.get() - 1);
    }
}

/// Memory that ends within a frame has no table of that frame, wherever it would be; the frame goes
/// back.
#[test]
fn a_frame_is_memory_to_its_end() {
    const FRAME_WORDS: usize = 1 << (FRAME - 3);
    for (shift, there) in
        [(8, FRAME_WORDS - 1), (8, 32), (FRAME, FRAME_WORDS - 1), (FRAME + 1, 2 * FRAME_WORDS - 1)]
    {
        let words = words(2);
        let source = Short(DirectMap::new(&words[..there], Hpa::new(0)), Cell::new(0));
        let frames = Frames::new(source).unwrap();
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        assert!(matches!(cache.take(shift), Err(Error::Memory(_))), "2^{shift} with {there} words");
        assert_eq!(frames.source().1.get(), 0);
        assert!(frames.census().all_home());
    }
}

/// What fronts, and whoever takes tables one by one, are given is all that there is, each once,
/// whoever comes to the rest of a frame; freed in any order it is all there again.
#[test]
fn every_table_of_every_frame_is_handed_out_once() {
    for shift in 8..=FRAME {
        let words = words(3);
        let frames = frames(&words);
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let per_frame = 1_usize << (FRAME - shift);
        for round in 0..3 {
            let mut tables: Vec<Hpa> = (1..per_frame).map(|_| cache.take(shift).unwrap()).collect();
            let front = Local::new(&cache);
            while let Ok(table) = front.take(shift) {
                tables.push(table);
            }
            assert_eq!(tables.len(), 3 * per_frame, "2^{shift}, round {round}");
            let all: BTreeSet<Hpa> =
                tables.iter().copied().filter(|table| table.is_aligned(shift)).collect();
            assert_eq!(all.len(), tables.len(), "2^{shift}, round {round}: one twice, or crooked");
            assert!(all.last().unwrap().get() + (1 << shift) <= 3 << FRAME);
            // Every third first: frames have holes all over when the others come.
            for start in [round % 3, (round + 1) % 3, (round + 2) % 3] {
                for table in tables.iter().skip(start).step_by(3) {
                    cache.give(*table, shift, Contents::Stale).unwrap();
                }
            }
        }
        cache.close().unwrap();
        assert!(frames.census().all_home(), "2^{shift}");
    }
}
