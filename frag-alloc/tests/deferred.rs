//! Tables that wait for readers.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;

use frag_alloc::{
    Cache, Deferred, Epochs, Error, Frames, Grace, Hooks, Kind, Local, Owner, Policy, Reader,
    Refused, Region,
};
use pgtable::allocator::{Contents, TableAllocator, TableLayout};
use pgtable::memory::DirectMap;
use pgtable::shared::ReadSide;
use pgtable::{Hpa, Level};

#[test]
fn a_table_is_handed_out_again_only_when_its_readers_have_left() {
    let words: Vec<_> = (0..1 << 6).map(|_| AtomicU64::new(0)).collect();
    let source = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 1, 9).unwrap();
    let frames = Frames::new(source).unwrap();
    let epochs = Epochs::new(1);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let mut reader = epochs.reader().unwrap();
    assert!(epochs.reader().is_none());
    let (kept, freed) = (tables.take(8).unwrap(), tables.take(8).unwrap());
    let reading = reader.read();
    tables.give(freed, 8, Contents::Stale).unwrap();
    assert!(
        matches!(tables.give(freed, 8, Contents::Stale), Err(Error::NotLive { .. })),
        "freed twice, though it waits"
    );
    assert_eq!((tables.collect(), tables.collect(), tables.waiting()), (Ok(0), Ok(0), 1));
    assert_eq!(tables.take(8), Err(Error::Exhausted { shift: 8 }));
    drop(reading);
    // A reader that comes later saw the tree without the table.
    let _reading = reader.read();
    assert_eq!(tables.take(8), Ok(freed));
    tables.give(kept, 8, Contents::Stale).unwrap();
    tables.give(freed, 8, Contents::Stale).unwrap();
    tables.cache().close().unwrap();
    assert_eq!(frames.census().fragments, 2, "those that wait are counted");
    drop(_reading);
    drop(tables);
    assert!(frames.census().all_home());
}

/// Freed tables and no reader: there is memory, whatever size is wanted of it.
#[test]
fn case_a15_what_no_reader_sees_is_memory() {
    for (wanted, freed) in [(12, 8), (12, 1), (8, 1), (16, 16)] {
        let words: Vec<_> = (0..1 << 13).map(|_| AtomicU64::new(0)).collect();
        let source = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 1, 16).unwrap();
        let frames = Frames::new(source).unwrap();
        let epochs = Epochs::new(1);
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let tables = Deferred::new(cache, &epochs);
        let from = wanted.min(12);
        let all: Vec<Hpa> = std::iter::from_fn(|| tables.take(from).ok()).collect();
        assert_eq!(all.len(), 1 << (16 - from));
        assert_eq!(tables.take(from), Err(Error::Exhausted { shift: from }));
        for table in &all[..freed] {
            tables.give(*table, from, Contents::Zeroed).unwrap();
        }
        assert!(tables.take(wanted).is_ok(), "{freed} of 2^{from} bytes freed, 2^{wanted} wanted");
        assert_eq!(tables.waiting(), 0);
    }
}

/// One call puts back the tables that waited and those that gathered behind them.
#[test]
fn case_a15_one_call_is_enough() {
    let words: Vec<_> = (0..1 << 13).map(|_| AtomicU64::new(0)).collect();
    let source = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 1, 16).unwrap();
    let frames = Frames::new(source).unwrap();
    let epochs = Epochs::new(1);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let [first, second] = [tables.take(12).unwrap(), tables.take(12).unwrap()];
    let mut reader = epochs.reader().unwrap();
    let reading = reader.read();
    tables.give(first, 12, Contents::Stale).unwrap();
    assert_eq!(tables.collect(), Ok(0));
    tables.give(second, 12, Contents::Stale).unwrap();
    drop(reading);
    assert_eq!((tables.collect(), tables.waiting()), (Ok(2), 0));
}

/// What a front holds is memory for tables of another size.
#[test]
fn case_a15_what_a_front_holds_is_memory() {
    let words: Vec<_> = (0..1 << 13).map(|_| AtomicU64::new(0)).collect();
    let source = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 1, 16).unwrap();
    let frames = Frames::new(source).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let front = Local::new(&cache);
    for (size, wanted) in [(8, 12), (12, 8), (8, 16)] {
        let table = front.take(size).unwrap();
        front.give(table, size, Contents::Stale).unwrap();
        let table = front.take(wanted).unwrap();
        front.give(table, wanted, Contents::Stale).unwrap();
    }
}

/// Grace periods that pass when they are told to.
#[derive(Default)]
struct Told {
    started: Cell<u64>,
    passed: Cell<u64>,
}

impl Grace for Told {
    fn start(&self) -> u64 {
        self.started.set(self.started.get() + 1);
        self.started.get()
    }

    fn passed(&self, cookie: u64) -> bool {
        cookie <= self.passed.get()
    }
}

