//! Threads that allocate, free each other's tables, pass by and close; at the end all counters are
//! summed. Also what the sanitizers run, each with a target directory of its own:
//! ```text
//! RUSTFLAGS=-Zsanitizer=address cargo +nightly test -p frag-alloc --all-features --target x86_64-unknown-linux-gnu --test threads
//! RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" (the same)
//! ```
//! The second reports the test harness's own channel; suppress `race:test::` and
//! `race:std::sync::mpmc`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Local, Owner, Policy, Region};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::memory::{MemoryError, ReadMemory, TableMemory};

const FRAMES: u32 = 64;
const STEPS: u64 = 20_000;

#[derive(Debug)]
struct Words(Box<[AtomicU64]>);

impl ReadMemory<Hpa> for Words {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Words {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        Ok(&self.table(address, 1)?[0])
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let start = address.get() as usize / 8;
        self.0.get(start..start + words).ok_or(MemoryError::outside(address, words))
    }

    fn wrote(&self, _: Hpa, _: usize) {}
}

type Table = Arc<Frames<Hpa, Region<Hpa, Words>>>;

fn table() -> Table {
    let words = Words((0..u64::from(FRAMES) << 13).map(|_| AtomicU64::new(0)).collect());
    Arc::new(
        Frames::new(Region::new(words, Hpa::new(0), FRAMES, 16).expect("aligned")).expect("small"),
    )
}

fn random(state: &mut u64, bound: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % bound
}

/// Marks a fresh table as `by`'s; it must be zero.
fn mark(frames: &Table, table: Hpa, by: u64) {
    let words = frames.source().table(table, 32).expect("within");
    for word in words {
        assert_eq!(word.swap(by, Ordering::Relaxed), 0, "{table} was not zeroed, or is somebody's");
    }
}

fn hammer(policy: Policy) {
    let frames = table();
    let cache = Cache::new(frames.clone(), Owner(1), Kind::User, policy);
    // Tables lie here for any thread to free; an address is kept with its lowest bit set, so that 0
    // is none.
    let shelf: Vec<_> = (0..4096).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for seed in 1..=3_u64 {
            let (frames, cache, shelf) = (&frames, &cache, &shelf);
            scope.spawn(move || {
                let front = Local::new(cache);
                let mut state = seed * 0x9e37_79b9;
                for step in 0..STEPS {
                    let slot = &shelf[random(&mut state, 4096) as usize];
                    let lift = |new: u64| match slot.swap(new, Ordering::AcqRel) {
                        0 => None,
                        old => Some(Hpa::new(old & !1)),
                    };
                    let freed = match random(&mut state, 8) {
                        0..3 => {
                            let Ok(table) = front.take(8).or_else(|_| cache.take(8)) else {
                                continue;
                            };
                            mark(frames, table, seed << 32 | step | 1 << 63);
                            lift(table.get() | 1)
                        }
                        3..7 => lift(0),
                        _ => {
                            let address = Hpa::new(random(&mut state, u64::from(FRAMES) << 16));
                            if let Some(frame) = frames.try_get(address).expect("within") {
                                assert!(frame.table_frame().is_none_or(|it| it.owner == Owner(1)));
                            }
                            None
                        }
                    };
                    let Some(table) = freed else { continue };
                    if step % 2 == 0 {
                        front.give(table, 8, Contents::Stale).expect("alive");
                    } else {
                        cache.give(table, 8, Contents::Stale).expect("alive");
                    }
                }
            });
        }
    });
    let alive: Vec<_> = shelf
        .into_iter()
        .map(AtomicU64::into_inner)
        .filter(|&it| it != 0)
        .map(|it| Hpa::new(it & !1))
        .collect();
    assert_eq!(frames.census().live as usize, alive.len());
    cache.close().expect("sound");
    assert_eq!(frames.census().fragments as usize, alive.len());
    for table in alive {
        frames.give(table, Owner(1)).expect("alive");
    }
    assert!(frames.census().all_home(), "{:?}", frames.census());
    assert_eq!(frames.source().available(), FRAMES);
}

#[test]
fn threads_with_reuse() {
    hammer(Policy::Reuse);
}

#[test]
fn threads_as_linux_does() {
    hammer(Policy::Linux);
}

/// Readers follow a link to a table and read all of it; the writer replaces the table and frees the
/// old one.
#[test]
fn readers_never_see_a_table_used_again() {
    let frames = table();
    let epochs = Epochs::new(2);
    let tables =
        Deferred::new(Cache::new(frames.clone(), Owner(1), Kind::User, Policy::Reuse), &epochs);
    let fresh = |value: u64| {
        // A reader that lost the CPU in the middle of reading holds everything up: wait for it.
        loop {
            if let Ok(table) = tables.take(8) {
                mark(&frames, table, value);
                return table;
            }
            std::thread::yield_now();
        }
    };
    let link = AtomicU64::new(fresh(1).get());
    let done = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut reader = epochs.reader().expect("a slot");
                while done.load(Ordering::Relaxed) == 0 {
                    let _reading = reader.read();
                    let table = Hpa::new(link.load(Ordering::Acquire));
                    let words = frames.source().table(table, 32).expect("within");
                    let first = words[0].load(Ordering::Relaxed);
                    assert!(
                        first != 0
                            && words.iter().all(|word| word.load(Ordering::Relaxed) == first)
                    );
                }
            });
        }
        for value in 2..STEPS {
            let old = link.swap(fresh(value).get(), Ordering::AcqRel);
            tables.give(Hpa::new(old), 8, Contents::Stale).expect("alive");
        }
        done.store(1, Ordering::Relaxed);
    });
    tables.give(Hpa::new(link.into_inner()), 8, Contents::Stale).expect("alive");
    tables.collect().expect("sound");
    tables.collect().expect("sound");
    drop(tables);
    assert!(frames.census().all_home(), "{:?}", frames.census());
}
