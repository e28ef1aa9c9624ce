//! A region of frames by itself: which frames it has, how it cuts runs of them, and what is asked
//! about those that are in use.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, FrameSource, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::Contents;
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::{Address, Hpa};

const SHIFT: u8 = 9;
const FRAME: u64 = 1 << SHIFT;
const FRAME_WORDS: usize = 1 << (SHIFT - 3);

fn words(frames: usize) -> Vec<AtomicU64> {
    (0..frames * FRAME_WORDS).map(|_| AtomicU64::new(0)).collect()
}

fn region(words: &[AtomicU64], first: u64) -> Region<Hpa, DirectMap<'_, Hpa>> {
    let start = Hpa::new(first * FRAME);
    Region::new(DirectMap::new(words, start), start, (words.len() / FRAME_WORDS) as u32, SHIFT)
        .unwrap()
}

/// Memory that notes the runs of words that were written.
struct Logged<'m>(DirectMap<'m, Hpa>, &'m RefCell<Vec<(u64, usize)>>);

impl ReadMemory<Hpa> for Logged<'_> {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Logged<'_> {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.0.word(address)
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.0.table(address, words)
    }

    fn wrote(&self, address: Hpa, words: usize) {
        self.1.borrow_mut().push((address.get(), words));
    }
}

/// A table that is zeroed is written: memory that keeps a log of it is told, all of the table and
/// nothing else. One that came back zeroed is not written.
#[test]
fn case_a7_what_is_zeroed_is_logged() {
    let (words, log) = (words(1), RefCell::default());
    let memory = Logged(DirectMap::new(&words, Hpa::new(0)), &log);
    let frames = Frames::new(Region::new(memory, Hpa::new(0), 1, SHIFT).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::Kernel, Policy::Reuse);
    let mut kept = Vec::new();
    for (contents, logged) in
        [(Contents::Stale, true), (Contents::Zeroed, true), (Contents::Zeroed, false)]
    {
        let table = cache.take(8).unwrap();
        assert_eq!(log.take(), if logged { vec![(table.get(), 32)] } else { vec![] });
        // The next turn takes it again.
        if kept.is_empty() {
            kept.push(cache.take(8).unwrap());
            log.take();
        }
        cache.give(table, 8, contents).unwrap();
    }
}

/// All of its memory is there, to the last word of the last frame.
#[test]
fn a_region_is_memory() {
    let words = words(3);
    let start = Hpa::new(0);
    for (there, frames, ok) in [
        (3 * FRAME_WORDS, 3, true),
        (3 * FRAME_WORDS - 1, 3, false),
        (2 * FRAME_WORDS, 3, false),
        (FRAME_WORDS, 2, false),
        (2 * FRAME_WORDS, 2, true),
        (22, 1, false),
    ] {
        let memory = DirectMap::new(&words[..there], start);
        assert_eq!(
            Region::new(memory, start, frames, SHIFT).is_ok(),
            ok,
            "{frames} frames in {there} words"
        );
    }
    let memory = || DirectMap::new(&words, start);
    assert!(Region::new(memory(), Hpa::new(8), 1, SHIFT).is_err(), "misaligned");
    assert!(
        Region::new(memory(), start, 1, 2).is_err() && Region::new(memory(), start, 1, 31).is_err()
    );
}

/// Runs of every order: aligned by their addresses, wherever the region begins; disjoint; as many
/// as there are; and they come back.
#[test]
fn runs_are_aligned_and_all_there_are() {
    const FRAMES: usize = 130;
    let words = words(FRAMES);
    for first in [0, 1, 3, 64, 100] {
        for order in 0..=6_u8 {
            let region = region(&words, first);
            assert_eq!(region.available(), FRAMES as u32);
            let taken: Vec<Hpa> = std::iter::from_fn(|| region.take(order)).collect();
            let run = FRAME << order;
            // Runs lie within 64 frames of the region, which a word of its bitmap stands for.
            let fits = |at: u64| {
                at % (1 << order) == 0 && (at - first) / 64 == (at + (1 << order) - 1 - first) / 64
            };
            let starts = (first..=first + FRAMES as u64 - (1 << order)).filter(|at| fits(*at));
            let wanted: BTreeSet<Hpa> = starts.map(|at| Hpa::new(at * FRAME)).collect();
            assert_eq!(
                taken.iter().copied().collect::<BTreeSet<_>>(),
                wanted,
                "order {order} from frame {first}"
            );
            assert_eq!(taken.len(), wanted.len(), "one twice");
            assert!(
                taken
                    .iter()
                    .all(|at| at.is_aligned(SHIFT + order)
                        && at.get() + run <= (first + 130) * FRAME)
            );
            assert_eq!(
                u64::from(region.available()),
                FRAMES as u64 - (taken.len() as u64) * (1 << order)
            );
            taken.iter().for_each(|at| region.give(*at, order));
            assert_eq!(region.available(), FRAMES as u32);
        }
        assert!(region(&words, first).take(7).is_none());
    }
}

/// Asked about any byte of a table that is larger than a frame, or about one in a frame that is not
/// the first, the answer is of that table.
#[test]
fn what_lies_where() {
    let words = words(16);
    let frames = Frames::new(region(&words, 5)).unwrap();
    let cache = Cache::new(&frames, Owner(7), Kind::User, Policy::Reuse);
    let large: Vec<Hpa> = (0..2).map(|_| cache.take(SHIFT + 2).unwrap()).collect();
    let small: Vec<Hpa> = (0..4).map(|_| cache.take(SHIFT - 1).unwrap()).collect();
    for table in &large {
        for inside in [0, 8, FRAME, 3 * FRAME + 0x100, 4 * FRAME - 8] {
            let address = Hpa::new(table.get() + inside);
            let found = frames.try_get(address).unwrap().unwrap();
            let of = found.table_frame().unwrap();
            assert_eq!((of.owner, of.start, of.shift), (Owner(7), *table, SHIFT + 2), "{address}");
            assert_eq!(
                (found.start().get(), found.tables().collect::<Vec<_>>()),
                (address.get() & !(FRAME - 1), vec![*table])
            );
            assert_eq!(found.table_at(address), Some(*table));
            assert_eq!(frames.is_quarantined(address), Ok(false));
        }
    }
    for table in &small {
        let found = frames.try_get(*table).unwrap().unwrap();
        assert_eq!(found.table_at(Hpa::new(table.get() + 0xf8)), Some(*table));
        assert_eq!(found.table_at(Hpa::new(table.get() ^ FRAME)), None, "of another frame");
    }
    let other = frames.try_get(small[0]).unwrap().unwrap();
    cache.give(small[0], SHIFT - 1, Contents::Stale).unwrap();
    assert_eq!(other.table_at(small[0]), None, "idle");
    frames.quarantine(Hpa::new(large[0].get() + FRAME)).unwrap();
    let out: Vec<bool> = (0..4)
        .map(|n| frames.is_quarantined(Hpa::new(large[0].get() + n * FRAME)).unwrap())
        .collect();
    assert_eq!(out, [false, true, false, false]);
}