/// A free looks after readers only when 64 tables have gathered: one grace period for all of them.
#[test]
fn tables_gather_before_a_grace_period_starts() {
    let words: Vec<_> = (0..2 << 13).map(|_| AtomicU64::new(0)).collect();
    let source = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 2, 16).unwrap();
    let frames = Frames::new(source).unwrap();
    let grace = Told::default();
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &grace);
    let layout = TableLayout { shift: 9, level: Level(0) };
    let all: Vec<Hpa> = (0..70).map(|_| tables.allocate(layout).unwrap()).collect();
    assert_eq!(tables.waiting(), 0);
    for (freed, table) in all.iter().enumerate() {
        tables.free(*table, layout, Contents::Stale).unwrap();
        assert_eq!((tables.waiting(), grace.started.get()), (freed + 1, u64::from(freed >= 63)));
    }
    assert_eq!((tables.collect(), tables.waiting()), (Ok(0), 70));
    grace.passed.set(1);
    assert_eq!((tables.collect(), tables.waiting(), grace.started.get()), (Ok(64), 6, 2));
    grace.passed.set(2);
    assert_eq!((tables.collect(), tables.waiting(), grace.started.get()), (Ok(6), 0, 2));
    drop(tables);
    assert!(frames.census().all_home());
}

/// Whoever waits for a lock goes on for a bounded number of turns; a reader that is gone leaves its
/// slot to another.
#[test]
fn readers_come_and_go() {
    for (turns, on) in
        [(0, true), (1 << 11, true), ((1 << 20) - 1, true), (1 << 20, false), (u32::MAX, false)]
    {
        assert_eq!(<Reader<'_> as ReadSide>::wait(turns), on, "{turns}");
    }
    let epochs = Epochs::new(1);
    for _ in 0..3 {
        let reader = epochs.reader().unwrap();
        assert!(epochs.reader().is_none());
        drop(reader);
    }
}

/// Grace periods that pass at once, and may panic before they start.
#[derive(Default)]
struct Frail {
    readers: Cell<bool>,
    panics: Cell<bool>,
    started: Cell<u64>,
    /// What [`Grace::passed`] says of periods up to here.
    passed: Cell<u64>,
}

impl Grace for Frail {
    fn start(&self) -> u64 {
        assert!(!self.panics.get(), "the embedder's panic");
        self.started.set(self.started.get() + 1);
        if !self.readers.get() {
            self.passed.set(self.started.get());
        }
        self.started.get()
    }

    fn passed(&self, cookie: u64) -> bool {
        cookie <= self.passed.get()
    }
}

/// A grace period that could not be started is started later: a table never waits for an older one
/// that has passed.
#[test]
fn case_a15_a_panic_in_a_grace_period_hands_nothing_out_early() {
    let words: Vec<_> = (0..1 << 13).map(|_| AtomicU64::new(0)).collect();
    let source = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 1, 16).unwrap();
    let frames = Frames::new(source).unwrap();
    let grace = Frail::default();
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &grace);
    let [first, second] = [tables.take(12).unwrap(), tables.take(12).unwrap()];
    tables.give(first, 12, Contents::Stale).unwrap();
    assert_eq!(tables.collect(), Ok(1), "a period that has passed");
    grace.readers.set(true);
    tables.give(second, 12, Contents::Stale).unwrap();
    grace.panics.set(true);
    let collect = || tables.collect();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(collect)).is_err());
    grace.panics.set(false);
    assert_eq!((tables.collect(), tables.waiting()), (Ok(0), 1), "a reader may see it");
    grace.passed.set(u64::MAX);
    assert_eq!((tables.collect(), tables.waiting()), (Ok(1), 0));
}

/// Panics when the frame that it is told of goes home.
struct Panicking<'p>(&'p Cell<u64>);

impl Hooks<Hpa> for Panicking<'_> {
    fn construct(&self, _: Hpa, _: u8) -> Result<(), Refused> {
        Ok(())
    }

    fn destruct(&self, frame: Hpa, _: u8) {
        assert_ne!(frame.get(), self.0.get(), "the embedder's panic");
    }
}

/// Tables that were on their way back when the embedder's destructor panicked come back later.
#[test]
fn case_a15_a_panic_on_the_way_back_loses_no_other_table() {
    let words: Vec<_> = (0..8 << 13).map(|_| AtomicU64::new(0)).collect();
    let bad = Cell::new(u64::MAX);
    let memory = DirectMap::new(&words, Hpa::new(0));
    let source = Region::with_hooks(memory, Hpa::new(0), 8, 16, Panicking(&bad)).unwrap();
    let frames = Frames::new(source).unwrap();
    let epochs = Epochs::new(1);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let all = [(); 5].map(|()| tables.take(16).unwrap());
    bad.set(all[1].get());
    for table in all {
        tables.give(table, 16, Contents::Stale).unwrap();
    }
    let collect = || tables.collect();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(collect)).is_err());
    assert_eq!(tables.waiting(), 3, "those behind it");
    assert_eq!(tables.collect(), Ok(3));
    assert_eq!(frames.source().available(), 7, "all but the one that its hook would not let go");
}
