//! Memory for tables of a guest that may write them, and the allocator of its tables.
#![allow(dead_code, reason = "not every test looks at words")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::Contents;
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::tree::PageTable;
use pgtable::{Gpa, Gva, Leaves, Prot};
use pgtable_x86::{Controls, Levels, LongMode};

pub const PAGE: u64 = 1 << 12;
pub const LARGE: u64 = 1 << 21;
/// Table frames, of 64 KiB: 16 tables each.
pub const FRAMES: u32 = 4;
pub const START: u64 = 1 << 24;

pub type Frame<'m> = Frames<Gpa, Region<Gpa, DirectMap<'m, Gpa>>>;
pub type Tables<'f, 'm> = Cache<Gpa, Region<Gpa, DirectMap<'m, Gpa>>, &'f Frame<'m>>;

pub fn format() -> LongMode {
    LongMode::new(Levels::Four, Controls::new())
}

/// Does `test` with memory for tables, its frames, and the tables of one guest.
pub fn with<T>(test: impl FnOnce(DirectMap<'_, Gpa>, &Frame<'_>, &Tables<'_, '_>) -> T) -> T {
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(START));
    let frames = Frames::new(Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    test(memory, &frames, &cache)
}

pub fn load(memory: &DirectMap<'_, Gpa>, table: Gpa, index: u64) -> u64 {
    memory.word(Gpa::new(table.get() + index * 8)).unwrap().load(Ordering::Relaxed)
}

pub fn store(memory: &DirectMap<'_, Gpa>, table: Gpa, index: u64, word: u64) {
    memory.word(Gpa::new(table.get() + index * 8)).unwrap().store(word, Ordering::Relaxed);
}

/// The allocator's books are right: `live` tables are, and every other can be had, once.
pub fn books(frames: &Frame<'_>, cache: &Tables<'_, '_>, live: u32) {
    assert_eq!(frames.census().live, live, "{:?}", frames.census());
    let taken: Vec<Gpa> = std::iter::from_fn(|| cache.take(12).ok()).collect();
    assert_eq!(taken.len() as u32 + live, FRAMES * 16);
    assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len(), "one table, two owners");
    taken.iter().for_each(|table| cache.give(*table, 12, Contents::Stale).unwrap());
    assert_eq!(frames.census().live, live);
}

pub type Tree<'t, 'm> = PageTable<LongMode, DirectMap<'m, Gpa>, &'t Tables<'t, 'm>>;

pub fn tree<'t, 'm>(
    memory: DirectMap<'m, Gpa>,
    cache: &'t Tables<'t, 'm>,
    pages: &[u64],
) -> Tree<'t, 'm> {
    let mut tree = PageTable::new(format(), memory, cache).unwrap();
    for &page in pages {
        tree.map(Gva::new(page), Gpa::new(1 << 30), PAGE, Prot::RW.into(), Leaves::Largest)
            .unwrap();
    }
    tree
}

/// The tables on the way to `at`, from the root down.
pub fn way(tree: &Tree<'_, '_>, at: u64) -> Vec<Gpa> {
    let table = |entry: Gpa| Gpa::new(entry.get() & !0xfff);
    tree.walker().trace(Gva::new(at)).iter().map(|it| table(it.address)).collect()
}
